"""What both kinds of endpoints on AWS do with storage: look whether a bento is the one registered, and read the prediction log."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, cast

from ekiben import predictions
from ekiben.aws.storage import Storage
from ekiben.errors import IntegrityError
from ekiben.records import LoggedPrediction, ModelVersion

__all__ = ["check_bytes", "last_predictions"]


def check_bytes(storage: Storage, version: ModelVersion, operation: str) -> None:
    """Raise IntegrityError unless the bento has its digest. The server asks again, before it loads any of it."""
    with storage.open(storage.key(version.bento_uri)) as file:
        found = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    if found != version.digest:
        raise IntegrityError(
            "aws", operation, f"the bento has the digest {found}, not {version.digest}: it is not the one registered",
            "Pack and register it again",
        )  # fmt: skip


def last_predictions(storage: Storage, endpoint: str, last: int) -> list[LoggedPrediction]:
    """The newest rows of the endpoint's prediction log."""
    return list(itertools.islice(predictions.recent(storage, endpoint), max(last, 0)))
