"""Exit codes and what is said: one line, on stderr, with what to do."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

from ekiben import errors
from ekiben.cli import EXIT_CODES, exit_code
from ekiben.cli.verbs import SECTIONS, app

from .shelf import runtime as shelf


def test_every_branch_of_the_errors_has_its_exit_code() -> None:
    codes = {"SpecError": 3, "MissingDependency": 4, "ProviderError": 5, "WorkloadError": 6}
    for name in set(errors.__all__) - {"EkibenError"}:
        kind = getattr(errors, name)
        branch = next(base.__name__ for base in kind.__mro__ if base.__name__ in codes)
        assert exit_code(kind.__new__(kind)) == codes[branch], name
    assert exit_code(KeyError()) == 1
    assert {*codes.values(), 0, 1, 2, 7, 8, 130} == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SpecError("It cannot be."), 3),
        (errors.Unsupported("shelf has no such thing."), 3),
        (errors.MissingDependency("boto3", "aws"), 4),
        (errors.AccessDenied("shelf", "look", "you may not", "Ask somebody"), 5),
        (errors.Unavailable("shelf", "look", "nothing answers"), 5),
        (errors.TrainingFailed("It failed.", tail="the last line"), 6),
    ],
)
def test_an_error_is_a_message_and_an_exit_code(ek, platform, error, code) -> None:
    shelf.STATE["raise"] = {"registry": error}
    said = ek("models", "--json")
    assert (said.code, said.out) == (code, "")
    assert said.err == f"Error: {error}\n"
    assert "Traceback" not in said.err


def test_an_unexpected_error_says_how_to_see_more(ek, platform, monkeypatch) -> None:
    shelf.STATE["raise"] = {"registry": KeyError("oops")}
    said = ek("models")
    assert said.code == 1
    assert "KeyError" in said.err
    assert "EKIBEN_DEBUG=1" in said.err
    assert "Traceback" not in said.err
    monkeypatch.setenv("EKIBEN_DEBUG", "1")
    assert "Traceback" in ek("models").err


def test_ctrl_c_exits_with_130(ek, platform) -> None:
    shelf.STATE["raise"] = {"registry": KeyboardInterrupt()}
    said = ek("models")
    assert said.code == 130
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["models", "--nonsense"],
        ["approve"],
        ["approve", "income:1"],
        ["invoke", "income-api"],
        ["events", "--limit", "0"],
    ],
)
def test_a_wrong_command_line_exits_with_2(ek, platform, words) -> None:
    said = ek(*words)
    assert (said.code, said.out) == (2, "")
    assert "Error" in said.err


def test_every_verb_is_in_a_section_and_has_an_example(ek) -> None:
    import typer

    commands = typer.main.get_command(app).commands
    assert sorted(commands) == sorted(" ".join(SECTIONS.values()).split())
    for name, command in commands.items():
        text = inspect.cleandoc(command.help or "")
        assert "Examples:" in text, name
        assert f"ekiben {name}" in text.partition("Examples:")[2], name


def test_help_imports_nothing_heavy() -> None:
    heavy = [
        *("aiohttp", "asyncio", "bentoml", "boto3", "cronsim", "http.client", "numpy", "obstore", "pulumi", "pydantic"),
        *("rich", "sqlite3", "xgboost", "yaml", "ekiben.components", "ekiben.local", "ekiben.specs"),
    ]
    for start in ("import ekiben", "import ekiben.cli\ntry: ekiben.cli.main(['--help'])\nexcept SystemExit: pass"):
        code = f"{start}\nimport sys\nprint('LOADED', [name for name in {heavy!r} if name in sys.modules])"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert said.stdout.splitlines()[-1] == "LOADED []", start


def test_it_is_a_module_and_prints_its_version() -> None:
    command = [sys.executable, "-m", "ekiben.cli", "--version"]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    from ekiben import __version__

    assert said.stdout == f"{__version__}\n"


def test_a_reader_that_leaves_is_no_traceback() -> None:
    said = subprocess.run(
        f"{sys.executable} -m ekiben.cli --help | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,  # noqa: S602
    )
    assert "Traceback" not in said.stderr
