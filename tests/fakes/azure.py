"""Azure Blob Storage, as much of it as obstore speaks: block blobs, conditional writes, ranges, lists, blocks, copies.

An object's ETag changes with each write, whatever the bytes, as the real one's does.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from .http import Blob, Handler


class Azure(Handler):
    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        _account, _, rest = path.lstrip("/").partition("/")
        container, _, key = rest.partition("/")
        there = self.server.blobs.get((container, key))
        if query.get("comp") == "list":
            self._list(container, query)
        elif query.get("comp") == "batch":
            self._batch(body)
        elif self.command == "PUT" and query.get("comp") == "block":
            self.server.uploads.setdefault(f"{container}/{key}", {})[query["blockid"]] = body
            self.reply(201)
        elif self.command == "PUT" and query.get("comp") == "blocklist":
            blocks = self.server.uploads.pop(f"{container}/{key}", {})
            order = re.findall(r"<(?:Uncommitted|Latest)>([^<]+)</", body.decode())
            self._write(container, key, there, b"".join(blocks[block] for block in order))
        elif self.command == "PUT" and (source := self.headers.get("x-ms-copy-source")):
            found = self.server.blobs.get(tuple(unquote(urlsplit(source).path).lstrip("/").split("/", 2)[1:]))  # type: ignore[call-overload]
            if found is None:
                self._refuse(404, "CannotVerifyCopySource")
            else:
                self._write(container, key, there, found.data, status=202)
        elif self.command == "PUT":
            self._write(container, key, there, body)
        elif there is None:
            self._refuse(404, "BlobNotFound")
        elif self.command == "DELETE":
            del self.server.blobs[container, key]
            self.reply(202)
        else:
            status, data, headers = self.ranged(there.data)
            self.reply(status, data, {**_headers(there), **headers, "Content-Length": str(len(data))})

    def _write(self, container: str, key: str, there: Blob | None, data: bytes, status: int = 201) -> None:
        match = self.headers.get("If-Match")
        if there is not None and self.headers.get("If-None-Match") == "*":
            self._refuse(409, "BlobAlreadyExists")
        elif match is not None and (there is None or match != _etag(there)):
            self._refuse(412, "ConditionNotMet")
        else:
            self.server.blobs[container, key] = made = Blob(data)
            copied = {"x-ms-copy-status": "success"} if status == 202 else {}
            self.reply(status, headers={**_headers(made), **copied})

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}.</Message></Error>"
        self.reply(status, body.encode(), {"x-ms-error-code": code})

    def _batch(self, body: bytes) -> None:
        """Deletions, a part each; answered in the same form."""
        answers = []
        for number, path in enumerate(re.findall(r"^DELETE (\S+) HTTP/1.1\r?$", body.decode(), re.MULTILINE)):
            container, _, key = unquote(urlsplit(path).path).lstrip("/").partition("/")[2].partition("/")
            found = self.server.blobs.pop((container, key), None)
            status = "202 Accepted" if found else "404 The specified blob does not exist."
            code = "" if found else "x-ms-error-code: BlobNotFound\r\n"
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {status}\r\n{code}x-ms-version: 2023-11-03\r\nContent-Length: 0\r\n\r\n"
            )
        self.reply(
            202, ("".join(answers) + "--batch--\r\n").encode(), {"Content-Type": "multipart/mixed; boundary=batch"}
        )

    def _list(self, container: str, query: dict[str, str]) -> None:
        keys = self.server.keys(container, query.get("prefix", ""), query.get("marker", ""))
        page = keys[: self.server.page]
        entries = "".join(_entry(key, self.server.blobs[container, key]) for key in page)
        marker = escape(page[-1]) if len(keys) > len(page) else ""
        xml = f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
        self.reply(200, b'<?xml version="1.0" encoding="utf-8"?>' + xml.encode())


def _etag(blob: Blob) -> str:
    return f'"0x{blob.generation:X}"'


def _headers(blob: Blob) -> dict[str, str]:
    return {
        "ETag": _etag(blob), "Last-Modified": blob.http_date, "x-ms-blob-type": "BlockBlob",
        "x-ms-version": "2023-11-03", "Accept-Ranges": "bytes",
    }  # fmt: skip


def _entry(key: str, blob: Blob) -> str:
    return (
        f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{blob.http_date}</Last-Modified>"
        f"<Etag>{escape(_etag(blob))}</Etag><Content-Length>{len(blob.data)}</Content-Length>"
        "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
    )
