"""train, runs, logs, cancel."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import NotFound, SpecError, TrainingFailed

if TYPE_CHECKING:
    from ekiben.records import Run
    from ekiben.runtime import Runtime, Training

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(runs)
    app.command()(logs)
    app.command()(cancel)


def train(
    name: Annotated[
        str, typer.Argument(metavar="TRAINING", help="The component; may be left out where there is one.")
    ] = "",
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="NAME=VALUE, over the spec's.")] = None,
    input: Annotated[list[str] | None, typer.Option("--input", help="NAME=URI prefix, instead of the spec's.")] = None,
    id: Annotated[str, typer.Option("--id", help="The run's id; the same id twice is one run.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the log and wait; Ctrl-C cancels the run.")
    ] = False,
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Start a training run.

    \b
    Examples:
      ekiben train employment
      ekiben train employment --param max_depth=4 --param eta=0.1 --follow
      ekiben train employment --id nightly-2026-01-31 --json
    """
    from ekiben.records import Job

    training = runtime(stack).training(name)
    job = Job(
        id=id or f"{training.part.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        params={key: _value(key, text) for key, text in _pairs("--param", param or [])},
        inputs=dict(_pairs("--input", input or [])),
    )
    run = training.submit(job)
    if follow:
        show.say(f"Run {run.id} has been submitted.")
        run = _follow(training, run, to_stdout=not json)
    if json:
        show.to_json(run)
    elif follow and run.state == "succeeded":
        show.say(_summary(run))
    elif not follow:
        show.line(run.id)
        show.say(f"Run {run.id} is {run.state}. Watch it with: ekiben logs {run.id} --follow")
    if follow and run.state != "succeeded":
        raise TrainingFailed(f"The run {run.id} has {_ended(run)}.", log_uri=run.log_uri)


def runs(
    name: Annotated[
        str, typer.Argument(metavar="TRAINING|RUN", help="A training component or a run's id; else the runs of all.")
    ] = "",
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """List runs, or show one in full.

    \b
    Examples:
      ekiben runs
      ekiben runs employment
      ekiben runs employment-20260131-090000-1a2b --json
    """
    used = runtime(stack)
    trainings = used.names("training")
    if name and name not in trainings:
        _, run = _find(used, name)
        if json:
            show.to_json(run)
            return
        show.line(_summary(run))
        for one in run.interruptions:
            show.line(f"interrupted at {show.clock(one.at)}, {one.lost_s:.1f} s of work lost: {one.reason}")
        rows = [(key, show.number(value)) for key, value in sorted(run.metrics.items())]
        show.table(("metric", "value"), rows, "It has no metrics.")
        for label, uri in (("model", run.model_uri), ("output", run.output_uri), ("log", run.log_uri)):
            show.line(f"{label}: {uri or '-'}")
        return
    found = sorted(
        (run for training in ([name] if name else trainings) for run in used.training(training).runs()),
        key=lambda run: run.submitted_at,
        reverse=True,
    )
    if json:
        show.to_json(found)
        return
    show.table(
        ("run", "training", "state", "submitted (UTC)", "took", "reason"),
        [(run.id, run.training, run.state, show.clock(run.submitted_at), _took(run), _why(run)) for run in found],
        "There are no runs yet. Start one with: ekiben train TRAINING",
    )


def logs(
    name: Annotated[
        str, typer.Argument(metavar="RUN|FUNCTION", help="A run's id, or a function; else the newest run.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Print the log of a run or of a function.

    With --json, one JSON object a line.

    \b
    Examples:
      ekiben logs
      ekiben logs employment-20260131-090000-1a2b --follow
      ekiben logs retrain
    """
    used = runtime(stack)
    if name in used.names("function"):
        if follow:
            raise SpecError("--follow is for runs; the log of a function has no end to wait for. Leave it out.")
        lines = used.function(name).logs()
    else:
        training, run = _find(used, name) if name else _newest(used)
        lines = training.logs(run.id, follow=follow)
    for text in lines:
        show.line(_line(text) if json else text)


def cancel(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Stop a run and all its processes.

    Returns when they are gone; silent when the run has ended.

    \b
    Examples:
      ekiben cancel employment-20260131-090000-1a2b
    """
    training, found = _find(runtime(stack), run)
    ended = training.cancel(found.id)
    if json:
        show.to_json(ended)
    else:
        show.say(_summary(ended))


def _find(used: Runtime, id: str) -> tuple[Training, Run]:
    """The run of that id, whichever training component it is of. Raises NotFound."""
    for name in used.names("training"):
        training = used.training(name)
        try:
            return training, training.run(id)
        except NotFound:
            continue
    raise NotFound("ekiben", f"find the run {id!r}", "no training component has it", "List them with: ekiben runs")


def _newest(used: Runtime) -> tuple[Training, Run]:
    found = [(used.training(name), run) for name in used.names("training") for run in used.training(name).runs()]
    if not found:
        raise NotFound(
            "ekiben", "find the newest run", "there are no runs yet", "Start one with: ekiben train TRAINING"
        )
    return max(found, key=lambda pair: pair[1].submitted_at)


def _follow(training: Training, run: Run, *, to_stdout: bool) -> Run:
    """Print the log until the run has ended. Ctrl-C cancels the run: nobody is left to watch it."""
    write = show.line if to_stdout else show.say
    try:
        for text in training.logs(run.id, follow=True):
            write(text)
        return training.run(run.id)
    except KeyboardInterrupt:
        show.say(f"\nCancelling the run {run.id}...")
        show.say(_summary(training.cancel(run.id)))
        raise


def _pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError(f"{option} {text!r} is not NAME=VALUE.")
        found.append((key, value))
    return found


def _value(key: str, text: str) -> Any:
    """A number, true or false where it is one in JSON, else the text itself."""

    def refuse(constant: str) -> Any:
        raise SpecError(f"--param {key}={constant} is no number that JSON has.")

    try:
        value = json.loads(text, parse_constant=refuse)
    except SpecError:
        raise
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _line(text: str) -> str:
    return json.dumps({"line": text}, ensure_ascii=False)


def _took(run: Run) -> str:
    if not run.started_at:
        return ""
    end = datetime.fromisoformat(run.ended_at) if run.ended_at else datetime.now(UTC)
    # A clock may have been set back meanwhile.
    return f"{max(0.0, (end - datetime.fromisoformat(run.started_at)).total_seconds()):.1f} s"


def _ended(run: Run) -> str:
    state = {"cancelled": "been cancelled", "failed": "failed", "succeeded": "succeeded"}.get(
        run.state, f"not ended ({run.state})"
    )
    took = f" after {_took(run)}" if run.ended and run.started_at else ""
    return f"{state}{took}: {run.reason.rstrip('.')}" if run.reason else state + took


def _summary(run: Run) -> str:
    metrics = ", ".join(f"{key} {show.number(value)}" for key, value in sorted(run.metrics.items())[:6])
    return " ".join(f"{text}." for text in (f"Run {run.id} has {_ended(run)}", _cost(run), metrics) if text)


def _why(run: Run) -> str:
    """Its reason in a line, and what interruptions have cost."""
    return "; ".join(filter(None, [_cost(run), run.reason.partition("\n")[0]]))


def _cost(run: Run) -> str:
    times = len(run.interruptions)
    if not times:
        return ""
    return f"Interrupted {'once' if times == 1 else f'{times} times'}, {run.lost_s:.1f} s of work lost"
