"""`pulumi-resource-aws`, the stand-in: the engine starts it, reads its port, and speaks gRPC with it.

It works on an emulated AWS only: where AWS_ENDPOINT_URL names no address of this machine it refuses to be configured, so that
it never touches an account. What is made is in the emulator, and nowhere else: a resource that is gone there is gone.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2 as proto, provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.aws.plugin.invokes import INVOKES
from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props
from ekiben.emulators.aws.plugin.table import KINDS
from ekiben.emulators.aws.plugin.wire import filled, same
from ekiben.emulators.plugins.serving import serve
from ekiben.emulators.plugins.types import problems
from ekiben.emulators.plugins.wire import plain, struct, unique_name

__all__ = ["Plugin", "main"]

KEYWORDS = {"lambda": "lambda_"}
CONFIG = {
    "region", "defaultTags", "accessKey", "secretKey", "skipCredentialsValidation", "skipMetadataApiCheck",
    "skipRegionValidation", "skipRequestingAccountId", "s3UsePathStyle", "allowedAccountIds", "version", "pluginDownloadURL",
}  # fmt: skip


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """The resource types of `KINDS` and the functions of `INVOKES`."""

    def __init__(self) -> None:
        self._aws: Aws | None = None

    @property
    def aws(self) -> Aws:
        if self._aws is None:
            raise ValueError("aws: cannot work: it is not configured yet")
        return self._aws

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=_version())

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.GetSchemaResponse(schema=json.dumps({"name": "aws", "version": _version()}))

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        unknown = sorted(plain(request.news).keys() - CONFIG)
        failures = [proto.CheckFailure(property=key, reason="the stand-in has no such setting") for key in unknown]
        return proto.CheckResponse(inputs=request.news, failures=failures)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            config = plain(request.args)
            endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
            if not _of_this_machine(endpoint):
                raise ValueError(
                    f"aws: cannot use {endpoint or 'AWS'}: the stand-in plugin works on an emulated AWS of this machine only. "
                    "Set AWS_ENDPOINT_URL to the emulator's address, or let the engine use AWS's own plugin."
                )
            region = config.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            if not region:
                raise ValueError("aws: cannot work: no region is set. Set aws:region, or AWS_REGION.")
            tags = config.get("defaultTags") or {}
            tags = json.loads(tags) if isinstance(tags, str) else tags
            self._aws = Aws(endpoint, str(region), tags.get("tags", {}))
            allowed = config.get("allowedAccountIds") or []
            allowed = json.loads(allowed) if isinstance(allowed, str) else allowed
            if allowed and (account := self._aws.account) not in allowed:
                raise ValueError(f"aws: cannot work: the account {account} is not one of allowedAccountIds.")
        return proto.ConfigureResponse(acceptSecrets=False, supportsPreview=True, acceptResources=False)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            old, new = plain(request.olds), plain(request.news)
            failures = problems(*sdk_class(kind.type), new)
            odd = sorted(new.keys() - kind.takes - {key.partition(".")[0] for key, _ in failures})
            failures += [(key, "the stand-in does nothing with it, and drops nothing silently") for key in odd]
            checked = {**kind.defaults, **new}
            if kind.named and kind.named not in checked and not checked.get(kind.named + "Prefix"):
                checked[kind.named] = old.get(kind.named) or unique_name(
                    request.urn, request.randomSeed, tail_chars=7, name_chars=kind.name_chars, end=kind.name_end
                )
        return proto.CheckResponse(
            inputs=struct(checked), failures=[proto.CheckFailure(property=key, reason=why) for key, why in failures]
        )

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            old, new = plain(request.old_inputs), plain(request.news)
            kept = {path.partition(".")[0].partition("[")[0] for path in request.ignoreChanges}
            keys = sorted(old.keys() | new.keys())
            kept |= kind.computed - new.keys()
            changed = [key for key in keys if key not in kept and not same(old.get(key), new.get(key))]
            fixed = kind.takes if kind.update is None else kind.fixed
            replaces = [key for key in changed if key in fixed]
            if changed == ["tags"] or not changed:
                tags_all = {**self.aws.default_tags, **new.get("tags", {})}
                if kind.tagged and not same(plain(request.olds).get("tagsAll", {}), tags_all) and "tags" not in changed:
                    changed.append("tagsAll")
            detailed = {key: _difference(key, old, new, key in replaces) for key in changed}
        return proto.DiffResponse(
            changes=proto.DiffResponse.DIFF_SOME if changed else proto.DiffResponse.DIFF_NONE,
            replaces=replaces, diffs=changed, detailedDiff=detailed, hasDetailedDiff=True, stables=sorted(fixed),
            # Two of the same name cannot be there at once.
            deleteBeforeReplace=bool(replaces) and (kind.delete_first or bool(kind.named) and kind.named not in replaces),
        )  # fmt: skip

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            inputs = plain(request.properties)
            if request.preview:
                return proto.CreateResponse(
                    id="", properties=struct({**dict.fromkeys(_outputs(kind), UNKNOWN), **inputs})
                )
            id = kind.create(self.aws, inputs)
            found = kind.read(self.aws, id, inputs)
            if found is None:
                raise LookupError(f"aws: cannot create {kind.type}: {id} is not there after it was made")
        return proto.CreateResponse(id=id, properties=struct(self._state(kind, inputs, found)))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            inputs = plain(request.inputs)
            known = plain(request.properties) or {**kind.defaults, **kind.adopt(request.id)}
            found = kind.read(self.aws, request.id, known)
            if found is None:
                return proto.ReadResponse(id="")
            if kind.tagged:
                default, own = self.aws.default_tags, inputs.get("tags", {})
                ours = {key: value for key, value in found["tags"].items() if key in own or default.get(key) != value}
                found = {**found, "tags": ours}
            if not inputs:  # an import
                told = {**kind.adopt(request.id), **found}
                inputs = {**kind.defaults, **{key: value for key, value in told.items() if key in kind.takes and value}}
            elif kind.tagged and found["tags"]:
                inputs = {**inputs, "tags": found["tags"]}
            inputs = {key: filled(value, found.get(key), key in ("tags", "variables")) for key, value in inputs.items()}
        return proto.ReadResponse(
            id=request.id, properties=struct(self._state(kind, inputs, found)), inputs=struct(inputs)
        )

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            old, new = plain(request.olds), plain(request.news)
            if request.preview:
                kept = {key: value for key, value in old.items() if key in _outputs(kind)}
                return proto.UpdateResponse(properties=struct({**kept, **new, **dict.fromkeys(kind.renewed, UNKNOWN)}))
            assert kind.update is not None
            kind.update(self.aws, request.id, old, new)
            found = kind.read(self.aws, request.id, new)
            if found is None:
                raise LookupError(
                    f"aws: cannot update {request.id}: it is gone. Take that into the state with a refresh"
                )
        return proto.UpdateResponse(properties=struct(self._state(kind, new, found)))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            kind = _kind(request.urn)
            props = plain(request.properties)
            # Gone already is gone; asked for first, because what "not there" is called differs from one service to the next.
            if kind.read(self.aws, request.id, props) is not None:
                kind.delete(self.aws, request.id, props)
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            invoke = INVOKES.get(request.tok)
            if invoke is None:
                raise LookupError(f"aws: cannot call {request.tok}: the stand-in plugin does not have it")
            answer = invoke(self.aws, plain(request.args))
        made = proto.InvokeResponse()
        getattr(made, "return").CopyFrom(struct(answer))
        return made

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        return empty_pb2.Empty()

    def _state(self, kind: Kind, inputs: Props, found: Mapping[str, Any]) -> dict[str, Any]:
        """What is there, in the user's own words where these say the same."""
        state = {**inputs, **found}
        for key, value in inputs.items():
            state[key] = filled(value, found.get(key), key in ("tags", "variables"))
        if kind.tagged:
            state["tags"] = inputs.get("tags", {})
            state["tagsAll"] = self.aws.tags(inputs)
        return {"region": self.aws.region, **state}


def _kind(urn: str) -> Kind:
    token = urn.split("::")[2].rpartition("$")[2]
    kind = KINDS.get(token)
    if kind is None:
        raise LookupError(f"aws: cannot make {token}: the stand-in plugin does not have it")
    return kind


def sdk_class(token: str) -> tuple[str, str]:
    """The module and the class of `aws:s3/bucket:Bucket` in the SDK."""
    _, path, name = token.split(":")
    package = path.partition("/")[0]
    return f"pulumi_aws.{KEYWORDS.get(package, package)}", name


def _outputs(kind: Kind) -> tuple[str, ...]:
    return (*kind.outputs, "region", *(("tagsAll",) if kind.tagged else ()))


def _difference(key: str, old: Props, new: Props, replace: bool) -> Any:
    which = "UPDATE" if key in old and key in new else "ADD" if key not in old else "DELETE"
    which = "UPDATE" if key not in old and key not in new else which
    return proto.PropertyDiff(kind=getattr(proto.PropertyDiff, which + "_REPLACE" * replace), inputDiff=True)


@contextmanager
def _told(context: grpc.ServicerContext) -> Iterator[None]:
    """Errors reach the user as one message each, without a traceback."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        told = error.response["Error"]
        context.abort(
            grpc.StatusCode.UNKNOWN, f"aws: cannot {error.operation_name}: {told.get('Code')}: {told.get('Message')}"
        )
    except (BotoCoreError, LookupError, ValueError, OSError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, str(error.args[0]) if isinstance(error, LookupError) else str(error))


def _of_this_machine(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _version() -> str:
    return importlib.metadata.version("pulumi-aws")


def main() -> None:
    """Serve until the engine ends this process."""
    serve("pulumi-resource-aws", lambda engine: Plugin())


if __name__ == "__main__":
    main()
