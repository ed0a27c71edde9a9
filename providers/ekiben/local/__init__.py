"""The provider `local`: one machine, no account. Folders, processes, and the station that holds them (see docs/station.md)."""

from __future__ import annotations

from ekiben.features import Feature, Support

__all__ = ["SUPPORT"]

# No limits of its own: what a machine has not is NoCapacity when it is asked for.
SUPPORT = Support(
    provider="local",
    features={
        Feature.VERSIONING: "a folder keeps no object that was overwritten or deleted",
        Feature.KMS: "a folder is as safe as the disk that it lies on; encrypt the disk",
        Feature.EXPIRY: "nothing deletes files by their age; a function on a schedule can",
        Feature.MIRROR: "a machine has no model registry of its own that this one could be shown in",
        Feature.MULTI_NODE: True,
        # Whether this machine has GPUs is known when a run is submitted: NoCapacity says what there is.
        Feature.TRAINING_GPU: True,
        # Nothing is cheaper for it on a machine of one's own, but processes die there, too, and machines are restarted.
        Feature.SPOT: True,
        Feature.SCALE_TO_ZERO: True,
        Feature.HOLD_FIRST_REQUEST: True,
        Feature.TRAFFIC_SPLIT: True,
        Feature.REVISION_TAG: True,
        Feature.ENDPOINT_GPU: "the station hands GPUs to training runs only, so that no two share one unawares",
        Feature.OPEN_ENDPOINT: True,
        Feature.ON_NEW_DATA: True,
        Feature.ON_SCHEDULE: True,
        Feature.ON_HTTP: True,
        Feature.ON_EVENT: True,
        Feature.DEAD_LETTERS: True,
        Feature.ALARMS: "a machine that is down tells nobody; the station's /metrics are there for a Prometheus elsewhere",
        Feature.BUDGET: "nobody bills a machine of your own",
    },
)
