"""`ekiben`: one file per noun. `main` turns errors into one clear line on stderr and a documented exit code.

A verb's file is imported when the verb is asked for, and nothing heavy at the top of any, so that each begins at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ekiben import errors

__all__ = ["EXIT_CODES", "app", "exit_code", "main"]

# Exit code -> what it means; docs/errors.md is written from here.
EXIT_CODES = {
    0: "Done.",
    1: "An unexpected error, or a check of `ekiben doctor` that failed.",
    2: "The command line is wrong: an unknown option, a missing argument.",
    3: "SpecError: you asked for what cannot be. Nothing was called, nothing was changed.",
    4: "MissingDependency: an extra is not installed; the message has the command that installs it.",
    5: "ProviderError: the platform refused or failed (not found, not allowed, nothing answers, no capacity).",
    6: "WorkloadError: your own code ran and failed: a training run, a model, a function.",
    7: "`ekiben inventory`: something is left although the stack is destroyed.",
    8: "`ekiben rebuild`: what was made again is not the same model.",
    130: "Interrupted (Ctrl-C).",
}

_CLASSES = ((errors.SpecError, 3), (errors.MissingDependency, 4), (errors.ProviderError, 5), (errors.WorkloadError, 6))

# The verbs as `ekiben --help` shows them.
SECTIONS = {
    "Environment": "new up preview refresh destroy env status station inventory doctor",
    "Training": "put train runs logs cancel",
    "Models": "models approve reject release rollback lineage compare rebuild",
    "Calls": "endpoints invoke predictions serve",
    "Events": "functions events publish replay",
}


# The file of each noun, and its verbs.
NOUNS = {
    "new": "new", "stack": "up preview refresh destroy env", "status": "status", "station": "station",
    "inventory": "inventory", "doctor": "doctor", "storage": "put", "trainings": "train runs logs cancel",
    "models": "models approve reject release rollback", "lineage": "lineage", "compare": "compare", "rebuild": "rebuild",
    "endpoints": "endpoints invoke", "serve": "serve", "predictions": "predictions",
    "functions": "functions events publish replay",
}  # fmt: skip
_NOUN_OF = {verb: noun for noun, verbs in NOUNS.items() for verb in verbs.split()}


class Commands(Mapping[str, Any]):
    """Each verb's command, whose file is imported when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._loaded:
            nouns = _app()
            importlib.import_module(f"ekiben.cli.{_NOUN_OF[verb]}").register(nouns)
            self._loaded.update(typer.main.get_group(nouns).commands)
        return self._loaded[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(_NOUN_OF)

    def __len__(self) -> int:
        return len(_NOUN_OF)


class Verbs(TyperGroup):
    """The group, with its verbs in sections."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(name) for name in self.commands)
        for section, names in SECTIONS.items():
            rows = []
            for name in names.split():
                if command := self.get_command(ctx, name):
                    rows.append((name.ljust(width), command.get_short_help_str(formatter.width - width - 6)))
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


def _app(**given: Any) -> typer.Typer:
    return typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": 100},
        **given,
    )


app = _app(cls=Verbs)


def _version(wanted: bool) -> None:
    if wanted:
        from ekiben import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Pack a model once, run it on any platform.

    Every verb has --help with examples; what prints data takes --json. The stack is --stack, else EKIBEN_STACK,
    else the only one there is, else "local".
    """


def exit_code(error: BaseException) -> int:
    """The exit code for an error: 1 when it is none of Ekiben's own."""
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), 1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        typer.main.get_command(app)(args=arguments, prog_name="ekiben")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("EKIBEN_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        elif isinstance(error, errors.EkibenError):
            print(f"Error: {error}", file=sys.stderr)
        else:
            print(
                f"Error: unexpected {type(error).__name__}: {error}. Set EKIBEN_DEBUG=1 to see where it comes from.",
                file=sys.stderr,
            )
        sys.exit(exit_code(error))
    sys.exit(0)
