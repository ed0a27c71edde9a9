"""`ekiben`: one file per noun. `main` turns errors into one clear line on stderr and a documented exit code.

A verb's file is imported when the verb is asked for, and nothing heavy at the top of any, so that each begins at once. `serve`,
which a caller may be waiting for, begins without the library that reads the command line, where it is asked for plainly.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from ekiben import errors

__all__ = ["EXIT_CODES", "exit_code", "main"]

# Exit code -> what it means; docs/errors.md is written from here.
EXIT_CODES = {
    0: "Done.",
    1: "An unexpected error, or a check of `ekiben doctor` that failed.",
    2: "The command line is wrong: an unknown option, a missing argument.",
    3: "SpecError: you asked for what cannot be. Nothing was called, nothing was changed.",
    4: "MissingDependency: an extra is not installed; the message has the command that installs it.",
    5: "ProviderError: the platform refused or failed (not found, not allowed, nothing answers, no capacity).",
    6: "WorkloadError: your own code ran and failed: a training run, a model, a function.",
    7: "`ekiben destroy`, `ekiben inventory`: something is left although the stack is destroyed.",
    8: "`ekiben rebuild`: what was made again is not the same model.",
    130: "Interrupted (Ctrl-C).",
}

_CLASSES = ((errors.SpecError, 3), (errors.MissingDependency, 4), (errors.ProviderError, 5), (errors.WorkloadError, 6))


def exit_code(error: BaseException) -> int:
    """The exit code for an error: 1 when it is none of Ekiben's own."""
    return next((code for kind, code in _CLASSES if isinstance(error, kind)), 1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:] if arguments is None else list(arguments))
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


def _run(words: list[str]) -> None:
    if words[:1] == ["serve"]:
        from ekiben.cli import server

        if (asked := server.asked(words[1:])) is not None:
            server.become(**asked)
    try:
        import typer.main
    except ImportError as error:
        # An environment image has what serves, and nothing that reads other commands.
        raise errors.SpecError(
            f"Only `ekiben serve` runs here, and {' '.join(words)!r} names no bento: set EKIBEN_BENTO to its URI."
        ) from error

    from ekiben.cli.verbs import app

    typer.main.get_command(app)(args=words, prog_name="ekiben")
