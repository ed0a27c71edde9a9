"""`ekiben serve` read by itself: the same as the library of the command line reads, or left to that."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from ekiben.cli import server
from ekiben.cli.verbs import app

NONE_SET = dict.fromkeys(server.ENVIRONMENT.values())


def read_by_the_library(words: list[str]) -> Any:
    command: Any = typer.main.get_command(app)
    return command.commands["serve"].make_context("serve", list(words)).params


@pytest.mark.parametrize(
    ("words", "env"),
    [
        ("bento", {}),
        ("bento --port 0", {}),
        ("--port=65535 bento", {}),
        ("--workers 256 m@champion --host ::1", {"EKIBEN_HOST": "0.0.0.0", "EKIBEN_WORKERS": "3"}),
        ("", {"EKIBEN_BENTO": "s3://a/b.tar", "EKIBEN_HOST": "0.0.0.0", "EKIBEN_WORKERS": "2", "EKIBEN_DIGEST": "ab"}),
        ("bento", {"EKIBEN_BENTO": "another", "EKIBEN_HOST": "", "EKIBEN_WORKERS": ""}),
        ("bento --bentoml --socket /s --digest= --registry r --stack s", {}),
        ("bento --host -1", {}),
        ("bento --port 1 --port 2", {}),
        ("bento --log-predictions s3://lake --log-share 0.25 --log-spool=/spool", {}),
        ("bento --log-share 1", {"EKIBEN_LOG_PREDICTIONS": "s3://lake", "EKIBEN_LOG_SPOOL": "/spool"}),
        ("bento", {"EKIBEN_LOG_PREDICTIONS": "lake", "EKIBEN_LOG_SHARE": "0.5"}),
    ],
)
def test_what_is_plain_is_read_as_the_library_reads_it(
    monkeypatch: pytest.MonkeyPatch, words: str, env: dict[str, str]
) -> None:
    for name, value in {**NONE_SET, **env}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert server.asked(words.split()) == read_by_the_library(words.split())


@pytest.mark.parametrize(
    "words",
    [
        "", "--help", "bento --help", "bento other", "bento --port", "bento --port x", "bento --port 65536", "bento --port -1",
        "bento --workers 0", "bento --port ²", "bento --no-such", "bento -p 1", "bento --bentoml=1", "bento --own x", "-- bento",
        "bento --bento x", "bento --log-share 1.1", "bento --log-share x", "bento --log-share .5", "bento --log_spool x",
    ],
)  # fmt: skip
def test_the_rest_is_the_library_s(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    for name in NONE_SET:
        monkeypatch.delenv(name, raising=False)
    assert server.asked(words.split()) is None


def test_every_option_is_known_to_both(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NONE_SET:
        monkeypatch.delenv(name, raising=False)
    command: Any = typer.main.get_command(app)
    parameters = [each for each in command.commands["serve"].params if each.name != "help"]
    assert [each.name for each in parameters] == list(server.DEFAULTS)
    assert {each.name: each.envvar for each in parameters if each.envvar} == server.ENVIRONMENT
    flags = {each.name: each.opts for each in parameters if each.name != "bento"}
    assert flags == {
        name: [f"--{'bentoml' if name == 'own' else name.replace('_', '-')}"]
        for name in server.DEFAULTS
        if name != "bento"
    }


def test_a_bento_has_to_be_named() -> None:
    done = subprocess.run([sys.executable, "-m", "ekiben.cli", "serve"], capture_output=True, text=True)
    assert (done.returncode, "EKIBEN_BENTO" in done.stderr) == (2, True)
