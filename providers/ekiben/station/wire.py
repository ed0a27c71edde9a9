"""How an EkibenError crosses the station's HTTP edge: a status and a JSON body, and back to the same class."""

from __future__ import annotations

from typing import Any

from ekiben import errors

__all__ = ["STATUS", "from_body", "to_body"]

STATUS: dict[type[errors.EkibenError], int] = {
    errors.Unsupported: 422,
    errors.SpecError: 422,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.PreconditionFailed: 412,
    errors.AccessDenied: 403,
    errors.NoCapacity: 507,
    errors.Unavailable: 503,
    errors.IntegrityError: 422,
    errors.ProviderError: 500,
    errors.TrainingFailed: 424,
    errors.ModelFailed: 424,
    errors.FunctionFailed: 424,
    errors.WorkloadError: 424,
    errors.MissingDependency: 500,
    errors.EkibenError: 500,
}


def to_body(error: errors.EkibenError) -> tuple[int, dict[str, Any]]:
    """The status and the JSON body of an error."""
    status = STATUS.get(type(error), 500)
    body: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, errors.ProviderError):
        body.update(provider=error.provider, operation=error.operation, why=error.why, remedy=error.remedy)
    if isinstance(error, errors.WorkloadError):
        body.update(message=error.message, log_uri=error.log_uri, tail=error.tail)
    if isinstance(error, errors.MissingDependency):
        body.update(package=error.package, extra=error.extra)
    return status, {"error": body}


def from_body(status: int, body: Any) -> errors.EkibenError:
    """The error that `to_body` made; an error of another shape becomes a ProviderError that quotes the status."""
    data = body.get("error") if isinstance(body, dict) else None
    kind = getattr(errors, str(data.get("type")), None) if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(kind, type) and issubclass(kind, errors.EkibenError):
        if issubclass(kind, errors.ProviderError):
            return kind(*(str(data.get(key, "")) for key in ("provider", "operation", "why", "remedy")))
        if issubclass(kind, errors.WorkloadError):
            return kind(
                str(data.get("message", "")), log_uri=str(data.get("log_uri", "")), tail=str(data.get("tail", ""))
            )
        if issubclass(kind, errors.MissingDependency):
            return kind(str(data.get("package", "")), str(data.get("extra", "")))
        return kind(str(data.get("message", "")))
    return errors.ProviderError("local", "call the station", f"it answered with HTTP {status} and no error of ours")
