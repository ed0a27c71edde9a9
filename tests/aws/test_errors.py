"""The translation of AWS's errors: complete for the operations that are used, by botocore's own models; nothing secret told."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws.client import Cloud
from ekiben.aws.errors import CODES, REFUSED, RoleNotReady, code_of, translated
from tests.fakes.aws import Edge

from .conftest import REGION

AWS = Path(ek.__file__).parent / "aws"
# Declared errors that say nothing but what AWS says: our request was wrong, or their side is in a state that nobody can name.
GENERIC = {
    "ModelError",
    "BatchEntryIdsNotDistinct",
    "ClientException",
    "CodeArtifactUserDeletedException",
    "CodeArtifactUserFailedException",
    "CodeSigningConfigNotFoundException",
    "CodeVerificationFailedException",
    "DurableExecutionAlreadyStartedException",
    "EFSIOException",
    "EmptyBatchRequest",
    "FailedResourceAccessException",
    "InvalidAddress",
    "InvalidArnException",
    "InvalidAttributeName",
    "InvalidBatchEntryId",
    "InvalidCodeSignatureException",
    "InvalidConfigurationRequest",
    "InvalidIdFormat",
    "InvalidInputException",
    "InvalidNextToken",
    "InvalidParameterException",
    "InvalidParameterValueException",
    "InvalidRequestContentException",
    "InvalidRuntimeException",
    "InvalidZipFileException",
    "ModeNotSupportedException",
    "NoPublishedVersionException",
    "PlatformTaskDefinitionIncompatibilityException",
    "PlatformUnknownException",
    "ReceiptHandleIsInvalid",
    "RecursiveInvocationException",
    "RequestTooLargeException",
    "RuntimeAliasDeletedException",
    "RuntimeVersionDeletedException",
    "SerializedRequestEntityTooLargeException",
    "SnapStartException",
    "SnapStartRegenerationFailureException",
    "TooManyEntriesInBatchRequest",
    "UnsupportedFeatureException",
    "UnsupportedMediaTypeException",
    "UnsupportedOperation",
    "ValidationError",
    "ValidationException",
}


def used() -> Iterator[tuple[str, str]]:
    """(service, operation) of every call in the provider's source: `cloud.call("sagemaker", "describe_training_job", ...)`."""
    for path in sorted(AWS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _of_cloud(node.func):
                words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)]
                assert len(words) == 2, f"{path}:{node.lineno}: the service and the operation are not written out"
                yield str(words[0]), str(words[1])


def _of_cloud(function: ast.expr) -> bool:
    """Is it `cloud.call`, `self._cloud.pages`, `Cloud(region).call_once`?"""
    if not isinstance(function, ast.Attribute) or function.attr not in ("call", "call_once", "pages"):
        return False
    return ast.unparse(function.value).rpartition(".")[2].partition("(")[0].strip("_").casefold() == "cloud"


USED = sorted(set(used()))


def test_nothing_calls_aws_past_the_translation() -> None:
    """boto3's clients are made in one place; the other takes credentials from it."""
    made = {
        path.name
        for path in AWS.rglob("*.py")
        if re.search(r"^\s*(?:import|from) (?:boto3|botocore)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert made == {"client.py", "storage.py"}


def test_the_calls_are_found() -> None:
    assert ("sagemaker", "create_training_job") in USED
    assert len(USED) > 5


def declared(service: str, operation: str) -> set[str]:
    """The codes of the errors that botocore's model of the operation declares."""
    import botocore.session
    from botocore import xform_name

    model = botocore.session.get_session().get_service_model(service)
    (name,) = (name for name in model.operation_names if xform_name(name) == operation)
    shapes = model.operation_model(name).error_shapes
    return {str(shape.metadata.get("error", {}).get("code") or shape.name) for shape in shapes}


@pytest.mark.parametrize(("service", "operation"), USED)
def test_every_declared_error_is_in_the_table_or_generic_on_purpose(service: str, operation: str) -> None:
    assert declared(service, operation) <= set(CODES) | set(REFUSED) | GENERIC


def test_what_is_called_generic_is_declared_by_some_operation_and_in_no_table() -> None:
    assert (set(CODES) | set(REFUSED)) & GENERIC == set()
    assert {code for service, operation in USED for code in declared(service, operation)} >= GENERIC


def raised(edge: Edge, code: str, message: str = "as the test asked", status: int = 400) -> Exception:
    edge.fail("SageMaker.DescribeTrainingJob", code, message, status=status, times=4)
    with pytest.raises(ek.EkibenError) as caught:
        Cloud(REGION).call("sagemaker", "describe_training_job", "show the run 'x'", TrainingJobName="x")
    edge.clear()
    return caught.value


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("ResourceNotFound", "gone", ek.NotFound),
        ("ValidationException", "Requested resource not found.", ek.NotFound),
        ("ValidationException", 'Could not find endpoint "x".', ek.NotFound),
        ("ValidationException", 'Cannot create already existing model "x".', ek.AlreadyExists),
        ("ValidationException", "Could not assume role arn:aws:iam::1:role/x. Please ensure...", RoleNotReady),
        (
            "InvalidParameterValueException",
            "The role defined for the function cannot be assumed by Lambda.",
            RoleNotReady,
        ),
        ("ValidationException", "1 validation error detected: Value 'x'", ek.ProviderError),
        ("ResourceInUse", "taken", ek.AlreadyExists),
        ("ResourceLimitExceeded", "quota", ek.NoCapacity),
        ("AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized", ek.AccessDenied),
        ("ExpiredTokenException", "expired", ek.AccessDenied),
        ("SomethingNew", "new", ek.ProviderError),
    ],
)
def test_codes(edge: Edge, aws: str, code: str, message: str, kind: type[Exception]) -> None:
    error = raised(edge, code, message)
    assert type(error) is kind
    assert str(error).startswith("aws: cannot show the run 'x': ")
    assert str(error).endswith(".")
    assert ".." not in str(error).replace("...", "")
    assert code_of(error.__cause__) == code


def test_a_server_that_fails_is_unavailable_after_bounded_tries(edge: Edge, aws: str) -> None:
    edge.fail("SageMaker.DescribeTrainingJob", "InternalFailure", status=500, times=10)
    with pytest.raises(ek.Unavailable) as caught:
        Cloud(REGION).call("sagemaker", "describe_training_job", "show the run 'x'", TrainingJobName="x")
    assert caught.value.retryable
    assert edge.count("DescribeTrainingJob") == 4


def test_what_aws_says_of_refused_credentials_is_not_told(edge: Edge, aws: str) -> None:
    error = raised(
        edge, "SignatureDoesNotMatch", "The canonical string was ... x-amz-security-token:SECRET", status=403
    )
    assert type(error) is ek.AccessDenied
    assert "SECRET" not in str(error)
    long = raised(edge, "AccessDeniedException", "no. Encoded authorization failure message: " + "A1" * 2000)
    assert "A1A1" not in str(long)


def test_a_region_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch, aws: str) -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ek.Unavailable, match="cannot be reached"):
            Cloud(REGION).call("sts", "get_caller_identity", "ask who this is")


def test_no_credentials_are_access_denied(monkeypatch: pytest.MonkeyPatch, aws: str, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ek.AccessDenied, match="no credentials were found"):
        Cloud(REGION).call("sts", "get_caller_identity", "ask who this is")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ek.AccessDenied, match="no credentials were found"):
        Cloud(REGION).call("sts", "get_caller_identity", "ask who this is")


def test_a_request_that_botocore_refuses_is_a_spec_error(aws: str, edge: Edge) -> None:
    with pytest.raises(ek.SpecError, match="TrainingJobName"):
        Cloud(REGION).call("sagemaker", "describe_training_job", "show the run 'x'")
    assert edge.seen == []


def test_errors_of_others_pass(client: Callable[[str], Any]) -> None:
    with pytest.raises(ZeroDivisionError), translated("divide"):
        _ = 1 / 0
