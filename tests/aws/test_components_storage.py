"""Storage and registry of AWS under a recording monitor: what the bucket is, and what grants allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws.components import Registry, Storage
from ekiben.aws.components.program import trust
from ekiben.aws.components.registry import groups_prefix, mirror_statements, publish_statements
from ekiben.aws.components.storage import key_statements, lifecycle, read_statements, write_statements
from ekiben.aws.facts import RegistryFacts, StorageFacts, facts_of
from ekiben.errors import SpecError

from .program import ACCOUNT, Recorded, run, statements

BUCKET = "arn:aws:s3:::lake"


@pytest.fixture
def made(tmp_path: Path) -> Recorded:
    def program() -> list[Any]:
        lake = Storage("lake")
        kept = Storage("kept", ek.StorageSpec(retain=True, versioning="off", kms_key="arn:aws:kms:eu-west-1:1:key/k"))
        return [lake, kept, Registry("models", storage=lake)]

    return run(program, tmp_path)


def test_a_bucket_is_private_encrypted_and_versioned(made: Recorded) -> None:
    assert made.one("BucketPublicAccessBlock", "lake").inputs == {
        "bucket": "lake-0123abc", "blockPublicAcls": True, "blockPublicPolicy": True, "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }  # fmt: skip
    assert made.one("BucketOwnershipControls", "lake").inputs["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    (refused,) = statements(made.one("BucketPolicy", "lake"))
    assert (refused["Effect"], refused["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert refused["Resource"] == ["arn:aws:s3:::lake-0123abc", "arn:aws:s3:::lake-0123abc/*"]
    by = made.one("BucketServerSideEncryptionConfiguration", "lake").inputs["rules"][0]
    assert by == {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}
    by = made.one("BucketServerSideEncryptionConfiguration", "kept").inputs["rules"][0]
    assert by["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"] == "arn:aws:kms:eu-west-1:1:key/k"
    assert made.one("BucketVersioning").inputs["versioningConfiguration"] == {"status": "Enabled"}
    assert made.one("BucketNotification", "lake").inputs["eventbridge"] is True


def test_what_is_to_be_retained_stays_with_all_its_settings(made: Recorded) -> None:
    retained = {one.name for one in made.made if one.retained}
    assert retained == {"kept"}
    assert all(one.retained for one in made.made if one.name == "kept" and one.type.startswith("aws:"))
    assert made.one("s3/bucket:Bucket", "lake").inputs["forceDestroy"] is True
    assert made.one("s3/bucket:Bucket", "kept").inputs["forceDestroy"] is False


def test_everything_is_under_its_component_and_tagged(made: Recorded) -> None:
    for one in made.made:
        if one.type.startswith("aws:s3"):
            assert one.parent.endswith(f"ekiben:aws:Storage::{one.name}"), one
        if "tags" in one.inputs:
            tags = one.inputs["tags"]
            assert (tags["ekiben:platform"], tags["ekiben:stack"]) == ("small", "dev"), one
    assert made.one("s3/bucket:Bucket", "lake").inputs["tags"]["ekiben:component"] == "lake"


def test_the_parts_are_what_the_run_face_reads(made: Recorded) -> None:
    assert facts_of(made.parts["lake"], StorageFacts) == StorageFacts(region="eu-west-1", uri="s3://lake-0123abc")
    models = facts_of(made.parts["models"], RegistryFacts)
    assert models.uri == "s3://lake-0123abc/registry/models"
    assert models.bus == "small-dev-0123abc"
    assert models.model_groups == groups_prefix("small", "dev", "lake-0123abc", "models")
    assert len(f"{groups_prefix('p', 's', 'b', 'n' * 24)}-{'m' * 24}") <= 63


def test_a_bucket_s_lifecycle() -> None:
    tidy, marks, first, second = lifecycle({"b/": 2, "a/": 1}, 30)
    assert tidy["noncurrent_version_expiration"] == {"noncurrent_days": 30}
    assert tidy["abort_incomplete_multipart_upload"] == {"days_after_initiation": 7}
    rules = [(one["filter"]["prefix"], one["expiration"]["days"]) for one in (marks, first, second)]
    assert rules == [("deliveries/", 30), ("a/", 1), ("b/", 2)]
    assert "noncurrent_version_expiration" not in lifecycle({}, 0)[0]


def test_who_uses_a_storage_reaches_that_one_and_no_further() -> None:
    listing, objects = write_statements(BUCKET, ["runs/a/"])
    assert listing["Resource"] == [BUCKET]
    assert listing["Condition"] == {"StringLikeIfExists": {"s3:prefix": ["runs/a/*"]}}
    assert objects["Resource"] == [f"{BUCKET}/runs/a/*"]
    _, reading = read_statements(BUCKET, ["x/"])
    assert reading["Action"] == ["s3:GetObject"]
    assert key_statements("", write=True) == []
    assert key_statements("k", write=False)[0]["Action"] == ["kms:Decrypt"]


def test_who_uses_a_registry_may_publish_and_show_and_nothing_else() -> None:
    (put,) = publish_statements("arn:bus")
    assert (put["Action"], put["Condition"]) == (["events:PutEvents"], {"StringEquals": {"events:source": "ekiben"}})
    assert mirror_statements("", "arn:aws:sagemaker:r:1") == []
    for statement in mirror_statements("models-1", "arn:aws:sagemaker:r:1"):
        assert all("/models-1-" in resource for resource in statement["Resource"])


def test_a_role_is_for_one_service_and_one_account() -> None:
    (only,) = json.loads(trust("lambda.amazonaws.com", ACCOUNT))["Statement"]
    assert only["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert only["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


@pytest.mark.parametrize("key", ["alias/mine", "arn:aws:kms:eu-west-1:123456789012:alias/mine", "1234abcd"])
def test_a_key_is_named_as_policies_name_it(tmp_path: Path, key: str) -> None:
    def program() -> list[Any]:
        with pytest.raises(SpecError, match=r"is no ARN of a key.*key/ID"):
            Storage("lake", ek.StorageSpec(kms_key=key))
        return []

    run(program, tmp_path)


def test_what_does_not_act_is_granted_nothing(tmp_path: Path) -> None:
    def program() -> list[Any]:
        one, other = Storage("one"), Storage("other")
        with pytest.raises(SpecError, match="cannot be granted to the storage 'other': it has no role"):
            one.grant(other)
        return [one]

    run(program, tmp_path)
