"""AWS's errors as Ekiben's: one table by AWS's own codes, one by the names of what botocore raises before AWS is asked.

Messages carry what the service said, cut to one line, but for refused credentials: what AWS says of those quotes the request.
botocore is not imported here: its exceptions are known by their names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ekiben.errors import (
    AccessDenied,
    AlreadyExists,
    EkibenError,
    NoCapacity,
    NotFound,
    PreconditionFailed,
    ProviderError,
    SpecError,
    Unavailable,
)

__all__ = ["CODES", "REFUSED", "RoleNotReady", "code_of", "translated"]

SAID_CHARS = 400


class RoleNotReady(AccessDenied):
    """A role that is fresh, or that the service may not assume: for some seconds after it is made both look the same."""

    retryable = True


_LATER = "Repeat it later"
_AGAIN = "Read it again, then repeat"
_CREDENTIALS = "Check the credentials in the environment (`aws sts get-caller-identity` shows whose they are)"
_RIGHTS = "Give the role that calls this right"
_QUOTA = "Ask for a higher quota in the console's Service Quotas, or ask for less"
_KEY = "Look at the KMS key and its policy"
_NETWORK = "Look at the subnets and security groups that it runs in"

# AWS's code -> the error, and what to do. What is not here is a ProviderError with AWS's own words, and is meant to be one.
CODES: dict[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(
        ("ResourceNotFound", "ResourceNotFoundException", "NoSuchEntity", "NoSuchBucket", "NoSuchKey", "NotFound",
         "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "NotFoundException", "ObjectNotFoundException",
         "RepositoryNotFoundException", "ImageNotFoundException", "ServiceNotFoundException", "ClusterNotFoundException",
         "ServiceDeploymentNotFoundException", "ServiceNotActiveException", "LoadBalancerNotFound",
         "ProvisionedConcurrencyConfigNotFoundException", "404"),
        (NotFound, ""),
    ),
    **dict.fromkeys(
        ("ResourceInUse", "ResourceInUseException", "ResourceAlreadyExistsException", "EntityAlreadyExists"),
        (AlreadyExists, "Use another name"),
    ),
    **dict.fromkeys(("PreconditionFailedException", "PreconditionFailed", "412"), (PreconditionFailed, _AGAIN)),
    # Of two writers at once the later one; of Lambda also a function that is being changed.
    **dict.fromkeys(
        ("ConflictException", "ResourceConflictException", "ConcurrentModificationException", "ConcurrentUpdateException",
         "OperationAbortedException"),
        (Unavailable, "Another change is under way; repeat it later"),
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403", "InvalidSecurity"),
        (AccessDenied, _RIGHTS),
    ),
    **dict.fromkeys(("KMSAccessDeniedException", "KmsAccessDenied", "KmsOptInRequired"), (AccessDenied, _KEY)),
    "EC2AccessDeniedException": (AccessDenied, _RIGHTS),
    **dict.fromkeys(
        ("ResourceLimitExceeded", "LimitExceededException", "ServiceQuotaExceededException", "CodeStorageExceededException",
         "AliasLimitExceededException", "AccountLimitExceededException",
         "FunctionVersionsPerCapacityProviderLimitExceededException"),
        (NoCapacity, _QUOTA),
    ),
    **dict.fromkeys(("CapacityError", "InsufficientInstanceCapacity"), (NoCapacity, "Try later, or another instance type")),
    **dict.fromkeys(("ENILimitReachedException", "SubnetIPAddressLimitReachedException"), (NoCapacity, _NETWORK)),
    **dict.fromkeys(
        ("KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KmsDisabled", "KmsInvalidKeyUsage",
         "KmsInvalidState", "KmsNotFound"),
        (ProviderError, _KEY),
    ),
    **dict.fromkeys(
        ("InvalidSubnetIDException", "InvalidSecurityGroupIDException", "EFSMountConnectivityException",
         "EFSMountFailureException", "S3FilesMountConnectivityException", "S3FilesMountFailureException"),
        (ProviderError, _NETWORK),
    ),
    **dict.fromkeys(
        ("Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestThrottled",
         "RequestThrottledException", "RequestLimitExceeded", "SlowDown", "EC2ThrottledException", "KmsThrottled", "OverLimit",
         "429"),
        (Unavailable, _LATER),
    ),
    **dict.fromkeys(
        ("InternalFailure", "InternalError", "InternalServerError", "InternalException", "InternalServiceException",
         "InternalDependencyException", "ServerException", "ServiceException", "ServiceFailure", "ServiceUnavailable",
         "ServiceUnavailableException", "PaginationTokenExpiredException",
         "RequestTimeout", "RequestTimeoutException", "EC2UnexpectedException", "ENINotReadyException", "ModelNotReadyException",
         "ResourceNotReadyException", "SnapStartNotReadyException", "SnapStartTimeoutException", "EFSMountTimeoutException",
         "S3FilesMountTimeoutException", "CodeArtifactUserPendingException", "KMSInternalException", "DependencyTimeoutException"),
        (Unavailable, _LATER),
    ),
}  # fmt: skip

# Of these AWS's own text may quote the request with its headers, so it is left out.
REFUSED: dict[str, str] = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired"), "the credentials have expired"),
    **dict.fromkeys(
        ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidToken",
         "MissingAuthenticationToken", "MissingAuthenticationTokenException", "AuthFailure", "SignatureDoesNotMatch",
         "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException", "NotAuthorized", "OptInRequired"),
        "the credentials are not taken",
    ),
}  # fmt: skip

# By the names of botocore's exceptions, the most derived first.
_UNSENT: dict[str, tuple[type[ProviderError], str, str]] = {
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "SSOError",
         "ProfileNotFound", "LoginError"),
        (AccessDenied, "no credentials were found", _CREDENTIALS),
    ),
    **dict.fromkeys(
        ("ReadTimeoutError", "ResponseStreamingError", "IncompleteReadError"),
        (Unavailable, "it does not answer in time", _LATER),
    ),
    **dict.fromkeys(
        ("HTTPClientError", "ConnectionError"),
        (Unavailable, "it cannot be reached", "Check the network and the region, then repeat"),
    ),
}  # fmt: skip

_ABSENT = re.compile(
    r"could not find|cannot find|not found|does not exist|no such|no scalable target found", re.IGNORECASE
)
_PRESENT = re.compile(r"already exist|already in use|cannot create already", re.IGNORECASE)
_ROLE = re.compile(
    r"\b(?:could not|cannot|can't|unable to|failed to)\s+(?:be\s+)?assumed?\b|not authorized to perform: sts:AssumeRole\b",
    re.IGNORECASE,
)
_INVALID = (
    "ValidationException", "ValidationError", "InvalidParameterValueException", "InvalidParameterException",
    "InvalidInputException", "ClientException",
)  # fmt: skip


def code_of(error: BaseException | None) -> str:
    """AWS's code for what went wrong, such as "ResourceInUse"; empty where AWS was not asked."""
    response: Any = getattr(error, "response", None)
    found = response.get("Error", {}) if isinstance(response, Mapping) else {}
    return str(found.get("Code", ""))


@contextlib.contextmanager
def translated(operation: str) -> Iterator[None]:
    """What botocore raises inside as one of `ekiben.errors`, with `operation` completing "cannot ..."."""
    try:
        yield
    except EkibenError:
        raise
    except Exception as error:
        if not _of_botocore(error):
            raise
        raise _translation(error, operation) from error


def _translation(error: Exception, operation: str) -> EkibenError:
    if not isinstance(getattr(error, "response", None), Mapping):
        return _unsent(error, operation)
    code, said = code_of(error), _said(error)
    if code in REFUSED:
        return AccessDenied("aws", operation, f"{REFUSED[code]} ({code})", _CREDENTIALS)
    kind, remedy = CODES.get(code) or _by_status(error)
    if code in _INVALID:
        # SageMaker, Lambda and CodeBuild say several things with one code; only the text tells them apart.
        if _ROLE.search(said):
            return RoleNotReady("aws", operation, said, "Wait until the role is ready, or correct whom it trusts")
        if _PRESENT.search(said):
            kind, remedy = CODES["ResourceInUse"]
        elif _ABSENT.search(said):
            kind, remedy = CODES["ResourceNotFound"]
    return kind("aws", operation, f"{said} ({code})" if said and code else said or code or "it failed", remedy)


def _unsent(error: Exception, operation: str) -> EkibenError:
    for name in (base.__name__ for base in type(error).__mro__):
        if name == "ParamValidationError":
            return SpecError(f"aws: cannot {operation}: the request is refused unsent: {_line(str(error))}.")
        if name in _UNSENT:
            kind, why, remedy = _UNSENT[name]
            return kind("aws", operation, why, remedy)
    return ProviderError("aws", operation, _line(str(error)) or type(error).__name__)


def _by_status(error: Any) -> tuple[type[ProviderError], str]:
    """Of a code that nobody knows: what the HTTP status says. AWS names no limit to its codes."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status >= 500:
        return Unavailable, _LATER
    return CODES.get(str(status), (ProviderError, ""))


def _said(error: Any) -> str:
    found = error.response.get("Error", {})
    text = str(found.get("Message") or found.get("message") or "")
    return _line(re.sub(r"Encoded authorization failure message:.*", "", text, flags=re.DOTALL))


def _line(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return text if len(text) <= SAID_CHARS else text[: SAID_CHARS - 3] + "..."


def _of_botocore(error: Exception) -> bool:
    return any(base.__module__.partition(".")[0] in ("botocore", "boto3") for base in type(error).__mro__)
