"""A project on the real engine with a stand-in plugin, and the emulated AWS that the tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws.builds import built
from ekiben.aws.client import Cloud
from ekiben.emulators.aws import Server
from ekiben.emulators.plugins.install import install
from ekiben.engine import pulumi_cli
from ekiben.testing import EmulatedAws as Aws

from . import images


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("PULUMI_", "EKIBEN_", "AWS_")) and name != "PULUMI_SKIP_UPDATE_CHECK":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def aws(emulated_aws_session: Aws) -> Aws:
    return emulated_aws_session


@pytest.fixture(scope="session")
def server(aws: Aws) -> Server:
    return aws.server


class Project:
    """A Pulumi program on the SDK of `cloud`, as a user writes it, and the engine on it, with `environ` beside this process's."""

    def __init__(
        self, root: Path, cli: pulumi_cli.Cli, environ: Mapping[str, str], cloud: str = "aws", config: str = ""
    ) -> None:
        self.root, self.cli, self.cloud = root, cli, cloud
        (root / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
        (root / "Pulumi.dev.yaml").write_text(f"config:\n  {config}\n" if config else "{}\n")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(cli.path.parent), os.environ["PATH"]])
        self.env = {
            **os.environ, **environ, "PATH": path, "PULUMI_HOME": str(root / ".pulumi"),
            "PULUMI_BACKEND_URL": f"file://{root}", "PULUMI_CONFIG_PASSPHRASE": "x", "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_IGNORE_AMBIENT_PLUGINS": "true", "VIRTUAL_ENV": sys.prefix,
        }  # fmt: skip
        install(cli, self.env, root, cloud)
        self("stack", "init", "dev")

    def program(self, text: str) -> None:
        (self.root / "__main__.py").write_text(
            f"import json\nimport pulumi\nimport pulumi_{self.cloud} as {self.cloud}\n{text}"
        )

    def __call__(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run(
            [str(self.cli.path), "--non-interactive", "--color=never", *words], cwd=self.root, env=self.env, text=True,
            capture_output=True, timeout=240, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def changes(self, *words: str) -> dict[str, str]:
        """Of a preview as JSON: what happens to each resource that does not stay the same, by its name."""
        steps = json.loads(self("preview", "--json", *words).partition("\nwarning:")[0])["steps"]
        return {step["urn"].rpartition("::")[2]: step["op"] for step in steps if step["op"] not in ("same", "read")}

    def outputs(self) -> dict[str, Any]:
        return dict(json.loads(self("stack", "output", "--json")))


@pytest.fixture(scope="session")
def cli() -> pulumi_cli.Cli:
    return pulumi_cli.ensure(Path(__file__).parents[2], print)


@pytest.fixture
def project(tmp_path: Path, cli: pulumi_cli.Cli, server: Server) -> Project:
    return Project(tmp_path.resolve(), cli, server.environment, config="aws:region: us-east-1")


@pytest.fixture(scope="session")
def builds(aws: Aws) -> Aws:
    """With a project that builds images."""
    images.prepare(aws)
    return aws


@pytest.fixture(scope="session")
def image(builds: Aws) -> str:
    """The URI of the environment image of the conformance suite's bento, by its digest."""
    context = packing.environment_image(packing.template(images.BENTO))
    builds.s3.upload_file(str(context.path), images.BUCKET, f"code/{context.path.name}")
    repository = f"{images.ACCOUNT}/{images.REPOSITORY}"
    digest = built(
        Cloud("us-east-1"), project=images.PROJECT, repository_url=repository, tag=context.sha256,
        source=f"{images.BUCKET}/code/{context.path.name}", stopped=threading.Event(),
    )  # fmt: skip
    assert images.uri(builds, context.sha256) == f"{repository}@{digest}"
    return f"{repository}@{digest}"


@pytest.fixture(scope="session")
def small(builds: Aws, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of an image that answers at once, by its tag."""
    context = images.context(tmp_path_factory.mktemp("small"), "small", images.SMALL)
    built = images.build(builds, context, "small")
    assert built["buildStatus"] == "SUCCEEDED", images.said(builds, built)
    return f"{images.ACCOUNT}/{images.REPOSITORY}:small"


@pytest.fixture(scope="session")
def versions(aws: Aws, image: str, tmp_path_factory: pytest.TempPathFactory) -> list[ek.ModelVersion]:
    """Of that bento two that predict, and one that does not start."""
    folder = tmp_path_factory.mktemp("bentos")
    return [images.version(aws, folder, number, slope) for number, slope in ((1, 2.0), (2, 3.0), (3, None))]
