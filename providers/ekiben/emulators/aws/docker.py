"""What a build of CodeBuild finds as `docker` and `aws`: as much of the two as it takes to build an image and push it to ECR.

`python -m ekiben.emulators.aws.docker NAME WORDS...`. An image is kept in the folder EMULATOR_IMAGES, its packages in
EMULATOR_CACHE. What is pushed is known to ECR by its manifest, with the credentials of the build's role, by the calls that Docker
makes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import secrets
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from ekiben.emulators.aws.dockerfile import CONFIG, BuildFailed, build
from ekiben.station import environments

__all__ = ["CACHE_VARIABLE", "FOLDER_VARIABLE", "main"]

FOLDER_VARIABLE, CACHE_VARIABLE = "EMULATOR_IMAGES", "EMULATOR_CACHE"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIGURATION, LAYER = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


def main(words: list[str]) -> int:
    try:
        match words:
            case ["aws", "ecr", "get-login-password", *_]:
                told = boto3.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
                print(base64.b64decode(told).decode().partition(":")[2])
            case ["docker", "login", *_]:
                sys.stdin.read()
                print("Login Succeeded")
            case ["docker", "build", *rest] | ["docker", "buildx", "build", *rest]:
                _build(rest)
            case ["docker", "push", *_, name] if not name.startswith("-"):
                _push(name)
            case _:
                print(f"{' '.join(words)}: the emulator does not know this command", file=sys.stderr)
                return 1
    except (BuildFailed, ClientError, LookupError) as error:
        print(f"{words[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def _build(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="docker build", allow_abbrev=False)
    parser.add_argument("-t", "--tag", action="append", default=[])
    parser.add_argument("-f", "--file", default="Dockerfile")
    parser.add_argument("--platform", "--provenance", "--progress", "--sbom", dest="_")
    parser.add_argument("--push", action="store_true")
    parser.add_argument("context", type=Path)
    given = parser.parse_args(words)
    folder = Path(os.environ[FOLDER_VARIABLE])
    fresh = folder / f".{secrets.token_hex(8)}"
    try:
        id = build(given.context, given.context / given.file, fresh, _installed)
        place = folder / id.removeprefix("sha256:")
        try:
            fresh.rename(place)
        except OSError:
            if not place.is_dir():  # else it was built before
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    tags = _tags()
    tags.write_text(json.dumps({**_known(), **dict.fromkeys(given.tag, id)}), encoding="utf-8")
    print(f"Successfully built {id}")
    for name in given.tag if given.push else ():
        _push(name)


def _installed(lock: Path) -> Path:
    """Where the station makes environments, so that it is there when the image runs."""
    return environments.interpreter(lock, cache=Path(os.environ[CACHE_VARIABLE]))


def _push(name: str) -> None:
    """Raises LookupError for an image that was not built, ClientError where ECR refuses it."""
    if name not in _known():
        raise LookupError(f"an image does not exist locally with the tag: {name}")
    id = _known()[name]
    config = (Path(os.environ[FOLDER_VARIABLE]) / id.removeprefix("sha256:") / CONFIG).read_bytes()
    layer = json.loads(config)["rootfs"]["diff_ids"][0]
    repository, _, tag = name.partition("/")[2].partition(":")
    ecr = boto3.client("ecr")
    _upload(ecr, repository, config)
    manifest = json.dumps(
        {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIGURATION, "size": len(config), "digest": id},
            "layers": [{"mediaType": LAYER, "size": len(config), "digest": layer}],
        }
    )  # fmt: skip
    digest = f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
    with suppress(ecr.exceptions.ImageAlreadyExistsException):  # the very same: pushing it again is silent
        ecr.put_image(repositoryName=repository, imageManifest=manifest, imageTag=tag or "latest", imageDigest=digest)
    print(f"{tag or 'latest'}: digest: {digest} size: {len(manifest)}")


def _upload(ecr: Any, repository: str, data: bytes) -> None:
    """What Docker asks for before a manifest, so that a role that may not is refused."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    ecr.batch_check_layer_availability(repositoryName=repository, layerDigests=[digest])
    upload = ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]
    ecr.upload_layer_part(
        repositoryName=repository, uploadId=upload, partFirstByte=0, partLastByte=len(data) - 1, layerPartBlob=data
    )
    ecr.complete_layer_upload(repositoryName=repository, uploadId=upload, layerDigests=[digest])


def _tags() -> Path:
    """Where this build keeps what it has called its images."""
    return Path(os.environ["HOME"]) / "images.json"


def _known() -> dict[str, str]:
    return dict(json.loads(_tags().read_text(encoding="utf-8"))) if _tags().exists() else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
