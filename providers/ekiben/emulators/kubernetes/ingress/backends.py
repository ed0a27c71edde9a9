"""The pods behind a Service, as its Endpoints say, and a session with each that is in use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from ekiben.emulators.kubernetes.ingress.following import Object
from ekiben.emulators.kubernetes.ingress.routes import Split

__all__ = ["Address", "Backends"]

Address = tuple[str, int]

CONNECT_S = 3.0
# A pod of Knative that is to end goes on until nothing has come for 30 s: a connection kept for less is never met by its end.
KEEP_S = 10.0
# The longest that Knative holds a request is ten minutes, unless the cluster's config says more.
SILENCE_S = 660.0
HEAD_BYTES = 64 << 10


@dataclass(slots=True)
class _Peer:
    session: aiohttp.ClientSession
    busy: int = 0


@dataclass
class Backends:
    """Services and Endpoints by "namespace/name", which whoever follows the API server keeps, and calls `changed()` after."""

    services: dict[str, Object] = field(default_factory=dict)
    endpoints: dict[str, Object] = field(default_factory=dict)
    _peers: dict[Address, _Peer] = field(default_factory=dict)
    _there: set[Address] = field(default_factory=set)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)

    def changed(self) -> None:
        """Wake those who wait for an address, and close the connections with those that are no more."""
        self._moved.set()
        self._moved = asyncio.Event()
        self._there = {address for key in self.endpoints for address in self._addresses(key, None)}
        for address in [
            address for address, peer in self._peers.items() if address not in self._there and not peer.busy
        ]:
            self._leave(self._peers.pop(address))

    def addresses(self, split: Split) -> list[Address]:
        """Where the Service's port is answered, ready pods only."""
        return self._addresses(split.service, self._port_name(split))

    async def another(self, split: Split, refused: Collection[Address], patience_s: float) -> Address | None:
        """The least busy address that has not refused; waits `patience_s` for one, and answers None where none comes."""
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    moved = self._moved
                    if found := [address for address in self.addresses(split) if address not in refused]:
                        random.shuffle(found)
                        return min(found, key=lambda address: peer.busy if (peer := self._peers.get(address)) else 0)
                    await moved.wait()
        except TimeoutError:
            return None

    @asynccontextmanager
    async def session(self, address: Address) -> AsyncIterator[aiohttp.ClientSession]:
        """A session with this address; its connections go when the address has gone and the last request with it."""
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = _Peer(_session())
        peer.busy += 1
        try:
            yield peer.session
        finally:
            peer.busy -= 1
            if not peer.busy and address not in self._there and self._peers.get(address) is peer:
                self._leave(self._peers.pop(address))

    async def close(self) -> None:
        for address in list(self._peers):
            self._leave(self._peers.pop(address))
        await asyncio.gather(*self._leaving)

    def _leave(self, peer: _Peer) -> None:
        task = asyncio.ensure_future(peer.session.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _port_name(self, split: Split) -> str:
        """Endpoints know ports by name; a Service's only port may have none."""
        service = self.services.get(split.service)
        for port in (service or {}).get("spec", {}).get("ports") or ():
            if split.port in (port.get("port"), port.get("name")):
                return str(port.get("name") or "")
        return str(split.port)

    def _addresses(self, key: str, port_name: str | None) -> list[Address]:
        return [
            (str(address["ip"]), int(port["port"]))
            for subset in (self.endpoints.get(key) or {}).get("subsets") or ()
            for port in subset.get("ports") or ()
            if port_name is None or port.get("name", "") == port_name
            for address in subset.get("addresses") or ()
        ]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
    )
