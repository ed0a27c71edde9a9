"""Versions of functions as Lambda keeps them, where moto does not.

Each has its own image, and a number is never given again; who changes or publishes a function that somebody else has changed
since (its RevisionId says so) is refused.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import ImageConfig, LambdaFunction, LambdaStorage, lambda_backends
from moto.core.exceptions import JsonRESTError

from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.images import Images, NoImage

__all__ = ["Changes", "keep", "resolved"]


def keep(images: Images) -> None:
    """Have moto do so. A function takes the image that a tag stands for at that moment."""
    take, tell, configure = (
        LambdaFunction._set_function_code,
        LambdaFunction.get_code,
        LambdaFunction.update_configuration,
    )
    publish, show = LambdaStorage.publish_version, LambdaFunction.get_configuration

    def set_code(self: LambdaFunction, spec: dict[str, Any]) -> None:
        self.revision_id = str(uuid.uuid4())  # type: ignore[attr-defined]
        if "ImageUri" not in spec:
            take(self, spec)
        elif not spec.get("DryRun"):
            try:
                digest = images.digest(str(spec["ImageUri"]))
            except NoImage as error:
                raise InvalidParameterValueException(str(error)) from error
            # A dict of its own: versions share the other one.
            self.code = {**self.code, "ImageUri": spec["ImageUri"]}
            self.code_sha_256, self.code_size = digest.removeprefix("sha256:"), 0

    def get_code(self: LambdaFunction) -> dict[str, Any]:
        told = tell(self)
        if "ImageUri" in self.code:
            told["Code"]["ResolvedImageUri"] = resolved(self)
        return told

    def update(self: LambdaFunction, updates: dict[str, Any]) -> dict[str, Any]:
        if "ImageConfig" in updates:
            self.image_config = ImageConfig(updates["ImageConfig"])
        self.revision_id = str(uuid.uuid4())  # type: ignore[attr-defined]
        return configure(self, updates)

    def get_configuration(self: LambdaFunction, on_create: bool = False) -> dict[str, Any]:
        return {**show(self, on_create), "RevisionId": getattr(self, "revision_id", "")}

    def publish_version(self: LambdaStorage, name_or_arn: str, description: str = "") -> LambdaFunction | None:
        latest: Any = self.get_function_by_name_or_arn_forbid_qualifier(name_or_arn)
        there = list(self._functions[latest.function_name]["versions"])
        made = publish(self, name_or_arn, description)
        if made is None or any(made is one for one in there):
            return made
        latest.published = getattr(latest, "published", 0) + 1
        if made.version != latest.published:
            taken = made.function_arn
            made.set_version(latest.published)
            self._arns.pop(taken, None)
            self._arns |= {one.function_arn: one for one in (*there, made)}
        return made

    LambdaFunction._set_function_code = set_code  # type: ignore[assignment, method-assign]
    LambdaFunction.get_code = get_code  # type: ignore[method-assign]
    LambdaFunction.update_configuration = update  # type: ignore[assignment, method-assign]
    LambdaFunction.get_configuration = get_configuration  # type: ignore[method-assign]
    LambdaStorage.publish_version = publish_version  # type: ignore[method-assign]


class Changes:
    """Changes of functions, one after another."""

    def __init__(self, moto: Callable[[Call], Answer]) -> None:
        self._moto, self._lock = moto, threading.Lock()

    def answer(self, call: Call) -> Answer:
        """UpdateFunctionConfiguration, UpdateFunctionCode, PublishVersion. Raises Refused for one that comes too late."""
        wanted, name = call.json.get("RevisionId"), unquote(call.path.split("/")[3])
        with self._lock:
            if wanted:
                with suppress(JsonRESTError):
                    there = lambda_backends[call.account][call.region].get_function(name)
                    if getattr(there, "revision_id", wanted) != wanted:
                        told = "The Revision Id provided does not match the latest Revision Id. Call GetFunction to retrieve"
                        raise Refused("PreconditionFailedException", f"{told} the latest Revision Id", 412)
            return self._moto(call)


def resolved(function: LambdaFunction) -> str:
    """The URI of a function's image by its digest."""
    uri = str(function.code["ImageUri"]).partition("@")[0]
    head, _, tail = uri.rpartition("/")
    return f"{head}/{tail.partition(':')[0]}@sha256:{function.code_sha_256}"
