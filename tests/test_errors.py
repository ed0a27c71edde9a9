"""The error tree: drawn in full, and the same error on the other side of a process or of HTTP."""

from __future__ import annotations

import copyreg
import inspect
import json
import re

import pytest
from hypothesis import given, strategies as st

from ekiben import errors
from ekiben.errors import EkibenError, MissingDependency, ProviderError, SpecError, WorkloadError
from ekiben.station.wire import STATUS, from_body, to_body

KINDS = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EkibenError)),
    key=lambda kind: kind.__name__,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def make(kind: type[EkibenError], a: str = "é", b: str = "b", c: str = "c", d: str = "d") -> EkibenError:
    if issubclass(kind, ProviderError):
        return kind(a, b, c, d)
    if issubclass(kind, WorkloadError):
        return kind(a, log_uri=b, tail=c)
    if issubclass(kind, MissingDependency):
        return kind(a, b)
    return kind(a)


def same(one: EkibenError, two: EkibenError) -> bool:
    return (type(one), str(one), vars(one)) == (type(two), str(two), vars(two))


def test_the_tree_is_drawn_in_full() -> None:
    drawn: list[tuple[int, str]] = [
        ((len(m[1]) - 4) // 2, m[2])
        for m in re.finditer(r"^( +)(\w+)(?: \(\w+\))?(?:  .*)?$", errors.__doc__ or "", re.M)
    ]
    parents: dict[str, str] = {}
    path: list[str] = []
    for depth, name in drawn:
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    assert parents == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}
    assert set(errors.__all__) == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_the_same_in_another_process(kind: type[EkibenError]) -> None:
    error = make(kind)
    made, arguments, *state = error.__reduce_ex__(2) if error.__reduce__ is Exception.__reduce__ else error.__reduce__()
    assert made is not copyreg.__newobj__ or arguments[0] is kind  # type: ignore[attr-defined]
    again = made(*arguments)
    if state and state[0]:
        again.__setstate__(state[0])
    assert same(again, error)


@given(st.sampled_from(KINDS), texts, texts, texts, texts)
def test_an_error_is_the_same_across_http(kind: type[EkibenError], a: str, b: str, c: str, d: str) -> None:
    error = make(kind, a, b, c, d)
    status, body = to_body(error)
    again = from_body(status, json.loads(json.dumps(body)))
    assert same(again, error)
    assert 400 <= status < 600
    if isinstance(error, ProviderError):
        assert isinstance(again, ProviderError)
        assert again.retryable == error.retryable


def test_every_error_has_a_status() -> None:
    assert set(STATUS) == set(KINDS)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "",
        {"error": "text"},
        {"error": {"type": "SystemExit"}},
        {"error": {"type": "annotations"}},
        {"error": {}},
    ],
)
def test_another_shape_is_still_an_error_of_ours(body: object) -> None:
    error = from_body(502, body)
    assert type(error) is ProviderError
    assert "502" in str(error)


def test_messages_say_who_what_why_and_what_to_do() -> None:
    error = errors.NotFound("local", "read 'k'", "there is no such object", "Put it first")
    assert str(error) == "local: cannot read 'k': there is no such object. Put it first."
    assert str(errors.NotFound("local", "read 'k'", "there is none")) == "local: cannot read 'k': there is none."
    assert (
        str(MissingDependency("pulumi", "iac"))
        == "pulumi is not installed. Install it with: pip install 'ekiben[iac]'."
    )
    failed = errors.TrainingFailed("the job exited with 1.", log_uri="file:///log", tail="Traceback")
    assert str(failed).splitlines() == [
        "the job exited with 1.", "The end of its log:", "Traceback", "The whole log: file:///log",
    ]  # fmt: skip


def test_each_branch_is_caught_by_what_python_knows() -> None:
    assert issubclass(SpecError, ValueError)
    assert issubclass(MissingDependency, ImportError)
    assert {kind.__name__ for kind in KINDS if getattr(kind, "retryable", False)} == {
        "PreconditionFailed",
        "Unavailable",
    }
