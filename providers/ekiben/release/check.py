"""The smoke test: a revision answers its version's own sample as the model did when it was trained."""

from __future__ import annotations

import json
import math
from typing import Any

from ekiben.errors import ModelFailed, SpecError
from ekiben.records import ModelVersion, Revision
from ekiben.runtime import Endpoint

__all__ = ["difference", "smoke"]

TOLERANCE = 1e-6  # Absolute, and relative: the same model on another CPU differs by less.


def smoke(endpoint: Endpoint, revision: Revision, version: ModelVersion) -> None:
    """Send the version's sample to the revision, whatever its weight. Raises ModelFailed, which says what differs.

    Raises SpecError when the version has no sample, Unavailable when the endpoint does not answer: that is no verdict.
    """
    sample = version.sample
    if "request" not in sample or "response" not in sample:
        raise SpecError(
            f"{version.id} has no sample to test it with: let the job write one to signature.json "
            '({"sample": {"route", "request", "response"}}), train again, and release that version.'
        )
    try:
        answer = endpoint.invoke(sample["request"], route=sample.get("route") or "predict", revision=revision.id)
    except SpecError as error:
        raise ModelFailed(f"{version.id} refuses its own sample request: {error}") from error
    if found := difference(sample["response"], answer.body):
        raise ModelFailed(f"{version.id} does not answer its own sample as it did in training: {found}.")


def difference(expected: Any, got: Any, at: str = "$") -> str:
    """The first difference of two JSON values, as a clause with its place; empty when they are equal. Numbers may be close."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in sorted({*expected, *got}, key=str):
            if key not in got or key not in expected:
                return f"{at}.{key} is {'missing' if key not in got else 'not expected'}"
            if found := difference(expected[key], got[key], f"{at}.{key}"):
                return found
        return ""
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return f"{at} has {len(got)} items, not {len(expected)}"
        return next(
            (
                found
                for i, pair in enumerate(zip(expected, got, strict=True))
                if (found := difference(*pair, f"{at}[{i}]"))
            ),
            "",
        )
    if _number(expected) and _number(got):
        same = math.isclose(expected, got, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        same = type(expected) is type(got) and expected == got
    return "" if same else f"{at} is {_short(got)}, not {_short(expected)}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
