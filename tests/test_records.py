"""Records: the same JSON everywhere, and strict about what they take in."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import typing
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from ekiben import records
from ekiben.errors import SpecError
from ekiben.records import Decision, Part, Platform, Prediction, Record, Run, now

RECORDS = [getattr(records, name) for name in records.__all__ if name not in ("Record", "now", "parse")]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return values
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(strategy(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(texts, strategy(arguments[1]), max_size=3)
    if issubclass(kind, Record):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: strategy(hints[field.name]) for field in dataclasses.fields(kind)})
    plain = {str: texts, int: st.integers(), bool: st.booleans()}
    return plain.get(kind, st.floats(allow_nan=False, allow_infinity=False))


@given(st.sampled_from(RECORDS).flatmap(strategy))
def test_a_record_survives_json(record: Record) -> None:
    text = record.to_json()
    again = type(record).from_json(text)
    assert again == record
    assert again.to_json() == text
    assert type(record).from_json(text.encode()) == record
    assert type(record).from_dict(json.loads(text)) == record


@given(st.sampled_from(RECORDS), values)
def test_any_json_is_a_record_or_a_clear_error(kind: type[Record], value: Any) -> None:
    try:
        made = kind.from_json(json.dumps(value))
    except SpecError as error:
        assert kind.__name__ in str(error)  # noqa: PT017
    else:
        assert isinstance(made, kind)


def test_the_text_is_canonical() -> None:
    one = Part(name="é", kind="storage", provider="local", ref="r", facts={"b": 1, "a": [2]})
    assert one.to_json() == '{"facts":{"a":[2],"b":1},"kind":"storage","name":"é","provider":"local","ref":"r"}'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flavour": 1}, "Run has the unknown key 'flavour'"), ({"id": None}, "Run.id is None, not str"),
        ({"state": "happy"}, "Run.state is 'happy', not one of 'pending'"), ({"nodes": 1.0}, "Run.nodes is 1.0, not a whole"),
        ({"nodes": True}, "Run.nodes is True"), ({"metrics": {"auc": "1"}}, "Run.metrics.auc is '1', not a number"),
        ({"metrics": {"auc": True}}, "not a number"), ({"metrics": [1]}, "Run.metrics is [1], not an object"),
        ({"params": "x"}, "not an object"), ({"state": ["pending"]}, "Run.state"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    sound = Run(id="r", training="t", state="pending").to_dict()
    with pytest.raises(SpecError) as caught:
        Run.from_dict({**sound, **change})
    assert said in str(caught.value)


def test_what_is_missing_or_no_json_is_named() -> None:
    with pytest.raises(SpecError, match=r"Platform\.parts\.lake lacks the key 'kind'"):
        Platform.from_dict({"project": "p", "stack": "s", "parts": {"lake": {"name": "lake"}}})
    for text in ("", "{", b"\xff\xff", "nothing", "[1]", "null", '"x"', "[" * 100_000):
        with pytest.raises(SpecError, match="Platform"):
            Platform.from_json(text)
    with pytest.raises(SpecError, match=r"Decision lacks the key 'model'"):
        Decision.from_dict({"seq": 1})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_nan_leaves_or_enters(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Run(id="r", training="t", state="pending", metrics={"auc": number}).to_json()
    text = Run(id="r", training="t", state="pending", metrics={"auc": 1.5}).to_json()
    with pytest.raises(SpecError, match="Run"):
        Run.from_json(text.replace("1.5", json.dumps(number)))


def test_records_do_not_change() -> None:
    run = Run(id="r", training="t", state="pending")
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.state = "failed"  # type: ignore[misc]
    assert not run.ended
    assert dataclasses.replace(run, state="failed").ended


def test_a_subset_has_only_what_was_named() -> None:
    parts = {name: Part(name=name, kind="storage", provider="local", ref="") for name in ("a", "b")}
    platform = Platform(project="p", stack="s", parts=parts)
    assert list(platform.subset(["b"]).parts) == ["b"]
    assert platform.subset([]).parts == {}


def test_times_are_sortable_text() -> None:
    times = [now() for _ in range(50)]
    assert times == sorted(times)
    assert {len(time) for time in times} == {27}
    assert times[0].endswith("Z")


def test_a_prediction_holds_any_json() -> None:
    for body in (None, 1, "x", [1], {"a": None}):
        made = Prediction(endpoint="e", revision="r", body=body, latency_ms=1)
        assert Prediction.from_json(made.to_json()).body == body


def test_it_needs_the_standard_library_only() -> None:
    program = "import sys, ekiben.records, ekiben.errors, ekiben.features, ekiben.runtime; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    # A .pth file of the environment may load what it likes.
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    there = {name.partition(".")[0] for name in before.stdout.split()}
    assert tops - there <= set(sys.stdlib_module_names) | {"ekiben"}
