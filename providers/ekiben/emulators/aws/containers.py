"""A container without Docker: the process of an image on a port of its own, which is asked by HTTP."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ekiben.emulators.aws.images import Image
from ekiben.emulators.warden import Ward

__all__ = ["Container", "Reply"]

PROBE_S = 2.0  # SageMaker and Lambda's web adapter wait as long for an answer of /ping and of the readiness path
# Where a platform says which port is meant, and where a server of ours listens: on loopback, as all of the emulator.
PORTS = ("PORT", "AWS_LWA_PORT", "SAGEMAKER_BIND_TO_PORT")

Reply = tuple[int, list[tuple[str, str]], bytes]


class Container:
    """One process. `folder` is its own, `log` the file that it prints to; `variables` are those of the platform.

    Raises NoImage, and what making the image's environment raises.
    """

    def __init__(
        self, image: Image, folder: Path, log: Path, variables: Mapping[str, str], *, entrypoint: Sequence[str] = (),
        words: Sequence[str] = (), before: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self.log = folder / secrets.token_hex(6), log
        tmp = self.folder / "tmp"
        tmp.mkdir(parents=True)
        self.port = _free_port()
        env = {
            **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            "LANG": "C.UTF-8", "HOME": str(tmp), "TMPDIR": str(tmp), "PYTHONDONTWRITEBYTECODE": "1",
            **image.variables(tmp), **variables, **dict.fromkeys(PORTS, str(self.port)), "EKIBEN_HOST": "127.0.0.1",
        }  # fmt: skip
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*before, *image.command(tmp, entrypoint, words)]
        with log.open("ab") as output:
            self.ward = Ward(command, env=env, cwd=image.working_directory(tmp), output=output)

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self.ward.wait(0)

    def answers(self, path: str) -> bool:
        """Does it answer a GET of `path` as one that is ready does?"""
        try:
            return self.ask("GET", path, {}, b"", PROBE_S)[0] < 400
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply:
        """Raises TimeoutError, OSError, HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, target, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def end(self, grace_s: float = 0.0) -> None:
        """End it, with SIGTERM and so much time first; returns when it is gone."""
        if grace_s:
            self.ward.ask_to_end()
            self.ward.wait(grace_s)
        self.ward.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
