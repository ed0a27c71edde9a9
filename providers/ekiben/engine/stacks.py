"""The stack verbs: up, preview, refresh, destroy, through Pulumi's automation API, with Ekiben's progress and errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ekiben.cost import Cost
from ekiben.engine.environment import environment
from ekiben.engine.pulumi_cli import Cli, ensure
from ekiben.errors import MissingDependency, ProviderError, SpecError, Unavailable, WorkloadError

try:
    from pulumi import automation
    from pulumi.automation._stack import StackInitMode  # create_or_select makes no class but its own
    from pulumi.automation.errors import create_command_error
    from semver import VersionInfo
except ImportError as _error:  # pragma: no cover - needs an environment without the extra
    raise MissingDependency("pulumi", "iac") from _error

from ekiben.engine.leash import leashed
from ekiben.engine.progress import Progress
from ekiben.engine.recovery import recover, unlock

__all__ = ["Result", "choose", "destroy", "outputs", "preview", "refresh", "up"]

MASKED = "[secret]"
GO_COLLECTS_AT = "400"  # per cent that the heap may grow to between two collections: some 200 MB
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
UNHANDLED = "Program failed with an unhandled exception"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a verb did, or a preview would do. changes: how many, by operation; outputs: the stack's, secrets left out; costs: of a
    preview, what each component will cost.
    """

    stack: str
    changes: dict[str, int]
    steps: list[dict[str, Any]]
    outputs: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def choose(root: Path, stack: str = "") -> str:
    """The stack: what was given, EKIBEN_STACK, the only one that the project has a config file for, or "local".

    Raises SpecError when it is none that the project knows, before a slip of the pen becomes a stack of its own.
    """
    there = sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in root.glob("Pulumi.*.yaml"))
    name = stack or os.environ.get("EKIBEN_STACK", "") or (there[0] if len(there) == 1 else "local")
    if not NAME.fullmatch(name):
        raise SpecError(
            f"The stack {name[:80]!r} is no stack's name: use letters, digits, dots, dashes and underscores."
        )
    if there and name not in there and not (root / ".ekiben" / name).exists():
        raise SpecError(
            f"There is no Pulumi.{name}.yaml in {root}; there are the stacks {', '.join(there)}. Choose one with --stack, or "
            "write that file for a new one."
        )
    return name


def up(root: Path, stack: str, *, progress: Progress | None = None, refresh: bool = False) -> Result:
    """Make what the program says. The stack is made on first use; repeating is safe.

    Raises SpecError when the program or a check refuses, before anything was changed; ProviderError when a resource could not
    be made (what was made until then is in the state, and the next `up` goes on); WorkloadError when the program raises an error
    of its own; KeyboardInterrupt after Ctrl-C, when what was under way has ended.
    """
    progress = progress or Progress()
    with _stack(root, stack, "bring up", progress) as opened:
        # Resources are made while the program still runs: only a preview before can refuse a bad one with nothing changed.
        plan = Progress(quiet=True)
        try:
            opened.preview(refresh=refresh or None, on_event=plan, color="never")
        except automation.CommandError:
            progress.errors, progress.failed = plan.errors, plan.failed
            raise
        made = opened.up(refresh=refresh or None, on_event=progress, color="never", show_secrets=False)
        return Result(stack=stack, changes=progress.changes, steps=progress.steps, outputs=_open(made.outputs))


def preview(root: Path, stack: str, *, progress: Progress | None = None, refresh: bool = False) -> Result:
    """What `up` would do. Nothing is changed and nothing is started. Raises as `up` does."""
    progress = progress or Progress()
    with _stack(root, stack, "preview", progress) as opened:
        opened.preview(refresh=refresh or None, on_event=progress, color="never")
        return Result(stack=stack, changes=progress.changes, steps=progress.steps, costs=progress.costs)


def refresh(root: Path, stack: str, *, progress: Progress | None = None) -> Result:
    """Take into the state what is really there. Raises ProviderError."""
    progress = progress or Progress()
    with _stack(root, stack, "refresh", progress) as opened:
        opened.refresh(on_event=progress, color="never", show_secrets=False)
        return Result(stack=stack, changes=progress.changes, steps=progress.steps, outputs=_open(opened.outputs()))


def destroy(root: Path, stack: str, *, progress: Progress | None = None) -> Result:
    """Delete all that the stack has, but what is to be retained. Silent where nothing is. Raises ProviderError."""
    progress = progress or Progress()
    with _stack(root, stack, "destroy", progress) as opened:
        opened.destroy(on_event=progress, color="never", show_secrets=False)
        return Result(stack=stack, changes=progress.changes, steps=progress.steps)


def outputs(root: Path, stack: str) -> dict[str, Any]:
    """The stack's outputs, secrets left out."""
    with _stack(root, stack, "read the outputs of", Progress(quiet=True)) as opened:
        return _open(opened.outputs())


class Workspace(automation.LocalWorkspace):
    """Outputs without the secrets: nothing is decrypted, which takes the engine a second each time."""

    def stack_outputs(self, stack_name: str) -> automation.OutputMap:
        text = self._run_pulumi_cmd_sync(["stack", "output", "--json", "--stack", stack_name]).stdout
        return {
            name: automation.OutputValue(value=value, secret=value == MASKED)
            for name, value in json.loads(text).items()
        }


class Stack(automation.Stack):
    """Without the history: for that the CLI would be started once more after each verb, and nobody reads it."""

    def info(self, show_secrets: bool = True) -> automation.UpdateSummary:
        return automation.UpdateSummary("", datetime.min, "", {}, {}, "")


class Killed(automation.CommandError):
    """The CLI was ended by a signal. `by`: its name."""

    def __init__(self, result: automation.CommandResult) -> None:
        super().__init__(result)
        self.by = signal.Signals(-result.code).name


class Command(automation.PulumiCommand):
    """The CLI in a process group of its own: an interrupt reaches it once, from here, and it is waited for. It dies with us."""

    def __init__(self, cli: Cli) -> None:
        self.command = str(cli.path)
        self.version = VersionInfo.parse(cli.version)
        self._process: subprocess.Popen[str] | None = None
        self._interrupted = False

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> automation.CommandResult:
        if self._interrupted:  # between two commands
            raise KeyboardInterrupt
        # Go's collector, at its own pace, takes a tenth of what the engine computes.
        environ = {"GOGC": GO_COLLECTS_AT, **os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        if os.path.isabs(self.command):  # its own plugins before others
            folder = os.path.dirname(self.command)
            environ["PATH"] = os.pathsep.join((folder, environ.get("PATH", os.defpath)))
        process = subprocess.Popen(
            leashed([self.command, "--non-interactive", *args]), cwd=cwd, env=environ, text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._process = process
        texts: dict[str, list[str]] = {"out": [], "error": []}
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            threading.Thread(target=_drain, args=(process.stdout, texts["out"], on_output), daemon=True),
            threading.Thread(target=_drain, args=(process.stderr, texts["error"], on_error), daemon=True),
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = process.wait()
        self._process = None
        result = automation.CommandResult(stdout="\n".join(texts["out"]), stderr="\n".join(texts["error"]), code=code)
        if code:
            raise Killed(result) if code < 0 else create_command_error(result)
        return result

    def interrupt(self) -> None:
        """Ask the running CLI to end what is under way and stop; asked again, it stops at once."""
        self._interrupted = True
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)


def _drain(pipe: IO[str], texts: list[str], callback: Callable[[str], Any] | None) -> None:
    for line in pipe:
        texts.append(line.rstrip())
        if callback:
            callback(line.rstrip())


@contextmanager
def _stack(root: Path, stack: str, verb: str, progress: Progress) -> Iterator[automation.Stack]:
    """The stack, opened; errors of the engine as ours; Ctrl-C passed on to the engine and raised when that has ended."""
    cli = ensure(root, progress.say)
    command = Command(cli)
    workspace = Workspace(work_dir=str(root), env_vars=environment(root, cli), pulumi_command=command)
    with _interrupts(command, progress) as interrupted, progress.shown(f"{verb} {stack}"):
        try:
            alone = unlock(root, workspace.project_settings().name, stack, progress.say)
            opened = Stack(stack, workspace, StackInitMode.CREATE_OR_SELECT)
            if alone:
                recover(root, opened, progress.say)
            yield opened
        except automation.CommandError as error:
            if interrupted:
                raise KeyboardInterrupt from error
            raise _translated(error, verb, stack, progress) from error
        if interrupted:
            raise KeyboardInterrupt


@contextmanager
def _interrupts(command: Command, progress: Progress) -> Iterator[list[int]]:
    """Collects the interrupts that come while it lasts; outside the main thread Python gives none to handle."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: object) -> None:
        caught.append(number)
        if len(caught) == 1:
            progress.say("Stopping: what is under way is finished first (Ctrl-C again stops at once)")
        command.interrupt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: output.value for name, output in found.items() if not output.secret}


def _translated(error: automation.CommandError, verb: str, stack: str, progress: Progress) -> Exception:
    """The engine's failure as one of our errors: whose fault it was decides the class."""
    told = "\n".join(progress.errors)
    if isinstance(error, Killed):
        return ProviderError(
            "pulumi",
            f"{verb} the stack {stack!r}",
            f"the engine was ended by {error.by}",
            "Run it again, and it goes on",
        )
    if isinstance(error, automation.ConcurrentUpdateError):
        return Unavailable(
            "pulumi", f"{verb} the stack {stack!r}", "another engine is at work on it",
            "Wait for it; if it was killed on another machine, run `pulumi cancel`",
        )  # fmt: skip
    if not told:
        told = _last_error(str(error))
        if "passphrase" in told:
            told += (
                " (a stack file written with another passphrase has another encryptionsalt; those of this project take the "
                "empty one: unset PULUMI_CONFIG_PASSPHRASE)"
            )
        return ProviderError("pulumi", f"{verb} the stack {stack!r}", told.rstrip("."))
    if told.startswith(UNHANDLED):
        return WorkloadError(told)
    if progress.failed:
        return ProviderError("pulumi", f"{verb} the stack {stack!r}", told.rstrip("."), "Mend that, and run it again")
    return SpecError(told)


def _last_error(text: str) -> str:
    """The engine's own words about why it stopped, without the command line's frame around them."""
    found = re.findall(r"^\s*(?:stderr:\s*)?error: (.+(?:\n(?!\s*\w+: ).+)*)", text, re.MULTILINE)
    return (found[-1] if found else text).strip()
