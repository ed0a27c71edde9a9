"""What a terminal gets and a pipe does not."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S


def on_a_terminal(code: str, **env: str) -> str:
    """What `code` writes to stdout and stderr when both are a terminal."""
    mine, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {
        "TERM": "xterm",
        **env,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            said += (more := os.read(mine, 4096))
        except OSError:
            break
        if not more:
            break
    os.close(mine)
    assert process.wait(PATIENCE_S) == 0, said
    return said.decode()


TABLE = "from ekiben.cli import show; show.table(('name', 'state'), [('é[red]x', 'ok'), ('日本', 'failed')])"
BAR = "from ekiben.cli import show\nwith show.progress('Uploading [x]', 2) as advance: advance(2)"


def test_a_terminal_has_colours_unless_it_wants_none() -> None:
    assert "\x1b[32mok\x1b[0m" in on_a_terminal(TABLE)
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = on_a_terminal(TABLE, **env)
        assert "\x1b" not in plain
        assert "é[red]x" in plain


def test_a_terminal_has_a_bar_and_a_pipe_a_line() -> None:
    assert "100%" in on_a_terminal(BAR)
    assert "Uploading [x]" in on_a_terminal(BAR)
    said = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, timeout=60, check=True)
    assert (said.stdout, said.stderr) == ("", "Uploading [x]: 2 of 2\n")
    assert "\x1b" not in on_a_terminal(BAR, TERM="dumb")


def test_columns_of_wide_characters_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    from ekiben.cli import show

    show.table(("name", "state"), [("日本", "ok"), ("ab", "ok")])
    assert capsys.readouterr().out == "name  state\n日本  ok\nab    ok\n"


def test_a_stream_that_knows_no_unicode_is_no_crash(tmp_path: Path) -> None:
    code = "import sys; from ekiben.cli import main; sys.argv = ['ekiben', 'inventory', '--stack', 'é']; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 3
    assert "Traceback" not in said.stderr
