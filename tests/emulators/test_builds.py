"""CodeBuild and its Dockerfiles: what builds, and what says why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from ekiben.emulators.aws import dockerfile
from ekiben.testing import EmulatedAws as Aws
from tests.waiting import until

from . import images


def built(folder: Path, text: str, **files: str) -> tuple[str, Path]:
    """Build this Dockerfile; the image's id and its folder."""
    context = folder / "context"
    for name, content in {
        "Dockerfile": text,
        "a.txt": "a",
        "sub/b.txt": "b",
        "lock": "numpy==2.4.0\n",
        **files,
    }.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(content)
    into = folder / f"image-{len(list(folder.iterdir()))}"
    return dockerfile.build(context, context / "Dockerfile", into, lambda lock: None), into


def test_a_dockerfile_becomes_a_folder(tmp_path: Path) -> None:
    text = """
# what it is made on
FROM --platform=linux/amd64 python:3.12-slim
COPY --from=public.ecr.aws/awsguru/aws-lambda-adapter:0.9.1 /lambda-adapter /opt/extensions/lambda-adapter
WORKDIR /srv
COPY a.txt lock ./
COPY ["sub", "/data"]
RUN python -m pip install --no-cache-dir \\
    --require-hashes -r lock
ENV A=1 B="two words"
ENV C and so on
EXPOSE 8080
ENTRYPOINT ["python", "-m", "x"]
CMD ["serve"]
"""
    id, image = built(tmp_path, text)
    root = image / dockerfile.ROOT
    assert (root / "srv/a.txt").read_text() == "a"
    assert (root / "data/b.txt").read_text() == "b"
    assert (root / dockerfile.ADAPTER).exists()
    assert (image / dockerfile.LOCK).read_text() == "numpy==2.4.0\n"
    config = json.loads((image / dockerfile.CONFIG).read_text())["config"]
    assert config["Env"] == ["A=1", "B=two words", "C=and so on"]
    assert (config["Entrypoint"], config["Cmd"], config["WorkingDir"]) == (["python", "-m", "x"], ["serve"], "/srv")
    assert built(tmp_path, text)[0] == id, "the same files are the same image"
    assert built(tmp_path, text, **{"sub/b.txt": "other"})[0] != id


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("RUN apt-get update", "pip install -r FILE"),
        ("RUN pip install numpy", "'numpy'"),
        ("RUN pip install -r none", "No such file"),
        ("COPY none /x", "no none in the context"),
        ("COPY ../../etc/passwd /x", "in the context"),
        ("COPY a.txt ../../x", "climbs"),
        ("COPY --from=builder /x /y", "web adapter from its image"),
        ("CMD serve", "JSON"),
        ("ENV PATH=$PATH:/x", "without variables"),
        ("ADD a.txt /x", "does not know this instruction"),
        ("FROM python:3.12", "one stage"),
    ],
)
def test_what_is_not_understood_names_its_line(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(dockerfile.BuildFailed, match="Dockerfile line 3: ") as failed:
        built(tmp_path, f"FROM python:3.12\n# next\n{line}\n")
    assert why in str(failed.value)


@pytest.mark.parametrize("text", ["", "FROM ubuntu:24.04\n", "COPY a.txt /x\n"])
def test_what_is_no_python_image(tmp_path: Path, text: str) -> None:
    with pytest.raises(dockerfile.BuildFailed, match="FROM|Python"):
        built(tmp_path, text)


def test_a_build_that_fails_says_which_line(builds: Aws, tmp_path: Path) -> None:
    files = {"Dockerfile": "FROM python:3.12\nRUN apt-get install -y git\n"}
    build = images.build(builds, images.context(tmp_path, "apt", files), "apt")
    assert (build["buildStatus"], build["phases"][1]["phaseStatus"]) == ("FAILED", "FAILED")
    assert "exit status 1" in build["phases"][1]["contexts"][0]["message"]
    assert "Dockerfile line 2: RUN apt-get install -y git: the emulator runs `pip install -r FILE`" in images.said(
        builds, build
    )
    with pytest.raises(ClientError, match="ImageNotFound"):
        images.uri(builds, "apt")


def test_packages_that_cannot_be_installed_fail_the_build(builds: Aws, tmp_path: Path) -> None:
    files = {"Dockerfile": "FROM python:3.12\nCOPY lock /lock\nRUN pip install -r /lock\n", "lock": "numpy==0.0.0\n"}
    build = images.build(builds, images.context(tmp_path, "none", files), "none")
    assert build["buildStatus"] == "FAILED"
    assert "Dockerfile line 3: RUN pip install" in images.said(builds, build)


def test_a_tag_is_pushed_once(small: str, builds: Aws, tmp_path: Path) -> None:
    again = images.build(builds, images.context(tmp_path, "again", images.SMALL), "small")
    assert again["buildStatus"] == "SUCCEEDED", "the very same image"
    other = {**images.SMALL, "server.py": "print('another one')"}
    build = images.build(builds, images.context(tmp_path, "other", other), "small")
    assert build["buildStatus"] == "FAILED"
    assert "ImageTagAlreadyExistsException" in images.said(builds, build)


def test_a_source_that_is_not_there_and_a_project_that_is_not(builds: Aws) -> None:
    started = builds.codebuild.start_build(projectName=images.PROJECT)["build"]
    build = images.over(builds, started["id"])
    assert build["buildStatus"] == "FAILED"
    assert "NoSuchKey" in build["phases"][0]["contexts"][0]["message"]
    with pytest.raises(ClientError, match="ResourceNotFound"):
        builds.codebuild.start_build(projectName="none")
    with pytest.raises(ClientError, match="imageOverride"):
        builds.codebuild.start_build(projectName=images.PROJECT, imageOverride="x")
    assert builds.codebuild.batch_get_builds(ids=["images:none"])["buildsNotFound"] == ["images:none"]


def test_a_build_is_stopped(builds: Aws, tmp_path: Path) -> None:
    spec = "version: 0.2\nphases:\n  build:\n    commands:\n      - echo begun\n      - sleep 600\n"
    id = images.start(builds, images.context(tmp_path, "slow", {"buildspec.yml": spec}), "slow")

    def begun() -> bool:
        build = builds.codebuild.batch_get_builds(ids=[id])["builds"][0]
        try:
            return "\nbegun" in images.said(builds, build)
        except ClientError:  # the stream comes with its first line
            return False

    until(begun, "the build begins")
    builds.codebuild.stop_build(id=id)
    assert images.over(builds, id)["buildStatus"] == "STOPPED"
    assert builds.codebuild.stop_build(id=id)["build"]["buildStatus"] == "STOPPED"
