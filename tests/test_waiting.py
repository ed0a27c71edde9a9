"""Trying again: how often, after what pauses, and what is raised in the end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

import ekiben as ek
from ekiben import waiting
from ekiben.waiting import LONGEST_PAUSE_S, patiently, retry_after_s


def away(number: int, asked_s: float) -> ek.Unavailable:
    error = ek.Unavailable("test", "ask it", str(number))
    error.retry_after_s = asked_s
    return error


@given(
    failures=st.integers(0, 9), attempts=st.integers(1, 7), first_pause_s=st.floats(0.001, 4), asked_s=st.floats(0, 60)
)
def test_a_call_is_made_until_it_goes_well_and_not_for_ever(
    failures: int, attempts: int, first_pause_s: float, asked_s: float
) -> None:
    left = [away(number, asked_s) for number in range(failures)]
    pauses: list[float] = []

    def call() -> str:
        if left:
            raise left.pop(0)
        return "told"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "time", SimpleNamespace(sleep=pauses.append))
        if failures < attempts:
            assert patiently(call, lambda error: True, attempts, first_pause_s) == "told"
        else:
            with pytest.raises(ek.Unavailable) as error:
                patiently(call, lambda error: True, attempts, first_pause_s)
            assert error.value.why == str(attempts - 1), "the last one is told"
    assert len(pauses) == min(failures, attempts - 1)
    for done, pause_s in enumerate(pauses):
        most_s = first_pause_s * 2**done
        assert min(max(most_s / 2, asked_s), LONGEST_PAUSE_S) <= pause_s <= min(max(most_s, asked_s), LONGEST_PAUSE_S)


def test_what_does_not_pass_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "time", None)
    seen: list[str] = []

    def call() -> None:
        seen.append("called")
        raise ek.NotFound("test", "ask it", "it is not there")

    with pytest.raises(ek.NotFound):
        patiently(call, lambda error: isinstance(error, ek.Unavailable), 5, 1.0)
    assert seen == ["called"]
    with pytest.raises(KeyboardInterrupt):  # no error, and nobody is asked about it
        patiently(lambda: (_ for _ in ()).throw(KeyboardInterrupt), lambda error: True, 5, 1.0)


@pytest.mark.parametrize(
    ("said", "asked_s"), [("", 0), ("3", 3), ("120", 120), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0), ("²", 0)]
)
def test_a_servers_wish_is_a_number_of_seconds_or_none(said: str, asked_s: float) -> None:
    assert retry_after_s(said) == asked_s
