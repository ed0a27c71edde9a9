"""The table of revisions: what is deployed on each endpoint, its weight, tag and counts. It survives the station."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ekiben.errors import SpecError
from ekiben.records import ModelVersion, Revision, RevisionState, now
from ekiben.revisions import check_tag, check_weights, revision_id
from ekiben.station.store import Store

__all__ = ["Revisions"]

Row = dict[str, Any]


class Revisions:
    def __init__(self, store: Store) -> None:
        self._store = store
        states = ", ".join(f"'{state}'" for state in get_args(RevisionState))
        store.declare(
            "create table if not exists revisions (seq integer primary key, endpoint text not null, id text not null,"
            " version text not null, digest text not null, bento_uri text not null,"
            f" state text not null check (state in ({states})), weight real not null default 0, tag text not null default '',"
            " reason text not null default '', created_at text not null, requests integer not null default 0,"
            " errors integer not null default 0, unique (endpoint, id)) strict"
        )

    def of(self, endpoint: str) -> list[Row]:
        """Newest first."""
        return self._store.all("select * from revisions where endpoint = ? order by seq desc", (endpoint,))

    def get(self, endpoint: str, id: str) -> Row | None:
        return self._store.one("select * from revisions where endpoint = ? and id = ?", (endpoint, id))

    def add(self, endpoint: str, version: ModelVersion) -> None:
        """A revision that is starting; one of that id which has failed is taken up again."""
        self._store.run(
            "insert into revisions (endpoint, id, version, digest, bento_uri, state, created_at)"
            " values (?, ?, ?, ?, ?, 'starting', ?)",
            (endpoint, revision_id(version), version.id, version.digest, version.bento_uri, now()),
        )

    def set_state(self, endpoint: str, id: str, state: RevisionState, reason: str = "") -> None:
        self._store.run(
            "update revisions set state = ?, reason = ? where endpoint = ? and id = ? and state <> 'retiring'",
            (state, reason, endpoint, id),
        )

    def retiring(self, endpoint: str, id: str) -> None:
        """From now on it is on its way out. Raises SpecError while it has traffic."""
        with self._store.transaction():
            row = self.get(endpoint, id)
            if row and row["weight"] > 0:
                raise SpecError(
                    f"The revision {id} of {endpoint!r} has {row['weight']:g} % of the traffic: shift it to another one first."
                )
            self.set_state(endpoint, id, "retiring")

    def tag(self, endpoint: str, id: str, tag: str) -> None:
        """Give it a tag, which no other revision of the endpoint has from now on. Raises SpecError for a bad one."""
        check_tag(tag)
        with self._store.transaction() as connection:
            if self.get(endpoint, tag):
                raise SpecError(f"The tag {tag!r} is the id of a revision of {endpoint!r}: choose another.")
            connection.execute("update revisions set tag = '' where endpoint = ? and tag = ?", (endpoint, tag))
            connection.execute("update revisions set tag = ? where endpoint = ? and id = ?", (tag, endpoint, id))

    def shift(self, endpoint: str, weights: Mapping[str, Any]) -> None:
        """Set all weights at once; those not named get 0. Raises SpecError, NotFound, and then nothing has changed."""
        with self._store.transaction() as connection:
            check_weights("local", endpoint, weights, {row["id"]: row["state"] for row in self.of(endpoint)})
            connection.execute("update revisions set weight = 0 where endpoint = ?", (endpoint,))
            connection.executemany(
                "update revisions set weight = ? where endpoint = ? and id = ?",
                [(float(weight), endpoint, id) for id, weight in weights.items()],
            )

    def count(self, endpoint: str, id: str, requests: int, errors: int) -> None:
        self._store.run(
            "update revisions set requests = ?, errors = ? where endpoint = ? and id = ?",
            (requests, errors, endpoint, id),
        )

    def remove(self, endpoint: str, id: str) -> None:
        self._store.run("delete from revisions where endpoint = ? and id = ?", (endpoint, id))

    def digests(self) -> set[str]:
        """The bentos that some revision needs."""
        return {row["digest"] for row in self._store.all("select distinct digest from revisions")}


def as_record(row: Row, instances: int) -> Revision:
    return Revision(
        id=row["id"], endpoint=row["endpoint"], version=row["version"], digest=row["digest"], state=row["state"],
        weight=row["weight"], tag=row["tag"], instances=instances, reason=row["reason"], created_at=row["created_at"],
    )  # fmt: skip
