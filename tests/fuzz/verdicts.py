"""The bodies of the target `bodies`, to the lean server and to BentoML's own: what one takes and the other does not is a finding.

Where BentoML fails (a 500, or no answer in time) there is no verdict to compare with.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Hashable

from .bodies import KINDS, WORDS, request, routes, split
from .findings import Check, Violation
from .server import Server

__all__ = ["KINDS", "WORDS", "opened"]


def opened() -> Check:
    server = Server()
    known = routes(server)
    other = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.reference"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def theirs(route: bytes, kind: bytes, body: bytes) -> int:
        assert other.stdin is not None
        assert other.stdout is not None
        asked = {"path": route.decode(), "kind": kind.decode("latin-1"), "body": base64.b64encode(body).decode()}
        other.stdin.write(json.dumps(asked) + "\n")
        other.stdin.flush()
        return int(other.stdout.readline())

    def check(data: bytes) -> Hashable:
        route, kind, body = split(data, known)
        [(status, _)] = server.ask([request(route, kind, body)], [b"POST"]).replies
        reference = theirs(route, kind, body)
        if reference < 500 and status != reference:
            raise Violation(f"{route.decode()} answers {status}, and BentoML {reference}")
        return route, status, reference

    return check
