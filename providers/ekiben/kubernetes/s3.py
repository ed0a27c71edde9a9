"""A small client of S3-compatible stores, with the standard library alone: what a pod on a stock Python image begins with.

It imports nothing of Ekiben, for its text is what such a pod begins with (see `bootstrap`), not even how everybody else tries again
(`ekiben.waiting`). Requests are signed (version 4), tried again a bounded number of times, and addressed by path.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import time
import urllib.parse
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, NamedTuple

ATTEMPTS = 5
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
# S3 takes 5 GiB in one request: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART_BYTES = 512 << 20
AGAIN = (408, 429, 500, 502, 503, 504)


class Refused(Exception):
    """The store says no: `status` is HTTP's, `code` the store's own word."""

    def __init__(self, what: str, status: int, code: str) -> None:
        super().__init__(f"cannot {what}: the store answers {status} {code}".rstrip())
        self.status, self.code = status, code


class Found(NamedTuple):
    """An object of a list. modified: RFC 3339, by the store's clock."""

    uri: str
    size_bytes: int
    etag: str
    modified: str


class Store:
    """A store at `url`. Buckets and keys are given as s3://BUCKET/KEY.

    Its methods raise Refused where the store says no, and OSError where it does not answer, or the answer breaks off.
    """

    def __init__(self, url: str, key_id: str, secret: str, region: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._secure, self._host = parts.scheme == "https", parts.netloc
        self._base = parts.path.rstrip("/")
        self._key_id, self._secret, self._region = key_id, secret, region

    @classmethod
    def of_environment(cls) -> Store:
        """The store that AWS_ENDPOINT_URL names, with the keys beside it. Raises KeyError where there is none."""
        env = os.environ
        return cls(
            env["AWS_ENDPOINT_URL"],
            env["AWS_ACCESS_KEY_ID"],
            env["AWS_SECRET_ACCESS_KEY"],
            env.get("AWS_REGION", "us-east-1"),
        )

    def get(self, uri: str) -> bytes:
        """The bytes of an object. Raises Refused, with the status 404 where there is none."""
        return self._asked("GET", uri)[1]

    def download(self, uri: str, path: Path) -> None:
        """An object as a file, whole or not at all."""
        fresh = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._asked("GET", uri, into=fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    def put(self, uri: str, data: bytes, *, absent: bool = False) -> bool:
        """Write an object; with `absent` only where nothing is: False where something was."""
        try:
            self._asked("PUT", uri, data=data, headers={"if-none-match": "*"} if absent else {})
        except Refused as error:
            if absent and error.status in (409, 412):
                return False
            raise
        return True

    def upload(self, uri: str, path: Path) -> None:
        """Write a file, in parts where it is large."""
        size = path.stat().st_size
        if size <= PART_BYTES:
            self._asked("PUT", uri, file=(path, 0, size))
            return
        found = _parsed(self._asked("POST", uri, query={"uploads": ""})[1])
        upload, told = str(found.findtext("{*}UploadId")), []
        try:
            for number, at in enumerate(range(0, size, PART_BYTES), 1):
                part = (path, at, min(PART_BYTES, size - at))
                headers, _ = self._asked("PUT", uri, query={"partNumber": str(number), "uploadId": upload}, file=part)
                told.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{headers.get('etag', '')}</ETag></Part>")
            body = f"<CompleteMultipartUpload>{''.join(told)}</CompleteMultipartUpload>".encode()
            self._asked("POST", uri, query={"uploadId": upload}, data=body)
        except BaseException:
            self._asked("DELETE", uri, query={"uploadId": upload})
            raise

    def list(self, uri: str) -> Iterator[tuple[str, int]]:
        """(s3:// URI, size in bytes) of each object whose URI starts so, sorted, over all pages."""
        for one in self.look(uri):
            yield one.uri, one.size_bytes

    def look(self, uri: str, after: str = "") -> Iterator[Found]:
        """Each object whose URI starts so, of those that sort behind `after`, a URI: sorted, over all pages."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        query = {"list-type": "2", "prefix": prefix}
        if after:
            query["start-after"] = after.removeprefix(f"s3://{bucket}/")
        while True:
            page = _parsed(self._asked("GET", f"s3://{bucket}", query=query)[1])
            for one in page.iterfind("{*}Contents"):
                told = {
                    name: str(one.findtext(f"{{*}}{name}") or "") for name in ("Key", "Size", "ETag", "LastModified")
                }
                at = f"s3://{bucket}/{told['Key']}"
                yield Found(at, int(told["Size"] or 0), told["ETag"].strip('"'), told["LastModified"])
            following = page.findtext("{*}NextContinuationToken")
            if page.findtext("{*}IsTruncated") != "true" or not following:
                return
            query["continuation-token"] = following

    def delete(self, uri: str) -> None:
        """Delete an object; silent where there is none."""
        self._asked("DELETE", uri)

    def _asked(
        self,
        method: str,
        uri: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes = b"",
        file: tuple[Path, int, int] | None = None,
        into: Path | None = None,
    ) -> tuple[dict[str, str], bytes]:
        pause_s = 0.2
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                return self._once(method, uri, query or {}, headers or {}, data, file, into)
            except Refused as error:
                if not left or error.status not in AGAIN:
                    raise
            except OSError:
                if not left:
                    raise
            except http.client.HTTPException as error:
                if not left:
                    raise ConnectionError(f"the store's answer breaks off ({error or type(error).__name__})") from error
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self,
        method: str,
        uri: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        data: bytes,
        file: tuple[Path, int, int] | None,
        into: Path | None,
    ) -> tuple[dict[str, str], bytes]:
        path = self._base + "/" + urllib.parse.quote(uri.removeprefix("s3://"), safe="/-_.~")
        asked = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(query.items()))
        body: Any = data
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
        if file is not None:
            digest, size = _digest_of(*file), file[2]
            body = _blocks(*file)
        signed = self._signed(method, path, asked, digest, headers)
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, timeout=TIMEOUT_S)
        try:
            target = f"{path}?{asked}" if asked else path
            connection.request(method, target, body=body, headers={**signed, "content-length": str(size)})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            if answer.status >= 300:
                raise Refused(f"{method} {uri}", answer.status, _code(answer.read(65536)))
            if into is None:
                return told, answer.read()
            with into.open("wb") as target_file:
                length = _copied(answer, target_file)
            if "content-length" in told and length != int(told["content-length"]):
                raise http.client.IncompleteRead(b"", int(told["content-length"]) - length)
            return told, b""
        finally:
            connection.close()

    def _signed(self, method: str, path: str, query: str, digest: str, more: Mapping[str, str]) -> dict[str, str]:
        """The request's headers, with a signature of them: docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html."""
        at = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")  # noqa: UP017 - stock images may have Python 3.10
        headers = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": at, **more}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers))
        scope = f"{at[:8]}/{self._region}/s3/aws4_request"
        canonical = hashlib.sha256("\n".join((method, path, query, lines, names, digest)).encode()).hexdigest()
        key = f"AWS4{self._secret}".encode()
        for word in (at[:8], self._region, "s3", "aws4_request"):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        text = "\n".join(("AWS4-HMAC-SHA256", at, scope, canonical))
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        credential = f"Credential={self._key_id}/{scope}"
        headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return headers


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")


def _blocks(path: Path, at: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(at)
        while size and (block := file.read(min(CHUNK_BYTES, size))):
            size -= len(block)
            yield block


def _digest_of(path: Path, at: int, size: int) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path, at, size):
        digest.update(block)
    return digest.hexdigest()


def _copied(source: http.client.HTTPResponse, target: IO[bytes]) -> int:
    size = 0
    while block := source.read(CHUNK_BYTES):
        size += target.write(block)
    return size


def _parsed(body: bytes) -> xml.etree.ElementTree.Element:
    """What the store answers. Raises ConnectionError for what is no XML, such as the page of a proxy between."""
    try:
        return xml.etree.ElementTree.fromstring(body)  # noqa: S314 - our store's
    except xml.etree.ElementTree.ParseError as error:
        raise ConnectionError(f"the store's answer is no XML ({error})") from error


def _code(body: bytes) -> str:
    """The store's own word for what is wrong; nothing of the request, which it may quote."""
    try:
        return str(_parsed(body).findtext("{*}Code") or "")
    except ConnectionError:
        return ""
