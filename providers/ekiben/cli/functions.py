"""functions, events, publish, replay."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ekiben.cli import options, show
from ekiben.cli.endpoints import payload
from ekiben.cli.platform import runtime
from ekiben.errors import SpecError

if TYPE_CHECKING:
    from ekiben.runtime import Runtime

__all__ = ["register"]

State = Literal["", "waiting", "running", "done", "dead"]
STATES = ("waiting", "running", "done", "dead")


def register(app: typer.Typer) -> None:
    app.command()(functions)
    app.command()(events)
    app.command()(publish)
    app.command()(replay)


def functions(
    name: Annotated[
        str, typer.Argument(metavar="FUNCTION", help="A function, to list its deliveries; else all functions.")
    ] = "",
    state: Annotated[
        State, typer.Option("--state", help="Only deliveries in this state; dead: the dead letters.")
    ] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """List functions, or the deliveries of one.

    \b
    Examples:
      ekiben functions
      ekiben functions retrain
      ekiben functions retrain --state dead
    """
    used = runtime(stack)
    if name or state:
        _deliveries(used, name, state, json)
        return
    found: list[dict[str, Any]] = []
    for function in used.names("function"):
        bound = used.function(function)
        counts = Counter(str(delivery["state"]) for delivery in bound.deliveries())
        url = str(bound.part.facts.get("url", ""))
        found.append({"name": function, "url": url, "deliveries": {key: counts[key] for key in STATES}})
    if json:
        show.to_json(found)
        return
    rows = [(entry["name"], *entry["deliveries"].values(), entry["url"]) for entry in found]
    show.table(("function", *STATES, "url"), rows, "The platform has no functions.")


def events(
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Only events of this type: NewData, TrainingEnded...")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest.")] = 50,
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """List what happened, and which functions had it.

    Newest first. What no function waits for is not listed.

    \b
    Examples:
      ekiben events
      ekiben events TrainingEnded --json
    """
    found = [entry for entry in _events(runtime(stack)) if type in ("", entry["type"])][:limit]
    if json:
        show.to_json(found)
        return
    rows = [
        (show.clock(str(entry.get("time", ""))), entry["type"], entry["source"], entry["subject"],
         ", ".join(f"{function} {state}" for function, state in sorted(entry["deliveries"].items())), entry["id"])
        for entry in found
    ]  # fmt: skip
    show.table(("time (UTC)", "event", "source", "subject", "delivered to", "id"), rows, "There are no events yet.")


def publish(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, a name such as DriftFound.")],
    subject: Annotated[str, typer.Option("--subject", help="What it is about.")] = "",
    source: Annotated[str, typer.Option("--source", help="The component it comes from.")] = "cli",
    data: Annotated[str, typer.Option("--data", "-d", help="A JSON object, @FILE, or - for standard input.")] = "{}",
    id: Annotated[str, typer.Option("--id", help="Its id; the same id twice is one event.")] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Publish an event of your own.

    \b
    Examples:
      ekiben publish DriftFound --subject employment:3 --data '{"column": "AGEP"}'
    """
    from ekiben.records import Event, now

    body = payload(data)
    if not isinstance(body, dict):
        raise SpecError("The data of an event is a JSON object. Wrap it: " + '{"value": ...}.')
    event = Event(id=id or uuid.uuid4().hex, type=type, source=source, subject=subject, time=now(), data=body)
    runtime(stack).publish(event)
    if json:
        show.to_json(event)
    else:
        show.line(event.id)


def replay(
    name: Annotated[str, typer.Argument(metavar="FUNCTION", help="The function.")],
    delivery: Annotated[
        str, typer.Argument(metavar="DELIVERY", help="The delivery's id; else all its dead letters.")
    ] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Put dead letters back in the queue.

    \b
    Examples:
      ekiben replay retrain
      ekiben replay retrain 3f0c9a
    """
    function = runtime(stack).function(name)
    chosen = [delivery] if delivery else [str(letter["id"]) for letter in function.deliveries("dead")]
    for id in chosen:
        function.replay(id)
    if json:
        show.to_json(chosen)
    else:
        show.say(
            f"{len(chosen)} deliveries of {name} are in the queue again." if chosen else f"{name} has no dead letters."
        )


def _deliveries(used: Runtime, name: str, state: str, json: bool) -> None:
    names = [name] if name else used.names("function")
    found = [{**delivery, "function": each} for each in names for delivery in used.function(each).deliveries(state)]
    if json:
        show.to_json(found)
        return
    rows = [
        (entry["id"], entry["function"], entry["state"], entry["attempts"], entry["event"]["type"],
         entry["event"]["subject"], (str(entry["error"] or "").strip().splitlines() or [""])[-1])
        for entry in found
    ]  # fmt: skip
    columns = ("delivery", "function", "state", "attempts", "event", "subject", "error")
    show.table(columns, rows, "There are no such deliveries." if state else "There are no deliveries yet.")


def _events(used: Runtime) -> list[dict[str, Any]]:
    """The events that functions were given, once each, with the state of each delivery."""
    found: dict[str, dict[str, Any]] = {}
    for name in used.names("function"):
        for delivery in used.function(name).deliveries():
            event = found.setdefault(delivery["event"]["id"], {**delivery["event"], "deliveries": {}})
            event["deliveries"][name] = delivery["state"]
    return sorted(found.values(), key=lambda event: str(event.get("time", "")), reverse=True)
