"""The contract itself: every numbered behaviour has a test that carries its number; every provider answers every feature."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import ekiben as ek

ROOT = Path(__file__).resolve().parents[2]


def test_every_behaviour_of_the_contract_has_a_test() -> None:
    numbers = set(re.findall(r"^\| ([A-Z]\d+) \|", (ROOT / "docs" / "contract.md").read_text("utf-8"), re.MULTILINE))
    assert len(numbers) > 90
    tested = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"def test_(\w+)\(", file.read_text("utf-8")):
            tested |= {part.upper() for part in re.findall(r"(?:(?<=_)|^)([a-z]\d+)(?=_|$)", name)}
    assert sorted(numbers - tested) == []


@pytest.mark.parametrize("provider", sorted(ek.providers()))
def test_d9_every_provider_answers_every_feature(provider: str) -> None:
    support: ek.Support = importlib.import_module(ek.providers()[provider]).SUPPORT
    assert support.provider == provider
    assert set(support.features) == set(ek.Feature)
    for feature, answer in support.features.items():
        assert answer is True or (answer and not answer.endswith(".")), f"{feature}: a clause that says why not"
