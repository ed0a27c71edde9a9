"""`pulumi-resource-kubernetes`, the stand-in: the engine starts it, reads its port, and speaks gRPC with it.

It works on any API server that the kubeconfig names; what is made is there, and nowhere else.
"""

from __future__ import annotations

import importlib.metadata
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import yaml
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2 as proto, provider_pb2_grpc, status_pb2

from ekiben.emulators.kubernetes.plugin import objects, waits
from ekiben.emulators.kubernetes.plugin.life import Life, Partial
from ekiben.emulators.kubernetes.plugin.paths import text, value_at
from ekiben.emulators.kubernetes.plugin.server import Server
from ekiben.emulators.kubernetes.plugin.settings import KNOWN, Settings, cluster_of, settings
from ekiben.emulators.kubernetes.plugin.telling import Screen
from ekiben.emulators.kubernetes.plugin.tokens import problems_of, token_of
from ekiben.emulators.plugins.serving import serve
from ekiben.emulators.plugins.wire import plain, struct, unknown
from ekiben.errors import EkibenError, SpecError, Unavailable, Unsupported

__all__ = ["Plugin", "main"]

# Operations that wait for pods, minutes each.
THREADS = 64


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """All kinds that the API server has."""

    def __init__(self, engine: str = "") -> None:
        self._screen = Screen(engine)
        self._settings: Settings | None = None
        self._server: Server | None = None
        self._stopped = threading.Event()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=_version())

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> Any:
        return proto.GetSchemaResponse(schema=json.dumps({"name": "kubernetes", "version": _version()}))

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        news = plain(request.news)
        failures = [
            proto.CheckFailure(property=key, reason="the stand-in has no such setting")
            for key in sorted(news.keys() - KNOWN)
        ]
        try:
            if not unknown(news):
                settings(news)
        except SpecError as error:
            failures.append(proto.CheckFailure(reason=str(error)))
        return proto.CheckResponse(inputs=request.news, failures=failures)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        old, new = plain(request.old_inputs) or plain(request.olds), plain(request.news)
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key != "version")
        one, other = ("", "") if unknown(new) or not changed else (cluster_of(old), cluster_of(new))
        return proto.DiffResponse(
            changes=proto.DiffResponse.DIFF_SOME if changed else proto.DiffResponse.DIFF_NONE, diffs=changed,
            # What is on another cluster is another object.
            replaces=[key for key in changed if key in KNOWN] if one and other and one != other else [],
        )  # fmt: skip

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            config = plain(request.args)
            if not unknown(config):  # else the cluster is made by the same program, and this is a preview
                self._settings = settings(config)
                self._server = self._settings.server()
        return proto.ConfigureResponse(acceptSecrets=False, supportsPreview=True, acceptResources=False)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            old, new = plain(request.olds), plain(request.news)
            token = token_of(request.urn, new)
            failures = [*problems_of(request.urn, new), *waits.problems(new)]
            checked = new
            if not token.patch:
                checked = objects.named(new, old, request.urn, request.randomSeed)
            elif not value_at(new, ("metadata", "name")):
                failures.append(("metadata.name", "it must be given: a patch changes what is there"))
            if self._server is not None and not failures and isinstance(checked.get("metadata"), dict):
                kind = self._server.kind(token.api, token.kind)
                checked["metadata"] = objects.asked(checked, token.api, kind, self._server.namespace)["metadata"]
            inputs = struct(objects.hidden({"apiVersion": token.api, "kind": token.kind, **checked}))
        return proto.CheckResponse(
            inputs=inputs, failures=[proto.CheckFailure(property=key, reason=why) for key, why in failures]
        )

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            old, new, state = plain(request.old_inputs), plain(request.news), plain(request.olds)
            found = self._life(request.urn, new).diff(old, new, state, list(request.ignoreChanges))
            detailed = {text(path): _difference(old, new, path, path in found.replaces) for path in found.paths}
        return proto.DiffResponse(
            changes=proto.DiffResponse.DIFF_SOME if found.paths else proto.DiffResponse.DIFF_NONE,
            replaces=[text(path) for path in found.replaces], diffs=sorted({str(path[0]) for path in found.paths}),
            detailedDiff=detailed, hasDetailedDiff=True, deleteBeforeReplace=found.delete_first,
        )  # fmt: skip

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            inputs = plain(request.properties)
            if request.preview:
                return proto.CreateResponse(id="", properties=struct(self._preview(request.urn, inputs, None)))
            id, state = self._life(request.urn, inputs).create(inputs, request.timeout)
        return proto.CreateResponse(id=id, properties=struct(state))

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            inputs, state = plain(request.inputs), plain(request.properties)
            found = self._life(request.urn, inputs).read(request.id, inputs, state)
            if found is None:
                return proto.ReadResponse(id="")
            now, live = found
        return proto.ReadResponse(id=request.id, properties=struct(live), inputs=struct(now))

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            old, new = plain(request.olds), plain(request.news)
            if request.preview:
                return proto.UpdateResponse(
                    properties=struct(self._preview(request.urn, new, old, list(request.ignoreChanges)))
                )
            life = self._life(request.urn, new)
            state = life.update(request.id, old, new, list(request.ignoreChanges), request.timeout)
        return proto.UpdateResponse(properties=struct(state))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            state = plain(request.properties)
            life = self._life(request.urn, state)
            try:
                life.delete(request.id, state, request.timeout)
            except Unavailable:
                if not life.settings.flags["deleteUnreachable"]:
                    raise
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            if request.tok != "kubernetes:yaml:decode":
                raise Unsupported(f"kubernetes: cannot call {request.tok}: the stand-in plugin does not have it.")
            answer = {"result": _documents(str(plain(request.args).get("text", "")))}
        made = proto.InvokeResponse()
        getattr(made, "return").CopyFrom(struct(answer))
        return made

    def Construct(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _told(context):
            raise Unsupported(
                f"kubernetes: cannot make {request.type}: the stand-in plugin makes the API server's own objects only. "
                "pulumi_kubernetes.yaml.ConfigFile and ConfigGroup work."
            )

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._stopped.set()
        return empty_pb2.Empty()

    def _preview(
        self, urn: str, inputs: dict[str, Any], state: dict[str, Any] | None, ignored: Sequence[str] = ()
    ) -> dict[str, Any]:
        if self._server is None:
            return objects.planned(inputs, created=state is None)
        return self._life(urn, inputs).preview(inputs, state, ignored)

    def _life(self, urn: str, inputs: dict[str, Any]) -> Life:
        if self._server is None or self._settings is None:
            raise SpecError(
                "kubernetes: cannot work: the cluster is not known yet. Make it first, and what is on it afterwards."
            )
        return Life(
            server=self._server, settings=self._settings, token=token_of(urn, inputs), urn=urn, tell=self._screen.teller(urn),
            stopped=self._stopped,
        )  # fmt: skip


def _difference(old: Any, new: Any, path: tuple[str | int, ...], replace: bool) -> Any:
    there, asked = value_at(old, path) is not None, value_at(new, path) is not None
    which = "UPDATE" if there == asked else "DELETE" if there else "ADD"
    return proto.PropertyDiff(kind=getattr(proto.PropertyDiff, which + "_REPLACE" * replace), inputDiff=True)


def _documents(said: str) -> list[Any]:
    try:
        return [one for one in yaml.safe_load_all(said) if one]
    except yaml.YAMLError as error:
        raise SpecError(f"kubernetes: cannot read YAML: {' '.join(str(error).split())}. Mend it.") from error


@contextmanager
def _told(context: grpc.ServicerContext) -> Iterator[None]:
    """Errors reach the user as one message each, without a traceback; what is half done reaches the state."""
    try:
        yield
    except Partial as partial:
        failed = proto.ErrorResourceInitFailed(
            id=partial.id, properties=struct(partial.state), inputs=struct(partial.inputs), reasons=[str(partial)]
        )
        status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(partial))
        status.details.add().Pack(failed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.UNKNOWN, str(partial))
    except (EkibenError, LookupError, ValueError, OSError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, str(error))


def _version() -> str:
    return importlib.metadata.version("pulumi-kubernetes")


def main() -> None:
    """Serve until the engine ends this process."""
    serve("pulumi-resource-kubernetes", Plugin, threads=THREADS)


if __name__ == "__main__":
    main()
