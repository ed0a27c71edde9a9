"""What all tests share: the tests that need the Pulumi engine come last, so that a first build of it runs beside the others."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Analytics and update checks of what we call have no place in a test.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("PULUMI_SKIP_UPDATE_CHECK", "true")

settings.register_profile("ekiben", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("ekiben")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def late(item: pytest.Item) -> bool:
        return item.get_closest_marker("engine") is not None or "rig" in getattr(item, "fixturenames", ())

    items.sort(key=late)
