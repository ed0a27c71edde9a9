"""Functions' tokens: each reaches only the parts in the function's `uses`.

A token is derived from the station's own token and a salt, so it can be handed out again after a restart, and only its hash is
stored. A route says whom it is about by its `{name}`: that is what `may` compares, not the text of the path.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from ekiben.station.noun import Context
from ekiben.station.store import Store

__all__ = ["declare", "issue", "master", "may", "revoke", "uses_of"]

# What a function's token may call, when the route's {name} is in its `uses`.
NAMED_ROUTES = (
    "/v1/trainings/{name}/",
    "/v1/endpoints/{name}/",
    "/v1/functions/{name}/",
    "/endpoints/{name}",
    "/functions/{name}",
)


def master(state_dir: Path) -> str:
    """The station's token: made once, 32 random bytes in hex, readable by its owner only."""
    path = state_dir / "token"
    if not path.exists():
        fresh = path.with_name(f".token.{secrets.token_hex(4)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        fresh.rename(path)
    return path.read_text(encoding="ascii").strip()


def declare(store: Store) -> None:
    store.declare(
        "create table if not exists tokens (function text primary key, salt text not null, digest text not null unique,"
        " uses text not null) strict"
    )


def issue(context: Context, function: str, uses: Sequence[str]) -> str:
    """The token of `function`, which from now on reaches the parts in `uses`, no others. Repeating gives the same token."""
    read = "select salt, digest, uses from tokens where function = ?"
    row = context.store.one(read, (function,))
    # Each call asks for it: nothing is written where nothing changes.
    if (
        row
        and row["uses"] == json.dumps(sorted(uses))
        and row["digest"] == _hash(_token(context, function, row["salt"]))
    ):
        return _token(context, function, row["salt"])
    with context.store.transaction() as connection:
        row = context.store.one(read, (function,))
        salt = row["salt"] if row else secrets.token_hex(16)
        token = _token(context, function, salt)
        connection.execute(
            "insert into tokens values (?, ?, ?, ?)"
            " on conflict (function) do update set uses = excluded.uses, digest = excluded.digest",
            (function, salt, _hash(token), json.dumps(sorted(uses))),
        )
    return token


def _token(context: Context, function: str, salt: str) -> str:
    return hmac.new(master(context.state_dir).encode(), f"{function}:{salt}".encode(), hashlib.sha256).hexdigest()


def revoke(context: Context, function: str) -> None:
    """End the token of `function`; silent where there is none. A later `issue` makes another."""
    context.store.run("delete from tokens where function = ?", (function,))


def uses_of(store: Store, token: str) -> list[str] | None:
    """The parts that a function's token reaches; None for a token that nobody has."""
    row = store.one("select uses from tokens where digest = ?", (_hash(token),))
    return None if row is None else list(json.loads(row["uses"]))


def may(uses: Sequence[str], method: str, route: str, name: str) -> bool:
    """May a function with `uses` call this? `route` is the route's pattern, `name` what its `{name}` is in this request."""
    if route == "/v1/events":
        return method == "POST"
    return route.startswith(NAMED_ROUTES) and name.partition("@")[0] in uses


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
