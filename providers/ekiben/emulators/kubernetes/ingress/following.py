"""What the API server holds, as it is now: one list, then a watch, and the list again whenever the watch cannot go on."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from ekiben.errors import SpecError

__all__ = ["Object", "connect", "follow", "key_of"]

Object = dict[str, Any]

PAGE = 500
LIST_TIMEOUT_S = 60.0
# The server ends a watch after this; one that says nothing for longer has lost its connection.
WATCH_S = 240
SILENCE_S = 300.0
# An object of etcd holds 1.5 MiB; an event is one, with a little around it.
EVENT_BYTES = 8 << 20
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0

logger = logging.getLogger(__name__)


class _Gone(Exception):
    """The version that the watch began from is no longer known."""


def connect(kubeconfig: Path) -> aiohttp.ClientSession:
    """A session with the API server of the current context of `kubeconfig`. Raises SpecError where it cannot be read."""
    try:
        config = yaml.safe_load(kubeconfig.read_text("utf-8"))
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        server = str(cluster["server"])
        headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
        connector = aiohttp.TCPConnector(ssl=_tls(cluster, user) if server.startswith("https:") else False)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError) as error:
        raise SpecError(
            f"kubernetes: cannot read the kubeconfig {kubeconfig}: {error!r}. Give one that kubectl takes."
        ) from error
    return aiohttp.ClientSession(server.rstrip("/") + "/", connector=connector, headers=headers)


async def follow(
    api: aiohttp.ClientSession, path: str, objects: dict[str, Object], changed: Callable[[], None]
) -> None:
    """Keep `objects`, by "namespace/name", as the API server has them, for ever; `changed()` is called after each difference.

    While the server is away, or does not know such objects yet, what was last known stays.
    """
    pause_s, said = FIRST_PAUSE_S, ""
    while True:
        try:
            version = await _list(api, path, objects)
            changed()
            pause_s = FIRST_PAUSE_S
            while True:
                version = await _watch(api, path, version, objects, changed)
        except _Gone:
            logger.info("the watch of %s has fallen behind: it is listed again", path)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            # A cluster may never have such objects: that is said once.
            if (why := f"{type(error).__name__}: {error}") != said:
                said = why
                logger.warning("cannot follow %s: %s", path, said)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


def key_of(found: Object) -> str:
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


async def _list(api: aiohttp.ClientSession, path: str, objects: dict[str, Object]) -> str:
    found: dict[str, Object] = {}
    onward = ""
    while True:
        query = {"limit": str(PAGE), **({"continue": onward} if onward else {})}
        async with api.get(path, params=query, timeout=aiohttp.ClientTimeout(total=LIST_TIMEOUT_S)) as response:
            _check(response)
            page = await response.json()
        found.update((key_of(one), one) for one in page["items"])
        onward = page["metadata"].get("continue", "")
        if not onward:
            break
    objects.clear()
    objects.update(found)
    return str(page["metadata"]["resourceVersion"])


async def _watch(
    api: aiohttp.ClientSession, path: str, version: str, objects: dict[str, Object], changed: Callable[[], None]
) -> str:
    """Follow from `version` until the server ends the watch; the version to go on from."""
    query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
    async with api.get(path, params=query, timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)) as response:
        _check(response)
        async for line in _lines(response):
            event = json.loads(line)
            found: Object = event["object"]
            if event["type"] == "ERROR":
                if found.get("code") == 410:
                    raise _Gone
                raise ValueError(f"the watch says {found.get('message')}")
            version = str(found["metadata"]["resourceVersion"])
            if event["type"] == "BOOKMARK":
                continue
            if event["type"] == "DELETED":
                objects.pop(key_of(found), None)
            else:
                objects[key_of(found)] = found
            changed()
    return version


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """One event a line; aiohttp's own lines end at 64 KiB."""
    rest = b""
    async for chunk in response.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > EVENT_BYTES:
            raise ValueError("an event is too large")


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 410:
        raise _Gone
    response.raise_for_status()


def _named(config: Object, kind: str, name: str) -> Object:
    return next(dict(one) for one in config[kind] if one["name"] == name)


def _tls(cluster: Object, user: Object) -> ssl.SSLContext:
    authority = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(authority).decode() if authority else None
    )
    if "client-certificate" in user or "client-certificate-data" in user:
        with _file(user, "client-certificate") as certificate, _file(user, "client-key") as key:
            context.load_cert_chain(certificate, key)
    return context


@contextmanager
def _file(user: Object, name: str) -> Any:
    """The file that the kubeconfig names, or one that holds what it has inline, for as long as it is read."""
    if name in user:
        yield user[name]
        return
    handle, path = tempfile.mkstemp(prefix="ekiben-")  # readable by its owner only
    try:
        with open(handle, "wb") as out:
            out.write(base64.b64decode(user[f"{name}-data"]))
        yield path
    finally:
        os.unlink(path)
