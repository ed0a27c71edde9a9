"""The cluster's names, as a client asks for them."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, strategies as st

from ekiben.emulators.kubernetes.dns import answer, zone

A, CNAME, AAAA, SRV = 1, 5, 28, 33


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def endpoints(name: str, *some: dict[str, Any], kind: str = "IPv4") -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"name": f"{name}-x", "namespace": "shop", "labels": labels},
        "addressType": kind,
        "endpoints": list(some),
    }


ZONE = zone(
    [
        service("web", clusterIP="10.0.0.7"),
        service("ranks", clusterIP="None", publishNotReadyAddresses=True),
        service("db", clusterIP="None"),
        service("alias", type="ExternalName", externalName="Web.shop.svc.cluster.local."),
        service("away", type="ExternalName", externalName="example.com"),
        service("loop", type="ExternalName", externalName="loop.shop.svc.cluster.local"),
    ],
    [
        endpoints("ranks", {"addresses": ["10.1.0.1"], "hostname": "run-0", "conditions": {"ready": False}}),
        endpoints("ranks", {"addresses": ["10.1.0.2"], "hostname": "run-1", "conditions": {"ready": True}}),
        endpoints("db", {"addresses": ["10.1.0.3"], "conditions": {"ready": False}}, {"addresses": ["10.1.0.4"]}),
        endpoints("web", {"addresses": ["10.1.0.9"]}),
        endpoints("db", {"addresses": ["fd00::1"]}, kind="IPv6"),
        endpoints("gone", {"addresses": ["10.1.0.5"]}),
    ],
)


def question(name: str, kind: int = A, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    return struct.pack("!6H", 77, flags, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


def asked(name: str, kind: int = A, *, limit_bytes: int = 512, held: Any = ZONE) -> tuple[int, list[str]]:
    """The response code, and the addresses and aliases of the answer."""
    sent = question(name, kind)
    reply = answer(sent, *held, limit_bytes=limit_bytes)
    number, flags, questions, answers, _, _ = struct.unpack("!6H", reply[:12])
    assert (number, questions, reply[12 : len(sent)]) == (77, 1, sent[12:])
    assert flags & 0x8100 == 0x8100
    found, at = [], len(sent)
    for _ in range(answers):
        _, at = name_at(reply, at)
        kind, _, _, length = struct.unpack("!HHIH", reply[at : at + 10])
        data = reply[at + 10 : at + 10 + length]
        found.append(".".join(map(str, data)) if kind == A else name_at(data, 0)[0])
        at += 10 + length
    assert at == len(reply)
    return flags & 0xF, found


def name_at(message: bytes, at: int) -> tuple[str, int]:
    parts = []
    while length := message[at]:
        parts.append(message[at + 1 : at + 1 + length].decode())
        at += length + 1
    return ".".join(parts), at + 1


def test_a_service_is_its_address_and_a_headless_one_its_pods() -> None:
    assert asked("web.shop.svc.cluster.local") == (0, ["10.0.0.7"])
    assert asked("WEB.Shop.svc.cluster.LOCAL") == (0, ["10.0.0.7"])
    assert asked("db.shop.svc.cluster.local") == (0, ["10.1.0.4"]), "pods that are not ready are not told"
    assert asked("ranks.shop.svc.cluster.local") == (0, ["10.1.0.1", "10.1.0.2"])
    assert asked("run-1.ranks.shop.svc.cluster.local") == (0, ["10.1.0.2"])


def test_what_there_is_not_is_told_so_that_a_client_looks_further() -> None:
    assert asked("web.other.svc.cluster.local") == (3, [])
    assert asked("example.com") == (3, [])
    assert asked("gone.shop.svc.cluster.local") == (3, [])
    assert asked("web.shop.svc.cluster.local", AAAA) == (0, [])
    assert asked("shop.svc.cluster.local") == (0, []), "others are below that name"


def test_an_alias_is_followed_as_far_as_it_is_known() -> None:
    assert asked("alias.shop.svc.cluster.local") == (0, ["web.shop.svc.cluster.local", "10.0.0.7"])
    assert asked("away.shop.svc.cluster.local") == (0, ["example.com"])
    code, found = asked("loop.shop.svc.cluster.local", limit_bytes=65535)
    assert code == 0
    assert len(found) == 8


def test_an_answer_that_is_too_long_is_cut_and_marked_for_tcp() -> None:
    many = zone(
        [service("many", clusterIP="None")],
        [endpoints("many", *({"addresses": [f"10.1.{n // 250}.{n % 250}"]} for n in range(300)))],
    )
    reply = answer(question("many.shop.svc.cluster.local"), *many, limit_bytes=512)
    assert struct.unpack("!6H", reply[:12])[1] & 0x0200
    assert len(reply) <= 512
    assert len(asked("many.shop.svc.cluster.local", limit_bytes=65535, held=many)[1]) == 300


@given(st.binary(max_size=300))
def test_no_message_breaks_the_server(message: bytes) -> None:
    reply = answer(message, *ZONE, limit_bytes=512)
    assert reply == b"" or reply[:2] == message[:2]


@given(st.binary(max_size=60))
def test_no_broken_question_breaks_the_server(rest: bytes) -> None:
    reply = answer(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + rest, *ZONE, limit_bytes=512)
    assert reply[:2] == b"\0\1"
