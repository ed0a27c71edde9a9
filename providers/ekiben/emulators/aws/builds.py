"""CodeBuild: builds whose buildspec really runs, as a process of this machine, with `docker` and `aws` as docker.py has them.

The source is a zip in S3, brought with the credentials of the project's role; the log is in CloudWatch Logs. What moto says of a
build, which ends well at the first question, is replaced by what has happened.
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto.codebuild.models import codebuild_backends

from ekiben.emulators.aws import roles
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.docker import CACHE_VARIABLE, FOLDER_VARIABLE
from ekiben.emulators.aws.log_streams import Log
from ekiben.emulators.warden import Ward
from ekiben.packing.source import cache_dir
from ekiben.station.processes import child_env

__all__ = ["Builds"]

PHASES = ("install", "pre_build", "build", "post_build")
DEFAULT_MINUTES = 60
TICK_S = 0.1

logger = logging.getLogger("ekiben.emulators.aws")


class Builds:
    """What runs the builds in moto's tables. `folder` is its own, `images` where images are kept; `url` is the emulator's."""

    def __init__(self, folder: Path, images: Path, url: str, moto: Callable[[Call], Answer]) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        self._folder, self._images, self._url, self._moto = folder, images, url, moto
        self._running: dict[str, Running] = {}
        self._commands()

    def start(self, call: Call) -> Answer:
        asked, backend = call.json, codebuild_backends[call.account][call.region]
        name = str(asked.get("projectName"))
        known = backend.codebuild_projects.get(name)
        project = _overridden(known.project_metadata, asked) if known else {}
        keys = _keys(call, str(project["serviceRole"])) if known else {}
        answer = self._moto(call)
        if answer.status != 200:
            return answer
        record = backend.build_metadata[name].build_metadata
        running = Running(record, project, keys, call.account, call.region, self._folder, self._images, self._url)
        self._running[record["id"]] = running
        threading.Thread(target=running.run, daemon=True, name=f"build {record['id']}").start()
        return Answer.of({"build": record})

    def get(self, call: Call) -> Answer:
        """BatchGetBuilds."""
        ids = [str(one) for one in call.json.get("ids", ())]
        there = {one["id"]: one for one in self._records(call)}
        missing = [id for id in ids if id not in there]
        return Answer.of({"builds": [there[id] for id in ids if id in there], "buildsNotFound": missing})

    def stop(self, call: Call) -> Answer:
        """StopBuild: silent for one that has ended."""
        id = str(call.json.get("id"))
        record = next((one for one in self._records(call) if one["id"] == id), None)
        if record is None:
            raise Refused("ResourceNotFoundException", f"Build {id} does not exist")
        if id in self._running:
            self._running[id].stop()
        return Answer.of({"build": record})

    def update_project(self, call: Call) -> Answer:
        """UpdateProject, which moto lacks."""
        asked = call.json
        project: Any = codebuild_backends[call.account][call.region].codebuild_projects.get(str(asked.pop("name", "")))
        if project is None:
            raise Refused("ResourceNotFoundException", "Project cannot be found")
        project.project_metadata |= {**asked, "lastModified": time.time()}
        project.service_role = project.project_metadata["serviceRole"]
        return Answer.of({"project": project.project_metadata})

    def reset(self) -> None:
        """End those that run."""
        for running in list(self._running.values()):
            running.stop()
            running.ended.wait()
        self._running.clear()

    def _records(self, call: Call) -> list[dict[str, Any]]:
        history = codebuild_backends[call.account][call.region].build_metadata_history
        return [record for records in history.values() for record in records]

    def _commands(self) -> None:
        place = self._folder / "bin"
        place.mkdir(parents=True)
        for name in ("docker", "aws"):
            script = f'#!/bin/sh\nexec "{sys.executable}" -P -m ekiben.emulators.aws.docker {name} "$@"\n'
            (place / name).write_text(script, encoding="utf-8")
            (place / name).chmod(0o700)


class Running:
    """One build."""

    def __init__(
        self,
        record: dict[str, Any],
        project: Mapping[str, Any],
        keys: Mapping[str, str],
        account: str,
        region: str,
        folder: Path,
        images: Path,
        url: str,
    ) -> None:
        self._record, self._project, self._keys, self._region, self._url, self._images = (
            record,
            project,
            keys,
            region,
            url,
            images,
        )
        self._id = str(record["id"]).partition(":")[2]
        self._folder, self._bin = folder / self._id, folder / "bin"
        (self._folder / "home").mkdir(parents=True)
        self._ward: Ward | None = None
        self._stopping, self.ended = threading.Event(), threading.Event()
        told = (project.get("logsConfig") or {}).get("cloudWatchLogs") or {}
        group = told.get("groupName") or f"/aws/codebuild/{project['name']}"
        stream = "/".join(one for one in (told.get("streamName"), self._id) if one)
        self._log = Log(self._folder / "log", group, stream, account, region, project["serviceRole"])
        record |= {
            "buildStatus": "IN_PROGRESS", "currentPhase": "PROVISIONING", "buildComplete": False, "startTime": time.time(),
            "source": project["source"], "environment": project["environment"], "phases": [],
            "timeoutInMinutes": project.get("timeoutInMinutes") or DEFAULT_MINUTES,
            "logs": {"groupName": group, "streamName": stream, "cloudWatchLogs": {"status": "ENABLED", "groupName": group}},
        }  # fmt: skip

    def stop(self) -> None:
        self._stopping.set()
        if self._ward is not None:
            self._ward.kill()

    def run(self) -> None:
        status, why = "FAILED", ""
        try:
            self._phase("DOWNLOAD_SOURCE")
            source = self._source()
            self._phase("BUILD")
            status = self._build(source)
        except Exception as error:
            logger.info("the build %s: %s", self._record["id"], error)
            why = str(error)
            with self._log.path.open("a", encoding="utf-8") as log:
                log.write(f"[Container] {why}\n")
        finally:
            self._log.send(last=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._phase("COMPLETED", "SUCCEEDED" if status == "SUCCEEDED" else "FAILED", why)
            self._record |= {"buildStatus": status, "buildComplete": True, "endTime": time.time()}
            self.ended.set()

    def _source(self) -> Path:
        """The source, unpacked. Raises ValueError, botocore's errors, BadZipFile."""
        told = self._project["source"]
        if told["type"] != "S3":
            raise ValueError(f"the emulator takes sources from S3 only, not {told['type']}")
        keys = {name.lower(): value for name, value in self._keys.items()}
        s3 = boto3.client("s3", endpoint_url=self._url, region_name=self._region, **keys)
        bucket, _, key = str(told["location"]).removeprefix("arn:aws:s3:::").partition("/")
        data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        source = self._folder / "src"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(source)  # noqa: S202 - zipfile keeps names inside
        return source

    def _build(self, source: Path) -> str:
        """How it ended. Raises ValueError when a command fails."""
        script = _script(source, str(self._project["source"].get("buildspec") or "buildspec.yml"))
        variables = {
            one["name"]: one["value"] for one in self._project["environment"].get("environmentVariables") or ()
        }
        env = child_env({
            **self._keys, "AWS_ENDPOINT_URL": self._url, "AWS_REGION": self._region, "AWS_DEFAULT_REGION": self._region,
            "AWS_EC2_METADATA_DISABLED": "true", "CODEBUILD_BUILD_ID": str(self._record["id"]), "CODEBUILD_CI": "true",
            "CODEBUILD_BUILD_ARN": str(self._record["arn"]), "CODEBUILD_SRC_DIR": str(source), **variables,
            "HOME": str(self._folder / "home"), FOLDER_VARIABLE: str(self._images), CACHE_VARIABLE: str(cache_dir()),
        })  # fmt: skip
        env["PATH"] = f"{self._bin}:{env.get('PATH', '')}"
        limit_s = 60.0 * self._record["timeoutInMinutes"]
        with self._log.path.open("ab") as output:
            self._ward = Ward(["/bin/sh", "-c", script], env=env, cwd=source, output=output)
        if self._stopping.is_set():
            self._ward.kill()
        begun = time.monotonic()
        while (code := self._ward.wait(TICK_S)) is None:
            self._log.send()
            if time.monotonic() - begun > limit_s:
                self._ward.kill()
                return "TIMED_OUT"
        if self._stopping.is_set():
            return "STOPPED"
        if code:
            raise ValueError(f"COMMAND_EXECUTION_ERROR: Error while executing a command. Reason: exit status {code}")
        return "SUCCEEDED"

    def _phase(self, name: str, before: str = "SUCCEEDED", why: str = "") -> None:
        """The build has come to the phase `name`; the one before has ended as `before` says."""
        now, phases = time.time(), self._record["phases"]
        if phases:
            began = phases[-1]["startTime"]
            phases[-1] |= {"phaseStatus": before, "endTime": now, "durationInSeconds": int(now - began)}
            if why:
                phases[-1]["contexts"] = [{"statusCode": "CLIENT_ERROR", "message": why}]
        phases.append({"phaseType": name, "startTime": now})
        self._record["currentPhase"] = name


def _keys(call: Call, role: str) -> dict[str, str]:
    """Credentials of a project's role. Raises Refused."""
    try:
        return roles.credentials(call.account, call.region, role, "codebuild")
    except Refused as error:
        told = f"CodeBuild is not authorized to perform: sts:AssumeRole on service role. Could not assume role {role}."
        raise Refused("InvalidInputException", told) from error


def _overridden(project: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The project as a StartBuild wants it this time. Raises Refused for what the emulator would drop."""
    source = {"type": "sourceTypeOverride", "location": "sourceLocationOverride", "buildspec": "buildspecOverride"}
    known = {"projectName", "idempotencyToken", "environmentVariablesOverride", *source.values()}
    if unknown := sorted(set(asked) - known):
        raise Refused("InvalidInputException", f"the emulator does nothing with {', '.join(unknown)}")
    source = {**project["source"], **{name: asked[key] for name, key in source.items() if key in asked}}
    environment = dict(project["environment"])
    variables = {one["name"]: one for one in environment.get("environmentVariables") or ()}
    variables |= {one["name"]: one for one in asked.get("environmentVariablesOverride", ())}
    return {
        **project,
        "source": source,
        "environment": {**environment, "environmentVariables": list(variables.values())},
    }


def _script(source: Path, buildspec: str) -> str:
    """The commands of a buildspec, one after another, as one script. Raises ValueError, OSError, YAMLError."""
    text = buildspec if "\n" in buildspec else (source / buildspec).read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    if not isinstance(told, dict) or not isinstance(told.get("phases"), dict):
        raise ValueError("YAML_FILE_ERROR: the buildspec has no phases")
    if unknown := sorted((set(told) - {"version", "phases", "env"}) | (set(told["phases"]) - set(PHASES))):
        raise ValueError(f"the emulator does nothing with {', '.join(unknown)} in a buildspec")
    variables = ((told.get("env") or {}).get("variables") or {}).items()
    lines = ["set -e", *(f'export {name}="${{{name}:-{value}}}"' for name, value in variables)]
    for phase in PHASES:
        for command in (told["phases"].get(phase) or {}).get("commands") or ():
            quoted = str(command).replace("'", "'\\''")
            lines += [f"echo '[Container] {phase.upper()} Running command {quoted}'", str(command)]
    return "\n".join(lines)
