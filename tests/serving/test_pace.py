"""When a batch is called: what is learned from calls, and for whom it is waited. All times are made up."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ekiben.serving.pace import FORGOTTEN, RETURN_S, WARM_UP, Pace


class Connection:
    def __init__(self) -> None:
        self.closed = False


def learned(fixed_s: float, row_s: float, max_latency_s: float = 60.0) -> Pace:
    pace = Pace(max_latency_s)
    for rows in (1, 1, 1, 2, 4, 8, 16, 32, 64, 3, 24):
        pace.called(rows, fixed_s + rows * row_s)
    return pace


@pytest.mark.parametrize(("fixed_s", "row_s"), [(0.01, 0.001), (0.02, 0.0), (0.0, 0.003)])
def test_the_time_of_a_call_is_learned(fixed_s: float, row_s: float) -> None:
    pace = learned(fixed_s, row_s)
    assert pace.fixed_s == pytest.approx(fixed_s, abs=1e-4)
    assert pace.row_s == pytest.approx(row_s, abs=1e-4)
    assert pace.expected_s(100) == pytest.approx(fixed_s + 100 * row_s, rel=0.1)


def test_the_first_calls_and_those_of_one_size_say_little() -> None:
    pace = Pace(1.0)
    for _ in range(WARM_UP):
        pace.called(1, 30.0)
    assert pace.expected_s(1) == 0.0
    for _ in range(10):
        pace.called(4, 0.04)
    assert pace.fixed_s == 0.0  # nobody knows, so nobody waits
    assert pace.row_s == pytest.approx(0.01)


def test_what_has_changed_is_learned_anew_and_what_is_not_seen_any_more_is_forgotten() -> None:
    pace = learned(0.01, 0.001)
    pace.called(200, 90.0)  # somebody suspended the machine
    assert pace.expected_s(200) > 10
    for _ in range(FORGOTTEN):
        pace.called(1, 0.002)
        pace.called(8, 0.002)
    assert pace.expected_s(200) == pytest.approx(0.002, abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 100)), max_size=50), st.integers(1, 5000))
def test_whatever_is_measured_the_estimates_stay_sane(calls: list[tuple[int, float]], rows: int) -> None:
    pace = Pace(0.5)
    for size, seconds in calls:
        pace.called(size, seconds)
    assert pace.fixed_s >= 0
    assert pace.row_s >= 0
    assert pace.expected_s(rows) <= pace.expected_s(rows + 1)
    assert 1 <= pace.max_rows(rows) <= rows


def test_a_call_takes_no_more_than_half_of_the_latency() -> None:
    pace = learned(0.01, 0.001, max_latency_s=0.1)
    assert pace.max_rows(1000) == pytest.approx(40, abs=1)
    assert pace.max_rows(10) == 10
    assert learned(0.2, 0.001, max_latency_s=0.1).max_rows(1000) == 1  # nothing helps, and it goes on
    assert Pace(0.1).max_rows(1000) == 1000


def closed_loop(pace: Pace, callers: list[Connection], turnaround_s: float, now_s: float = 0.0) -> float:
    """They are answered together, and each comes back."""
    for _ in range(20):
        pace.answered(list(callers), now_s)
        now_s += turnaround_s
        for each in callers:
            pace.came(each, now_s)
        now_s += 1.0
    return now_s


def test_it_waits_for_those_who_come_back_and_not_longer() -> None:
    pace, callers = learned(0.05, 0.001), [Connection() for _ in range(4)]
    now_s = closed_loop(pace, callers, 0.002)
    pace.answered(callers, now_s)
    now_s += 0.001
    pace.came(callers[0], now_s)
    until_s = pace.until_s(now_s, now_s)
    assert now_s < until_s < now_s + 0.05
    for each in callers[1:]:
        pace.came(each, now_s)
    assert pace.until_s(now_s, now_s) == now_s  # all are back
    pace.answered(callers, now_s)
    pace.came(callers[0], now_s)
    for each in callers[1:]:
        each.closed = True
    assert pace.until_s(now_s, now_s) == now_s  # the others have left
    pace.answered(callers[:1], now_s)
    assert pace.until_s(now_s + 5, now_s + 5) <= now_s + 5  # who has not come by now will not


def test_a_lone_caller_never_waits() -> None:
    pace, alone = learned(0.5, 0.0), Connection()
    now_s = 0.0
    for _ in range(100):
        pace.came(alone, now_s)
        assert pace.until_s(now_s, now_s) <= now_s
        now_s += 0.5
        pace.answered([alone], now_s)
        now_s += 0.0001


@pytest.mark.parametrize(
    ("fixed_s", "turnaround_s", "why"),
    [
        (0.001, 0.01, "a call of its own costs less"),
        (0.0, 0.0001, "joining saves nothing"),
        (0.5, 2 * RETURN_S, "they do not come back because of an answer"),
    ],
)
def test_it_does_not_wait_where_that_does_not_pay(fixed_s: float, turnaround_s: float, why: str) -> None:
    pace, callers = learned(fixed_s, 0.0001), [Connection(), Connection()]
    now_s = closed_loop(pace, callers, turnaround_s)
    pace.answered(callers, now_s)
    pace.came(callers[0], now_s)
    assert pace.until_s(now_s, now_s) <= now_s, why


def test_one_who_left_costs_one_wait() -> None:
    pace, callers = learned(0.05, 0.001), [Connection(), Connection()]
    now_s = closed_loop(pace, callers, 0.002)
    pace.answered(callers, now_s)
    waits = 0
    for _ in range(10):
        pace.came(callers[0], now_s)
        waits += pace.until_s(now_s, now_s) > now_s
        now_s += 0.06
        pace.answered(callers[:1], now_s)
    assert waits == 1
