"""Calls of what runs in the cluster: by its address where there is a way to it, else through the API server."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from ekiben.errors import Unavailable
from ekiben.kubernetes.client import Answer, Cluster, inside

__all__ = ["TOKEN_HEADER", "Address", "asked", "headers_of"]

CONNECT_TIMEOUT_S = 5.0
# The API server takes Authorization for itself, and passes on all others.
TOKEN_HEADER = "x-ekiben-token"  # noqa: S105 - the name of a header


@dataclass(frozen=True, kw_only=True)
class Address:
    """url: where to ask, with `host` instead of its own where the ingress tells by it; service: "NAME:PORT" in the namespace."""

    url: str = ""
    host: str = ""
    service: str = ""

    @property
    def direct(self) -> bool:
        """Is there a way to it but the API server's? In the cluster there always is."""
        return bool(self.url) and (bool(self.host) or not self.service or inside())


def headers_of(token: str) -> dict[str, str]:
    """What callers show where they have to."""
    return {"authorization": f"Bearer {token}", TOKEN_HEADER: token} if token else {}


def asked(
    cluster: Cluster,
    address: Address,
    method: str,
    path: str,
    operation: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str],
    timeout_s: float,
    query: Mapping[str, str] | None = None,
) -> Answer:
    """The answer, whatever its status. It is asked once: what runs long must not run twice. Raises Unavailable without one."""
    sent = {"content-type": "application/json", "user-agent": "ekiben", **headers}
    try:
        if not address.direct:
            given = {name: value for name, value in sent.items() if name != "authorization"}
            return cluster.proxied(
                address.service, method, path, operation, body=body, headers=given, timeout_s=timeout_s, query=query
            )
        target = f"{path}?{urlencode(query)}" if query else path
        return _direct(address, method, target, body, sent, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(
            "kubernetes", operation, f"it does not answer ({why})", "Look at its pods, and at the network between"
        ) from error


def _direct(
    address: Address, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> Answer:
    parts = urlsplit(address.url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        trust = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.netloc, timeout=CONNECT_TIMEOUT_S, context=trust)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        host = {"host": address.host} if address.host else {}
        connection.request(
            method, f"{parts.path.rstrip('/')}/{path.lstrip('/')}", body=body, headers={**headers, **host}
        )
        told = connection.getresponse()
        return Answer(told.status, {name.lower(): value for name, value in told.getheaders()}, told.read())
    finally:
        connection.close()
