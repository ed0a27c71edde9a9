"""The life of a resource: made, read, changed, deleted. Every operation may be repeated after a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ekiben.emulators.kubernetes.plugin import objects
from ekiben.emulators.kubernetes.plugin.changes import Change, change, drifted, judged, kept
from ekiben.emulators.kubernetes.plugin.objects import asked, manager_of, outputs, owns, planned
from ekiben.emulators.kubernetes.plugin.readiness import Lost, rule_of
from ekiben.emulators.kubernetes.plugin.server import Kind, Refused, Server
from ekiben.emulators.kubernetes.plugin.settings import Settings
from ekiben.emulators.kubernetes.plugin.telling import explained
from ekiben.emulators.kubernetes.plugin.tokens import Token, id_of, parts_of
from ekiben.emulators.kubernetes.plugin.waits import (
    GONE_TIMEOUT_S,
    READY_TIMEOUT_S,
    Unready,
    gone,
    look,
    ready,
    timeout_of,
)
from ekiben.emulators.plugins.wire import unknown
from ekiben.errors import AlreadyExists, NotFound, ProviderError

__all__ = ["Life", "Partial"]

Props = Mapping[str, Any]
PROPAGATION = "pulumi.com/deletionPropagationPolicy"
REPLACE_UNREADY, SKIP = "pulumi.com/replaceUnready", "pulumi.com/skipAwait"
# A definition that was made just now is served a moment later.
KIND_TIMEOUT_S, KIND_PAUSE_S = 30.0, 0.3


class Partial(Exception):
    """It is there, and not as it should be: the state has it, and the next update mends it."""

    def __init__(self, id: str, state: dict[str, Any], inputs: Props, why: str) -> None:
        super().__init__(why)
        self.id, self.state, self.inputs = id, state, inputs


@dataclass(frozen=True, kw_only=True)
class Life:
    """One resource: what it is, where, and who waits for it."""

    server: Server
    settings: Settings
    token: Token
    urn: str
    tell: Callable[[str], None] = lambda said: None
    stopped: threading.Event = field(default_factory=threading.Event)

    def kind(self) -> Kind | None:
        return self.server.kind(self.token.api, self.token.kind)

    def said(self, what: str, id: str) -> str:
        return f"{what} {self.token} {id}"

    def thing(self, inputs: Props, kind: Kind | None) -> dict[str, Any]:
        return asked(inputs, self.token.api, kind, self.server.namespace)

    def forced(self, inputs: Props) -> bool:
        return self.settings.flags["enablePatchForce"] or objects.flag(inputs, objects.FORCE)

    def diff(self, old: Props, new: Props, state: Props, ignored: Sequence[str]) -> Change:
        """What the new inputs do to it."""
        kind = self.kind()
        before, after = self.thing(old, kind), self.thing(new, kind)
        found = change(
            None if unknown(after) else self.server, kind, before, after, manager=manager_of(self.urn, new, state),
            force=self.forced(new), mutable=self.settings.mutable(), ignored=ignored,
        )  # fmt: skip
        if self.token.patch:
            moved = tuple(path for path in found.replaces if path[0] == "metadata")
            return Change(paths=found.paths, replaces=moved)
        if not found.replaces and kind and objects.flag(new, REPLACE_UNREADY) and not unknown(after):
            live = self.server.get(kind, str(after["metadata"].get("namespace", "")), str(after["metadata"]["name"]))
            if live is not None and self.unready(live):
                why = ("metadata", "annotations", REPLACE_UNREADY)
                return Change(
                    paths=(*found.paths, why), replaces=(why,), delete_first=not objects.flag(new, objects.AUTONAMED)
                )
        return found

    def unready(self, live: Props) -> str:
        """Why it is not ready as it is now; empty where it is."""
        if self.token.patch or (rule := rule_of(live)) is None:
            return ""
        try:
            return rule(live, look(self.server))
        except Lost as lost:
            return str(lost)

    def preview(self, inputs: Props, state: Props | None, ignored: Sequence[str] = ()) -> dict[str, Any]:
        """The outputs that it will have, with what is not known yet; nothing is made. `state`: None of what is not there yet."""
        kind = self.kind()
        thing = self.thing(inputs, kind)
        if kind is None or unknown(thing):
            return planned({**(state or {}), **thing}, created=state is None)
        metadata = thing["metadata"]
        live = self.server.get(kind, str(metadata.get("namespace", "")), str(metadata["name"]))
        if (live is None) != (state is None):
            # It makes way for itself, or was deleted behind our back: a dry run would say nothing of use.
            return planned({**(state or {}), **thing}, created=True)
        try:
            dry = self.server.apply(
                kind, kept(thing, live or {}, ignored), manager=manager_of(self.urn, inputs, state or {}),
                force=self.forced(inputs), dry_run=True,
            )  # fmt: skip
        except Refused as refused:
            if refused.status == 404:  # its namespace is made by the same program
                return planned(thing, created=True)
            raise explained(refused, self.said("create" if state is None else "update", id_of(thing)), thing) from None
        return planned(dry, created=state is None)

    def create(self, inputs: Props, timeout_s: float) -> tuple[str, dict[str, Any]]:
        """(id, state). Raises AlreadyExists for what somebody else has made, Partial for what is there and not ready."""
        kind = self._awaited_kind()
        thing = self.thing(inputs, kind)
        operation, manager = self.said("create", id_of(thing)), manager_of(self.urn, inputs, {})
        namespace, name = str(thing["metadata"].get("namespace", "")), str(thing["metadata"]["name"])
        live = self.server.get(kind, namespace, name)
        if self.token.patch and live is None:
            raise NotFound("kubernetes", self.said("patch", id_of(thing)), "there is no such object", "Make it first")
        if live is not None and not self.token.patch:
            if live["metadata"].get("deletionTimestamp"):
                gone(
                    self.server, kind, namespace, name, str(live["metadata"]["uid"]), operation=operation,
                    timeout_s=timeout_of(inputs, timeout_s, GONE_TIMEOUT_S), stopped=self.stopped,
                )  # fmt: skip
            elif owns(live, manager) is None and not self.settings.flags["upsertExistingObjects"]:
                raise AlreadyExists(
                    "kubernetes", operation, "it is there already, and this stack has not made it",
                    "Import it (the resource option `import_`), use another name, or set upsertExistingObjects on the provider",
                )  # fmt: skip
        return id_of(thing), self._applied(kind, thing, inputs, manager, "create", timeout_s)

    def update(self, id: str, state: Props, inputs: Props, ignored: Sequence[str], timeout_s: float) -> dict[str, Any]:
        """The state, after what is new was applied; what is gone is made again. Raises Partial."""
        kind = self._awaited_kind()
        thing = self.thing(inputs, kind)
        if ignored:
            live = self.server.get(kind, *parts_of(id))
            thing = kept(thing, live or {}, ignored)
        return self._applied(kind, thing, inputs, manager_of(self.urn, inputs, state), "update", timeout_s)

    def read(self, id: str, inputs: Props, state: Props) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(inputs, state) as they are now, None where it is gone. Raises Partial for what is not ready any more."""
        kind = self.kind()
        namespace, name = parts_of(id)
        if kind is not None and kind.namespaced:
            namespace = namespace or self.server.namespace
        live: Props | None = self.server.get(kind, namespace, name) if kind is not None else None
        if kind is None or live is None:
            return None
        manager = manager_of(self.urn, inputs, state)
        now, live = self._refreshed(kind, inputs, live, manager) if inputs else (objects.imported(live), live)
        found = outputs(live, now, manager)
        if state and (why := self.unready(live)):
            raise Partial(id, found, objects.hidden(now), why)
        return objects.hidden(now), found

    def delete(self, id: str, state: Props, timeout_s: float) -> None:
        """Undo it, and wait until it is gone; silent where nothing is."""
        kind = self.kind()
        namespace, name = parts_of(id)
        live = self.server.get(kind, namespace, name) if kind is not None else None
        if kind is None or live is None:
            return
        if self.token.patch:
            bare = {
                "apiVersion": kind.api,
                "kind": kind.name,
                "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            }
            try:
                self.server.apply(kind, bare, manager=manager_of(self.urn, {}, state))
            except Refused as refused:
                raise explained(refused, self.said("take back the patch of", id), bare) from None
            return
        how = objects.annotation(state, PROPAGATION).capitalize() or "Foreground"
        self.server.delete(kind, namespace, name, propagation=how)
        if not objects.flag(state, SKIP):
            gone(
                self.server, kind, namespace, name, str(live["metadata"]["uid"]), operation=self.said("delete", id),
                timeout_s=timeout_of(state, timeout_s, GONE_TIMEOUT_S), stopped=self.stopped,
            )  # fmt: skip

    def _applied(
        self, kind: Kind, thing: Props, inputs: Props, manager: str, what: str, timeout_s: float
    ) -> dict[str, Any]:
        operation = self.said(what, id_of(thing))
        try:
            live = self.server.apply(kind, thing, manager=manager, force=self.forced(inputs))
        except Refused as refused:
            raise explained(refused, operation, thing) from None
        if not self.token.patch:
            try:
                live = ready(
                    self.server, kind, live, operation=operation, timeout_s=timeout_of(inputs, timeout_s, READY_TIMEOUT_S),
                    stopped=self.stopped, tell=self.tell,
                )  # fmt: skip
            except ProviderError as error:
                seen = error.live if isinstance(error, Unready) else live
                raise Partial(
                    id_of(thing), outputs(seen, inputs, manager), objects.hidden(inputs), str(error)
                ) from error
        return outputs(live, inputs, manager)

    def _refreshed(self, kind: Kind, inputs: Props, live: Props, manager: str) -> tuple[dict[str, Any], Props]:
        thing = self.thing(inputs, kind)
        try:
            found, wanted = judged(self.server, kind, thing, manager=manager, force=True)
            live = found or live
        except Refused:  # it cannot be so any more: then what was asked for is what is compared
            wanted = thing
        now = dict(drifted(inputs, wanted, live))
        if kind.name == "Secret" and isinstance(inputs.get("stringData"), Mapping):
            before, data = wanted.get("data") or {}, live.get("data") or {}
            now["stringData"] = {
                key: text if before.get(key) == data[key] else objects.decoded(data[key])
                for key, text in inputs["stringData"].items()
                if key in data
            }
        return now, live

    def _awaited_kind(self) -> Kind:
        deadline = time.monotonic() + KIND_TIMEOUT_S
        while (kind := self.kind()) is None:
            if time.monotonic() > deadline or self.stopped.wait(KIND_PAUSE_S):
                raise NotFound(
                    "kubernetes", f"make a {self.token}", "the cluster has no such kind",
                    "Install what defines it (a CustomResourceDefinition), and let this depend on it",
                )  # fmt: skip
        return kind
