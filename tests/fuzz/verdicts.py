"""The bodies of the target `bodies`, to the lean server and to BentoML's own: what one takes and the other does not is a finding.

Where BentoML fails (a 500, or no answer in time) there is no verdict to compare with.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from collections.abc import Hashable

from .bodies import KINDS, WORDS, Sent, routes, sent
from .findings import Check, Violation
from .server import Server

__all__ = ["KINDS", "WORDS", "opened"]
# What BentoML does not read as we do.
OURS = {
    b"application/x-npy", b"application/vnd.apache.arrow.stream", b"application/vnd.apache.arrow.file",
    b"application/x-ekiben-tensor", b"text/csv",
}  # fmt: skip
# What it takes, and could be stopped by.
REFUSED = (b"number out of range", b"is not read. Send UTF-8", b"its texts would take up", b"cells, and values for")


def opened() -> Check:
    server = Server()
    known = routes(server)
    other = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.reference"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def theirs(given: Sent) -> int:
        assert other.stdin is not None
        assert other.stdout is not None
        body = base64.b64encode(given.body).decode()
        asked = {"path": given.route.decode(), "kind": given.kind.decode("latin-1"), "body": body}
        other.stdin.write(json.dumps(asked) + "\n")
        other.stdin.flush()
        return int(other.stdout.readline())

    def check(data: bytes) -> Hashable:
        given = dataclasses.replace(sent(data, known), accept=b"")
        [(status, told)] = server.ask([given.http()], [b"POST"]).replies
        if given.kind.partition(b";")[0].strip().lower() in OURS or any(words in told for words in REFUSED):
            return given.route, status, None
        reference = theirs(given)
        if reference < 500 and status != reference:
            raise Violation(f"{given.route.decode()} answers {status}, and BentoML {reference}")
        return given.route, status, reference

    return check
