"""What all tests share: the tests that need the Pulumi engine come last, so that a first build of it runs beside the others."""

from __future__ import annotations

import compileall
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from ekiben.engine import pulumi_cli
from ekiben.errors import EkibenError

from .control_plane import ControlPlane, control_plane, wait_for_programs

# Analytics and update checks of what we call have no place in a test.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
os.environ.setdefault("PULUMI_SKIP_UPDATE_CHECK", "true")

# A shell's background jobs ignore an interrupt, and all that they start would: the tests of Ctrl-C too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ekiben", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("ekiben")


# The tests of these folders share what takes long to make.
RIG = "tests/conformance/"
TOGETHER = (RIG, "tests/example/", "tests/teardown/", "tests/emulators/test_api_server_")
# These share nothing, take long, and come last: the workers divide them.
SINGLY = ("tests/engine/", "tests/cli/test_readme.py")
# Long, and under the engine: first of those.
LONG = (
    *TOGETHER, "tests/new/test_project.py", "tests/aws/test_deployed.py", "tests/aws/test_roles.py",
    "tests/aws/test_stack_compute.py", "tests/emulators/test_plugin_engine.py", "tests/cli/test_hybrid.py",
    "tests/kubernetes/test_hybrid.py",
)  # fmt: skip


# Shown of a failure that did not come again.
AGAIN_LINES = 40


class Scheduling(LoadScopeScheduling):
    """One worker for a module, which makes what its tests share once. (xdist's own groups do nothing since pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(RIG) and (rig := re.search(r"\[(local|aws|kubernetes)\b", nodeid)):
            return RIG + rig[1]  # a platform each
        if nodeid.startswith(SINGLY):
            return nodeid
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def needs_engine(item: pytest.Item) -> bool:
    return item.get_closest_marker("engine") is not None or item.nodeid.startswith(RIG)


def needs_cluster(item: pytest.Item) -> bool:
    """One that has the marker, or is of the contract's suite on the rig of a cluster."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return item.get_closest_marker("cluster") is not None or params.get("rig") == "kubernetes"


def needs_api_server(item: pytest.Item) -> bool:
    return "api_server" in getattr(item, "fixturenames", ())


def order(item: pytest.Item) -> tuple[bool, bool]:
    """Those that need what is built come last, of them first what is long and cannot be divided: no worker waits for the other."""
    built = needs_engine(item) or needs_cluster(item) or needs_api_server(item)
    return built, not item.nodeid.startswith(LONG)


def pytest_configure(config: pytest.Config) -> None:
    """Each of some thousand processes that tests start would compile what it imports, where bytecode is not to be written."""
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "providers", quiet=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=order)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test that was run again failed of at first: the run that counts does not say it."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.write_sep("_", f"run again: {report.nodeid}")
        terminalreporter.write_line("\n".join(report.longreprtext.splitlines()[-AGAIN_LINES:]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test's time limit begins after this: the first build of the CLI may take longer."""
    if needs_engine(item):
        wait_for_cli()
    if needs_cluster(item):
        wait_for_cluster()
    if needs_api_server(item):
        wait_for_programs()
    return (yield)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real API server with its controllers, and no node. The tests that need it share it: each works in what it has made."""
    with control_plane(tmp_path_factory.mktemp("api-server")) as plane:
        yield plane


@cache
def wait_for_cli() -> None:
    with suppress(EkibenError):  # the tests tell what is wrong
        pulumi_cli.ensure(Path(__file__).parents[1], lambda line: None)


@cache
def wait_for_cluster() -> None:
    from ekiben.emulators.kubernetes import chosen, launch

    if chosen.found() is None and not chosen.kind_may():
        with suppress(EkibenError):  # the tests are skipped, or tell what is wrong
            launch.build(lambda line: None)
