"""What Ekiben's own plugin makes for a cluster: buckets and what lies in them, in a store that is asked as any is."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from ekiben.engine import kinds
from ekiben.errors import AccessDenied, ProviderError, Unavailable
from ekiben.kubernetes import buckets, declared
from ekiben.kubernetes.declared import KINDS
from ekiben.kubernetes.facts import S3

from . import store

BUCKET, OBJECT = KINDS["Bucket"], KINDS["Object"]


@pytest.fixture
def where(store_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A bucket that is not there yet, and what every resource is told of the store; the keys are this process's own."""
    monkeypatch.setenv("EKIBEN_S3_SECRET", "keys")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    s3 = S3(url=store_url, secret="keys")
    return {"context": "", "namespace": "small-dev", "s3": s3.to_dict(), "bucket": f"lake-{uuid.uuid4().hex[:12]}"}


@pytest.fixture
def archive(tmp_path: Path, where: dict[str, Any]) -> dict[str, Any]:
    path = tmp_path / "code.tar"
    path.write_bytes(b"code")
    return {**where, "key": "code/a.tar", "source_path": str(path), "sha256": "a" * 64}


def test_a_bucket_s_whole_life(where: dict[str, Any], store_url: str) -> None:
    given = {**where, "keep": False}
    assert declared.read(BUCKET, given) is None
    state = declared.put(BUCKET, "", given)
    assert state["uri"] == f"s3://{where['bucket']}"
    assert declared.put(BUCKET, "", given) == state, "making it again is silent"
    assert declared.lost(BUCKET, state) == ""
    there = store.client(store_url)
    for number in range(20):
        there.put(f"{state['uri']}/runs/é {number}", b"x")
    declared.delete(BUCKET, "", state)
    assert declared.lost(BUCKET, state) == "uri"
    declared.delete(BUCKET, "", state)


def test_a_bucket_that_is_kept_stays_with_what_is_in_it(where: dict[str, Any], store_url: str) -> None:
    state = declared.put(BUCKET, "", {**where, "keep": True})
    store.client(store_url).put(f"{state['uri']}/model", b"x")
    declared.delete(BUCKET, "", state)
    assert store.client(store_url).get(f"{state['uri']}/model") == b"x"


def test_an_object_s_whole_life(archive: dict[str, Any], store_url: str) -> None:
    declared.put(BUCKET, "", {**archive, "keep": False})
    state = declared.put(OBJECT, "", archive)
    assert store.client(store_url).get(state["uri"]) == b"code"
    assert declared.read(OBJECT, state) == (archive, state)
    # One whose name begins like it is not it.
    store.client(store_url).put(f"{state['uri']}.old", b"y")
    declared.delete(OBJECT, "", state)
    assert declared.lost(OBJECT, state) == "uri"
    declared.delete(OBJECT, "", state)


def test_an_object_in_a_bucket_that_is_gone_is_lost_and_can_be_deleted(archive: dict[str, Any]) -> None:
    state = declared.begun(OBJECT, archive)
    assert state["uri"] == ""
    assert declared.lost(OBJECT, state) == "uri"
    declared.delete(OBJECT, "", state)


def test_a_store_that_does_not_answer_is_named(where: dict[str, Any]) -> None:
    away = {**where, "s3": S3(url="http://127.0.0.1:1", secret="keys").to_dict()}
    with pytest.raises(Unavailable, match="the store does not answer"):
        buckets.found(declared._cluster(away), away["s3"], away["bucket"])


def test_a_file_that_is_gone_before_it_is_uploaded_is_no_trouble_of_the_store(archive: dict[str, Any]) -> None:
    declared.put(BUCKET, "", {**archive, "keep": False})
    path = Path(archive["source_path"])
    path.unlink()
    with pytest.raises(
        ProviderError, match=r"write 'code/a\.tar'.*the file '.*code\.tar' cannot be read \(No such file"
    ) as error:
        declared.put(OBJECT, "", archive)
    assert not isinstance(error.value, Unavailable)
    path.write_bytes(b"code")
    assert declared.put(OBJECT, "", archive)["uri"].endswith("/code/a.tar")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(403, "SignatureDoesNotMatch", AccessDenied), (409, "BucketAlreadyExists", AccessDenied)],
)
def test_a_store_that_refuses_is_ours_to_tell(status: int, code: str, kind: type[Exception]) -> None:
    from ekiben.kubernetes.s3 import Refused

    error = buckets._error_of(Refused("PUT s3://lake", status, code), "make the bucket 'lake'")
    assert isinstance(error, kind)
    assert code in str(error)


def test_how_a_store_is_reached_makes_no_difference_to_what_is_in_it(archive: dict[str, Any]) -> None:
    moved = {
        **archive,
        "s3": {**archive["s3"], "outside_url": "https://s3.example"},
        "source_path": "/elsewhere",
        "context": "b",
    }
    assert kinds.changes(OBJECT, archive, moved) == []
    assert kinds.changes(OBJECT, archive, {**archive, "sha256": "b" * 64}) == ["sha256"]


def test_every_kind_has_a_name_of_its_own() -> None:
    text = {"namespace": "n", "secret": "s", "bucket": "b", "key": "k", "repository": "r", "tag": "t", "models": "m"}
    labels = {"ekiben.dev/component": "api"}
    found = {name: declared.identity(kind, {**text, "labels": labels}) for name, kind in KINDS.items()}
    assert found == {
        "Keys": "keys/n/s", "Bucket": "bucket/n/b", "Object": "object/n/b/k", "Wheels": "wheels/n/b/k", "Image": "image/r/t",
        "Made": "made/n/api", "Models": "models/n/m", "Owner": "owner/n",
    }  # fmt: skip
