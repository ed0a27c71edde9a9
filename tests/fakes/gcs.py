"""Google Cloud Storage's XML API, as much of it as obstore speaks: generations, conditional writes, ranges, lists, multipart."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from .http import Blob, Handler


class Gcs(Handler):
    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        bucket, _, key = path.lstrip("/").partition("/")
        if not key:
            self._list(bucket, query)
        elif "uploads" in query:
            upload = uuid.uuid4().hex
            self.server.uploads[upload] = {}
            xml = f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            self.reply(200, (xml + "</InitiateMultipartUploadResult>").encode())
        elif self.command == "PUT" and "uploadId" in query:
            self.server.uploads[query["uploadId"]][query["partNumber"]] = body
            self.reply(200, headers={"ETag": f'"{Blob(body).md5}"'})
        elif self.command == "POST" and "uploadId" in query:
            parts = self.server.uploads.pop(query["uploadId"])
            order = re.findall(r"<PartNumber>(\d+)</PartNumber>", body.decode())
            blob = self._write(bucket, key, b"".join(parts[number] for number in order))
            if blob:
                xml = f"<CompleteMultipartUploadResult><ETag>&quot;{blob.md5}&quot;</ETag></CompleteMultipartUploadResult>"
                self.reply(200, xml.encode(), _headers(blob))
        elif self.command == "DELETE" and "uploadId" in query:
            self.server.uploads.pop(query["uploadId"], None)
            self.reply(204)
        elif self.command == "PUT":
            if source := unquote(self.headers.get("x-goog-copy-source", "")):
                found = self.server.blobs.get(tuple(source.lstrip("/").split("/", 1)))  # type: ignore[call-overload]
                if found is None:
                    self._absent()
                    return
                body = found.data
            if blob := self._write(bucket, key, body):
                self.reply(200, b"<CopyObjectResult></CopyObjectResult>" if source else b"", _headers(blob))
        elif (blob := self.server.blobs.get((bucket, key))) is None:
            self._absent()
        elif self.command == "DELETE":
            del self.server.blobs[bucket, key]
            self.reply(204)
        else:
            status, data, headers = self.ranged(blob.data)
            self.reply(status, data, {**_headers(blob), **headers, "Content-Length": str(len(data))})

    def _write(self, bucket: str, key: str, data: bytes) -> Blob | None:
        there = self.server.blobs.get((bucket, key))
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            self.reply(
                412, b"<Error><Code>PreconditionFailed</Code><Message>At least one did not hold.</Message></Error>"
            )
            return None
        self.server.blobs[bucket, key] = made = Blob(data)
        return made

    def _absent(self) -> None:
        self.reply(404, b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>")

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        after = query.get("continuation-token") or query.get("start-after") or ""
        keys = self.server.keys(bucket, query.get("prefix", ""), after)
        page = keys[: self.server.page]
        entries = "".join(_entry(key, self.server.blobs[bucket, key]) for key in page)
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        truncated = "true" if more else "false"
        xml = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{entries}</ListBucketResult>"
        self.reply(200, xml.encode())


def _headers(blob: Blob) -> dict[str, str]:
    return {"ETag": f'"{blob.md5}"', "x-goog-generation": str(blob.generation), "Last-Modified": blob.http_date}


def _entry(key: str, blob: Blob) -> str:
    modified = datetime.fromtimestamp(blob.modified, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><Generation>{blob.generation}</Generation><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;{blob.md5}&quot;</ETag><Size>{len(blob.data)}</Size></Contents>"
    )
