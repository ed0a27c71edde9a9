"""Images that run without Docker: what ECR holds of them, and what of them lies on this machine.

An image is a folder: the files that its Dockerfile copied, the packages that it pins, its configuration. It runs on the Python that
the station would make for those packages, from the same cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moto.ecr.models import ecr_backends

from ekiben.emulators.aws import roles
from ekiben.emulators.aws.call import Call, Refused
from ekiben.emulators.aws.dockerfile import ADAPTER, CONFIG, LOCK, ROOT
from ekiben.station import environments

__all__ = ["Image", "Images", "NoImage"]

URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[a-z0-9._/-]+)"
    r"(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
TEMPORARY = "/tmp"  # noqa: S108 - of an image


class NoImage(Exception):
    """There is no such image, or none that the emulator can run."""


@dataclass(frozen=True)
class Image:
    """`digest` is that of its manifest; `folder` is where it lies."""

    digest: str
    folder: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return dict(json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))["config"])

    @property
    def adapted(self) -> bool:
        """Has it Lambda's web adapter?"""
        return (self.folder / ROOT / ADAPTER).exists()

    @cached_property
    def python(self) -> Path:
        """The interpreter with its packages, which is made when it is not there. Raises what `environments.interpreter` raises."""
        return environments.interpreter(self.folder / LOCK)

    def command(self, tmp: Path, entrypoint: Sequence[str] = (), words: Sequence[str] = ()) -> list[str]:
        """What is started, with the arguments `words` in the place of its own. Raises NoImage where it says nothing."""
        first = list(entrypoint or self.config["Entrypoint"])
        rest = list(words or ([] if entrypoint else self.config["Cmd"]))
        command = [self.inside(word, tmp) for word in (*first, *rest)]
        if not command:
            raise NoImage("the image has neither ENTRYPOINT nor CMD")
        return [str(self.python), *command[1:]] if command[0] in ("python", "python3") else command

    def variables(self, tmp: Path) -> dict[str, str]:
        """Its ENV, and where its packages are."""
        said = dict(one.partition("=")[::2] for one in self.config["Env"])
        found = {
            name: os.pathsep.join(self.inside(one, tmp) for one in value.split(":")) for name, value in said.items()
        }
        sites = [str(path) for path in sorted((self.folder / ROOT).glob("usr/local/lib/python3.*/site-packages"))]
        found["PYTHONPATH"] = os.pathsep.join([one for one in (found.get("PYTHONPATH"), *sites) if one])
        path = [found.get("PATH", ""), str(self.python.parent), os.environ.get("PATH", os.defpath)]
        return {**found, "PATH": os.pathsep.join(one for one in path if one)}

    def working_directory(self, tmp: Path) -> Path:
        place = Path(self.inside(self.config["WorkingDir"], tmp))
        return place if place.is_dir() else tmp

    def inside(self, text: str, tmp: Path) -> str:
        """A path of the image as one of this machine; any other text as it is. `tmp`: what is /tmp to it."""
        if text == TEMPORARY or text.startswith(TEMPORARY + "/"):
            return str(tmp) + text.removeprefix(TEMPORARY)
        if text.startswith("/") and (place := self.folder / ROOT / text.lstrip("/")).exists():
            return str(place)
        return text


class Images:
    """Those of a folder, which is emptied first: what ECR knew of them was in the memory of the emulator before this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Image] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def digest(self, uri: str) -> str:
        """Of the image at a URI of ECR, by its tag or its digest. Raises NoImage."""
        return str(self._stored(uri).get_image_digest())

    def find(self, uri: str) -> Image:
        """The image at a URI of ECR. Raises NoImage."""
        stored = self._stored(uri)
        digest = str(stored.get_image_digest())
        if digest not in self._known:
            self._known[digest] = Image(digest, self.place(json.loads(stored.image_manifest)))
        return self._known[digest]

    def put(self, call: Call) -> None:
        """PutImage, before moto: of a tag that is there and may not move it says that the image is there. Raises Refused."""
        asked = call.json
        repository = ecr_backends[call.account][call.region].repositories.get(str(asked.get("repositoryName")))
        for image in repository.images if repository and repository.is_tag_immutable() else ():
            if asked.get("imageTag") in image.image_tags and image.image_manifest != asked.get("imageManifest"):
                told = f"The image tag '{asked['imageTag']}' already exists in the '{asked['repositoryName']}' repository and"
                raise Refused(
                    "ImageTagAlreadyExistsException",
                    f"{told} cannot be overwritten because the repository is immutable.",
                )

    def pull(self, uri: str, role: str) -> Image:
        """The image at a URI of ECR, for a service that pulls it with a role. Raises NoImage, also where the role may not."""
        if not role:
            raise NoImage(f"there is no execution role to pull {uri} with")
        if named := URI.fullmatch(uri):
            repository = f"arn:aws:ecr:{named['region']}:{named['account']}:repository/{named['name']}"
            for action, where in (
                ("GetAuthorizationToken", "*"), ("BatchGetImage", repository), ("GetDownloadUrlForLayer", repository)
            ):  # fmt: skip
                if not roles.may(role, f"ecr:{action}", where):
                    raise NoImage(f'The role "{role}" does not have {action} permission for the image: "{uri}".')
        return self.find(uri)

    def _stored(self, uri: str) -> Any:
        named = URI.fullmatch(uri)
        if named is None:
            raise NoImage(f"{uri} is no image of ECR, and the emulator pulls from nowhere else")
        repository = ecr_backends[named["account"]][named["region"]].repositories.get(named["name"])
        for image in repository.images if repository else ():
            digest = image.get_image_digest()
            if digest == named["digest"] if named["digest"] else (named["tag"] or "latest") in image.image_tags:
                return image
        raise NoImage(f"Source image {uri} does not exist. Provide a valid source image.")

    def place(self, manifest: Mapping[str, Any]) -> Path:
        """Where the image of a manifest lies. Raises NoImage for one that was not built here."""
        id = str(manifest.get("config", {}).get("digest", "")).removeprefix("sha256:")
        folder = self.folder / id
        if not re.fullmatch(r"[0-9a-f]{64}", id) or not folder.is_dir():
            raise NoImage("the image was not built here: the emulator runs what its CodeBuild has built")
        return folder
