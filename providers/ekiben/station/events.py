"""Events and their deliveries: published once, delivered to each function that waits for them at least once.

`publish` writes the event and one delivery for each subscribed function in the caller's transaction, so that an event is there
exactly when what it tells of is there. A delivery is claimed by one station process; when that process dies, the next one puts
what it had claimed back in the queue. What has failed too often is a dead letter: it stays until it is replayed.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ekiben.errors import NotFound, SpecError
from ekiben.records import Event, now
from ekiben.station.store import Store

__all__ = ["Claim", "Events", "matches", "pause_s", "steady"]

DDL = """
create table if not exists events (
  seq integer primary key autoincrement, id text not null unique, type text not null, source text not null, record text not null);
create table if not exists subscriptions (
  function text primary key, triggers text not null, retries integer not null, backoff_s real not null);
create table if not exists deliveries (
  seq integer primary key autoincrement, id text not null unique, event text not null, function text not null, state text not null,
  attempts integer not null default 0, due real not null, owner text not null default '', error text not null default '',
  result text not null default '', created_at text not null, ended_at text not null default '', unique (event, function));
create index if not exists deliveries_by_state on deliveries (state, due);
drop index if exists deliveries_by_function;
create index if not exists deliveries_next on deliveries (function, state, due, seq);
"""

STATES = ("waiting", "running", "done", "dead")
PAUSE_MAX_S = 3600.0
ERROR_CHARS = 4000
RESULT_CHARS = 65_536


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A delivery that this process is to make. `attempt` counts from 1."""

    id: str
    function: str
    event: Event
    attempt: int


def matches(trigger: Mapping[str, Any], event: Event, function: str) -> bool:
    """Does `trigger` (a dumped Trigger) of `function` ask for `event`? A schedule's event is meant for one function."""
    kind = trigger["type"]
    if kind == "On":
        return event.type == trigger["event"] and trigger["source"] in ("", event.source)
    if kind != event.type:
        return False
    if kind == "NewData":
        key = event.subject
        return (
            event.source == trigger["storage"] and key.startswith(trigger["prefix"]) and key.endswith(trigger["suffix"])
        )
    if kind == "Schedule":
        return event.source == function and event.subject == trigger["cron"]
    return event.source == function


def pause_s(backoff_s: float, attempts: int) -> float:
    """Seconds to wait after the failure of attempt number `attempts`: doubled each time, an hour at most."""
    return min(backoff_s * 2.0 ** min(attempts - 1, 20), PAUSE_MAX_S)


def steady() -> Callable[[], float]:
    """A clock of the seconds since the epoch that nobody sets: from now on it goes evenly."""
    ahead_s = time.time() - time.monotonic()
    return lambda: ahead_s + time.monotonic()


class Events:
    """The events of one station. `on_delivery` is called (from any thread) when a delivery may have become due."""

    def __init__(self, store: Store, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._clock = clock or steady()
        self._owner = uuid.uuid4().hex
        self.on_delivery: Callable[[], None] = lambda: None
        store.declare(DDL)

    def publish(self, event: Event) -> bool:
        """Store the event and let the functions that wait for it have it; False when the id was published before.

        Within the caller's transaction, where there is one.
        """
        return bool(self.publish_all([event]))

    def publish_all(self, events: Sequence[Event]) -> Sequence[Event]:
        """Publish many in one transaction, all or none; those that were not published before."""
        for event in events:
            if not event.id or not event.type:
                raise SpecError(f"An event needs an id and a type; this one is {event.id!r} of type {event.type!r}.")
        fresh = []
        with self._store.transaction() as connection:
            rows = connection.execute("select function, triggers from subscriptions order by function").fetchall()
            waiting = [(row["function"], json.loads(row["triggers"])) for row in rows]
            for event in events:
                if not connection.execute(
                    "insert into events (id, type, source, record) values (?, ?, ?, ?) on conflict (id) do nothing",
                    (event.id, event.type, event.source, event.to_json()),
                ).rowcount:
                    continue
                fresh.append(event)
                for function, triggers in waiting:
                    if any(matches(trigger, event, function) for trigger in triggers):
                        self._deliver(event, function, state="waiting")
        if fresh:
            self._store.after_commit(self.on_delivery)
        return fresh

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that have been published."""
        found: set[str] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(row["id"] for row in self._store.all(f"select id from events where id in ({marks})", part))  # noqa: S608
        return found

    def last(self, limit: int = 200) -> Sequence[dict[str, Any]]:
        """The last events, newest first, as the JSON of their records."""
        rows = self._store.all("select record from events order by seq desc limit ?", (limit,))
        return [json.loads(row["record"]) for row in rows]

    def subscribe(
        self, function: str, triggers: Sequence[Mapping[str, Any]], *, retries: int, backoff_s: float
    ) -> None:
        """Say what a function waits for, instead of what it waited for until now."""
        self._store.run(
            "insert into subscriptions values (?, ?, ?, ?) on conflict (function) do update set "
            "triggers = excluded.triggers, retries = excluded.retries, backoff_s = excluded.backoff_s",
            (function, json.dumps(list(triggers)), retries, backoff_s),
        )

    def functions(self) -> Sequence[str]:
        """The functions that have subscribed."""
        return [row["function"] for row in self._store.all("select function from subscriptions order by function")]

    def triggers(self, type: str) -> Sequence[dict[str, Any]]:
        """The triggers of a type, of all functions."""
        rows = self._store.all("select triggers from subscriptions order by function")
        return [trigger for row in rows for trigger in json.loads(row["triggers"]) if trigger["type"] == type]

    def forget(self, function: str) -> None:
        """Drop a function's subscription and its deliveries."""
        with self._store.transaction() as connection:
            connection.execute("delete from subscriptions where function = ?", (function,))
            connection.execute("delete from deliveries where function = ?", (function,))

    def recover(self) -> Sequence[str]:
        """Put back what a station that is gone had claimed, and return the ids of those deliveries.

        A call by HTTP is not made again: who waited for it is gone, too.
        """
        with self._store.transaction() as connection:
            rows = connection.execute(
                "select d.id, e.type from deliveries d join events e on e.id = d.event "
                "where d.state = 'running' and d.owner != ?", (self._owner,),
            ).fetchall()  # fmt: skip
            for row in rows:
                state, error = (
                    ("dead", "The station stopped during the call.") if row["type"] == "Http" else ("waiting", "")
                )
                connection.execute(
                    "update deliveries set state = ?, error = ?, due = ?, owner = '' where id = ?",
                    (state, error, self._clock(), row["id"]),
                )
            self._bring_forward(connection)
        return [row["id"] for row in rows]

    def _bring_forward(self, connection: sqlite3.Connection) -> None:
        """No pause is longer than it was meant to be: the clock may have been set back while no station ran."""
        at = self._clock()
        rows = connection.execute(
            "select d.id, d.due, d.attempts, s.backoff_s from deliveries d join subscriptions s on s.function = d.function "
            "where d.state = 'waiting' and d.due > ?", (at,),
        ).fetchall()  # fmt: skip
        for row in rows:
            latest = at + pause_s(row["backoff_s"], max(row["attempts"], 1))
            if row["due"] > latest:
                connection.execute("update deliveries set due = ? where id = ?", (latest, row["id"]))

    def claim(self) -> Claim | None:
        """Take the delivery that is next: of the function with the fewest calls now, the one that is due longest."""
        if not self._heads():
            return None
        with self._store.transaction():
            heads = self._heads()
            return self._take(heads[0]["id"]) if heads else None

    def _heads(self) -> list[dict[str, Any]]:
        """The delivery of each function that is due longest; first that of the function with the fewest calls now."""
        return self._store.all(
            "select d.id from subscriptions s join deliveries d on d.seq = (select h.seq from deliveries h where "
            "h.function = s.function and h.state = 'waiting' and h.due <= ? order by h.due, h.seq limit 1) order by "
            "(select count(*) from deliveries r where r.function = s.function and r.state = 'running'), d.due, d.seq",
            (self._clock(),),
        )

    def claim_call(self, event: Event, function: str) -> Claim:
        """Store an event that is meant for one function which is called at once (by HTTP), and take its delivery."""
        with self._store.transaction() as connection:
            connection.execute(
                "insert into events (id, type, source, record) values (?, ?, ?, ?)",
                (event.id, event.type, event.source, event.to_json()),
            )
            return self._take(self._deliver(event, function, state="waiting"))

    def done(self, claim: Claim, result: Any) -> None:
        """The call has succeeded."""
        text = json.dumps(result, ensure_ascii=False)
        self._end(claim, "done", "", text if len(text) <= RESULT_CHARS else json.dumps("(too long to keep)"))

    def failed(self, claim: Claim, error: str, *, final: bool = False) -> str:
        """The call has failed: it waits for another try, or is dead after the last one (or when `final`). Returns the state."""
        row = self._store.one("select retries, backoff_s from subscriptions where function = ?", (claim.function,))
        if final or row is None or claim.attempt > row["retries"]:
            self._end(claim, "dead", error[:ERROR_CHARS], "")
            return "dead"
        self._store.run(
            "update deliveries set state = 'waiting', due = ?, error = ?, owner = '' where id = ? and owner = ? and attempts = ?",
            (
                self._clock() + pause_s(row["backoff_s"], claim.attempt),
                error[:ERROR_CHARS],
                claim.id,
                self._owner,
                claim.attempt,
            ),
        )
        self.on_delivery()
        return "waiting"

    def release(self, claim: Claim, *, after_s: float = 0.0) -> None:
        """Put a delivery back that was claimed but not made: the attempt does not count."""
        self._store.run(
            "update deliveries set state = 'waiting', attempts = attempts - 1, due = ?, owner = '' where id = ? and owner = ?",
            (self._clock() + after_s, claim.id, self._owner),
        )

    def deliveries(self, function: str, state: str = "", limit: int = 200) -> Sequence[dict[str, Any]]:
        """Newest first: id, event (record), state, attempts, error, result, due_at, created_at, ended_at."""
        if state and state not in STATES:
            raise SpecError(f"There is no state {state!r} of a delivery; there are: {', '.join(STATES)}.")
        rows = self._store.all(
            "select d.*, e.record from deliveries d join events e on e.id = d.event "
            "where d.function = ? and (? = '' or d.state = ?) order by d.seq desc limit ?", (function, state, state, limit),
        )  # fmt: skip
        return [_delivery(row) for row in rows]

    def replay(self, function: str, delivery: str) -> None:
        """Put a dead letter back in the queue, with all its tries. Silent when it is not dead any more. Raises NotFound."""
        with self._store.transaction() as connection:
            there = connection.execute(
                "select 1 from deliveries where id = ? and function = ?", (delivery, function)
            ).fetchone()
            if there is None:
                raise NotFound("local", f"replay the delivery {delivery!r}", f"the function {function!r} has none of that id",
                               f"List them with `ekiben functions {function}`")  # fmt: skip
            connection.execute(
                "update deliveries set state = 'waiting', attempts = 0, due = ?, error = '', ended_at = '' "
                "where id = ? and state = 'dead'", (self._clock(), delivery),
            )  # fmt: skip
        self.on_delivery()

    def prune(self, before: str) -> None:
        """Drop the deliveries that were done before this time (as `now()` writes it), and the calls by HTTP that they were for.

        Other events stay: their ids are what keeps them from being published again.
        """
        with self._store.transaction() as connection:
            connection.execute("delete from deliveries where state = 'done' and ended_at < ?", (before,))
            connection.execute("delete from events where type = 'Http' and id not in (select event from deliveries)")

    def next_due_s(self) -> float | None:
        """Seconds until a waiting delivery is due (0 when one is); None when none waits."""
        row = self._store.one("select min(due) as due from deliveries where state = 'waiting'")
        return None if row is None or row["due"] is None else max(0.0, row["due"] - self._clock())

    def counts(self) -> Sequence[dict[str, Any]]:
        """Deliveries by function and state."""
        return self._store.all(
            "select function, state, count(*) as n from deliveries group by function, state order by 1, 2"
        )

    def _deliver(self, event: Event, function: str, *, state: str) -> str:
        id = uuid.uuid4().hex[:16]
        self._store.run(
            "insert into deliveries (id, event, function, state, due, created_at) values (?, ?, ?, ?, ?, ?)",
            (id, event.id, function, state, self._clock(), now()),
        )
        return id

    def _take(self, delivery: str) -> Claim:
        self._store.run(
            "update deliveries set state = 'running', attempts = attempts + 1, owner = ? where id = ?",
            (self._owner, delivery),
        )
        row = self._store.one(
            "select d.function, d.attempts, e.record from deliveries d join events e on e.id = d.event where d.id = ?",
            (delivery,),
        )
        assert row is not None  # noqa: S101 - the caller's transaction has just read it
        return Claim(
            id=delivery, function=row["function"], event=Event.from_json(row["record"]), attempt=row["attempts"]
        )

    def _end(self, claim: Claim, state: str, error: str, result: str) -> None:
        self._store.run(
            "update deliveries set state = ?, error = ?, result = ?, owner = '', ended_at = ? "
            "where id = ? and owner = ? and attempts = ?",
            (state, error, result, now(), claim.id, self._owner, claim.attempt),
        )  # fmt: skip


def _delivery(row: Mapping[str, Any]) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "id": row["id"],
        "function": row["function"],
        "event": json.loads(row["record"]),
        "state": row["state"],
        "attempts": row["attempts"],
        "error": row["error"],
        "result": json.loads(row["result"]) if row["result"] else None,
        "due_at": datetime.fromtimestamp(row["due"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "created_at": row["created_at"],
        "ended_at": row["ended_at"],
    }
