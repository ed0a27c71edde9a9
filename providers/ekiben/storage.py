"""Objects by key on any store: `file://` folders, and through obstore `memory://`, `s3://`, `gs://` and `az://`.

    storage = open_storage("s3://my-lake/team-a")
    etag = storage.put("report.json", b"{}").etag
    storage.put_if_match("report.json", b'{"rows": 3}', etag)

Credentials and options come from the environment, as obstore reads it: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL (MinIO and
others), GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, and so on; in a cloud, the role of the machine. Requests time out and
are tried again a bounded number of times. Errors are those of `ekiben.errors`, translated in one table, `_ERRORS`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from ekiben import runtime
from ekiben.errors import (
    AccessDenied,
    AlreadyExists,
    NotFound,
    PreconditionFailed,
    ProviderError,
    SpecError,
    Unavailable,
)
from ekiben.folder import Folder, system_error
from ekiben.keys import check_key, check_prefix, hidden
from ekiben.records import Part, Platform, now
from ekiben.runtime import Object

__all__ = ["Storage", "open_storage"]

SCHEMES = ("file", "memory", "s3", "gs", "az")
# Where a user names another server, which may have no TLS (MinIO, an emulator).
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
CONNECT_TIMEOUT_S = 5
# Between two reads of an answer. A whole transfer may take longer: an hour, for the largest models on the slowest lines.
READ_TIMEOUT_S = 60
TRANSFER_TIMEOUT_S = 3600
MAX_RETRIES = 4
RETRY_TIMEOUT_S = 60
CHUNK_BYTES = 8 << 20
READ_BYTES = 1 << 20
CONCURRENT_CHUNKS = 4

# Memory stores live as long as the process, and are one for all who open the same URI.
_memory: dict[str, Any] = {}
_memory_lock = threading.Lock()


class Storage(runtime.Storage):
    """The objects below the URI in `part.facts["uri"]`. Making one calls nothing; a wrong URI raises SpecError."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._uri = _check_uri(str(part.facts.get("uri", "")))
        self._provider = part.provider

    def uri(self, key: str = "") -> str:
        if not key:
            return self._uri
        check_prefix(key)
        return f"{self._uri}/{quote(key) if self._uri.startswith('file:') else key}"

    def key(self, uri: str) -> str:
        mine, other = self._uri, uri
        if mine.startswith("file:"):
            mine, other = unquote(mine), unquote(uri)
        if other.rstrip("/") == mine:
            return ""
        if not other.startswith(f"{mine}/"):
            raise SpecError(f"The URI {uri!r} does not lie in the storage {self._uri}.")
        return check_prefix(other.removeprefix(f"{mine}/"))

    def get(self, key: str) -> bytes:
        return self._store.get(check_key(key))

    def head(self, key: str) -> Object:
        return self._store.head(check_key(key))

    def put(self, key: str, data: bytes | Path) -> Object:
        return self._store.put(check_key(key), _payload(data))

    def put_if_absent(self, key: str, data: bytes | Path) -> Object:
        return self._store.put(check_key(key), _payload(data), absent=True)

    def put_if_match(self, key: str, data: bytes, etag: str) -> Object:
        if not etag:
            raise SpecError(f"put_if_match of {key!r} needs an etag; `put_if_absent` writes where nothing is.")
        return self._store.put(check_key(key), _payload(data), etag=etag)

    def list(self, prefix: str = "") -> Iterator[Object]:
        return iter(sorted(self._store.list(check_prefix(prefix)), key=lambda found: found.key))

    def copy(self, source: str, target: str) -> None:
        self._store.copy(check_key(source), check_key(target))

    def delete(self, key: str) -> None:
        self._store.delete(check_key(key))

    def download(self, key: str, path: Path) -> None:
        chunks = self._store.chunks(check_key(key))
        staged = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            first = next(chunks, b"")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(staged, "xb") as file:
                file.write(first)
                for chunk in chunks:
                    file.write(chunk)
            os.replace(staged, path)
        except OSError as error:
            raise system_error(self._provider, f"write the file {str(path)!r}", error) from error
        finally:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)

    def open(self, key: str, etag: str = "") -> BinaryIO:
        """A seekable reader of the object, range by range; of the one with `etag`, where one is given.

        Raises NotFound; while it is read, PreconditionFailed when the object is not that one any more.
        """
        store, found = self._store, self.head(key)
        etag = etag or found.etag
        ranges = _Ranges(lambda start, end: store.range(key, start, end, etag), found.size_bytes)
        return io.BufferedReader(ranges, READ_BYTES)

    @cached_property
    def _store(self) -> Folder | _Bucket:
        if self._uri.startswith("file:"):
            return Folder(Path(unquote(urlsplit(self._uri).path)), self._provider)
        return _Bucket(self._uri, self._provider, self._options())

    def _options(self) -> dict[str, Any]:
        """What obstore is to be told beside the URI: the environment says it, unless a provider knows better."""
        return {}


def open_storage(uri: str, *, provider: str = "") -> Storage:
    """The storage at a URI, which calls nothing yet. `provider` is the name that errors begin with, the scheme by default.

    Raises SpecError for a URI that is none of `file:///folder` (which must exist), `memory://name`, `s3://bucket/prefix`,
    `gs://bucket/prefix` and `az://container/prefix`.
    """
    uri = _check_uri(uri)
    part = Part(name="", kind="storage", provider=provider or uri.partition(":")[0], ref=uri, facts={"uri": uri})
    return Storage(part, Platform(project="", stack=""))


class _Ranges(io.RawIOBase):
    """A file whose bytes are asked for by range."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        got = self._fetch(self._at, end)
        buffer[: len(got)] = got
        self._at += len(got)
        return len(got)


class _Bucket:
    """A store of obstore's: what `Folder` is for local folders."""

    def __init__(self, uri: str, provider: str, extra: Mapping[str, Any]) -> None:
        self.uri = uri
        self.provider = provider
        self.extra = extra

    def get(self, key: str) -> bytes:
        with self._translated(f"read {key!r}"):
            return bytes(self._obstore.get(self._store, key).bytes())

    def chunks(self, key: str) -> Iterator[bytes]:
        with self._translated(f"read {key!r}"):
            for chunk in self._obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def range(self, key: str, start: int, end: int, etag: str) -> bytes:
        with self._translated(f"read {key!r}"):
            options = {"range": (start, end), "if_match": etag}
            return bytes(self._obstore.get(self._store, key, options=options).bytes())

    def head(self, key: str) -> Object:
        with self._translated(f"read {key!r}"):
            return _object(self._obstore.head(self._store, key))

    def put(self, key: str, data: bytes | Path, *, absent: bool = False, etag: str = "") -> Object:
        operation = f"create {key!r}" if absent else f"update {key!r}" if etag else f"write {key!r}"
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        # A conditional write is one request, in memory, and the wait for its answer begins with its first byte.
        one_request = (absent or etag) and size > CHUNK_BYTES
        try:
            with self._translated(operation):
                mode = self._match(key, etag) if etag else "create" if absent else "overwrite"
                store = self._open(TRANSFER_TIMEOUT_S) if one_request else self._store
                done = self._obstore.put(
                    store, key, data, mode=mode, chunk_size=CHUNK_BYTES, max_concurrency=CONCURRENT_CHUNKS
                )
        except NotFound as error:
            if not etag:
                raise
            raise PreconditionFailed(self.provider, operation, "it is gone", "Read it again") from error
        return Object(key, size, done["e_tag"] or "", now())

    def _match(self, key: str, etag: str) -> dict[str, str]:
        """How obstore is told which object to update. GCS goes by the generation, which lists do not tell."""
        if not self.uri.startswith("gs:"):
            return {"e_tag": etag}
        there = self._obstore.head(self._store, key)
        if there["e_tag"] != etag:
            raise self._obstore.exceptions.PreconditionError("it has another etag")
        return {"e_tag": etag, "version": there["version"]}

    def copy(self, source: str, target: str) -> None:
        with self._translated(f"copy {source!r} to {target!r}"):
            self._obstore.copy(self._store, source, target)

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFound), self._translated(f"delete {key!r}"):
            self._obstore.delete(self._store, key)

    def list(self, prefix: str) -> Iterator[Object]:
        # obstore's prefixes are whole folders.
        folder = prefix.rpartition("/")[0]
        with self._translated(f"list {prefix!r}"):
            for page in self._obstore.list(self._store, folder or None, chunk_size=1000):
                for meta in page:
                    if meta["path"].startswith(prefix) and not hidden(meta["path"]):
                        yield _object(meta)

    @cached_property
    def _obstore(self) -> Any:
        import obstore

        return obstore

    @cached_property
    def _store(self) -> Any:
        return self._open(READ_TIMEOUT_S)

    def _open(self, read_timeout_s: float) -> Any:
        from obstore.store import MemoryStore, from_url

        if self.uri.startswith("memory:"):
            with _memory_lock:
                return _memory.setdefault(self.uri, MemoryStore())
        named = map(os.environ.get, ENDPOINTS[self.uri.partition(":")[0]])
        endpoint = str(self.extra.get("endpoint") or next(filter(None, named), ""))
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "read_timeout": timedelta(seconds=read_timeout_s),
            "timeout": timedelta(seconds=TRANSFER_TIMEOUT_S),
            "allow_http": endpoint.startswith("http://"),
        }
        retries = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)}
        make: Any = from_url
        with self._translated(f"open {self.uri}"):
            return make(self.uri, client_options=options, retry_config=retries, **self.extra)

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        """obstore's errors as ours. Its text has the whole request in it, so only the status and the server's code are taken."""
        try:
            yield
        except ProviderError:
            raise
        except Exception as error:
            name = type(error).__name__
            kind, why, remedy = _ERRORS.get(name, (ProviderError, "", ""))
            text = str(error).partition("\n\nDebug source:")[0]
            if name == "GenericError":
                kind, why, remedy = _generic(text)
            raise kind(self.provider, operation, _detail(text, why), remedy) from error


_CREDENTIALS = "Check the credentials in the environment, and what their role may do in this bucket"
# By the name of obstore's exception, so that obstore is imported only when it is used.
_ERRORS: dict[str, tuple[type[ProviderError], str, str]] = {
    "FileNotFoundError": (NotFound, "there is no such object", ""),
    "NotFoundError": (NotFound, "there is no such object", ""),
    "AlreadyExistsError": (AlreadyExists, "an object of that key is there", ""),
    "PreconditionError": (PreconditionFailed, "it has changed since it was read", "Read it again"),
    "NotModifiedError": (PreconditionFailed, "it has not changed since it was read", ""),
    "PermissionDeniedError": (AccessDenied, "permission denied", _CREDENTIALS),
    "UnauthenticatedError": (AccessDenied, "the credentials are missing or wrong", _CREDENTIALS),
    "PermissionError": (AccessDenied, "permission denied", _CREDENTIALS),
}


def _generic(text: str) -> tuple[type[ProviderError], str, str]:
    if "169.254." in text or "metadata.google.internal" in text:
        return AccessDenied, "no credentials were found", _CREDENTIALS
    status = re.search(r"status code: (\d+)", text)
    if status is None and "HTTP error" in text:
        return Unavailable, "the store does not answer", "Check the endpoint and the network, then repeat"
    if status and status[1] in ("401", "403"):
        return _ERRORS["PermissionDeniedError"]
    if status and status[1] == "404":
        return _ERRORS["FileNotFoundError"]
    if status and (status[1].startswith("5") or status[1] in ("408", "429")):
        return Unavailable, "the store is overloaded or fails", "Repeat later"
    return ProviderError, "", ""


def _detail(text: str, why: str) -> str:
    """`why` with what the server said: its own error code and message, or the HTTP status; never a URL or a header."""
    said = re.search(r"<Code>([^<]*)</Code>.*?<Message>([^<\n]*)", text, re.DOTALL)
    status = re.search(r"status code: (\d+ [A-Z][A-Za-z ]*)", text)
    detail = f"{said[1]}: {said[2].rstrip('.')}" if said else status[1] if status else ""
    if not why and not detail:
        return re.sub(r"\s+", " ", re.sub(r"\w+://\S+", "(URL)", text)).rstrip(". ")[:300] or "it failed"
    return f"{why} ({detail})" if why and detail else why or detail


def _object(meta: Any) -> Object:
    modified = meta["last_modified"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Object(meta["path"], meta["size"], meta["e_tag"] or "", modified)


def _payload(data: bytes | Path) -> bytes | Path:
    if isinstance(data, Path) and not (data.is_file() and os.access(data, os.R_OK)):
        why = "cannot be read" if data.is_file() else "does not exist"
        raise SpecError(f"The file {str(data)!r} that was to be stored {why}.")
    if not isinstance(data, bytes | Path):
        raise SpecError(f"Objects are bytes or a Path, not {type(data).__name__}.")
    return data


def _check_uri(uri: str) -> str:
    """The URI without a slash at the end."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        raise SpecError(
            f"The URI {uri!r} names no storage: it begins with one of {', '.join(f'{s}://' for s in SCHEMES)}."
        )
    if "?" in rest or "#" in rest or "@" in rest.partition("/")[0]:
        raise SpecError(
            "The URI of a storage has no user, no query and no fragment; secrets belong in the environment."
        )
    if scheme == "file":
        path = unquote(rest)
        if not path.startswith("/"):
            raise SpecError(f"The URI {uri!r} has no absolute path: write file:///absolute/path.")
        return Path(os.path.normpath(path)).as_uri()
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if not bucket:
        raise SpecError(f"The URI {uri!r} names no bucket: write {scheme}://bucket or {scheme}://bucket/prefix.")
    check_prefix(prefix)
    return f"{scheme}://{rest.rstrip('/')}"
