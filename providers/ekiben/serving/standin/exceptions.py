"""BentoML's exceptions: the same names, the same status each."""

from __future__ import annotations

from http import HTTPStatus

__all__ = [
    "APIDeprecated",
    "BadInput",
    "BentoMLConfigException",
    "BentoMLException",
    "CLIException",
    "CloudRESTApiClientError",
    "ImportServiceError",
    "InternalServerError",
    "InvalidArgument",
    "MissingDependencyException",
    "NotFound",
    "RemoteException",
    "ServerStateException",
    "ServiceUnavailable",
    "StateException",
    "UnprocessableEntity",
    "UnservableException",
]


class BentoMLException(Exception):
    """Answered with its `error_code`, the class's own or the one given."""

    error_code = HTTPStatus.INTERNAL_SERVER_ERROR
    error_mapping: dict[HTTPStatus, type[BentoMLException]] = {}

    def __init_subclass__(cls) -> None:
        if "error_code" in cls.__dict__:
            cls.error_mapping.setdefault(cls.error_code, cls)

    def __init__(self, message: str, *, error_code: HTTPStatus | None = None) -> None:
        self.message = message
        if error_code is not None:
            self.error_code = error_code
        super().__init__(message)


class StateException(Exception):
    """The state of an object is not valid."""

    error_code = HTTPStatus.BAD_REQUEST


class RemoteException(BentoMLException):
    """What a remote server has raised."""

    def __init__(self, message: str, payload: BentoMLException | None = None) -> None:
        self.payload = payload
        super().__init__(message)


class InvalidArgument(BentoMLException):
    """400."""

    error_code = HTTPStatus.BAD_REQUEST


class InternalServerError(BentoMLException):
    """500."""


class APIDeprecated(BentoMLException):
    """500."""


class BadInput(InvalidArgument):
    """400."""

    error_code = HTTPStatus.BAD_REQUEST


class NotFound(BentoMLException):
    """404."""

    error_code = HTTPStatus.NOT_FOUND


class UnprocessableEntity(BentoMLException):
    """422."""

    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


class ServiceUnavailable(BentoMLException):
    """503."""

    error_code = HTTPStatus.SERVICE_UNAVAILABLE


class BentoMLConfigException(BentoMLException):
    """500."""


class MissingDependencyException(BentoMLException):
    """500."""


class CLIException(BentoMLException):
    """500."""


class CloudRESTApiClientError(BentoMLException):
    """500."""


class ImportServiceError(BentoMLException):
    """500."""


class UnservableException(StateException):
    """The service cannot be served."""


class ServerStateException(StateException):
    """The server does not run."""
