"""serve."""

from __future__ import annotations

from typing import Annotated

import typer

from ekiben.cli import options, server

__all__ = ["register"]

PORTS, WORKERS, SHARE = (server.RANGES[name] for name in ("port", "workers", "log_share"))
DEFAULTS, ENVIRONMENT = server.DEFAULTS, server.ENVIRONMENT


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    bento: Annotated[
        str,
        typer.Argument(
            metavar="BENTO",
            envvar=ENVIRONMENT["bento"],
            help="A bento's folder, its .tar, the URI of one, MODEL:3 or MODEL@ALIAS; else what is in /opt/ml/model.",
        ),
    ] = DEFAULTS["bento"],
    port: Annotated[
        int | None, typer.Option(min=PORTS[0], max=PORTS[1], help="0 takes a free one. Without it PORT, else 3000.")
    ] = DEFAULTS["port"],
    host: Annotated[
        str, typer.Option(envvar=ENVIRONMENT["host"], help="The address to listen on; 0.0.0.0 is all of them.")
    ] = DEFAULTS["host"],
    workers: Annotated[
        int,
        typer.Option(min=WORKERS[0], max=WORKERS[1], envvar=ENVIRONMENT["workers"], help="Processes on the one port."),
    ] = DEFAULTS["workers"],
    socket: Annotated[str, typer.Option(help="A unix socket to listen on, instead of a port.")] = DEFAULTS["socket"],
    digest: Annotated[
        str, typer.Option(envvar=ENVIRONMENT["digest"], help="The digest that it must have; else its archive's name.")
    ] = DEFAULTS["digest"],
    own: Annotated[bool, typer.Option("--bentoml", help="With BentoML's own server, whatever the service.")] = DEFAULTS[
        "own"
    ],
    log_predictions: Annotated[
        str,
        typer.Option(
            metavar="URI", envvar=ENVIRONMENT["log_predictions"], help="Log answers there: a folder, s3://..., gs://..."
        ),
    ] = DEFAULTS["log_predictions"],
    log_share: Annotated[
        float,
        typer.Option(
            min=SHARE[0], max=SHARE[1], envvar=ENVIRONMENT["log_share"], help="The share of answers that is logged."
        ),
    ] = DEFAULTS["log_share"],
    log_spool: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", envvar=ENVIRONMENT["log_spool"], help="Where what is logged waits for its storage."
        ),
    ] = DEFAULTS["log_spool"],
    registry: options.Registry = DEFAULTS["registry"],
    stack: options.Stack = DEFAULTS["stack"],
) -> None:
    """Serve a bento by itself, on this machine or in a container.

    In the environment that its lock asks for, which is made once. On loopback unless --host says otherwise. What has
    a digest is checked before anything of it is loaded.

    \b
    Examples:
      ekiben serve employment@champion
      ekiben serve ./bento --port 8080 --workers 2
      PORT=8080 ekiben serve 3f5c...e1.tar --host 0.0.0.0
      ekiben serve s3://models/bentos/3f5c...e1.tar
      ekiben serve employment@champion --log-predictions s3://lake --log-share 0.1
    """
    if not bento and not server.SAGEMAKER_MODEL.is_dir():
        raise typer.BadParameter(f"name a bento, or set {ENVIRONMENT['bento']}.", param_hint="BENTO")
    server.become(
        bento=bento, port=port, host=host, workers=workers, socket=socket, digest=digest, own=own,
        log_predictions=log_predictions, log_share=log_share, log_spool=log_spool, registry=registry, stack=stack,
    )  # fmt: skip
