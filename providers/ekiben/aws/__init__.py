"""The provider `aws`: S3, SageMaker, Lambda, EventBridge, CloudWatch."""

from __future__ import annotations

from ekiben.features import Feature, Limits, Support

__all__ = ["SUPPORT"]

SUPPORT = Support(
    provider="aws",
    features={
        Feature.VERSIONING: True,
        Feature.KMS: True,
        Feature.EXPIRY: True,
        Feature.MIRROR: True,
        Feature.MULTI_NODE: True,
        Feature.TRAINING_GPU: True,
        Feature.SPOT: True,
        Feature.SCALE_TO_ZERO: True,
        Feature.HOLD_FIRST_REQUEST: True,
        # Between two revisions at a time on Lambda, ten on SageMaker's instances; see `backends`.
        Feature.TRAFFIC_SPLIT: True,
        Feature.REVISION_TAG: True,
        # On SageMaker's instances, which do not scale to zero.
        Feature.ENDPOINT_GPU: True,
        Feature.OPEN_ENDPOINT: True,
        Feature.ON_NEW_DATA: True,
        Feature.ON_SCHEDULE: True,
        Feature.ON_HTTP: True,
        Feature.ON_EVENT: True,
        Feature.DEAD_LETTERS: True,
        Feature.ALARMS: True,
        Feature.BUDGET: True,
    },
    # Of functions those of Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html), of training that of
    # CreateTrainingJob. How much memory and how large a request an endpoint takes depends on its other wishes: see `backends`,
    # which is not imported here: a function's bundle has this file, and not that one.
    limits=Limits(
        endpoint_timeout_s=3600,
        function_timeout_s=900,
        function_memory_mib=10_240,
        # Of asynchronous calls: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
        function_retries=2,
        training_timeout_s=28 * 24 * 3600,
    ),
)
