"""A small client of image registries (https://github.com/opencontainers/distribution-spec): what it takes to put a layer on one.

Logins are those of docker and podman: their files, and the helpers that these name. No secret is logged or told in errors.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from ekiben.errors import AccessDenied, NotFound, ProviderError, SpecError, Unavailable
from ekiben.waiting import patiently, retry_after_s

__all__ = ["CONFIG", "INDEX", "LAYER", "MANIFEST", "Image", "Repository", "digest_of"]

TIMEOUT_S, HELPER_TIMEOUT_S = 60.0, 30.0
ATTEMPTS, FIRST_PAUSE_S = 5, 0.2
CHUNK_BYTES = 1 << 20
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
MANIFEST, CONFIG, LAYER = f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip"
INDEX = (f"{OCI}.index.v1+json", f"{DOCKER}.distribution.manifest.list.v2+json")
KNOWN = ", ".join((MANIFEST, f"{DOCKER}.distribution.manifest.v2+json", *INDEX))
# What "docker.io" is called by those who ask it, and in docker's file of logins.
HUB, HUB_LOGIN = "registry-1.docker.io", "https://index.docker.io/v1/"
NAME = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[^/\s]+)/(?P<path>[a-z0-9][a-z0-9._/-]*?)(?::(?P<tag>[\w][\w.-]{0,127}))?"
)

T = TypeVar("T")


class Image(NamedTuple):
    """A manifest as it lies in a registry."""

    digest: str
    kind: str
    body: bytes

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Repository:
    """HOST/PATH, with http:// before it where the registry speaks no TLS. Making one calls nothing; a wrong name is a SpecError."""

    def __init__(self, name: str) -> None:
        found = NAME.fullmatch(name)
        if found is None:
            raise SpecError(
                f"{name!r} is no place for images: write HOST/PATH, with http:// before it where there is no TLS."
            )
        self.host, self.path, self.tag = found["host"], found["path"], found["tag"] or ""
        asked = HUB if self.host in ("docker.io", "index.docker.io") else self.host
        self._root = f"{found['scheme'] or 'https'}://{asked}/v2/{self.path}"
        self._authorization = ""

    @property
    def name(self) -> str:
        """As nodes pull from it."""
        return f"{self.host}/{self.path}"

    def image(self, reference: str) -> Image | None:
        """The manifest of a tag or a digest; None where there is none."""
        try:
            told, body = self._asked("GET", f"manifests/{reference}", headers={"accept": KNOWN})
        except NotFound:
            return None
        return Image(told.get("docker-content-digest") or digest_of(body), told.get("content-type", ""), body)

    def put_image(self, reference: str, kind: str, manifest: Mapping[str, Any]) -> str:
        """The digest of a manifest, which is written under a tag. Its blobs have to be there."""
        body = json.dumps(manifest, sort_keys=True).encode()
        told, _ = self._asked("PUT", f"manifests/{reference}", data=body, headers={"content-type": kind})
        return told.get("docker-content-digest") or digest_of(body)

    def has(self, digest: str) -> bool:
        try:
            self._asked("HEAD", f"blobs/{digest}")
        except NotFound:
            return False
        return True

    def blob(self, digest: str) -> bytes:
        """A small blob, such as an image's configuration."""
        return self._asked("GET", f"blobs/{digest}")[1]

    def download(self, digest: str, into: BinaryIO) -> None:
        """A blob into a file, of which nothing else is left. Raises Unavailable when it does not come as its digest says."""

        def fetched() -> None:
            into.seek(0)
            into.truncate()
            found = hashlib.sha256()
            with self._answer("GET", f"blobs/{digest}", {}, None) as answer:
                while block := self._read(answer, CHUNK_BYTES):
                    found.update(block)
                    into.write(block)
            if f"sha256:{found.hexdigest()}" != digest:
                raise self._unavailable("a layer came with other bytes than its digest says")

        _again(fetched)

    def upload(self, digest: str, data: bytes | Path) -> None:
        """Write a blob, unless it is there."""
        if self.has(digest):
            return
        told, _ = self._asked("POST", "blobs/uploads/", data=b"")
        place = urllib.parse.urljoin(f"{self._root}/", told["location"])
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": digest})
        self._asked("PUT", place, data=data, headers={"content-type": "application/octet-stream"})

    def _asked(
        self, method: str, path: str, *, data: bytes | Path | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, str], bytes]:
        def asked() -> tuple[dict[str, str], bytes]:
            with self._answer(method, path, headers or {}, data) as answer:
                return {name.lower(): value for name, value in answer.headers.items()}, self._read(answer)

        return _again(asked)

    def _read(self, answer: http.client.HTTPResponse, size: int | None = None) -> bytes:
        try:
            return answer.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(f"its answer breaks off: {error or type(error).__name__}") from error

    def _answer(self, method: str, path: str, headers: Mapping[str, str], data: bytes | Path | None) -> Any:
        url = path if "://" in path else f"{self._root}/{path}"
        for first in (True, False):
            try:
                with data.open("rb") if isinstance(data, Path) else nullcontext(data) as body:
                    asked = urllib.request.Request(url, data=body, method=method, headers=dict(headers))  # noqa: S310
                    if body is not None:
                        asked.add_header("content-length", str(_size(data)))
                    if self._authorization:
                        # Not for where the registry sends us on to, which has its own way.
                        asked.add_unredirected_header("authorization", self._authorization)
                    return urllib.request.urlopen(asked, timeout=TIMEOUT_S)  # noqa: S310 - a registry that the user names
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 401 and first:
                        self._log_in(error.headers.get("www-authenticate", ""))
                        continue
                    raise self._error_of(error, error.read(65536)) from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unavailable(f"it does not answer: {error or type(error).__name__}") from error
        raise AssertionError("the second attempt returns or raises")

    def _log_in(self, challenge: str) -> None:
        """What the registry wants to see, from the login that docker or podman has of it."""
        kind, _, rest = challenge.partition(" ")
        told = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        login = next(_logins(HUB_LOGIN if HUB in self._root else self.host), None)
        basic = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}" if login else ""
        if kind.lower() != "bearer" or "realm" not in told:
            self._authorization = basic
            return
        query = {
            "service": told.get("service", ""),
            "scope": f"repository:{self.path}:pull{',push' if login else ''}",
        }
        asked = urllib.request.Request(f"{told['realm']}?{urllib.parse.urlencode(query)}")  # noqa: S310
        if basic:
            asked.add_unredirected_header("authorization", basic)
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
                token = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._error_of(error, b"") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unavailable(f"it gives no token: {error}") from error
        self._authorization = f"Bearer {token.get('token') or token.get('access_token')}"

    def _error_of(self, answer: urllib.error.HTTPError, body: bytes) -> ProviderError:
        said, status = "", answer.code
        with suppress(ValueError, LookupError, TypeError):
            said = f": {json.loads(body)['errors'][0]['message']}"[:200]
        operation, why = f"use the images in {self.name}", f"the registry answers {status}{said}"
        if status == 404:
            return NotFound("kubernetes", operation, why, "Look at the image's name")
        if status in (401, 403):
            return AccessDenied("kubernetes", operation, why, f"Log in: `docker login {self.host}`, or with podman")
        if status in (408, 429) or status >= 500:
            error = self._unavailable(f"it answers {status}{said}")
            error.retry_after_s = retry_after_s(answer.headers.get("retry-after", ""))
            return error
        return ProviderError("kubernetes", operation, why, "Look at the registry and its rights")

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            "kubernetes", f"use the images in {self.name}", why,
            "Repeat it; a registry without TLS is named with http:// in ekiben:registry",
        )  # fmt: skip


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _again(call: Callable[[], T]) -> T:
    """What the call returns, made again while the registry is not there: all of them may be."""
    return patiently(call, lambda error: isinstance(error, Unavailable), ATTEMPTS, FIRST_PAUSE_S)


def _size(data: bytes | Path | None) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data or b"")


def _logins(host: str) -> Iterator[tuple[str, str]]:
    """User and password of a registry, from the files of docker and podman, the nearest first."""
    env, home = os.environ, Path.home()
    files = [
        Path(env.get("REGISTRY_AUTH_FILE") or "/dev/null"),
        Path(env.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
        Path(env.get("XDG_RUNTIME_DIR") or "/nonexistent", "containers", "auth.json"),
        home / ".config" / "containers" / "auth.json",
    ]
    for path in files:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        helper = told.get("credHelpers", {}).get(host) or told.get("credsStore", "")
        if helper and (found := _helped(helper, host)):
            yield found
        if auth := told.get("auths", {}).get(host, {}).get("auth"):
            user, _, password = base64.b64decode(auth).decode().partition(":")
            yield user, password


def _helped(helper: str, host: str) -> tuple[str, str] | None:
    """What docker-credential-HELPER knows of a registry."""
    with suppress(OSError, ValueError, KeyError, subprocess.SubprocessError):
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"], input=host, capture_output=True, text=True, timeout=HELPER_TIMEOUT_S,
            check=True,
        )  # fmt: skip
        told = json.loads(done.stdout)
        return str(told["Username"]), str(told["Secret"])
    return None
