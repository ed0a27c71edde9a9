"""Features, and what each provider answers: True, or the reason why not.

A lack is data with a reason, declared where the provider is. Every provider answers every feature (a test demands it), so
a new feature cannot be forgotten anywhere, and the tables in the docs are printed from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

__all__ = ["Feature", "Limits", "Support"]


class Feature(StrEnum):
    """What a spec can ask for and a provider may lack. The value is the words used in messages and tables."""

    # storage
    VERSIONING = "object versions"
    KMS = "a customer's encryption key"
    EXPIRY = "expiry of objects by age"
    # registry
    MIRROR = "a mirror in the native model registry"
    # training
    MULTI_NODE = "training on several nodes"
    TRAINING_GPU = "training on GPUs"
    SPOT = "training on spot capacity"
    # endpoints
    SCALE_TO_ZERO = "scale to zero"
    HOLD_FIRST_REQUEST = "holding requests while the first instance starts"
    TRAFFIC_SPLIT = "traffic split by weights"
    REVISION_TAG = "an address for a revision without traffic"
    ENDPOINT_GPU = "endpoints on GPUs"
    OPEN_ENDPOINT = "an endpoint without authentication"
    # functions
    ON_NEW_DATA = "functions on new data"
    ON_SCHEDULE = "functions on a schedule"
    ON_HTTP = "functions on HTTP"
    ON_EVENT = "functions on events"
    DEAD_LETTERS = "dead letters that can be replayed"
    # all of it
    ALARMS = "alarms that tell somebody"
    BUDGET = "a monthly budget"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest values a provider takes; 0 means that the provider sets no limit of its own."""

    endpoint_timeout_s: int = 0
    endpoint_memory_mib: int = 0
    request_bytes: int = 0
    function_timeout_s: int = 0
    function_memory_mib: int = 0
    function_retries: int = 0
    training_timeout_s: int = 0


@dataclass(frozen=True, kw_only=True)
class Support:
    """A provider's answers. `features` maps every `Feature` to True or to the reason why not (a clause, no full stop)."""

    provider: str
    features: Mapping[Feature, Literal[True] | str]
    limits: Limits = Limits()

    def __contains__(self, feature: Feature) -> bool:
        return self.features[feature] is True

    def reason(self, feature: Feature) -> str:
        """Why the provider lacks `feature`; empty when it has it."""
        answer = self.features[feature]
        return "" if answer is True else answer
