"""What endpoints whose servers fetch their bento do with a version: look whether it is the one registered, tell a container of it,
read its log.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, cast

from ekiben import predictions
from ekiben.errors import IntegrityError
from ekiben.records import LoggedPrediction, ModelVersion
from ekiben.revisions import revision_id
from ekiben.storage import Storage

__all__ = ["VERSION_VARIABLES", "check_bytes", "environment", "last_predictions"]

VERSION_VARIABLES = ("EKIBEN_BENTO", "EKIBEN_DIGEST", "EKIBEN_REVISION", "EKIBEN_MODEL_VERSION")


def check_bytes(storage: Storage, version: ModelVersion, operation: str) -> None:
    """Raise IntegrityError unless the bento has its digest. The server asks again, before it loads any of it."""
    with storage.open(storage.key(version.bento_uri)) as file:
        found = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    if found != version.digest:
        raise IntegrityError(
            storage.part.provider, operation,
            f"the bento has the digest {found}, not {version.digest}: it is not the one registered",
            "Pack and register it again",
        )  # fmt: skip


def environment(version: ModelVersion) -> dict[str, str]:
    """What the environment of a container says of the version that it serves."""
    told = (version.bento_uri, version.digest, revision_id(version), version.id)
    return dict(zip(VERSION_VARIABLES, told, strict=True))


def last_predictions(storage: Storage, endpoint: str, last: int) -> list[LoggedPrediction]:
    """The newest rows of the endpoint's prediction log."""
    return list(itertools.islice(predictions.recent(storage, endpoint), max(last, 0)))
