"""Credentials of roles, as AWS's services assume them."""

from __future__ import annotations

from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from ekiben.emulators.aws.call import Refused

__all__ = ["credentials"]


def credentials(account: str, region: str, arn: str, session: str) -> dict[str, str]:
    """Of the role `arn`, as environment variables, for twelve hours. Raises Refused where there is no such role."""
    roles = iam_backends[account]["aws"].roles.values()
    if arn.rpartition("/")[2] not in [role.name for role in roles]:
        raise Refused("ValidationException", f"Could not assume role {arn}. Please ensure that the role exists")
    assumed = sts_backends[account]["aws"].assume_role(region, session, arn, "", 43200, "")
    return {
        "AWS_ACCESS_KEY_ID": assumed.access_key_id,
        "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
        "AWS_SESSION_TOKEN": assumed.session_token,
    }
