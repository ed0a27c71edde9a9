"""Roles and policies."""

from __future__ import annotations

import json
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, found, retag, tag_list, untagged, whole

__all__ = ["KINDS"]


def _text(policy: Any) -> str:
    """A policy document, which a program may give as JSON or as an object."""
    return policy if isinstance(policy, str) else json.dumps(policy)


def _make_role(aws: Aws, props: Props) -> str:
    asked = whole(props, "path", "description", "maxSessionDuration", "permissionsBoundary")
    aws.client("iam").create_role(
        RoleName=props["name"], AssumeRolePolicyDocument=_text(props["assumeRolePolicy"]), Tags=tag_list(aws.tags(props)), **asked
    )  # fmt: skip
    return str(props["name"])


def _read_role(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("iam").get_role, RoleName=id)
    if told is None:
        return None
    role = told["Role"]
    return {
        "name": id, "arn": role["Arn"], "uniqueId": role["RoleId"], "createDate": role["CreateDate"].isoformat(),
        "path": role["Path"], "assumeRolePolicy": json.dumps(role["AssumeRolePolicyDocument"]),
        "maxSessionDuration": role["MaxSessionDuration"], "description": role.get("Description", ""),
        "permissionsBoundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""),
        "tags": untagged(role.get("Tags", ())),
    }  # fmt: skip


def _update_role(aws: Aws, id: str, old: Props, new: Props) -> None:
    iam = aws.client("iam")
    iam.update_assume_role_policy(RoleName=id, PolicyDocument=_text(new["assumeRolePolicy"]))
    iam.update_role(
        RoleName=id, Description=new.get("description", ""), MaxSessionDuration=new.get("maxSessionDuration", 3600)
    )
    if boundary := new.get("permissionsBoundary"):
        iam.put_role_permissions_boundary(RoleName=id, PermissionsBoundary=boundary)
    elif old.get("permissionsBoundary"):
        iam.delete_role_permissions_boundary(RoleName=id)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: iam.tag_role(RoleName=id, Tags=tag_list(tags)),
        lambda keys: iam.untag_role(RoleName=id, TagKeys=keys),
    )  # fmt: skip


def _delete_role(aws: Aws, id: str, props: Props) -> None:
    iam = aws.client("iam")
    if props.get("forceDetachPolicies"):
        for policy in iam.list_attached_role_policies(RoleName=id)["AttachedPolicies"]:
            iam.detach_role_policy(RoleName=id, PolicyArn=policy["PolicyArn"])
        for name in iam.list_role_policies(RoleName=id)["PolicyNames"]:
            iam.delete_role_policy(RoleName=id, PolicyName=name)
    iam.delete_role(RoleName=id)


def _put_inline(aws: Aws, props: Props) -> str:
    role, name = props["role"], props["name"]
    aws.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=_text(props["policy"]))
    return f"{role}:{name}"


def _read_inline(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    role, _, name = id.partition(":")
    told = found(aws.client("iam").get_role_policy, RoleName=role, PolicyName=name)
    return told and {"role": role, "name": name, "policy": json.dumps(told["PolicyDocument"])}


def _update_inline(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_inline(aws, new)


def _delete_inline(aws: Aws, id: str, props: Props) -> None:
    role, _, name = id.partition(":")
    aws.client("iam").delete_role_policy(RoleName=role, PolicyName=name)


def _attach(aws: Aws, props: Props) -> str:
    aws.client("iam").attach_role_policy(RoleName=props["role"], PolicyArn=props["policyArn"])
    return f"{props['role']}/{props['policyArn']}"


def _read_attachment(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    role, _, arn = id.partition("/")
    told = found(aws.client("iam").list_attached_role_policies, RoleName=role)
    there = told is not None and arn in [one["PolicyArn"] for one in told["AttachedPolicies"]]
    return {"role": role, "policyArn": arn} if there else None


def _detach(aws: Aws, id: str, props: Props) -> None:
    role, _, arn = id.partition("/")
    aws.client("iam").detach_role_policy(RoleName=role, PolicyArn=arn)


def _make_policy(aws: Aws, props: Props) -> str:
    made = aws.client("iam").create_policy(
        PolicyName=props["name"], PolicyDocument=_text(props["policy"]), Tags=tag_list(aws.tags(props)),
        **whole(props, "path", "description"),
    )  # fmt: skip
    return str(made["Policy"]["Arn"])


def _read_policy(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    iam = aws.client("iam")
    told = found(iam.get_policy, PolicyArn=id)
    if told is None:
        return None
    policy = told["Policy"]
    version = iam.get_policy_version(PolicyArn=id, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
    return {
        "name": policy["PolicyName"], "arn": id, "path": policy["Path"], "policyId": policy["PolicyId"],
        "policy": json.dumps(version["Document"]), "description": policy.get("Description", ""),
        "attachmentCount": policy["AttachmentCount"], "tags": untagged(policy.get("Tags", ())),
    }  # fmt: skip


def _update_policy(aws: Aws, id: str, old: Props, new: Props) -> None:
    iam = aws.client("iam")
    versions = iam.list_policy_versions(PolicyArn=id)["Versions"]
    spare = [one["VersionId"] for one in versions if not one["IsDefaultVersion"]]
    if len(versions) >= 5:  # as many as IAM keeps
        iam.delete_policy_version(PolicyArn=id, VersionId=min(spare, key=lambda version: int(version[1:])))
    iam.create_policy_version(PolicyArn=id, PolicyDocument=_text(new["policy"]), SetAsDefault=True)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: iam.tag_policy(PolicyArn=id, Tags=tag_list(tags)),
        lambda keys: iam.untag_policy(PolicyArn=id, TagKeys=keys),
    )  # fmt: skip


def _delete_policy(aws: Aws, id: str, props: Props) -> None:
    iam = aws.client("iam")
    for version in iam.list_policy_versions(PolicyArn=id)["Versions"]:
        if not version["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=id, VersionId=version["VersionId"])
    iam.delete_policy(PolicyArn=id)


KINDS = [
    Kind(
        type="aws:iam/role:Role",
        takes=frozenset({
            "name", "path", "assumeRolePolicy", "description", "maxSessionDuration", "permissionsBoundary",
            "forceDetachPolicies", "tags",
        }),
        fixed=frozenset({"name", "path"}),
        named="name", name_chars=64, tagged=True,
        defaults={"path": "/", "maxSessionDuration": 3600, "forceDetachPolicies": False},
        outputs=("arn", "uniqueId", "createDate"),
        create=_make_role, read=_read_role, update=_update_role, delete=_delete_role, adopt=lambda id: {"name": id},
    ),
    Kind(
        type="aws:iam/rolePolicy:RolePolicy",
        takes=frozenset({"name", "role", "policy"}), fixed=frozenset({"name", "role"}), named="name", name_chars=128,
        create=_put_inline, read=_read_inline, update=_update_inline, delete=_delete_inline,
        adopt=lambda id: {"role": id.partition(":")[0], "name": id.partition(":")[2]},
    ),
    Kind(
        type="aws:iam/rolePolicyAttachment:RolePolicyAttachment",
        takes=frozenset({"role", "policyArn"}),
        create=_attach, read=_read_attachment, delete=_detach,
        adopt=lambda id: {"role": id.partition("/")[0], "policyArn": id.partition("/")[2]},
    ),
    Kind(
        type="aws:iam/policy:Policy",
        takes=frozenset({"name", "path", "policy", "description", "tags"}),
        fixed=frozenset({"name", "path", "description"}),
        named="name", name_chars=128, tagged=True, defaults={"path": "/"},
        outputs=("arn", "policyId", "attachmentCount"),
        create=_make_policy, read=_read_policy, update=_update_policy, delete=_delete_policy,
    ),
]  # fmt: skip
