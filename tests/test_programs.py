"""What keeps a Pulumi program quick: what is made once in it, facts of outputs and plain values, and short stacks."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from ekiben.programs import TRACED_FRAMES, Sealed, facts, once, traced_shortly


class Nothing(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        return args.name, dict(args.inputs)

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def program() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    pulumi.runtime.set_mocks(Nothing(), project="p", stack="s")


def value(output: pulumi.Output[Any]) -> Any:
    return asyncio.get_event_loop().run_until_complete(output.future())


def test_it_is_made_once_for_the_same_arguments_and_anew_in_another_program() -> None:
    asked: list[str] = []

    def make(what: str, *, how: str = "") -> str:
        asked.append(what + how)
        return f"{what}{how}!"

    assert [once(make, "a"), once(make, "a"), once(make, "b"), once(make, "a", how="c")] == ["a!", "a!", "b!", "ac!"]
    assert asked == ["a", "b", "ac"]
    pulumi.runtime.set_mocks(Nothing(), project="p", stack="s")
    assert once(make, "a") == "a!"
    assert asked == ["a", "b", "ac", "a"]


def test_what_failed_is_tried_again() -> None:
    tries: list[int] = []

    def make() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("the first time")
        return len(tries)

    with pytest.raises(ValueError, match="the first time"):
        once(make)
    assert once(make) == 2


def test_facts_are_of_outputs_wherever_they_are_and_of_plain_values() -> None:
    uri = pulumi.Output.from_input("s3://b")
    spec: Mapping[str, Any] = {"inputs": {"points": "lake/"}, "cpus": [1, 2], "gpu": None}
    found = facts(
        uri=uri, spec=spec, inputs={"points": pulumi.Output.concat(uri, "/points")}, ids=[uri], isolated=False
    )
    assert value(found) == {
        "uri": "s3://b", "spec": spec, "inputs": {"points": "s3://b/points"}, "ids": ["s3://b"], "isolated": False,
    }  # fmt: skip
    assert value(facts(plain=1)) == {"plain": 1}


def test_what_is_sealed_is_not_taken_apart() -> None:
    inner = {"a": [1, {"b": 2}]}
    (told,) = value(pulumi.Output.all(pulumi.Output.from_input("x").apply(lambda _: Sealed(inner))))
    assert told.value is inner


def test_stacks_are_short_for_as_long_as_it_lasts() -> None:
    def deep(levels: int) -> int:
        return deep(levels - 1) if levels else len(traceback.extract_stack())

    assert not hasattr(sys, "tracebacklimit")
    with traced_shortly():
        assert deep(30) == TRACED_FRAMES
        with traced_shortly():
            assert deep(30) == TRACED_FRAMES
        assert deep(30) == TRACED_FRAMES
    assert deep(30) > TRACED_FRAMES
    with pytest.raises(ValueError, match="x"), traced_shortly():
        raise ValueError("x")
    assert not hasattr(sys, "tracebacklimit")
