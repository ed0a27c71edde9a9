"""Names of services in the cluster: a small DNS server over the API server's own lists.

`SERVICE.NAMESPACE.svc.cluster.local` is a service's address, or those of its ready pods where it has none of its own (headless); a
pod with a host name is `POD.SERVICE.NAMESPACE...`; a service of type ExternalName is an alias. No other name is known: the cluster
reaches this machine alone.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from typing import Any

from ekiben.emulators.kubernetes.api import Api, Object
from ekiben.emulators.kubernetes.layout import NODE

__all__ = ["Names", "answer", "zone"]

DOMAIN = "cluster.local"
A, CNAME, AAAA, ANY, INTERNET = 1, 5, 28, 255, 1
NO_ERROR, BAD_FORMAT, NO_SUCH_NAME, NOT_IMPLEMENTED = 0, 1, 3, 4
TTL_S = 2
# What a client takes that says nothing of itself (RFC 1035), and how far aliases lead.
DATAGRAM_BYTES, ALIASES = 512, 8
Records = dict[str, list[str]]


class Names:
    """The server, and what it knows."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._services: dict[tuple[str, str], Object] = {}
        self._slices: dict[tuple[str, str], Object] = {}
        self._zone: tuple[Records, dict[str, str]] = ({}, {})

    def start(self) -> None:
        """Follow services and endpoints and answer, from now on, in threads of this process."""
        outer = self

        class Datagrams(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, back = self.request
                if reply := answer(question, *outer._zone, limit_bytes=DATAGRAM_BYTES):
                    back.sendto(reply, self.client_address)

        class Streams(socketserver.StreamRequestHandler):
            timeout = 10

            def handle(self) -> None:
                while len(head := self.rfile.read(2)) == 2:
                    question = self.rfile.read(struct.unpack("!H", head)[0])
                    reply = answer(question, *outer._zone, limit_bytes=65535)
                    self.wfile.write(struct.pack("!H", len(reply)) + reply)

        class Stream(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        for server in (socketserver.UDPServer((NODE, 53), Datagrams), Stream((NODE, 53), Streams)):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        for path, seen in (
            ("/api/v1/services", self._set_services),
            ("/apis/discovery.k8s.io/v1/endpointslices", self._set_slices),
        ):
            threading.Thread(target=self._api.follow, args=(path, seen), daemon=True).start()

    def _set_services(self, held: dict[tuple[str, str], Object]) -> None:
        self._services = dict(held)
        self._zone = zone(self._services.values(), self._slices.values())

    def _set_slices(self, held: dict[tuple[str, str], Object]) -> None:
        self._slices = dict(held)
        self._zone = zone(self._services.values(), self._slices.values())


def zone(services: Any, slices: Any) -> tuple[Records, dict[str, str]]:
    """Addresses by name, and aliases by name."""
    addresses: Records = {}
    aliases: dict[str, str] = {}
    headless: dict[tuple[str, str], bool] = {}
    for service in services:
        about, spec = service["metadata"], service["spec"]
        name = f"{about['name']}.{about['namespace']}.svc.{DOMAIN}"
        if spec.get("type") == "ExternalName":
            aliases[name] = str(spec["externalName"]).rstrip(".").lower()
        elif spec.get("clusterIP") == "None":
            headless[about["namespace"], about["name"]] = bool(spec.get("publishNotReadyAddresses"))
            addresses[name] = []
        elif spec.get("clusterIP"):
            addresses[name] = [spec["clusterIP"]]
    for part in slices:
        about = part["metadata"]
        service = about["namespace"], about.get("labels", {}).get("kubernetes.io/service-name", "")
        if service not in headless or part.get("addressType") != "IPv4":
            continue
        name = f"{service[1]}.{service[0]}.svc.{DOMAIN}"
        for endpoint in part.get("endpoints") or []:
            if headless[service] or endpoint.get("conditions", {}).get("ready", True):
                addresses[name] += [one for one in endpoint["addresses"] if one not in addresses[name]]
                if endpoint.get("hostname"):
                    addresses[f"{endpoint['hostname']}.{name}"] = list(endpoint["addresses"])
    return addresses, aliases


def answer(question: bytes, addresses: Records, aliases: dict[str, str], *, limit_bytes: int) -> bytes:
    """The reply to a message of DNS; empty where it is none that can be replied to."""
    if len(question) < 12 or question[2] & 0x80:
        return b""
    number, flags, count = struct.unpack("!HHH", question[:6])
    if (flags >> 11) & 0xF:
        return _reply(number, flags, NOT_IMPLEMENTED, b"", [], limit_bytes)
    try:
        name, end = _name(question, 12)
        kind, space = struct.unpack("!HH", question[end : end + 4])
    except (ValueError, struct.error, IndexError):
        return _reply(number, flags, BAD_FORMAT, b"", [], limit_bytes)
    if count != 1:
        return _reply(number, flags, BAD_FORMAT, b"", [], limit_bytes)
    asked = question[12 : end + 4]
    records: list[bytes] = []
    at = name.lower()
    for _ in range(ALIASES):
        if at not in aliases:
            break
        records.append(_record(at, CNAME, _labels(aliases[at])))
        at = aliases[at]
    # A name above others that exist is no missing one (RFC 8020).
    known = at in addresses or any(one.endswith(f".{at}") for one in addresses)
    if kind in (A, ANY) and space == INTERNET:
        records += [_record(at, A, bytes(map(int, one.split(".")))) for one in addresses.get(at, [])]
    code = NO_ERROR if known or records else NO_SUCH_NAME
    return _reply(number, flags, code, asked, records, limit_bytes)


def _reply(number: int, flags: int, code: int, asked: bytes, records: list[bytes], limit_bytes: int) -> bytes:
    """An authoritative answer; cut, and marked so, where it is longer than the limit: the client then asks over TCP."""
    cut = 12 + len(asked) + sum(map(len, records)) > limit_bytes
    told = 0x8480 | (flags & 0x0100) | (flags & 0x7800) | code | (0x0200 if cut else 0)
    body = b"" if cut else b"".join(records)
    return struct.pack("!6H", number, told, bool(asked), 0 if cut else len(records), 0, 0) + asked + body


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _labels(name) + struct.pack("!HHIH", kind, INTERNET, TTL_S, len(data)) + data


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode("ascii") for part in name.split(".")) + b"\0"


def _name(message: bytes, at: int) -> tuple[str, int]:
    """The name at `at`, and where it ends. Raises ValueError for one that is compressed, as no question's is."""
    parts = []
    while length := message[at]:
        if length > 63:
            raise ValueError("compressed")
        part = message[at + 1 : at + 1 + length]
        if len(part) < length:
            raise ValueError("cut short")
        parts.append(part.decode("ascii", "replace"))
        at += length + 1
    return ".".join(parts), at + 1
