"""The comment on a pull request: one, kept up to date, whatever the network does."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.forge import TOKEN, Forge, forge

SCRIPT = Path(__file__).parents[2] / "template" / ".ci" / "comment.py"
MARK = "<!-- ekiben preview of prod -->"
Write = Callable[[str], None]


@pytest.fixture(params=["github", "gitlab"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A forge, and the environment of a job in it."""
    with forge() as server:
        for name in {**server.github, **server.gitlab}:
            monkeypatch.delenv(name, raising=False)
        for name, value in getattr(server, request.param).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def write(tmp_path: Path) -> Write:
    script = runpy.run_path(str(SCRIPT))
    main = script["main"]
    main.__globals__["PAUSE_S"] = 0.0
    path = tmp_path / "preview.md"

    def write(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        main(path)

    return write


def test_it_is_written_once_and_then_updated(there: Forge, write: Write) -> None:
    there.comments = {1: "Looks good to me.", 2: f"> {MARK}\nquoted"}
    write(f"{MARK}\nthe first, für alle")
    write(f"{MARK}\nthe second")
    assert there.comments == {1: "Looks good to me.", 2: f"> {MARK}\nquoted", 3: f"{MARK}\nthe second"}


def test_each_stack_has_its_own(there: Forge, write: Write) -> None:
    for stack in ("prod", "staging", "prod"):
        write(f"<!-- ekiben preview of {stack} -->\nof {stack}")
    assert len(there.comments) == 2


def test_it_is_found_behind_many_others(there: Forge, write: Write) -> None:
    there.comments = {**dict.fromkeys(range(1, 251), "chatter"), 251: f"{MARK}\nold"}
    write(f"{MARK}\nnew")
    assert len(there.comments) == 251
    assert there.comments[251] == f"{MARK}\nnew"


def test_one_page_that_is_just_full_is_not_the_end(there: Forge, write: Write) -> None:
    there.comments = dict.fromkeys(range(1, 101), "chatter")
    write(MARK)
    write(MARK)
    assert list(there.comments)[100:] == [101]


@pytest.mark.parametrize("statuses", [[500], [502, 429], [503] * 3])
def test_a_server_that_stumbles_is_asked_again(there: Forge, write: Write, statuses: list[int]) -> None:
    there.fail = statuses
    write(f"{MARK}\ntext")
    assert there.comments == {1: f"{MARK}\ntext"}


def test_an_answer_that_is_lost_makes_no_second_comment(there: Forge, write: Write) -> None:
    there.lose = 1
    write(f"{MARK}\ntext")
    assert there.comments == {1: f"{MARK}\ntext"}


def test_it_gives_up_and_says_what_the_server_said(there: Forge, write: Write) -> None:
    there.fail = [503] * 50
    with pytest.raises(SystemExit, match="refused: HTTP 503 .*as the test asked"):
        write(MARK)
    assert len(there.seen) < 10


def test_a_token_that_may_not_is_said_at_once_and_not_shown(
    there: Forge, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_TOKEN", "COMMENT_TOKEN"):
        monkeypatch.setenv(name, f"not-{TOKEN}")
    with pytest.raises(SystemExit, match="refused: HTTP 401") as refused:
        write(MARK)
    assert TOKEN not in str(refused.value)
    assert len(there.seen) == 1


def test_no_answer_at_all_ends_with_a_reason(there: Forge, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_API_URL", "CI_API_V4_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(SystemExit, match="could not be written: .*refused"):
        write(MARK)


def test_a_very_long_one_is_cut_after_a_line_and_says_so(there: Forge, write: Write) -> None:
    write(f"{MARK}\n" + "| create | Bucket | lake |\n" * 5000)
    text = there.comments[1]
    assert len(text) < 65_536
    assert text.splitlines()[-3:] == ["| create | Bucket | lake |", "", "(and more: see the log of the job)"]


def test_a_file_without_a_mark_is_no_preview(there: Forge, write: Write) -> None:
    with pytest.raises(SystemExit, match="mark"):
        write("### Preview")
    assert there.seen == []
