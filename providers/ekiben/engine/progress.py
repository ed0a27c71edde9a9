"""What the engine does, told as it happens: a line for each resource when it is done, and what is under way on a terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from pulumi.automation.events import DiagnosticEvent, EngineEvent, StepEventMetadata

from ekiben.cost import Cost

__all__ = ["Progress"]

# Operation -> sign, what is planned, what is under way, what was done.
OPERATIONS = {
    "create": ("+", "create", "creating", "created"),
    "update": ("~", "update", "updating", "updated"),
    "delete": ("-", "delete", "deleting", "deleted"),
    "replace": ("±", "replace", "replacing", "replaced"),
    "create-replacement": ("+", "create the replacement", "creating the replacement", "created the replacement"),
    "delete-replaced": ("-", "delete the replaced", "deleting the replaced", "deleted the replaced"),
    "discard": ("-", "forget", "forgetting", "forgotten"),
    "discard-replaced": ("-", "keep the replaced", "keeping the replaced", "kept the replaced"),
    "import": ("=", "import", "importing", "imported"),
    "refresh": ("~", "read", "reading", "found changed"),
}
COLOURS = re.compile(r"<\{%[^%]*%\}>")
# What the engine adds to errors that it has shown already.
ECHOES = re.compile(
    r"(update|preview|refresh|destroy|resource \S+) failed\b.{0,80}"
    r"|an unhandled error occurred: the program exited with (non-zero exit code:|status) \d+",
    re.DOTALL | re.IGNORECASE,
)


class Progress:
    """Takes the engine's events (from its own threads); afterwards `steps`, `errors` and `failed` say what happened.

    steps: one dict a resource that was not left as it was: op, type, name, urn, seconds, changed (property paths).
    costs: of a preview, what each component will cost, by its name.
    failed: did an operation on a resource fail, rather than the program or a check before any was tried?
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.steps: list[dict[str, Any]] = []
        self.costs: dict[str, Cost] = {}
        self.errors: list[str] = []
        self.failed = False
        self._begun: dict[str, float] = {}
        self._doing: dict[str, str] = {}
        self._status: Any = None

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """While it lasts, a terminal shows what is under way."""
        if self.quiet or not self.stream.isatty():
            yield
            return
        from rich.console import Console

        console = Console(file=self.stream)
        with console.status(title) as self._status:
            yield
        self._status = None

    def say(self, line: str) -> None:
        if self.quiet:
            return
        if self._status is not None:
            self._status.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)

    def __call__(self, event: EngineEvent) -> None:
        if event.diagnostic_event:
            self._told(event.diagnostic_event)
        elif event.resource_pre_event:
            self._begins(event.resource_pre_event.metadata, bool(event.resource_pre_event.planning))
        elif event.res_outputs_event and event.res_outputs_event.planning:
            self._plans(event.res_outputs_event.metadata)
        elif event.res_outputs_event:
            self._ends(event.res_outputs_event.metadata)
        elif event.res_op_failed_event:
            self.failed = True
            self._forget(event.res_op_failed_event.metadata.urn)

    @property
    def changes(self) -> dict[str, int]:
        """How many resources were, or would be, created, updated, replaced, deleted."""
        counts: dict[str, int] = {}
        for step in self.steps:
            counts[step["op"]] = counts.get(step["op"], 0) + 1
        return counts

    def _begins(self, step: StepEventMetadata, planning: bool) -> None:
        words = OPERATIONS.get(_operation(step))
        if not words or not _shown(step):
            return
        if planning and _operation(step) not in (
            "refresh",
            "create-replacement",
            "delete-replaced",
            "discard-replaced",
        ):
            self._add(step, 0.0, words[1])
        elif not planning:
            self._begun[step.urn] = time.monotonic()
            self._doing[step.urn] = f"{words[2]} {_label(step)}"
            self._show()

    def _plans(self, step: StepEventMetadata) -> None:
        """A component of ours tells, among its outputs, what it will cost."""
        if step.type.startswith("ekiben:") and step.new and (told := (step.new.outputs or {}).get("cost")):
            self.costs[step.urn.rpartition("::")[2]] = Cost.from_json(told)

    def _ends(self, step: StepEventMetadata) -> None:
        begun = self._begun.get(step.urn)
        self._forget(step.urn)
        operation = _operation(step)
        if begun is None or operation not in OPERATIONS or (operation == "refresh" and _same(step)):
            return
        self._add(step, time.monotonic() - begun, OPERATIONS[operation][3])

    def _add(self, step: StepEventMetadata, seconds: float, word: str) -> None:
        changed = _changed(step)
        name = step.urn.rpartition("::")[2]
        operation = _operation(step)
        if operation == "refresh" and step.new is None:
            operation, word = "delete", "found gone"
        if operation not in ("discard-replaced", "delete-replaced", "replace"):
            self.steps.append(
                {
                    "op": "replace" if operation == "create-replacement" else operation,
                    "type": step.type, "name": name, "urn": step.urn, "seconds": round(seconds, 3), "changed": changed,
                }
            )  # fmt: skip
        elif operation == "replace" and not seconds:
            self.steps.append(
                {"op": "replace", "type": step.type, "name": name, "urn": step.urn, "seconds": 0.0, "changed": changed}
            )
        if operation.startswith("delete") and step.old is not None and step.old.retain_on_delete:
            word = "left to its bucket" if step.type.endswith((":Object", ":Wheels")) else "kept"
        elif operation == "delete" and step.old is not None and (step.old.inputs or {}).get("retain") is True:
            word = "kept, as `retain` says"
        sign = OPERATIONS[operation][0]
        detail = f" [{', '.join(changed)}]" if changed else ""
        took = f"  {seconds:.1f} s" if seconds else ""
        self.say(f"  {sign} {_label(step):<48} {word}{detail}{took}")

    def _told(self, told: DiagnosticEvent) -> None:
        if told.ephemeral:
            return
        text = COLOURS.sub("", told.message).strip()
        if not text:
            return
        if told.severity == "error":
            if not ECHOES.fullmatch(text) and not any(text in other for other in self.errors):
                self.errors = [*(other for other in self.errors if other not in text), text]
        elif told.severity != "debug":
            for line in text.splitlines():
                self.say(f"  | {line}")

    def _forget(self, urn: str) -> None:
        self._doing.pop(urn, None)
        self._show()

    def _show(self) -> None:
        status = self._status
        if status is not None and self._doing:
            doing = list(self._doing.values())
            more = f" and {len(doing) - 2} more" if len(doing) > 2 else ""
            status.update(", ".join(doing[:2]).replace("[", r"\[") + more)


def _operation(step: StepEventMetadata) -> str:
    return str(getattr(step.op, "value", step.op))


def _shown(step: StepEventMetadata) -> bool:
    """Components are names around resources, and providers are how they are made: neither is work."""
    state = step.new or step.old
    return bool(state and state.custom) and not step.type.startswith("pulumi:providers:")


def _label(step: StepEventMetadata) -> str:
    return f"{step.type.rpartition(':')[2]} {step.urn.rpartition('::')[2]}"


def _same(step: StepEventMetadata) -> bool:
    old, new = step.old, step.new
    return bool(old and new) and (old.outputs, old.inputs) == (new.outputs, new.inputs)  # type: ignore[union-attr]


def _changed(step: StepEventMetadata) -> list[str]:
    """The paths of the properties that differ, into JSON text too."""
    old = (step.old.inputs if step.old else None) or {}
    new = (step.new.inputs if step.new else None) or {}
    found: list[str] = []
    for key in step.detailed_diff or step.diffs or ():
        inside = _inside(old.get(key), new.get(key))
        found += [f"{key}.{name}" for name in inside] or [key]
    return sorted(found)


def _inside(old: Any, new: Any) -> list[str]:
    """The keys in which two JSON objects differ; none when either is no such text."""
    try:
        left, right = json.loads(old), json.loads(new)
    except (TypeError, ValueError):
        return []
    if not (isinstance(left, Mapping) and isinstance(right, Mapping)):
        return []
    return [key for key in {**left, **right} if left.get(key) != right.get(key)]
