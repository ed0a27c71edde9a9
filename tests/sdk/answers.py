"""Run by an interpreter with the SageMaker SDK, and nothing of ours: opens what a question on stdin names, and says what it saw."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from sagemaker.core.resources import Endpoint, ModelPackage, ModelPackageGroup, TrainingJob

STOCK = Path(__file__).parents[2] / "docs" / "stock.py"


def opened(question: dict[str, Any]) -> dict[str, Any]:
    job = TrainingJob.get(question["job"])
    package = ModelPackage.get(question["package"])
    group = ModelPackageGroup.get(package.model_package_group_name)
    endpoint = Endpoint.get(question["endpoint"])
    answer = endpoint.invoke(body=json.dumps({}), content_type="application/json")
    found = {
        "job": [job.training_job_status, job.training_job_arn, job.model_artifacts.s3_model_artifacts,
                {channel.channel_name for channel in job.input_data_config} >= {"points"}, job.hyper_parameters],
        "package": [package.model_package_version, package.model_approval_status, package.customer_metadata_properties],
        "group": group.model_package_group_arn,
        "endpoint": [endpoint.endpoint_status, [one.variant_name for one in endpoint.production_variants]],
        "invoked": [answer.invoked_production_variant, json.loads(answer.body.read())["words"]],
    }  # fmt: skip
    # What was decided in the SDK is Ekiben's to take over.
    package.update(model_approval_status="Approved", approval_description="by the SDK")
    return found


def stock() -> dict[str, Any]:
    """What docs/stock.py makes of the SDK's data."""
    spec = importlib.util.spec_from_file_location("stock", STOCK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: module.image(instance) for name, instance in module.IMAGES.items()}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print("ANSWER", json.dumps({"opened": opened(asked), "images": stock()}, default=str))
