"""The provider `kubernetes`: any cluster, with an S3-compatible store and, where it has it, Knative Serving."""

from __future__ import annotations

from ekiben.features import Feature, Support

__all__ = ["SUPPORT"]

# No limits of its own: how much a cluster has, and how long its ingress waits, is the cluster's. What Knative does not hold, and
# what a plain Deployment does not, is said for each endpoint: see `backends`.
SUPPORT = Support(
    provider="kubernetes",
    features={
        Feature.VERSIONING: "an S3-compatible store keeps versions only as it is set up, which is not Ekiben's to do",
        Feature.KMS: "an S3-compatible store knows no keys of another; encrypt the volumes of its StorageClass",
        Feature.EXPIRY: "an S3-compatible store need not have lifecycle rules; a function on a schedule can delete by age",
        # In MLflow, where the stack's config names a server, or an image of one.
        Feature.MIRROR: True,
        Feature.MULTI_NODE: True,
        # Whether the cluster has them is known when a run is submitted: NoCapacity says what there is.
        Feature.TRAINING_GPU: True,
        Feature.SPOT: True,
        # With Knative Serving.
        Feature.SCALE_TO_ZERO: True,
        Feature.HOLD_FIRST_REQUEST: True,
        Feature.TRAFFIC_SPLIT: True,
        Feature.REVISION_TAG: True,
        Feature.ENDPOINT_GPU: True,
        Feature.OPEN_ENDPOINT: True,
        Feature.ON_NEW_DATA: True,
        Feature.ON_SCHEDULE: True,
        Feature.ON_HTTP: True,
        Feature.ON_EVENT: True,
        Feature.DEAD_LETTERS: True,
        Feature.ALARMS: "a cluster tells nobody by itself; /metrics of endpoints are there for its Prometheus",
        Feature.BUDGET: "a cluster bills nobody; `ekiben:quota` bounds what the platform may take of it",
    },
)
