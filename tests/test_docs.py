"""The docs say what is so: generated parts are fresh, links lead somewhere, commands parse, code compiles."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = [
    path for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Verbs that change nothing anywhere, so they are run as the docs show them.
SAFE = {"doctor", "inventory"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `ekiben ...` command: of the docs, of the verbs' own help (by cli.md), and of the messages in the source."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for _, language, block in FENCE.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            if language in ("console", "sh", "bash", "text"):
                # In a terminal's text the commands are after a prompt, in a help text they are indented.
                lines = [
                    line.strip().removeprefix("$ ")
                    for line in lines
                    if re.match(r"\s*(?:\$ )?\S*ekiben |\s*eval ", line)
                ]
                for line in lines:
                    yield from ((f"{page.name}: {line}", words) for words in split(line))
        for inline in re.findall(r"`(ekiben [^`]+)`", FENCE.sub("", text)):
            yield from ((f"{page.name}: {inline}", words) for words in split(inline))
    for path in sorted((ROOT / "providers").rglob("*.py")):
        for inline in re.findall(r"`(ekiben [a-z][^`{}]*)`", path.read_text(encoding="utf-8")):
            yield from ((f"{path.name}: {inline}", words) for words in split(inline))


def split(line: str) -> Iterator[list[str]]:
    """The words of each `ekiben` command in a shell line."""
    line = re.sub(r"\$\((ekiben [^)]*)\)", r"; \1 ;", line.replace('eval "', "").replace(')"', ")"))
    words = shlex.split(line, comments=True)
    at = 0
    while at < len(words):
        if words[at] == "ekiben":
            end = next((i for i in range(at, len(words)) if words[i].endswith((";", "&&", "|", "||"))), len(words))
            last = [words[end].rstrip(";")] if end < len(words) and words[end].rstrip(";&|") else []
            yield words[at + 1 : end] + last
            at = end
        at += 1


def group() -> Any:
    from ekiben.cli.verbs import app

    return typer.main.get_command(app)


FOUND = sorted({(where, tuple(words)) for where, words in commands()})


def test_there_are_commands_to_check() -> None:
    assert len({words[0] for _, words in FOUND if words}) > 20


@pytest.mark.parametrize(("where", "words"), FOUND, ids=[where for where, _ in FOUND])
def test_a_command_that_is_shown_exists_with_its_options(where: str, words: tuple[str, ...]) -> None:
    root = group()
    if not words or words[0].startswith(("-", "[", "...")):
        assert set(words) <= {"--help", "--version", "[OPTIONS]", "COMMAND", "[ARGS]..."}
        return
    assert words[0] in root.commands, f"{where}: there is no such verb"
    if "[OPTIONS]" in words or len(words) == 1:
        return
    context = type(root).context_class(root, info_name="ekiben")
    root.commands[words[0]].make_context(words[0], [word for word in words[1:] if word != "--help"], parent=context)


@pytest.mark.parametrize(
    "words", sorted({words for _, words in FOUND if words and words[0] in SAFE and "[OPTIONS]" not in words})
)
def test_a_safe_command_runs_as_shown(words: tuple[str, ...], tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "ekiben.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode in (0, 1), said.stderr
    assert said.stderr == ""
    if "--json" in words:
        json.loads(said.stdout)


def test_what_is_generated_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    stale = [
        p.name for p, text in generate.generated().items() if not p.exists() or p.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `make docs`: {stale}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in [
                    re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
                ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_compiles(page: Path) -> None:
    for indent, language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse("\n".join(line.removeprefix(indent) for line in block.splitlines()))
        elif language == "json":
            json.loads(block)


def test_the_numbers_of_the_contract_are_in_order_and_given_once() -> None:
    numbers = re.findall(
        r"^\| ([A-Z])(\d+) \|", (ROOT / "docs" / "contract.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    by_letter: dict[str, list[int]] = {}
    for letter, number in numbers:
        by_letter.setdefault(letter, []).append(int(number))
    assert set(by_letter) == set("CSRTEFD")
    for letter, given in by_letter.items():
        assert given == sorted(set(given)), letter


def test_the_readme_shows_the_stages_of_the_demo() -> None:
    demo = runpy.run_path(str(ROOT / "infra" / "demo.py"), run_name="shown")
    shown = re.findall(r"^\[(\d)/(\d)\] (.*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    stages = demo["STAGES"]
    assert shown == [(str(n), str(len(stages)), stage) for n, stage in enumerate(stages, 1)]
