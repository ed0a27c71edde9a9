"""IAM, where it is asked for: each request is judged by the policies of the role that it comes from, as moto's tables have them.

moto can ask only whether an action is allowed on "*", and knows no conditions; so the judging is done here. The keys that a server
tells (`Server.environment`) are those of the account's owner, who may do everything; keys that nobody was given open nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from xml.sax.saxutils import escape

from moto.sts.models import sts_backends

from ekiben.emulators.aws.asking import Asked, asked
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.policies import allowed
from ekiben.emulators.aws.roles import ask, statements

__all__ = ["OWNER", "Authority", "NotAllowed"]

OWNER = "emulated"
ALWAYS = {"sts:GetCallerIdentity"}

logger = logging.getLogger("ekiben.emulators.aws")


class NotAllowed(Refused):
    """As IAM says it, in the words of the service that was asked."""

    def __init__(self, call: Call, code: str, message: str) -> None:
        super().__init__(code, message, 403)
        self._call = call

    def answer(self) -> Answer:
        if self._call.service == "s3" or self._call.service in ("iam", "sts", "sns", "elasticloadbalancing"):
            code = "AccessDenied" if self.code == "AccessDeniedException" else self.code
            inner = f"<Error><Code>{code}</Code><Message>{escape(self.message)}</Message></Error>"
            body = inner if self._call.service == "s3" else f"<ErrorResponse>{inner}</ErrorResponse>"
            text = b"" if self._call.method == "HEAD" else b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode()
            return Answer(status=403, headers={"Content-Type": "application/xml"}, body=text)
        return super().answer()


class Authority:
    """Who may do what."""

    def __init__(self) -> None:
        ask()
        self._roles: dict[str, tuple[str, str]] = {}

    def check(self, call: Call, asks: Iterable[Asked] | None = None) -> None:
        """Raises NotAllowed for a request that its caller may not make. asks: what it needs, where the request does not say so."""
        if call.key == OWNER:
            return
        if not call.key or not call.service:
            raise NotAllowed(call, "MissingAuthenticationToken", "Missing Authentication Token")
        role, session = self._caller(call)
        for one in asked(call) if asks is None else asks:
            if one.action in ALWAYS:
                continue
            if not self.may(call.account, role, one):
                who = f"arn:aws:sts::{call.account}:assumed-role/{role}/{session}"
                logger.warning("%s may not %s on %s", who, one.action, one.resource)
                raise NotAllowed(
                    call, "AccessDeniedException",
                    f"User: {who} is not authorized to perform: {one.action} on resource: {one.resource} because no "
                    f"identity-based policy allows the {one.action} action",
                )  # fmt: skip

    def may(self, account: str, role: str, one: Asked) -> bool:
        """Do the policies of a role allow this?"""
        return allowed(statements(account, role), one.action, one.resource, one.values)

    def _caller(self, call: Call) -> tuple[str, str]:
        """The role that the request's keys are of, and its session."""
        if call.key not in self._roles:
            backend = sts_backends[call.account]["aws"]
            found = backend.get_assumed_role_from_access_key(call.key)
            if found is None:
                raise NotAllowed(
                    call, "InvalidClientTokenId" if call.service != "s3" else "InvalidAccessKeyId",
                    "The security token included in the request is invalid.",
                )  # fmt: skip
            self._roles[call.key] = found.role_arn.rpartition("/")[2], found.session_name
        return self._roles[call.key]
