"""What a preview says that components cost on AWS: by list prices, dated, and unknown where nobody knows."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, strategies as st

import ekiben as ek
from ekiben.aws import prices, stock
from ekiben.aws.backends import choose
from ekiben.aws.components.endpoint import cost
from ekiben.cost import PRICES, Cost


def endpoint(**over: Any) -> Cost:
    spec = ek.EndpointSpec(model="m@champion", bento="b", **over)
    return cost(choose("api", spec), spec)


def test_what_scales_to_zero_costs_nothing_until_it_is_called() -> None:
    found = endpoint(log_predictions=0)
    assert found.usd_per_month == 0
    assert found.usd_per_1000_requests == pytest.approx(1000 * (0.2e-6 + 0.1 * 0.0000166667))
    assert found.worst_usd_per_month is None, "nothing is reserved, so there is no most"
    logged = endpoint(log_predictions=1)
    assert logged.usd_per_1000_requests == pytest.approx((found.usd_per_1000_requests or 0) + 0.005)
    assert "PUT" in logged.why
    assert "PUT" not in found.why


def test_what_is_always_there_costs_by_the_month() -> None:
    kept = endpoint(min_instances=2, max_instances=4, concurrency=1)
    assert kept.usd_per_month == pytest.approx(2 * 0.0000041667 * 730 * 3600)
    assert (kept.worst_usd_per_month or 0) > (kept.usd_per_month or 0)
    gpu = endpoint(resources=ek.Resources(gpus=1, gpu="A10G", memory_mib=8192), min_instances=1, max_instances=3)
    assert gpu.usd_per_month == pytest.approx(1.408 * 730)
    assert gpu.worst_usd_per_month == pytest.approx(3 * 1.408 * 730)
    slow = endpoint(timeout_s=1200, auth="none", min_instances=1, max_instances=2)
    assert (slow.usd_per_month or 0) > 0.0225 * 730, "the load balancer is there without a task"


@given(st.integers(128, 10_240), st.integers(128, 10_240))
def test_more_memory_costs_no_less(one: int, other: int) -> None:
    small, large = (prices.function(size, kept=1, most=2) for size in sorted((one, other)))
    for price in PRICES:
        assert getattr(small, price) <= getattr(large, price)


def test_a_training_costs_what_its_instances_do_while_it_runs() -> None:
    two = prices.jobs("ml.m5.2xlarge", 2)
    assert (two.usd_per_month, two.usd_per_training_hour) == (0, pytest.approx(2 * 8 * 0.0576))
    assert prices.jobs("ml.p6-b200.48xlarge", 1).usd_per_training_hour is None


def test_each_instance_type_has_a_price_or_none_and_larger_ones_cost_more() -> None:
    known = {name: prices.instance_h(name) for name in stock._table()["instances"]}
    assert {name for name, price in known.items() if price is None} == {
        name for name in known if name.split(".")[1] in ("g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200")
    }
    assert known["ml.m5.large"] < known["ml.m5.xlarge"] < known["ml.m5.2xlarge"] < known["ml.m5.24xlarge"]  # type: ignore[operator]
    assert all(price is None or price > 0.05 for price in known.values())


def test_every_price_says_of_which_day_and_region_it_is() -> None:
    for found in (
        prices.bucket(), prices.registry(), prices.budget(), prices.monitor(3, own_key=True), prices.function(512),
        prices.serverless(1024, kept=1, most=2), prices.instances("ml.g6.xlarge", least=1, most=1),
    ):  # fmt: skip
        assert date.fromisoformat(found.priced_on) < date(2027, 1, 1)
        assert "us-east-1" in found.why
    assert prices.monitor(3, own_key=True).usd_per_month == pytest.approx(1.3)
    assert prices.serverless(1024, kept=1, most=2).usd_per_month is None
    assert prices.instances("ml.g6.xlarge", least=1, most=1).usd_per_month is None
