"""Keys of KMS."""

from __future__ import annotations

from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, found, retag, whole

__all__ = ["KINDS"]


def _make(aws: Aws, props: Props) -> str:
    kms, tags = aws.client("kms"), aws.tags(props)
    told = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
    made = kms.create_key(**whole(props, "description", "policy"), **({"Tags": told} if told else {}))
    id = str(made["KeyMetadata"]["KeyId"])
    _rotate(aws, id, props)
    return id


def _rotate(aws: Aws, id: str, props: Props) -> None:
    kms = aws.client("kms")
    (kms.enable_key_rotation if props["enableKeyRotation"] else kms.disable_key_rotation)(KeyId=id)


def _read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    """A key that waits for its deletion is gone, as for AWS's own provider."""
    kms = aws.client("kms")
    told = found(kms.describe_key, KeyId=id)
    if told is None or told["KeyMetadata"]["KeyState"] == "PendingDeletion":
        return None
    key = told["KeyMetadata"]
    return {
        "arn": key["Arn"], "keyId": id, "description": key["Description"],
        "policy": kms.get_key_policy(KeyId=id, PolicyName="default")["Policy"],
        "enableKeyRotation": kms.get_key_rotation_status(KeyId=id)["KeyRotationEnabled"],
        # Which KMS hears of only when it is deleted.
        **{name: props[name] for name in ("deletionWindowInDays",) if name in props},
        "tags": {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=id)["Tags"]},
    }  # fmt: skip


def _update(aws: Aws, id: str, old: Props, new: Props) -> None:
    kms = aws.client("kms")
    if old.get("description") != new.get("description"):
        kms.update_key_description(KeyId=id, Description=new.get("description", ""))
    if "policy" in new:
        kms.put_key_policy(KeyId=id, PolicyName="default", Policy=new["policy"])
    _rotate(aws, id, new)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: kms.tag_resource(
            KeyId=id, Tags=[{"TagKey": key, "TagValue": value} for key, value in tags.items()]
        ),
        lambda names: kms.untag_resource(KeyId=id, TagKeys=names),
    )  # fmt: skip


def _delete(aws: Aws, id: str, props: Props) -> None:
    if _read(aws, id, props) is not None:
        aws.client("kms").schedule_key_deletion(KeyId=id, PendingWindowInDays=props.get("deletionWindowInDays", 30))


KINDS = [
    Kind(
        type="aws:kms/key:Key",
        takes=frozenset({"description", "policy", "enableKeyRotation", "deletionWindowInDays", "tags"}),
        computed=frozenset({"policy", "description"}), defaults={"enableKeyRotation": False}, tagged=True,
        outputs=("arn", "keyId"),
        create=_make, read=_read, update=_update, delete=_delete, adopt=lambda id: {},
    ),
]  # fmt: skip
