"""How the statements of a role are put into policies: nothing is lost or added, and each policy is as IAM takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

import ekiben as ek
from ekiben.aws.components.policies import (
    ATTACHED,
    INLINE_CHARS,
    MANAGED_CHARS,
    Statement,
    allow,
    layout,
    like,
    merged,
    size,
)
from ekiben.emulators.aws.policies import allowed

ACTIONS, RESOURCES = ["s3:GetObject", "s3:PutObject", "sqs:SendMessage"], ["arn:a", "arn:b/*", "arn:b/c", "*"]
CONDITIONS = [None, {"StringEquals": {"k": "1"}}, {"StringLike": {"k": ["1*", "2"]}}]
some = st.lists(st.sampled_from(ACTIONS), min_size=1, unique=True)
where = st.lists(st.sampled_from(RESOURCES), min_size=1, unique=True)
STATEMENTS = st.lists(
    st.builds(
        lambda actions, resources, condition, effect: {**allow(actions, resources, condition), "Effect": effect},
        some, where, st.sampled_from(CONDITIONS), st.sampled_from(["Allow", "Allow", "Deny"]),
    ),
    max_size=8,
)  # fmt: skip
# Of a unit: so many ARNs of a name of so many letters.
UNITS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 150)), max_size=10)


def units(shapes: Sequence[tuple[int, int]]) -> list[list[Statement]]:
    """Units that have nothing to merge with each other."""
    return [
        [allow([f"s3:Action{number}"], [like("s3", f"{number}-{index}{'x' * letters}") for index in range(count)])]
        for number, (count, letters) in enumerate(shapes)
    ]


@given(STATEMENTS)
def test_merged_statements_allow_the_same(statements: list[dict[str, Any]]) -> None:
    fewer = merged(statements)
    assert len(fewer) <= len(statements)
    for action in ACTIONS:
        for resource in RESOURCES:
            for values in ({}, {"k": "1"}, {"k": "2"}, {"k": "12"}):
                asked = (action, resource, values)
                assert allowed(fewer, *asked) == allowed(statements, *asked)


def test_what_differs_in_one_list_is_one_statement() -> None:
    lake = [allow(["s3:GetObject"], ["arn:lake/*"]), allow(["s3:GetObject"], ["arn:other/*", "arn:lake/*"])]
    assert merged(lake) == [allow(["s3:GetObject"], ["arn:lake/*", "arn:other/*"])]
    assert merged([allow(["a:B"], ["r"]), allow(["a:C"], ["r"])]) == [allow(["a:B", "a:C"], ["r"])]
    apart = [allow(["a:B"], ["r"]), allow(["a:C"], ["s"]), allow(["a:B"], ["t"], {"Bool": {"k": "true"}})]
    assert merged(apart) == apart


@settings(max_examples=40)
@given(UNITS)
def test_each_part_is_in_one_policy_and_each_policy_is_as_iam_takes_it(shapes: list[tuple[int, int]]) -> None:
    parts = units(shapes)
    fits = all(size(part) <= MANAGED_CHARS for part in parts)
    if not fits:
        with pytest.raises(ek.Unsupported):
            layout("agent", parts)
        return
    inline, *managed = layout("agent", parts)
    assert sorted(number for one in (inline, *managed) for number in one) == list(range(len(parts)))
    assert len(managed) <= ATTACHED
    assert size(one for number in inline for one in parts[number]) <= INLINE_CHARS
    assert all(one and size(each for number in one for each in parts[number]) <= MANAGED_CHARS for one in managed)


@settings(max_examples=40)
@given(UNITS)
def test_another_part_at_the_end_moves_none(shapes: list[tuple[int, int]]) -> None:
    parts = units(shapes)
    assume(all(size(part) <= MANAGED_CHARS for part in parts))
    whole = layout("agent", parts)
    before = [[number for number in one if number < len(parts) - 1] for one in whole]
    assert layout("agent", parts[:-1]) == [one for index, one in enumerate(before) if one or not index]


def test_what_no_role_can_have_is_refused_with_what_to_do() -> None:
    with pytest.raises(ek.Unsupported, match=r"role of 'agent': one of the parts .* 6,144"):
        layout("agent", units([(200, 200)]))
    with pytest.raises(ek.Unsupported, match=r"10,240 in the role and 10 policies of 6,144 .*divide it"):
        layout("agent", units([(20, 200)] * 40))
    assert layout("agent", []) == [[]]
