"""Forms and uploads, read with Starlette; files that a request names by URL."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import ipaddress
import json
import posixpath
import socket
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .standin.annotations import is_upload, origin_of
from .standin.descriptors import IORootModel
from .standin.exceptions import BadInput

__all__ = ["fetched", "values"]

MAX_FIELDS, MAX_FIELD_BYTES = 1000, 1024 * 1024
SHORT_BYTES = 64 * 1024
# Made for names of hosts, and their time grows with the square of the length; the last is no codec.
SLOW_CODECS = ("idna", "punycode", "undefined")
FETCH_TIMEOUT_S = 30.0
MAX_FETCHED_BYTES = 128 * 1024 * 1024


async def values(request: Any, spec: Any) -> dict[str, Any]:
    """The fields of a form, files as uploads and all else from JSON where it is JSON. Raises BadInput."""
    form = await _parsed(request)
    found: dict[str, Any] = {}
    for name in form:
        if name in spec.multipart_fields:
            files = [await _file(each) for each in form.getlist(name)]
            kind = spec.model_fields[name].annotation
            if type(None) in get_args(kind):
                kind = get_args(kind)[0]
            origin = origin_of(kind)
            found[name] = files if isinstance(origin, type) and issubclass(origin, list) else files[0]
            continue
        value = form[name]
        if is_upload(value):
            value = await value.read()
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return {"root": found} if issubclass(spec, IORootModel) else found


async def _parsed(request: Any) -> Any:
    """As Starlette has it, but what is malformed is always told as that, and fields are limited in every version."""
    from starlette import formparsers
    from starlette.datastructures import FormData

    kind, options = formparsers.parse_options_header(request.headers["content-type"])  # type: ignore[attr-defined]
    if kind == b"application/x-www-form-urlencoded":
        body = await request.body()
        # Decoding takes a second for a few MB.
        return FormData(_fields(body) if len(body) <= SHORT_BYTES else await asyncio.to_thread(_fields, body))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    with contextlib.suppress(LookupError, ValueError):  # Starlette has latin-1 for what it does not know
        if codecs.lookup(charset).name in SLOW_CODECS:
            raise BadInput(f"The charset {charset} is not read. Send UTF-8.")
    try:
        return await request.form()
    except formparsers.MultiPartException as error:
        raise BadInput(error.message) from error


def _fields(body: bytes) -> list[tuple[str, Any]]:
    if body.count(b"&") >= MAX_FIELDS:
        raise BadInput(f"Too many fields. Maximum number of fields is {MAX_FIELDS}.")
    if any(len(each) > MAX_FIELD_BYTES for each in body.split(b"&")):
        raise BadInput(f"Field exceeded maximum size of {MAX_FIELD_BYTES // 1024}KB.")
    return parse_qsl(body.decode("latin-1"), keep_blank_values=True)


async def fetched(url: bytes) -> bytes:
    """What lies at `url`, or `url` itself where it is none. Raises BadInput for what must not or cannot be fetched."""
    text = url.decode("utf-8", "ignore")
    if _split(text).scheme not in ("http", "https"):
        return url
    return await asyncio.to_thread(_fetch, text)


async def _file(given: Any) -> Any:
    if is_upload(given):
        return given
    from starlette.datastructures import UploadFile

    url = given.strip("\"'")
    body = await asyncio.to_thread(_fetch, url)
    return UploadFile(io.BytesIO(body), size=len(body), filename=posixpath.basename(unquote(_split(url).path)))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise BadInput(f"A URL cannot be read: {error}") from error


def _fetch(url: str) -> bytes:
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput("A file is an upload, or an http or https URL")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = _public(parts.hostname, port)
        connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(
            parts.hostname, port, timeout=FETCH_TIMEOUT_S
        )
        # The address that was looked at is the one that is connected to; the name is still what the certificate must have.
        connection._create_connection = lambda _, timeout, source: socket.create_connection(  # type: ignore[attr-defined]
            (address, port), timeout, source
        )
        # A time-out is of each read; who sends a byte now and then would have a thread for as long as he likes.
        over = threading.Timer(FETCH_TIMEOUT_S, _hang_up, (connection,))
        over.start()
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            response = connection.getresponse()
            body = response.read(MAX_FETCHED_BYTES + 1)
        finally:
            over.cancel()
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise BadInput(f"Failed to download file from {parts.hostname}") from error
    if response.status >= 300:
        raise BadInput(f"Failed to download file from {parts.hostname}: it answers {response.status}")
    if len(body) > MAX_FETCHED_BYTES:
        raise BadInput(f"The file at {parts.hostname} is larger than {MAX_FETCHED_BYTES} bytes")
    return body


def _hang_up(connection: HTTPConnection) -> None:
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _public(host: str, port: int) -> str:
    """Its address. Raises BadInput where it is not of the open internet: a service must not be made to look around inside."""
    for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(where[0]).partition("%")[0])
        if not address.is_global or address.is_multicast:
            raise BadInput("Connection blocked due to insecure input URL")
        return str(where[0])
    raise BadInput(f"Failed to download file from {host}")
