"""SageMaker's long-lived things, and repositories of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, camel, found, pascal, retag, tag_list, untagged

__all__ = ["KINDS"]

NAMES = {"volumeSizeInGb": "VolumeSizeInGB", "maxConcurrency": "MaxConcurrency", "memorySizeInMb": "MemorySizeInMB"}
KEEP = ("environment",)
LOOK_S = 0.2


def _sagemaker(
    token: str,
    label: str,
    call: str,
    *takes: str,
    update: Callable[[Aws, str, Props, Props], None] | None = None,
    made: Callable[[Aws, str], None] = lambda aws, id: None,
    **more: Any,
) -> Kind:
    """A thing of SageMaker whose id is its name. label: what the API calls its name and ARN by; call: its three calls.

    made: waits until it is there.
    """
    name_in = more.pop("name_in", "name")

    def make(aws: Aws, props: Props) -> str:
        asked = pascal({key: props[key] for key in takes if key in props}, NAMES, KEEP)
        tags = tag_list(aws.tags(props))
        getattr(aws.client("sagemaker"), f"create_{call}")(
            **{f"{label}Name": props[name_in]}, **asked, **({"Tags": tags} if tags else {})
        )
        made(aws, props[name_in])
        return str(props[name_in])

    def read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
        client = aws.client("sagemaker")
        told = found(getattr(client, f"describe_{call}"), **{f"{label}Name": id})
        if told is None:
            return None
        arn = told[f"{label}Arn"]
        keys = pascal(dict.fromkeys(takes))
        there = camel({key: told[key] for key in keys if told.get(key) not in (None, [], {})}, NAMES, KEEP)
        return {name_in: id, **there, "arn": arn, "tags": untagged(client.list_tags(ResourceArn=arn)["Tags"])}

    def change(aws: Aws, id: str, old: Props, new: Props) -> None:
        if update is not None:
            update(aws, id, old, new)
        client = aws.client("sagemaker")
        retag(
            old.get("tagsAll", {}), aws.tags(new),
            lambda tags: client.add_tags(ResourceArn=old["arn"], Tags=tag_list(tags)),
            lambda keys: client.delete_tags(ResourceArn=old["arn"], TagKeys=keys),
        )  # fmt: skip

    return Kind(
        type=token, takes=frozenset({name_in, "tags", *takes}), create=make, read=read, update=change,
        fixed=frozenset({name_in, *takes} - more.pop("changes", set())), named="name" if name_in == "name" else "",
        tagged=True, outputs=("arn",), adopt=lambda id: {name_in: id},
        delete=lambda aws, id, props: getattr(aws.client("sagemaker"), f"delete_{call}")(**{f"{label}Name": id}), **more,
    )  # fmt: skip


def _move(aws: Aws, id: str, old: Props, new: Props) -> None:
    if old.get("endpointConfigName") != new["endpointConfigName"]:
        aws.client("sagemaker").update_endpoint(EndpointName=id, EndpointConfigName=new["endpointConfigName"])
        _in_service(aws, id)


def _in_service(aws: Aws, id: str) -> None:
    """Wait until nothing changes the endpoint. Raises ValueError where it is not as it was asked to be."""
    while (told := aws.client("sagemaker").describe_endpoint(EndpointName=id))["EndpointStatus"] in (
        "Creating",
        "Updating",
    ):
        time.sleep(LOOK_S)
    if told["EndpointStatus"] != "InService" or told.get("FailureReason"):
        raise ValueError(f"the endpoint {id} is {told['EndpointStatus']}: {told.get('FailureReason')}")


def _make_repository(aws: Aws, props: Props) -> str:
    asked: dict[str, Any] = {"imageTagMutability": props.get("imageTagMutability", "MUTABLE")}
    if "imageScanningConfiguration" in props:
        asked["imageScanningConfiguration"] = props["imageScanningConfiguration"]
    if kept := props.get("encryptionConfigurations"):
        asked["encryptionConfiguration"] = kept[0]
    aws.client("ecr").create_repository(repositoryName=props["name"], tags=tag_list(aws.tags(props)), **asked)
    return str(props["name"])


def _read_repository(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    ecr = aws.client("ecr")
    told = found(ecr.describe_repositories, repositoryNames=[id])
    if told is None:
        return None
    one = told["repositories"][0]
    return {
        "name": id, "arn": one["repositoryArn"], "registryId": one["registryId"], "repositoryUrl": one["repositoryUri"],
        "imageTagMutability": one["imageTagMutability"], "imageScanningConfiguration": one["imageScanningConfiguration"],
        "encryptionConfigurations": [one["encryptionConfiguration"]],
        "tags": untagged(ecr.list_tags_for_resource(resourceArn=one["repositoryArn"])["tags"]),
    }  # fmt: skip


def _update_repository(aws: Aws, id: str, old: Props, new: Props) -> None:
    ecr = aws.client("ecr")
    ecr.put_image_tag_mutability(repositoryName=id, imageTagMutability=new.get("imageTagMutability", "MUTABLE"))
    scan = new.get("imageScanningConfiguration", {"scanOnPush": False})
    ecr.put_image_scanning_configuration(repositoryName=id, imageScanningConfiguration=scan)
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: ecr.tag_resource(resourceArn=old["arn"], tags=tag_list(tags)),
        lambda keys: ecr.untag_resource(resourceArn=old["arn"], tagKeys=keys),
    )  # fmt: skip


def _put_lifecycle(aws: Aws, props: Props) -> str:
    aws.client("ecr").put_lifecycle_policy(repositoryName=props["repository"], lifecyclePolicyText=props["policy"])
    return str(props["repository"])


def _read_lifecycle(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("ecr").get_lifecycle_policy, repositoryName=id)
    return told and {"repository": id, "registryId": told["registryId"], "policy": told["lifecyclePolicyText"]}


def _update_lifecycle(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_lifecycle(aws, new)


KINDS = [
    _sagemaker(
        "aws:sagemaker/modelPackageGroup:ModelPackageGroup", "ModelPackageGroup", "model_package_group",
        "modelPackageGroupDescription", name_in="modelPackageGroupName",
    ),
    _sagemaker(
        "aws:sagemaker/model:Model", "Model", "model",
        "executionRoleArn", "primaryContainer", "containers", "vpcConfig", "enableNetworkIsolation",
    ),
    _sagemaker(
        "aws:sagemaker/endpointConfiguration:EndpointConfiguration", "EndpointConfig", "endpoint_config",
        "productionVariants", "dataCaptureConfig",
    ),
    _sagemaker(
        "aws:sagemaker/endpoint:Endpoint", "Endpoint", "endpoint", "endpointConfigName",
        changes={"endpointConfigName"}, update=_move, made=_in_service,
    ),
    Kind(
        type="aws:ecr/repository:Repository",
        computed=frozenset({"encryptionConfigurations", "imageScanningConfiguration"}),
        takes=frozenset({
            "name", "forceDelete", "imageTagMutability", "imageScanningConfiguration", "encryptionConfigurations", "tags",
        }),
        fixed=frozenset({"name", "encryptionConfigurations"}), named="name", name_chars=256, tagged=True,
        defaults={"imageTagMutability": "MUTABLE"}, outputs=("arn", "registryId", "repositoryUrl"),
        create=_make_repository, read=_read_repository, update=_update_repository, adopt=lambda id: {"name": id},
        delete=lambda aws, id, props: aws.client("ecr").delete_repository(
            repositoryName=id, force=bool(props.get("forceDelete"))
        ),
    ),
    Kind(
        type="aws:ecr/lifecyclePolicy:LifecyclePolicy",
        takes=frozenset({"repository", "policy"}), fixed=frozenset({"repository"}), outputs=("registryId",),
        create=_put_lifecycle, read=_read_lifecycle, update=_update_lifecycle, adopt=lambda id: {"repository": id},
        delete=lambda aws, id, props: aws.client("ecr").delete_lifecycle_policy(repositoryName=id),
    ),
]  # fmt: skip
