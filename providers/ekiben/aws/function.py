"""Functions on Lambda: called, and told of by the lines that the handler leaves in their log (see `ekiben.aws.handler`), and by
what lies in their dead-letter queue.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import FunctionFacts, facts_of
from ekiben.aws.handler import MARK
from ekiben.aws.lambdas import Lambda, said_of
from ekiben.aws.letters import Letter, Letters
from ekiben.aws.logs import lines
from ekiben.aws.payloads import of_call
from ekiben.errors import FunctionFailed, NotFound, SpecError
from ekiben.invocations import as_json
from ekiben.records import Event, Part, Platform, now

__all__ = ["Function"]

STATES = ("waiting", "running", "done", "dead")
# Lambda's own lines.
PLATFORM = re.compile(r"(?:INIT_START|START RequestId|END RequestId|REPORT RequestId)\b")
# Beyond its time a delivery without an end has none: Lambda ended it.
SLACK_S = 60.0
TAIL_LINES = 20


class Function(runtime.Function):
    """One function. Its deliveries go back as far as its log is kept."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, FunctionFacts)
        self._cloud = Cloud(self._facts.region)
        self._function = Lambda(self._cloud, self._facts.function)

    def call(self, data: Mapping[str, Any]) -> Any:
        name = self.part.name
        if not self._facts.url:
            raise SpecError(
                f"The function {name!r} is not called: its spec has no Http(). Publish an event that it waits for."
            )
        as_json(data, f"What was given to the function {name!r}")
        event = Event(id=f"http-{uuid.uuid4().hex}", type="Http", source=name, time=now(), data=dict(data))
        answer = self._function.invoke(f"call the function {name!r}", of_call(event))
        if answer.failed:
            shown = [line for line in answer.tail.splitlines() if _own(line)]
            raise FunctionFailed(
                f"aws: the function {name!r} failed: {said_of(answer)}.",
                log_uri=self._log_uri, tail="\n".join(shown[-TAIL_LINES:]),
            )  # fmt: skip
        return json.loads(answer.payload)["result"]

    def deliveries(self, state: str = "") -> list[dict[str, Any]]:
        """See `runtime.Function`. A line of the log is there some seconds after it was written.

        What is in the dead-letter queue is dead, and is listed also where the log has nothing of it: it never reached the function.
        """
        if state and state not in STATES:
            raise SpecError(f"There is no state {state!r} of a delivery; there are: {', '.join(STATES)}.")
        operation = f"list the deliveries of {self.part.name!r}"
        with self._letters(operation).held(self.platform) as letters:
            # After the letters: what the log then has is no older than they are.
            found = self._all(self._told(operation), letters)
        return [one for one in found if not state or one["state"] == state]

    def replay(self, delivery: str) -> None:
        """See `runtime.Function`. One death is replayed once, however often and by whom it is asked: its time is the `turn`."""
        operation = f"replay {delivery!r}"
        queue = self._letters(operation)
        with queue.held(self.platform, wanted=delivery) as letters:
            told = self._told(operation)
            there = next((one for one in self._all(told, letters) if one["id"] == delivery), None)
            if there is None:
                raise NotFound("aws", operation, f"the function {self.part.name!r} has no such delivery")
            mine = [letter for letter in letters if _id(letter, told) == delivery]
            if there["state"] == "dead":
                payload = mine[-1].payload if mine else self._logged(told[delivery], operation)
                again = {**payload, "turn": there["ended_at"]} if isinstance(payload, dict) else payload
                self._function.send(operation, again)
            for letter in mine:  # of those that are not dead any more, too
                queue.remove(letter)

    def logs(self) -> Iterator[str]:
        """See `runtime.Function`. What it printed, without the lines of Lambda's and Ekiben's own."""
        found = lines(self._cloud, self._facts.log_group, f"read the log of the function {self.part.name!r}")
        yield from filter(_own, found)

    def _delivery(self, id: str, said: list[dict[str, Any]]) -> dict[str, Any]:
        """The delivery that these lines are about, the oldest first. Only those since its last replay say where it stands."""
        turn = [one for one in said if one.get("turn", "") == said[-1].get("turn", "")]
        begun, last = [one for one in turn if one["state"] == "running"], turn[-1]
        event: dict[str, Any] = next((one["event"] for one in said if "event" in one), {})
        error = str(last.get("error", ""))
        state = last["state"]
        if state == "running" and _age_s(last["at"]) > self._facts.timeout_s + SLACK_S:
            state, error = "failed", "it ended without a word: out of time, or out of memory"
        if state == "failed":
            retries = 0 if event.get("type") == "Http" else self._facts.retries
            state = "dead" if len(begun) > retries else "waiting"
        return {
            "id": id, "event": event, "state": state, "attempts": len(begun), "error": error,
            "created_at": said[0]["at"], "ended_at": last["at"] if state in ("done", "dead") else "", "log_uri": self._log_uri,
        }  # fmt: skip

    def _told(self, operation: str) -> dict[str, list[dict[str, Any]]]:
        """What the log says of each delivery, the oldest line first."""
        told: dict[str, list[dict[str, Any]]] = {}
        for line in lines(self._cloud, self._facts.log_group, operation, pattern=f'"{MARK}"'):
            if (said := _said(line)) and said["state"] != "again":
                told.setdefault(said["id"], []).append(said)
        return told

    def _letters(self, operation: str) -> Letters:
        return Letters(self._cloud, self._facts.dead_letters, operation)

    def _all(self, told: Mapping[str, list[dict[str, Any]]], letters: list[Letter]) -> list[dict[str, Any]]:
        """Every delivery, newest first."""
        found = {id: self._delivery(id, said) for id, said in told.items()}
        for letter in letters:
            id = _id(letter, told)
            if id not in found:
                found[id] = {
                    "id": id, "event": letter.event, "state": "dead", "attempts": letter.attempts, "error": letter.error,
                    "created_at": letter.at, "ended_at": letter.at, "log_uri": self._log_uri,
                }  # fmt: skip
            elif id in told and letter.turn == told[id][-1].get("turn", "") and found[id]["state"] != "dead":
                error = found[id]["error"] or letter.error
                found[id].update(state="dead", error=error, ended_at=told[id][-1]["at"])
        return sorted(found.values(), key=lambda one: str(one["created_at"]), reverse=True)

    def _logged(self, said: list[dict[str, Any]], operation: str) -> dict[str, Any]:
        """The payload of a delivery as the log has it."""
        begun = next((one for one in said if "event" in one and not one.get("cut")), None)
        if begun is None:
            raise NotFound(
                "aws", operation, "its event is in no dead-letter queue, and too large for the log or none at all",
                "Send it again from where it came",
            )  # fmt: skip
        return of_call(Event.from_dict(begun["event"]))

    @property
    def _log_uri(self) -> str:
        return f"cloudwatch:{self._facts.region}:{self._facts.log_group}"


def _id(letter: Letter, told: Mapping[str, list[dict[str, Any]]]) -> str:
    """The delivery that a letter is about: what its payload says, or what the log has of its request."""
    if not letter.event and letter.request:
        same = (id for id, said in told.items() if any(one.get("request") == letter.request for one in said))
        return next(same, letter.id)
    return letter.id


def _own(line: str) -> bool:
    return not PLATFORM.match(line) and MARK not in line


def _said(line: str) -> dict[str, Any] | None:
    """What a line says of a delivery; nothing where somebody else wrote it."""
    try:
        found = json.loads(line.partition(f"{MARK} ")[2])
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"id", "state", "at"} <= set(found) else None


def _age_s(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
