"""SageMaker calls that moto lacks, and the one that it answers for endpoints that do not exist."""

from __future__ import annotations

from typing import Any

from moto.core.utils import utcnow
from moto.sagemaker.models import sagemaker_backends
from moto.sagemakerruntime.models import sagemakerruntime_backends

from ekiben.emulators.aws.call import Answer, Call, Refused

__all__ = ["delete_model_package", "delete_model_package_group", "invoke_endpoint", "update_endpoint"]


def update_endpoint(call: Call) -> Answer:
    """The endpoint has the new configuration at once, as one that is created has."""
    asked, backend = call.json, sagemaker_backends[call.account][call.region]
    endpoint: Any = _known(backend.endpoints, asked, "EndpointName", call, "endpoint")
    config = _known(backend.endpoint_configs, asked, "EndpointConfigName", call, "endpoint-config")
    told = config.response_object
    before = {one["VariantName"]: one for one in endpoint.production_variants}
    endpoint.endpoint_config_name = asked["EndpointConfigName"]
    endpoint.production_variants = endpoint._process_production_variants(told["ProductionVariants"])
    endpoint.data_capture_config = told.get("DataCaptureConfig")
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
    return Answer.of({"EndpointArn": endpoint.arn})


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


def invoke_endpoint(call: Call) -> Answer | None:
    """Refused for an endpoint that does not exist, and for one that does: its image does not run here.

    Answers that were set for a test (moto's own `/moto-api/static/sagemaker/endpoint-results`) come from moto.
    """
    name = call.path.split("/")[2]
    if name not in sagemaker_backends[call.account][call.region].endpoints:
        raise Refused("ValidationError", f"Endpoint {name} of account {call.account} not found.")
    runtime = sagemakerruntime_backends[call.account][call.region]
    if runtime.results_queue or name in runtime.results:
        return None
    raise Refused("ModelError", f"the emulator does not run the image of the endpoint {name}", 424)


def _known(table: Any, asked: dict[str, Any], key: str, call: Call, kind: str) -> Any:
    name = str(asked.get(key))
    if name not in table:
        arn = f"arn:aws:sagemaker:{call.region}:{call.account}:{kind}/{name}"
        raise Refused("ValidationException", f'Could not find {kind.replace("-", " ")} "{arn}".')
    return table[name]
