"""emulate: a cloud on this machine, for development and tests."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import project
from ekiben.errors import SpecError

if TYPE_CHECKING:
    from ekiben.emulators.aws import Server
    from ekiben.emulators.kubernetes.chosen import Chosen

__all__ = ["register"]


class Emulated(StrEnum):
    """What there is an emulator of."""

    AWS = "aws"
    KUBERNETES = "kubernetes"


def register(app: typer.Typer) -> None:
    app.command()(emulate)


def emulate(
    provider: Annotated[Emulated, typer.Argument(metavar="PROVIDER", help="aws or kubernetes.")],
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop it, with all that runs in it. An AWS forgets what it held.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say whether it runs, and start nothing.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="aws: its port; 0: the one it had.")] = 0,
    unused: Annotated[
        bool, typer.Option("--if-unused", help="kubernetes, with --stop: only where nobody else uses it.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="kubernetes: begin without what was in it.")] = False,
    knative: Annotated[
        bool,
        typer.Option("--knative/--no-knative", help="kubernetes: have Knative Serving in it, which is built first."),
    ] = True,
    gateway: Annotated[
        bool,
        typer.Option("--gateway", help="kubernetes: have the Gateway API in it, and a Gateway that serves HTTPRoutes."),
    ] = False,
    trainer: Annotated[
        bool,
        typer.Option("--trainer", help="kubernetes: have Kubeflow's Trainer in it, which is built first."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Start an AWS of this project or a Kubernetes of this user on this machine, and print the environment that leads to it.

    It goes on in the background; started again, it is found. A stack whose config says `ekiben:emulate: true` starts its AWS by
    itself, and its verbs need no environment: this is for boto3, the AWS CLI and other programs. A Kubernetes is the cluster that
    KUBECONFIG names, else one by kind, else a real one of one node, which is built the first time: it takes root and minutes.

    \b
    Examples:
      eval "$(ekiben emulate aws)"
      eval "$(ekiben emulate kubernetes)"
      ekiben emulate aws --status
      ekiben emulate kubernetes --stop
    """  # fmt: skip
    if stop and status:
        raise SpecError("--stop and --status exclude each other.")
    if unused and not (stop and provider is Emulated.KUBERNETES):
        raise SpecError("--if-unused is for --stop of the emulated Kubernetes; each project has an AWS of its own.")
    if provider is Emulated.KUBERNETES:
        if port:
            raise SpecError("--port is of the emulated AWS; a cluster has an address of its own.")
        _kubernetes(
            stop=stop, unused=unused, status=status, fresh=fresh, knative=knative, gateway=gateway, trainer=trainer, json=json
        )  # fmt: skip
    else:
        if fresh:
            raise SpecError("--fresh is of the emulated Kubernetes; an AWS that is stopped forgets everything.")
        _aws(stop=stop, status=status, port=port, json=json)


def _aws(*, stop: bool, status: bool, port: int, json: bool) -> None:
    from ekiben.emulators import aws, stacks

    folder = stacks.state_dir(project())
    if stop:
        was = aws.running(folder)
        aws.stop(folder)
        if json:
            show.to_json(_told(None))
        else:
            show.say("The emulated AWS has stopped." if was else "The emulated AWS does not run.")
        return
    server = stacks.found(project()) if status else aws.ensure(folder, port=port)
    if json:
        show.to_json(_told(server))
    elif status:
        show.line(f"{server.url} (process {server.pid})" if server else "It does not run.")
    else:
        assert server is not None
        show.line(_exports(server))


def _kubernetes(
    *, stop: bool, unused: bool, status: bool, fresh: bool, knative: bool, gateway: bool, trainer: bool, json: bool
) -> None:
    from ekiben.emulators.kubernetes import chosen
    from ekiben.engine.environment import exports

    said = {"yours": "The cluster of KUBECONFIG", "kind": "The cluster by kind", "own": "Ekiben's cluster"}
    if stop:
        if unused:
            # Stopped once: the next one may be somebody else's.
            was, why = chosen.found(), chosen.release()
            if why:
                if json:
                    show.to_json(_cluster(chosen.found()))
                else:
                    show.say(f"The cluster goes on: {why}.")
                return
        else:
            was = chosen.stop()
        if json:
            show.to_json(_cluster(None))
        elif was is None:
            show.say("No cluster runs.")
        else:
            show.say(
                f"{said[was.origin]} is left as it is." if was.origin == "yours" else f"{said[was.origin]} has stopped."
            )
        return
    cluster = chosen.found() if status else chosen.choose(show.say, fresh=fresh)
    if not status:
        chosen.keep()
        assert cluster is not None
        cluster = chosen.with_knative(cluster, show.say) if knative else cluster
        cluster = chosen.with_gateway(cluster, show.say) if gateway else cluster
        cluster = chosen.with_trainer(cluster, show.say) if trainer else cluster
    if json:
        show.to_json(_cluster(cluster))
    elif status:
        show.line(f"{said[cluster.origin]}: {cluster.kubeconfig}" if cluster else "It does not run.")
    else:
        assert cluster is not None
        keys = "".join(f"# Pulumi.<stack>.yaml: {key}: {value}\n" for key, value in cluster.config.items())
        show.line((exports(cluster.environment) + keys).rstrip())


def _cluster(cluster: Chosen | None) -> dict[str, Any]:
    if cluster is None:
        return {"running": False, "origin": "", "environment": {}, "config": {}}
    told = {"environment": cluster.environment, "config": dict(cluster.config)}
    return {"running": True, "origin": cluster.origin, **told}


def _told(server: Server | None) -> dict[str, Any]:
    if server is None:
        return {"running": False, "url": "", "environment": {}}
    return {"running": True, "url": server.url, "pid": server.pid, "environment": server.environment}


def _exports(server: Server) -> str:
    """Shell text: the emulator's variables set, and those that would lead elsewhere taken away."""
    from ekiben.emulators.stacks import foreign
    from ekiben.engine.environment import exports

    values = server.environment
    gone = "".join(f"unset {name}\n" for name in foreign(os.environ) if name not in values)
    return (gone + exports(values)).rstrip()
