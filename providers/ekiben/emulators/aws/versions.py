"""Versions of functions as Lambda keeps them, where moto does not: each has its own image, and a number is never given again."""

from __future__ import annotations

from typing import Any

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import ImageConfig, LambdaFunction, LambdaStorage

from ekiben.emulators.aws.images import Images, NoImage

__all__ = ["keep", "resolved"]


def keep(images: Images) -> None:
    """Have moto do so. A function takes the image that a tag stands for at that moment."""
    take, tell, configure = (
        LambdaFunction._set_function_code,
        LambdaFunction.get_code,
        LambdaFunction.update_configuration,
    )
    publish = LambdaStorage.publish_version

    def set_code(self: LambdaFunction, spec: dict[str, Any]) -> None:
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
        return configure(self, updates)

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
    LambdaStorage.publish_version = publish_version  # type: ignore[method-assign]


def resolved(function: LambdaFunction) -> str:
    """The URI of a function's image by its digest."""
    uri = str(function.code["ImageUri"]).partition("@")[0]
    head, _, tail = uri.rpartition("/")
    return f"{head}/{tail.partition(':')[0]}@sha256:{function.code_sha_256}"
