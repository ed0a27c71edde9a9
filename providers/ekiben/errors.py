"""The errors of Ekiben: four branches, four people to turn to.

    EkibenError
      SpecError (ValueError)           yourself: you asked for what cannot be; no cloud was called
        Unsupported                    ... the provider lacks it; the reason and the nearest options
      MissingDependency (ImportError)  your pip: an extra is not installed; the command that installs it
      ProviderError                    the cloud: it refused or failed (provider, operation, retryable, __cause__)
        NotFound                       the thing named does not exist
        AlreadyExists                  a thing of that name is there, and it is another one
        PreconditionFailed             somebody changed it since you read it
        AccessDenied                   the token or the role may not do this
        NoCapacity                     the machine or the cloud has not enough of what was asked for
        Unavailable                    not now: nothing answers, or it is overloaded; retryable
        IntegrityError                 bytes are not the bytes that were promised
      WorkloadError                    your code: it ran and failed (log_uri, tail)
        TrainingFailed
        ModelFailed
        FunctionFailed

Messages read `<provider>: cannot <operation>: <why>. <what to do>.` and never hold a secret.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "EkibenError",
    "FunctionFailed",
    "IntegrityError",
    "MissingDependency",
    "ModelFailed",
    "NoCapacity",
    "NotFound",
    "PreconditionFailed",
    "ProviderError",
    "SpecError",
    "TrainingFailed",
    "Unavailable",
    "Unsupported",
    "WorkloadError",
]


if TYPE_CHECKING:
    _Root = Exception
else:
    # Inside a Pulumi program, pulumi is there before us: the engine shows a RunError as one message, all else as a traceback.
    _Root = getattr(sys.modules.get("pulumi"), "RunError", Exception)


class EkibenError(_Root):
    """The root: catching it catches all that Ekiben raises on purpose."""


class SpecError(EkibenError, ValueError):
    """You asked for what cannot be. Nothing was called, nothing was changed."""


class Unsupported(SpecError):
    """The provider lacks what was asked for; the message has the reason and the nearest options."""


class MissingDependency(EkibenError, ImportError):
    """An extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: pip install 'ekiben[{extra}]'.")
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingDependency], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class ProviderError(EkibenError):
    """The provider refused or failed.

    `operation` completes the sentence "cannot ..."; `why` and `remedy` are one sentence each, without a full stop.
    `retryable` says that the same call may succeed later, unchanged.
    """

    retryable = False

    def __init__(self, provider: str, operation: str, why: str, remedy: str = "") -> None:
        super().__init__(f"{provider}: cannot {operation}: {why}." + (f" {remedy}." if remedy else ""))
        self.provider = provider
        self.operation = operation
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ProviderError], tuple[str, str, str, str]]:
        return type(self), (self.provider, self.operation, self.why, self.remedy)


class NotFound(ProviderError):
    """The thing named does not exist."""


class AlreadyExists(ProviderError):
    """A thing of that name is there, and it is another one."""


class PreconditionFailed(ProviderError):
    """Somebody changed it since you read it: read again, decide again."""

    retryable = True


class AccessDenied(ProviderError):
    """The token or the role may not do this."""


class NoCapacity(ProviderError):
    """The machine or the cloud has not enough of what was asked for."""


class Unavailable(ProviderError):
    """Nothing answers, or it is overloaded. `retry_after_s`: how long it has asked to be left alone, 0 where it has not."""

    retryable = True
    retry_after_s = 0.0


class IntegrityError(ProviderError):
    """Bytes are not the bytes that were promised; nothing of them was loaded or run."""


class WorkloadError(EkibenError):
    """Your code ran and failed. `message` says how, `log_uri` is its whole log, `tail` the last lines of it."""

    def __init__(self, message: str, *, log_uri: str = "", tail: str = "") -> None:
        text = message
        if tail:
            text += f"\nThe end of its log:\n{tail}"
        if log_uri:
            text += f"\nThe whole log: {log_uri}"
        super().__init__(text)
        self.message = message
        self.log_uri = log_uri
        self.tail = tail


class TrainingFailed(WorkloadError):
    """A training run ended without a model."""


class ModelFailed(WorkloadError):
    """A bento does not start, or does not answer as its sample says."""


class FunctionFailed(WorkloadError):
    """A function's handler raised, or ran past its time."""
