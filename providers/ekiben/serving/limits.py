"""What a server takes from its callers before it says no. Read once, from the environment, when a server starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace

__all__ = ["Limits"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Each is also an environment variable: EKIBEN_SERVER_MAX_BODY_BYTES and so on."""

    max_head_bytes: int = 64 * 1024
    max_headers: int = 128
    max_body_bytes: int = 128 * MIB
    # Of all requests together that are being read or answered.
    max_held_bytes: int = 512 * MIB
    max_connections: int = 4096
    max_queue: int = 1024
    head_timeout_s: int = 20
    # A body may take this long, and longer while it comes in at this rate or faster.
    body_timeout_s: int = 30
    min_body_bytes_per_s: int = 8 * 1024
    write_timeout_s: int = 60
    idle_timeout_s: int = 75
    drain_timeout_s: int = 90
    # For the last spans and predictions to be sent, when all is answered.
    flush_timeout_s: int = 8
    # A blocking call that was made without a thread and has not returned so long after its deadline never will.
    stuck_s: int = 5

    def behind_gateway(self) -> Limits:
        """Those of a server whose only caller has limits of its own, and keeps its connections."""
        day_s, much = 86_400, 1024**4
        return replace(
            self, max_body_bytes=much, max_held_bytes=much, max_connections=much, head_timeout_s=day_s,
            body_timeout_s=day_s, idle_timeout_s=day_s,
        )  # fmt: skip

    @classmethod
    def from_environment(cls) -> Limits:
        """Raises ValueError for what is no whole number above 0."""
        found = {}
        for field in fields(cls):
            name = f"EKIBEN_SERVER_{field.name.upper()}"
            if text := os.environ.get(name):
                if not text.isdigit() or int(text) == 0:
                    raise ValueError(f"{name} is {text!r}, and must be a whole number above 0")
                found[field.name] = int(text)
        return cls(**found)
