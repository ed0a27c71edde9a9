"""SageMaker calls that moto lacks, and what its tables hold of endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from moto.core.utils import utcnow
from moto.events.models import events_backends
from moto.sagemaker.models import sagemaker_backends
from moto.sagemakerruntime.models import sagemakerruntime_backends

from ekiben.emulators.aws.call import Answer, Call, Refused

__all__ = [
    "answers_are_set",
    "asked_of_update",
    "configure",
    "delete_model_package",
    "delete_model_package_group",
    "known",
    "update_endpoint",
    "update_model_package",
]


def update_endpoint(call: Call) -> Answer:
    """The endpoint has the new configuration at once, as one that is created has."""
    endpoint, config = asked_of_update(call)
    configure(endpoint, config, call.json)
    return Answer.of({"EndpointArn": endpoint.arn})


def asked_of_update(call: Call) -> tuple[Any, dict[str, Any]]:
    """The endpoint of an UpdateEndpoint, and the configuration that it is to have. Raises Refused."""
    config: Any = known(call, "EndpointConfigName", "endpoint-config")
    return known(call, "EndpointName", "endpoint"), dict(config.response_object)


def configure(endpoint: Any, config: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> None:
    """Put a configuration into an endpoint's record. asked: what an UpdateEndpoint says of what is retained."""
    asked = asked or {}
    before = {one["VariantName"]: one for one in endpoint.production_variants}
    endpoint.endpoint_config_name = config["EndpointConfigName"]
    endpoint.production_variants = endpoint._process_production_variants(config["ProductionVariants"])
    for variant, told in zip(endpoint.production_variants, config["ProductionVariants"], strict=True):
        # Moto takes a weight of 0 for none.
        variant |= dict.fromkeys(("CurrentWeight", "DesiredWeight"), float(told.get("InitialVariantWeight", 1.0)))
    endpoint.shadow_production_variants = config.get("ShadowProductionVariants")
    endpoint.data_capture_config = config.get("DataCaptureConfig") or None  # AWS leaves out what is empty
    endpoint.last_modified_time = utcnow()
    if asked.get("RetainAllVariantProperties"):
        left = {one["VariantPropertyType"] for one in asked.get("ExcludeRetainedVariantProperties", ())}
        names = {"DesiredWeight": ("CurrentWeight", "DesiredWeight"),
                 "DesiredInstanceCount": ("CurrentInstanceCount", "DesiredInstanceCount")}  # fmt: skip
        for variant in endpoint.production_variants:
            for kind, keys in names.items():
                old = before.get(variant["VariantName"], {})
                if kind not in left:
                    variant |= {key: old[key] for key in keys if key in old}


def update_model_package(moto: Callable[[Call], Answer], call: Call) -> Answer:
    """What moto does, and EventBridge is told of the package's state, as SageMaker tells it."""
    answer = moto(call)
    backend = sagemaker_backends[call.account][call.region]
    package: Any = backend.model_packages.get(str(call.json.get("ModelPackageArn")))
    if answer.status == 200 and package is not None:
        detail = {
            "ModelPackageGroupName": package.model_package_group_name, "ModelPackageVersion": package.model_package_version,
            "ModelPackageArn": package.arn, "ModelPackageStatus": package.model_package_status,
            "ModelApprovalStatus": package.model_approval_status,
            "ApprovalDescription": package.approval_description or "",
        }  # fmt: skip
        event = {
            "Source": "aws.sagemaker",
            "DetailType": "SageMaker Model Package State Change",
            "Detail": json.dumps(detail),
        }
        events_backends[call.account][call.region].put_events([event])
    return answer


def delete_model_package(call: Call) -> Answer:
    backend = sagemaker_backends[call.account][call.region]
    name = str(call.json.get("ModelPackageName"))
    arn = backend.model_package_name_mapping.get(name, name)
    if arn not in backend.model_packages:
        raise Refused("ValidationException", f"ModelPackage {name} does not exist.")
    del backend.model_packages[arn]
    for key in [key for key, value in backend.model_package_name_mapping.items() if value == arn]:
        del backend.model_package_name_mapping[key]
    return Answer.of({})


def delete_model_package_group(call: Call) -> Answer | None:
    """Refused while it has packages, as SageMaker does."""
    backend = sagemaker_backends[call.account][call.region]
    name = str(call.json.get("ModelPackageGroupName"))
    arn = f"arn:aws:sagemaker:{call.region}:{call.account}:model-package-group/{name}"
    groups: Any = backend.model_package_groups
    if name not in groups:
        raise Refused("ValidationException", f"ModelPackageGroup {arn} does not exist.")
    if any(one.model_package_group_name == name for one in backend.model_packages.values()):
        raise Refused(
            "ConflictException", f"Model Package Group cannot be deleted because it still contains packages: {name}"
        )
    del groups[name]
    return Answer.of({})


def answers_are_set(call: Call, name: str) -> bool:
    """Has a test set what the endpoint is to answer, by moto's own `/moto-api/static/sagemaker/endpoint-results`?"""
    runtime = sagemakerruntime_backends[call.account][call.region]
    return bool(runtime.results_queue or name in runtime.results)


def known(call: Call, key: str, kind: str) -> Any:
    """The endpoint or configuration that a call names. Raises Refused."""
    backend = sagemaker_backends[call.account][call.region]
    table: Any = backend.endpoints if kind == "endpoint" else backend.endpoint_configs
    name = str(call.json.get(key))
    if name not in table:
        arn = f"arn:aws:sagemaker:{call.region}:{call.account}:{kind}/{name}"
        raise Refused("ValidationException", f'Could not find {kind.replace("-", " ")} "{arn}".')
    return table[name]
