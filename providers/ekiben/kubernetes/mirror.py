"""The registry's versions in MLflow: a registered model for each model, a model version for each version, decisions both ways.

The registry's records are the truth. A model version says in its tags which version it is, its state, and what Ekiben last decided:
a state that differs from that was set by somebody in MLflow, and is theirs to be taken over. MLflow numbers as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ekiben.errors import Unavailable
from ekiben.kubernetes.mlflow import Server
from ekiben.records import ModelVersion

__all__ = ["DECIDED", "STATE", "Mirror", "forgotten"]

STATE, DECIDED, VERSION, DIGEST = "ekiben.state", "ekiben.decided", "ekiben.version", "ekiben.digest"
# What a person may decide there. "archived" is final, so it is for those who write it in the registry itself.
DECISIONS = ("approved", "rejected")
# MLflow's own names of versions: https://github.com/mlflow/mlflow, mlflow/utils/validation.py. Older servers take no longer values.
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
METRICS, KEY_CHARS, VALUE_CHARS = 100, 250, 5000


class Mirror:
    """The registered models of one registry."""

    title, aliases = "MLflow", True

    def __init__(self, server: Server) -> None:
        self._server = server

    def show(self, version: ModelVersion, *, who: str = "", why: str = "") -> None:
        """Make the model version where there is none, and give it the version's state and aliases. Repeating is safe."""
        to, name = f"show {version.id} in MLflow", self._name(version.model)
        there = self._find(version, to) or self._create(version, to)
        number = str(there["version"])
        if _decided(there) != version.state:
            by = f" by {who}" if who else ""
            # In this order: half of it is not taken for somebody's decision.
            self._server.tag(name, number, STATE, version.state, to)
            text = f"{version.state}{by}" + (f": {why}" if why else "")
            self._server.tag(name, number, DECIDED, text[:VALUE_CHARS], to)
        wanted = [alias for alias in version.aliases if not RESERVED.fullmatch(alias)]
        pointed = self._server.aliases(name, to) if wanted else {}
        for alias in wanted:
            if pointed.get(alias) != number:
                self._server.point(name, alias, number, to)

    def decided_there(self, version: ModelVersion) -> tuple[str, str, str] | None:
        """What somebody decided in MLflow: (state, who, why); None where nobody did. MLflow does not say who."""
        there = self._find(version, f"read what MLflow says of {version.id}")
        if there is None or (state := _given(there)) in (version.state, _decided(there)) or state not in DECISIONS:
            return None
        return state, "somebody in MLflow", ""

    def decided(self) -> set[str]:
        """The models of which somebody has decided a version in MLflow since Ekiben last did."""
        found, start = set(), self._name("")
        for one in self._server.versions(f"name LIKE '{start}%'", "look for decisions in MLflow"):
            if str(one["name"]).startswith(start) and (state := _given(one)) in DECISIONS and state != _decided(one):
                found.add(str(one["name"]).removeprefix(start))
        return found

    def _find(self, version: ModelVersion, to: str) -> dict[str, Any] | None:
        """The model version of a version. Of several, which two that came at once have made, the first; the others go."""
        made = sorted(self._made(version, to), key=lambda one: int(one["version"]))
        for one in made[1:]:
            self._server.delete_version(str(one["name"]), str(one["version"]), to)
        return made[0] if made else None

    def _made(self, version: ModelVersion, to: str) -> Iterator[dict[str, Any]]:
        name = self._name(version.model)
        for one in self._server.versions(f"name = '{name}' AND tags.`{VERSION}` = '{version.id}'", to):
            if one["name"] == name and one["tags"].get(DIGEST) == version.digest:
                yield one

    def _create(self, version: ModelVersion, to: str) -> dict[str, Any]:
        name, text = self._name(version.model), f"{version.id}, sha256:{version.digest}"
        self._server.make_model(name, f"The versions of {version.model}, as Ekiben's registry has them", to)
        self._server.make_version(name, version.bento_uri, text, _tags(version), to)
        if (made := self._find(version, to)) is None:
            raise Unavailable("kubernetes", to, "somebody has deleted it meanwhile", "Repeat it")
        return made

    def _name(self, model: str) -> str:
        return f"{self._server.facts.models}.{model}"


def forgotten(server: Server) -> None:
    """Delete what a registry has shown; silent where nothing is. Raises Unavailable where the server does not answer."""
    start, to = f"{server.facts.models}.", "delete what the registry has shown in MLflow"
    for name in server.model_names(start, to):
        server.delete_model(name, to)


def _given(there: dict[str, Any]) -> str:
    """The state that a model version has in MLflow, as people write it."""
    return str(there["tags"].get(STATE, "")).strip().lower()


def _decided(there: dict[str, Any]) -> str:
    """The state that Ekiben last gave a model version."""
    return re.split(r"\W", str(there["tags"].get(DECIDED) or "pending"), maxsplit=1)[0]


def _tags(version: ModelVersion) -> dict[str, str]:
    """What MLflow shows of a version: whose it is, where it comes from, and its metrics."""
    code, data = _part(version.lineage, "code"), _part(version.lineage, "inputs")
    inputs = {f"input.{name}": str(_part(data, name).get("sha256") or "") for name in sorted(data)}
    found = {
        VERSION: version.id, DIGEST: version.digest, STATE: "pending", "ekiben.run": version.run_id,
        "ekiben.created-by": version.created_by, "ekiben.created-at": version.created_at,
        "ekiben.commit": str(code.get("commit") or ""), "ekiben.code": str(code.get("sha256") or ""),
    }  # fmt: skip
    metrics = {f"metric.{name}": repr(value) for name, value in sorted(version.metrics.items())[:METRICS]}
    return {_key(name): value[:VALUE_CHARS] for name, value in {**found, **inputs, **metrics}.items() if value}


def _part(lineage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of what a run recorded; empty where it is absent or of another shape."""
    value = lineage.get(name)
    return value if isinstance(value, dict) else {}


def _key(name: str) -> str:
    """Names of tags are words, dashes, dots and blanks there; slashes would have to be those of a path."""
    return re.sub(r"[^\w. -]", "-", name)[:KEY_CHARS]
