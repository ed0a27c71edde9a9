"""What components cost, by a few of AWS's list prices: estimates for a preview. Nothing is called.

On demand, in USD, of one region and one day: https://aws.amazon.com/lambda/pricing, and so on for each service. An instance type
that is not here has a price that is not known. How long a request takes nobody knows beforehand; what is said of 1,000 requests
is for requests of `REQUEST_S` each.
"""

from __future__ import annotations

from dataclasses import replace

from ekiben.cost import FREE, Cost

__all__ = [
    "REQUEST_S",
    "bucket",
    "budget",
    "containers",
    "function",
    "instance_h",
    "instances",
    "jobs",
    "monitor",
    "registry",
    "serverless",
]

REGION, PRICED_ON = "us-east-1", "2025-10-01"
REQUEST_S = 0.1
HOURS = 730
MONTH_S = HOURS * 3600

LAMBDA_REQUEST, LAMBDA_GB_S, LAMBDA_KEPT_GB_S = 0.2e-6, 0.0000166667, 0.0000041667
SERVERLESS_GB_S = 0.00002
S3_GB_MONTH, S3_PUT = 0.023, 5e-6
FARGATE_VCPU_H, FARGATE_GB_H, BALANCER_H = 0.04048, 0.004445, 0.0225
KEY_MONTH, ALARM_MONTH = 1.0, 0.1
# SageMaker's instances without GPUs cost by their vCPUs.
VCPU_H = {"m5": 0.0576, "c5": 0.051, "r5": 0.0756}
VCPUS = {"large": 2, "xlarge": 4}
GPU_H = {
    "g4dn.xlarge": 0.7364, "g4dn.2xlarge": 0.94, "g4dn.4xlarge": 1.505, "g4dn.8xlarge": 2.72, "g4dn.12xlarge": 4.89,
    "g4dn.16xlarge": 5.44, "g5.xlarge": 1.408, "g5.2xlarge": 1.515, "g5.4xlarge": 2.03, "g5.8xlarge": 3.06, "g5.12xlarge": 7.09,
    "g5.16xlarge": 5.12, "g5.24xlarge": 10.18, "g5.48xlarge": 20.36,
}  # fmt: skip


def instance_h(instance_type: str) -> float | None:
    """What an instance of SageMaker costs in an hour; None where that is not known."""
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    if family in VCPU_H:
        many = size.removesuffix("xlarge")
        return VCPU_H[family] * (4 * int(many) if many.isdigit() else VCPUS[size])
    return GPU_H.get(f"{family}.{size}")


def bucket() -> Cost:
    return _cost(replace(FREE, worst_usd_per_month=None), f"{S3_GB_MONTH} USD per GB and month that it holds")


def registry() -> Cost:
    return _cost(replace(FREE, worst_usd_per_month=None), "0.1 USD per GB and month of images")


def jobs(instance_type: str, nodes: int) -> Cost:
    """A training: nothing, unless it runs."""
    hour = instance_h(instance_type)
    made = replace(FREE, usd_per_training_hour=None if hour is None else nodes * hour, worst_usd_per_month=None)
    return _cost(made, f"{nodes} x {instance_type}" if nodes > 1 else instance_type)


def function(memory_mib: int, *, kept: int = 0, most: int | None = None, logged: float = 0.0) -> Cost:
    """A Lambda function: kept instances are always started; most: instances at once, None is no limit; logged: share of answers."""
    gb = memory_mib / 1024
    request = LAMBDA_REQUEST + REQUEST_S * gb * LAMBDA_GB_S + logged * S3_PUT
    made = Cost(
        usd_per_month=kept * gb * LAMBDA_KEPT_GB_S * MONTH_S, usd_per_1000_requests=1000 * request, usd_per_training_hour=0.0,
        worst_usd_per_month=None if most is None else most * gb * LAMBDA_GB_S * MONTH_S,
    )  # fmt: skip
    return _cost(made, f"requests of {REQUEST_S:g} s" + (", each logged by a PUT" if logged else ""))


def serverless(memory_mib: int, *, kept: int, most: int) -> Cost:
    """SageMaker without servers. What is kept started has a price that is not here."""
    second = memory_mib / 1024 * SERVERLESS_GB_S
    made = Cost(
        usd_per_month=None if kept else 0.0, usd_per_1000_requests=1000 * REQUEST_S * second, usd_per_training_hour=0.0,
        worst_usd_per_month=None if kept else most * second * MONTH_S,
    )  # fmt: skip
    return _cost(made, f"requests of {REQUEST_S:g} s")


def instances(instance_type: str, *, least: int, most: int) -> Cost:
    """SageMaker's instances, of one revision: each further one with instances of its own costs as much."""
    hour = instance_h(instance_type)
    made = Cost(
        usd_per_month=None if hour is None else least * hour * HOURS, usd_per_1000_requests=0.0, usd_per_training_hour=0.0,
        worst_usd_per_month=None if hour is None else most * hour * HOURS,
    )  # fmt: skip
    return _cost(made, f"{least} to {most} x {instance_type}, of the revision with the traffic")


def containers(vcpu: float, memory_mib: int, *, least: int, most: int) -> Cost:
    """ECS Express: tasks, and the load balancer that the services of an account share."""
    task = (vcpu * FARGATE_VCPU_H + memory_mib / 1024 * FARGATE_GB_H) * HOURS
    made = Cost(
        usd_per_month=least * task + BALANCER_H * HOURS, usd_per_1000_requests=0.0, usd_per_training_hour=0.0,
        worst_usd_per_month=most * task + BALANCER_H * HOURS,
    )  # fmt: skip
    return _cost(made, f"{least} to {most} tasks, and a load balancer without its traffic")


def budget() -> Cost:
    return _cost(FREE, "a budget that only tells costs nothing")


def monitor(alarms: int, *, own_key: bool) -> Cost:
    month = alarms * ALARM_MONTH + own_key * KEY_MONTH
    return _cost(replace(FREE, usd_per_month=month, worst_usd_per_month=month), f"{alarms} alarms")


def _cost(made: Cost, why: str) -> Cost:
    return replace(made, priced_on=PRICED_ON, why=f"an estimate by list prices of {REGION}: {why}")
