"""Provisioned concurrency of Lambda, which moto lacks: kept with moto's function, and refused where Lambda refuses it.

Instances are not started ahead: a first call is cold as it is without.
"""

from __future__ import annotations

import re
from typing import Any

from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.core.utils import utcnow

from ekiben.emulators.aws.call import Answer, Call, Refused

__all__ = ["PATH", "answer"]

PATH = re.compile(r"/2019-09-30/functions/([^/]+)/provisioned-concurrency/?")


def answer(call: Call) -> Answer:
    """Put, get, list or delete, as the method and the query say."""
    backend = lambda_backends[call.account][call.region]
    found = PATH.fullmatch(call.path)
    name, qualifier = found[1] if found else "", call.query.get("Qualifier", "")
    if call.query.get("List") == "ALL":
        every = backend.list_versions_by_function(name)
        return Answer.of(
            {"ProvisionedConcurrencyConfigs": [_told(one) for one in every if hasattr(one, "provisioned")]}
        )
    function = _function(backend, name, qualifier)
    if call.method == "PUT":
        others = [one for one in backend.list_versions_by_function(name) if one is not function]
        taken = sum(getattr(one, "provisioned", 0) for one in others)
        function.provisioned = _checked(function, call.json["ProvisionedConcurrentExecutions"], taken)
        function.provisioned_at = utcnow().strftime("%Y-%m-%dT%H:%M:%S+0000")
        return Answer.of(_told(function), 202)
    if call.method == "DELETE":
        if hasattr(function, "provisioned"):
            del function.provisioned
        return Answer(status=204)
    if not hasattr(function, "provisioned"):
        raise Refused(
            "ProvisionedConcurrencyConfigNotFoundException",
            "No Provisioned Concurrency Config found for this function",
            404,
        )
    return Answer.of(_told(function))


def _function(backend: Any, name: str, qualifier: str) -> Any:
    """The version that the qualifier is of. Refused for $LATEST, and for an alias that has weights."""
    if qualifier in ("", "$LATEST"):
        raise Refused(
            "InvalidParameterValueException",
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
        )
    try:
        alias = backend.get_alias(qualifier, name)
    except Exception:  # moto has an error of its own for each way not to find it
        alias = None
    if alias is not None and (alias.routing_config or {}).get("AdditionalVersionWeights"):
        raise Refused(
            "InvalidParameterValueException", "Alias with weights can not be used with Provisioned Concurrency"
        )
    try:
        return backend.get_function(name, alias.function_version if alias is not None else qualifier)
    except Exception as error:
        raise Refused("ResourceNotFoundException", f"Function not found: {name}:{qualifier}", 404) from error


def _checked(function: LambdaFunction, asked: int, taken: int) -> int:
    """`taken`: what other versions of the function have. Refused where all of it is more than is reserved."""
    reserved = function.reserved_concurrency
    if reserved is not None and asked + taken > int(reserved):
        raise Refused(
            "InvalidParameterValueException",
            "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function",
        )
    return asked


def _told(function: Any) -> dict[str, Any]:
    count = function.provisioned
    return {
        "FunctionArn": function.function_arn,
        "RequestedProvisionedConcurrentExecutions": count,
        "AllocatedProvisionedConcurrentExecutions": count,
        "AvailableProvisionedConcurrentExecutions": count,
        "Status": "READY",
        "LastModified": function.provisioned_at,
    }
