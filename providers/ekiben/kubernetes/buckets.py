"""Buckets of an S3-compatible store, and single files in them, as the deploy face makes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ekiben.errors import AccessDenied, NotFound, ProviderError, Unavailable
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import S3
from ekiben.kubernetes.s3 import Refused, Store
from ekiben.kubernetes.storage import keys_of, url_of

__all__ = ["deleted", "found", "held", "made", "removed", "uploaded"]

# A store that has just been started is not reached at once by everybody.
PATIENCE_S, PAUSE_S = 90.0, 1.0
AT_ONCE = 16
THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def made(cluster: Cluster, s3: Mapping[str, Any], bucket: str, stopped: threading.Event) -> str:
    """The URI of the bucket, which is made where it is not there. Raises AccessDenied where it is somebody else's."""
    operation, deadline = f"make the bucket {bucket!r}", time.monotonic() + PATIENCE_S
    while True:
        try:
            if not found(cluster, s3, bucket):
                _asked(cluster, s3, operation, lambda store: store.put(f"s3://{bucket}", b""))
            return f"s3://{bucket}"
        except Unavailable:
            if time.monotonic() > deadline or stopped.wait(PAUSE_S):
                raise


def found(cluster: Cluster, s3: Mapping[str, Any], bucket: str) -> str:
    """The URI of the bucket; empty where there is none."""
    return _there(cluster, s3, f"look for the bucket {bucket!r}", f"s3://{bucket}")


def held(cluster: Cluster, s3: Mapping[str, Any], bucket: str, key: str) -> str:
    """The URI of the object; empty where there is none."""
    return _there(cluster, s3, f"look for {key!r} in the bucket {bucket!r}", f"s3://{bucket}/{key}")


def uploaded(cluster: Cluster, s3: Mapping[str, Any], bucket: str, key: str, source: str) -> str:
    """The URI of the object, into which the file at `source` is written."""
    uri, path = f"s3://{bucket}/{key}", Path(source)
    _asked(cluster, s3, f"write {key!r} into the bucket {bucket!r}", lambda store: store.upload(uri, path))
    return uri


def removed(cluster: Cluster, s3: Mapping[str, Any], bucket: str, key: str) -> None:
    """Delete an object; silent where there is none, and where the store itself is gone."""
    try:
        _asked(
            cluster,
            s3,
            f"delete {key!r} from the bucket {bucket!r}",
            lambda store: store.delete(f"s3://{bucket}/{key}"),
        )
    except NotFound:
        return


def deleted(cluster: Cluster, s3: Mapping[str, Any], bucket: str) -> None:
    """Delete a bucket with all that is in it, and with what is written meanwhile; silent where there is none."""
    uri = f"s3://{bucket}"

    def emptied(store: Store) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while True:
                for _ in pool.map(store.delete, [one for one, _ in store.list(f"{uri}/")]):
                    pass
                try:
                    return store.delete(uri)
                except Refused as error:
                    if error.code != "BucketNotEmpty":
                        raise

    try:
        _asked(cluster, s3, f"delete the bucket {bucket!r}", emptied)
    except NotFound:
        return


def _there(cluster: Cluster, s3: Mapping[str, Any], operation: str, uri: str) -> str:
    try:
        first = _asked(cluster, s3, operation, lambda store: next(store.list(uri), None))
    except NotFound:
        return ""
    # Sorted, so an object comes before those that begin like it.
    return uri if "/" not in uri.removeprefix("s3://") or (first and first[0] == uri) else ""


def _asked(cluster: Cluster, s3: Mapping[str, Any], operation: str, call: Any) -> Any:
    """What a call of the store returns, with its errors as ours. Raises NotFound where the store's Secret or Service is gone."""
    told = S3.from_dict(s3)
    key_id, secret = keys_of(cluster, told)
    store = Store(url_of(cluster, told), key_id, secret, told.region)
    try:
        return call(store)
    except Refused as error:
        raise _error_of(error, operation) from error
    except OSError as error:
        if error.filename is not None:  # a file's; a connection has none
            raise ProviderError(
                "kubernetes", operation, f"the file {error.filename!r} cannot be read ({error.strerror})",
                "Repeat `ekiben up`, which makes it anew",
            ) from error  # fmt: skip
        raise Unavailable(
            "kubernetes", operation, f"the store does not answer: {error or type(error).__name__}",
            "Look at its pod, and whether its address (ekiben:s3OutsideUrl) is reached from here",
        ) from error  # fmt: skip


def _error_of(error: Refused, operation: str) -> ProviderError:
    why = f"the store answers {error.status} {error.code}".rstrip()
    if error.status == 404:
        return NotFound("kubernetes", operation, why, "Repeat `ekiben up`")
    if error.status in (401, 403) or error.code in THERE:
        return AccessDenied("kubernetes", operation, why, "Look at the keys in its Secret, and at whose bucket it is")
    return Unavailable("kubernetes", operation, why, "Repeat it, and look at the store's log")
