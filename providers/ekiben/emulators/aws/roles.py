"""Credentials of roles, as AWS's services assume them."""

from __future__ import annotations

from moto.sts.models import sts_backends

from ekiben.emulators.aws.authority import trusts
from ekiben.emulators.aws.call import Refused

__all__ = ["credentials"]


def credentials(account: str, region: str, arn: str, service: str) -> dict[str, str]:
    """Of the role `arn`, as environment variables, for twelve hours. service: who assumes it, such as "sagemaker".

    Raises Refused where there is no such role, or none that trusts the service.
    """
    if not trusts(account, arn, f"{service}.amazonaws.com"):
        told = f"Could not assume role {arn}. Please ensure that the role exists and allows principal '{service}.amazonaws.com'"
        raise Refused("ValidationException", f"{told} to assume the role.")
    assumed = sts_backends[account]["aws"].assume_role(region, service, arn, "", 43200, "")
    return {
        "AWS_ACCESS_KEY_ID": assumed.access_key_id,
        "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
        "AWS_SESSION_TOKEN": assumed.session_token,
    }
