"""D: what the deploy face leaves for the run face (docs/contract.md). The engine's own behaviours are in tests/engine."""

from __future__ import annotations

import ekiben as ek

from .conftest import Rig


def test_d10_every_part_of_the_platform_binds(rig: Rig) -> None:
    runtime = ek.connect(ek.Platform.from_json(rig.platform.to_json()))
    for kind in ("storage", "registry", "training", "endpoint", "function"):
        assert runtime.names(kind)
        for name in runtime.names(kind):
            assert getattr(runtime, kind)(name).part.name == name


def test_d2_d14_up_after_a_release_changes_nothing(rig: Rig) -> None:
    endpoint, served = rig.runtime.endpoint("tiny-api"), rig.served
    before = [(r.id, r.weight) for r in endpoint.revisions()]
    assert rig.again() == 0
    assert [(r.id, r.weight) for r in endpoint.revisions()] == before
    assert endpoint.invoke({"x": 2}).body == served.sample["response"]
