"""The command line: which verb is in which file, and how `ekiben --help` shows them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["SECTIONS", "app"]

# The verbs as `ekiben --help` shows them.
SECTIONS = {
    "Environment": "new up preview refresh destroy env status station emulate inventory doctor",
    "Training": "put train runs logs cancel",
    "Models": "models approve reject release rollback copy lineage compare rebuild",
    "Calls": "endpoints invoke predictions serve",
    "Events": "functions events publish replay",
}


# The file of each noun, and its verbs.
NOUNS = {
    "new": "new", "stack": "up preview refresh destroy env", "status": "status", "station": "station",
    "emulate": "emulate",    "inventory": "inventory", "doctor": "doctor", "storage": "put", "trainings": "train runs logs cancel",
    "models": "models approve reject release rollback copy", "lineage": "lineage", "compare": "compare", "rebuild": "rebuild",
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
