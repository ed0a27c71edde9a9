"""How many instances a SageMaker variant has: between two bounds, by the requests that each has at once.

Every change can be repeated. A variant must not scale any more when it goes, or its scaling would outlive it.
"""

from __future__ import annotations

from contextlib import suppress

from ekiben.aws.client import Cloud
from ekiben.errors import NotFound

__all__ = ["scale", "stay"]

SERVICE, DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
POLICY = "ekiben-concurrency"
METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
# Of what an instance takes at once, how much it is given before there is another one, which takes minutes.
SHARE = 0.7


def scale(cloud: Cloud, operation: str, variant: str, least: int, most: int, concurrency: int) -> None:
    """Have a variant ("endpoint/NAME/variant/NAME") as many instances as its requests need, of `concurrency` at once each."""
    which = {"ServiceNamespace": SERVICE, "ResourceId": variant, "ScalableDimension": DIMENSION}
    cloud.call(
        "application-autoscaling", "register_scalable_target", operation, **which, MinCapacity=least, MaxCapacity=most
    )
    tracked = {
        "TargetValue": max(1.0, SHARE * concurrency),
        "PredefinedMetricSpecification": {"PredefinedMetricType": METRIC},
    }
    cloud.call(
        "application-autoscaling", "put_scaling_policy", operation, **which, PolicyName=POLICY,
        PolicyType="TargetTrackingScaling", TargetTrackingScalingPolicyConfiguration=tracked,
    )  # fmt: skip


def stay(cloud: Cloud, operation: str, variant: str) -> None:
    """Have a variant as many instances as it has; its policy and its alarms go with this. Silent where it does not scale."""
    with suppress(NotFound):
        cloud.call(
            "application-autoscaling", "deregister_scalable_target", operation,
            ServiceNamespace=SERVICE, ResourceId=variant, ScalableDimension=DIMENSION,
        )  # fmt: skip
