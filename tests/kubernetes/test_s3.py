"""The store's client of pods: signatures as AWS's own client makes them, and objects whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ekiben.kubernetes import s3
from ekiben.kubernetes.s3 import Refused, Store
from tests.fakes.http import Handler, serving

from .store import client


@pytest.mark.parametrize("key", ["plain.txt", "a b/駅弁+=&~.json", "x%2Fy"])
def test_requests_are_signed_as_awss_own_client_signs_them(key: str) -> None:
    store = Store("http://store:7070", "AKID", "secret", "eu-west-1")
    digest, query = "0" * 64, "list-type=2&prefix=a%2Fb"
    path = "/lake/" + s3.urllib.parse.quote(key, safe="/-_.~")
    mine = store._signed("PUT", path, query, digest, {"if-none-match": "*"})
    theirs = AWSRequest(
        "PUT", f"http://store:7070{path}?{query}", headers={"x-amz-content-sha256": digest, "if-none-match": "*"}
    )
    theirs.context["timestamp"] = mine["x-amz-date"]
    theirs.headers["x-amz-date"] = mine["x-amz-date"]
    theirs.headers["host"] = "store:7070"
    signer = S3SigV4Auth(Credentials("AKID", "secret"), "s3", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(theirs, signer.canonical_request(theirs)), theirs)
    assert mine["authorization"].endswith(f"Signature={signature}")


def test_what_was_put_is_what_is_got_and_listed(store_url: str, bucket: str, tmp_path: Path) -> None:
    store, uri = client(store_url), f"{bucket}/a b/駅弁.bin"
    assert store.put(uri, b"\x00\xff")
    assert store.get(uri) == b"\x00\xff"
    assert list(store.list(f"{bucket}/a")) == [(uri, 2)]
    assert not store.put(uri, b"other", absent=True)
    store.download(uri, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == b"\x00\xff"
    store.delete(uri)
    store.delete(uri)
    with pytest.raises(Refused, match="404"):
        store.get(uri)


def test_lists_go_over_all_pages(store_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    store, keys = client(store_url), [f"{bucket}/k{number}" for number in range(5)]
    for key in keys:
        store.put(key, b"1")
    assert [uri for uri, _ in store.list(bucket + "/")] == keys


def test_a_large_file_goes_in_parts(
    store_url: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    path, data = tmp_path / "large", bytes(range(256)) * (6 << 12)
    path.write_bytes(data)
    client(store_url).upload(f"{bucket}/large", path)
    assert client(store_url).get(f"{bucket}/large") == data


def test_a_download_that_fails_leaves_what_was_there(store_url: str, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Refused):
        client(store_url).download(f"{bucket}/nothing", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_refusal_names_no_key_of_the_store(store_url: str, bucket: str) -> None:
    with pytest.raises(Refused) as refused:
        client(store_url).get(f"{bucket}/nothing")
    assert "testing" not in str(refused.value)
    assert (refused.value.status, refused.value.code) == (404, "NoSuchKey")


@pytest.mark.parametrize(
    ("body", "missing", "why"),
    [(b"<html><br></html>", 0, "no XML"), (b"<ListBucketResult>", 0, "no XML"), (b"<ListBucket", 8, "breaks off")],
    ids=["a proxy's page", "half of it", "cut off"],
)
def test_an_answer_that_is_not_the_stores_is_as_none(
    body: bytes, missing: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods wait for a store that is away for a while: OSError is how they know it."""
    monkeypatch.setattr(s3, "ATTEMPTS", 2)

    class Broken(Handler):
        def answer(self, path: str, query: dict[str, str], given: bytes) -> None:
            self.close_connection = True
            self.reply(200, body, {"Content-Length": str(len(body) + missing)})

    with serving(Broken) as server, pytest.raises(OSError, match=why):
        list(client(server.url).list("s3://lake/"))
