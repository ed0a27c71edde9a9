"""`python -m ekiben.emulators.kubernetes.ingress`: the process of the ingress. Its listeners, signals, and what it follows."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ekiben.errors import EkibenError, MissingDependency, Unavailable

try:
    from aiohttp import web

    from ekiben.emulators.kubernetes.ingress import following, gateway, routes, status
    from ekiben.emulators.kubernetes.ingress.backends import Backends
    from ekiben.emulators.kubernetes.ingress.proxy import Limits, Proxy
except ImportError as missing:
    raise MissingDependency("aiohttp", "emulate") from missing

__all__ = ["main", "serve"]

# Requests that are under way when the process is asked to end have this long.
GRACE_S = 30.0

logger = logging.getLogger("ekiben.emulators.kubernetes.ingress")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ekiben.emulators.kubernetes.ingress", description="An ingress for Knative and HTTPRoutes."
    )
    parser.add_argument("--kubeconfig", required=True, type=Path)
    parser.add_argument("--listen", required=True, help="HOST:PORT for callers from outside; port 0: any free one")
    parser.add_argument("--inside", required=True, help="HOST:PORT for callers from inside the cluster")
    parser.add_argument("--domain-internal", required=True, help="the name by which callers inside find it")
    parser.add_argument("--ingress-class", default=routes.CLASS, help="the class of the objects that it serves")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_until_told(args))
    except EkibenError as error:
        print(error, file=sys.stderr)
        return 5
    return 0


async def _until_told(args: argparse.Namespace) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)

    def ready(*addresses: str) -> None:
        print(*addresses, flush=True)
        logger.info("listening at %s", " and ".join(addresses))

    await serve(args.kubeconfig, args.listen, args.inside, args.domain_internal, told, ready, args.ingress_class)


async def serve(
    kubeconfig: Path,
    outside: str,
    inside: str,
    domain_internal: str,
    told: asyncio.Event,
    ready: Callable[[str, str], None],
    ingress_class: str = routes.CLASS,
    limits: Limits | None = None,
) -> None:
    """Serve until `told`; `ready` gets the two addresses when both listen. Raises SpecError, Unavailable."""
    api = following.connect(kubeconfig)
    backends = Backends()
    proxy = Proxy(backends, limits or Limits())
    teller = status.Teller(api, domain_internal, domain_internal)
    runners = [web.ServerRunner(proxy.server(inside=one), shutdown_timeout=GRACE_S) for one in (False, True)]
    found: dict[str, dict[str, following.Object]] = {"services": backends.services, "endpoints": backends.endpoints}
    listed: set[str] = set()
    ingresses: dict[str, following.Object] = {}
    httproutes: dict[str, following.Object] = {}

    routes_at = f"{gateway.PATH}/httproutes"

    def seen(kind: str) -> None:
        listed.add(kind)
        if kind in found:
            backends.changed()
        else:
            served = {key: one for key, one in ingresses.items() if routes.ours(one, ingress_class)}
            served |= {f"{routes.HTTPROUTE}{key}": one for key, one in httproutes.items() if gateway.attached(one)}
            proxy.table = routes.Table.of(served)
            teller.look(served, proxy.table.wrong)
        # A cluster need not have both Knative and the Gateway API.
        if listed.issuperset(found) and len(listed) > len(found):
            proxy.known.set()

    try:
        addresses = [await _listen(runner, at) for runner, at in zip(runners, (outside, inside), strict=True)]
        ready(addresses[0], addresses[1])
        tasks = [
            asyncio.create_task(following.follow(api, f"api/v1/{kind}", found[kind], lambda kind=kind: seen(kind)))  # type: ignore[misc]
            for kind in found
        ]
        tasks.append(
            asyncio.create_task(following.follow(api, f"{status.PATH}/ingresses", ingresses, lambda: seen("ingresses")))
        )
        tasks.append(asyncio.create_task(following.follow(api, routes_at, httproutes, lambda: seen("httproutes"))))
        tasks.append(asyncio.create_task(_tell(proxy, teller)))
        stop = asyncio.create_task(told.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
        for task in done - {stop}:
            task.result()
    finally:
        for runner in runners:
            await runner.cleanup()
        await backends.close()
        await api.close()


async def _tell(proxy: Proxy, teller: status.Teller) -> None:
    """No status says that a route is served before the first requests can be."""
    await proxy.known.wait()
    await teller.run()


async def _listen(runner: web.ServerRunner, at: str) -> str:
    host, _, port = at.rpartition(":")
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port), backlog=1024).start()
    except (OSError, ValueError) as error:
        raise Unavailable(
            "kubernetes", f"listen at {at}", str(error), "Stop the program that uses the address"
        ) from error
    return "{}:{}".format(*runner.addresses[-1][:2])


if __name__ == "__main__":
    sys.exit(main())
