"""SageMaker training jobs that run: the request's own command, over its own data, as processes of this machine.

The image is not pulled: the interpreter that runs the emulator stands for the one in it. Each instance is a process that finds its
folders at /opt/ml, as in a container. Statuses, times, results and the reason of a failure are written into moto's own record.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from moto.events.models import events_backends
from moto.iam.models import iam_backends
from moto.sagemaker.models import FakeTrainingJob, sagemaker_backends
from moto.sts.models import sts_backends

from ekiben.emulators.aws import cell, roles
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.log_streams import Log
from ekiben.emulators.aws.objects import Mirror, fetch, pack
from ekiben.emulators.warden import Ward

__all__ = ["Jobs"]

STOP_S = 120.0  # between SIGTERM and SIGKILL (StopTrainingJob)
FAILURE_CHARS = 1024
# The exit status of who was told to end by SIGTERM, and obeyed.
TOLD_TO_END = 128 + signal.SIGTERM
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
TICK_S, SYNC_S = 0.1, 1.0
HELD_S, HELD_TICK_S = 30.0, 0.01  # until a network is there
CELL = (sys.executable, "-I", str(cell.__file__))
INHERITED = ("HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")

logger = logging.getLogger("ekiben.emulators.aws")


class Jobs:
    """What runs the training jobs in moto's tables. `folder` is its own; `url` is the emulator's."""

    def __init__(self, folder: Path, url: str, moto: Callable[[Call], Answer]) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        self._folder, self._url, self._moto = folder, url, moto
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()

    def create(self, call: Call) -> Answer:
        asked = call.json
        name = str(asked.get("TrainingJobName"))
        backend = sagemaker_backends[call.account][call.region]
        with self._lock:
            if name in backend.training_jobs:
                raise Refused(
                    "ResourceInUse", f"Training job names must be unique within an AWS account and region: {name}"
                )
            role = str(asked.get("RoleArn")).rpartition("/")[2]
            if role not in [one.name for one in iam_backends[call.account]["aws"].roles.values()]:
                raise Refused(
                    "ValidationException",
                    f"Could not assume role {asked.get('RoleArn')}. Please ensure that the role exists",
                )
            answer = self._moto(call)
            if answer.status == 200:
                record = backend.training_jobs[name]
                running = Running(record, asked, call.account, call.region, self._folder / name, self._url)
                self._running[record.arn] = running
        if answer.status == 200:
            threading.Thread(target=running.live, daemon=True, name=f"job {name}").start()
        return answer

    def stop(self, call: Call) -> Answer:
        """StopTrainingJob: silent for one that is stopping, refused for one that has ended, as SageMaker does it."""
        name = str(call.json.get("TrainingJobName"))
        record = sagemaker_backends[call.account][call.region].training_jobs.get(name)
        if record is None:
            raise Refused("ValidationException", "Requested resource not found.")
        if record.training_job_status not in ("InProgress", "Stopping"):
            told = f"The request was rejected because the training job is in status {record.training_job_status}."
            raise Refused("ValidationException", told)
        self._running[record.arn].stop()
        return Answer.of({})

    def close(self) -> None:
        for running in list(self._running.values()):
            running.kill()
            running.ended.wait(STOP_S)
            shutil.rmtree(running.folder, ignore_errors=True)
        self._running.clear()


class Running:
    """One job."""

    def __init__(
        self, record: FakeTrainingJob, asked: Mapping[str, Any], account: str, region: str, folder: Path, url: str
    ) -> None:
        self.record: Any = record
        self.asked, self.account, self.region, self.folder = asked, account, region, folder
        self._count = int(asked.get("ResourceConfig", {}).get("InstanceCount", 1))
        self._hosts = [f"algo-{rank + 1}" for rank in range(self._count)]
        self._stopping, self._closing, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._wards: list[Ward] = []
        self._holder: Ward | None = None
        name, now = record.training_job_name, int(time.time())
        self._logs = [
            Log(folder / f"{host}.log", LOG_GROUP, f"{name}/{host}-{now}", account, region, str(asked["RoleArn"]))
            for host in self._hosts
        ]
        roles.trusted(str(asked["RoleArn"]), "sagemaker.amazonaws.com")
        assumed = sts_backends[account]["aws"].assume_role(region, "SageMaker", str(asked["RoleArn"]), "", 43200, "")
        self._role = {
            "AWS_ACCESS_KEY_ID": assumed.access_key_id, "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
            "AWS_SESSION_TOKEN": assumed.session_token,
        }  # fmt: skip
        # With the role's own credentials: what it may not read, the job does not get.
        keys = {name.lower(): value for name, value in self._role.items()}
        self._s3 = boto3.client("s3", endpoint_url=url, region_name=region, **keys)
        self._address = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}
        record.environment = asked.get("Environment")  # type: ignore[attr-defined]
        record.model_artifacts = record.final_metric_data_list = None  # type: ignore[assignment]
        record.training_start_time = record.training_end_time = None  # type: ignore[assignment]
        record.secondary_status_transitions = []
        self._tell("InProgress", "Starting", "Starting the training job")

    def stop(self) -> None:
        if not self._stopping.is_set():
            self._tell("Stopping", "Stopping", "Stopping the training job")
            self._stopping.set()

    def kill(self) -> None:
        self._closing.set()
        self._stopping.set()
        self._kill()

    def _kill(self) -> None:
        for ward in self._wards:
            ward.kill()
        if self._holder:
            self._holder.kill()

    def live(self) -> None:
        try:
            self._run()
        finally:
            self.ended.set()

    def _run(self) -> None:
        try:
            while True:
                self._prepare()
                status, secondary, reason = ("Stopped", "Stopped", "") if self._stopping.is_set() else self._train()
                if secondary != "Interrupted":
                    break
                self._tell(status, secondary, "The spot capacity was taken away")
                self._wards.clear()
                for host in self._hosts:
                    shutil.rmtree(self.folder / host)
            if self._closing.is_set():
                return
            if status != "Failed" or "Algorithm" in reason:
                self._tell(self.record.training_job_status, "Uploading", "Uploading generated training model")
                self._upload()
        except Exception as error:
            logger.info("the training job %s: %s", self.record.training_job_name, error)
            status, secondary, reason = "Failed", "Failed", f"ClientError: {error}"
        finally:
            self._kill()
            for log in self._logs:
                log.send(last=True)
        if reason:
            self.record.failure_reason = reason[:FAILURE_CHARS]
        self.record.training_end_time = _now()
        started = self.record.training_start_time or self.record.training_end_time
        seconds = math.ceil((self.record.training_end_time - started).total_seconds())
        self.record.training_time_in_seconds = self.record.billable_time_in_seconds = seconds
        self._tell(status, secondary, reason or "Training job completed")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self._tell("InProgress", "Downloading", "Downloading the training data")
        for rank, host in enumerate(self._hosts):
            base = self.folder / host
            for part in ("input/config", "input/data", "model", "output/data", "checkpoints"):
                (base / part).mkdir(parents=True)
            for channel in self.asked.get("InputDataConfig") or ():
                source = channel["DataSource"].get("S3DataSource", {})
                if source.get("S3DataType") != "S3Prefix":
                    raise ValueError(
                        f"the emulator brings channels of the type S3Prefix only, not {channel['ChannelName']!r}"
                    )
                shard = source.get("S3DataDistributionType") == "ShardedByS3Key"
                share = (rank, self._count) if shard else (0, 1)
                if not fetch(self._s3, source["S3Uri"], base / "input" / "data" / channel["ChannelName"], share):
                    raise ValueError(f'Data download failed: No S3 objects found under S3 URL "{source["S3Uri"]}"')
            self._configure(base / "input" / "config", host)
            if kept := self.asked.get("CheckpointConfig"):
                fetch(self._s3, kept["S3Uri"].rstrip("/") + "/", self._checkpoints(base))
        hosts = "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self._hosts))
        (self.folder / "hosts").write_text(hosts, encoding="ascii")

    def _configure(self, folder: Path, host: str) -> None:
        resources = {
            "current_host": host, "hosts": self._hosts, "network_interface_name": "lo",
            "current_instance_type": self.asked["ResourceConfig"].get("InstanceType", ""),
        }  # fmt: skip
        channels = {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", "File"), "ContentType": channel.get("ContentType", ""),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": "None",
            }
            for channel in self.asked.get("InputDataConfig") or ()
        }  # fmt: skip
        written = {
            "resourceconfig": resources,
            "inputdataconfig": channels,
            "hyperparameters": self.asked.get("HyperParameters") or {},
        }
        for name, value in written.items():
            (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")

    def _train(self) -> tuple[str, str, str]:
        algorithm = self.asked["AlgorithmSpecification"]
        command = [*algorithm.get("ContainerEntrypoint", ()), *algorithm.get("ContainerArguments", ())]
        if not algorithm.get("ContainerEntrypoint"):
            raise ValueError(
                "the emulator has no images: AlgorithmSpecification.ContainerEntrypoint must say what to run"
            )
        self._tell("InProgress", "Training", "Training image download completed. Training in progress.")
        self.record.training_start_time = _now()
        network = self._network() if self.asked.get("EnableNetworkIsolation") else []
        for host, log in zip(self._hosts, self._logs, strict=True):
            base = self.folder / host
            cells = [*CELL, *network, str(base), str(self.folder / "hosts"), *command]
            with log.path.open("ab") as output:
                self._wards.append(Ward(cells, env=self._env(host), cwd=base, output=output))
        mirrors = self._mirrors()
        deadline = time.monotonic() + self.asked.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86400)
        synced = time.monotonic()
        late = False
        while not self._stopping.is_set():
            codes = [ward.wait(0) for ward in self._wards]
            if all(code == 0 for code in codes) or any(codes):
                break
            if late := time.monotonic() > deadline:
                break
            if time.monotonic() - synced > SYNC_S:
                synced = time.monotonic()
                for mirror in mirrors:
                    mirror.send()
                for log in self._logs:
                    log.send()
            self._stopping.wait(TICK_S)
        codes = [ward.wait(0) for ward in self._wards]
        self._end()
        for mirror in mirrors:
            mirror.send()
        if late:
            return "Stopped", "MaxRuntimeExceeded", ""
        # One that had ended well before it was told to stop has completed.
        if self._stopping.is_set() and any(code is None for code in codes):
            return "Stopped", "Stopped", ""
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is None:
            return "Completed", "Completed", ""
        if self.asked.get("EnableManagedSpotTraining") and codes[failed] == TOLD_TO_END:
            return "InProgress", "Interrupted", ""  # by somebody else: it comes back, with its checkpoints
        told = self.folder / self._hosts[failed] / "output" / "failure"
        said = told.read_text("utf-8", "replace").strip() if told.is_file() else ""
        return "Failed", "Failed", f"AlgorithmError: {said}, exit code: {codes[failed]}"

    def _network(self) -> list[str]:
        """Have a network that only the instances are in; what their cells are told of it. They say so where there can be none."""
        held = self.folder / "network"
        held.unlink(missing_ok=True)
        with (self.folder / "network.log").open("ab") as output:
            holder = self._holder = Ward(
                [*CELL, "--hold", str(held)], env=dict(os.environ), cwd=self.folder, output=output
            )
        deadline = time.monotonic() + HELD_S
        while not held.exists() and holder.wait(HELD_TICK_S) is None and time.monotonic() < deadline:
            pass
        return ["--network", str(held)]

    def _end(self) -> None:
        """Ask what still runs to end, and see that it does."""
        for ward in self._wards:
            ward.ask_to_end()
        deadline = time.monotonic() + STOP_S
        for ward in self._wards:
            while ward.wait(TICK_S) is None and time.monotonic() < deadline and not self._closing.is_set():
                pass
        self._kill()

    def _upload(self) -> None:
        where = self.asked["OutputDataConfig"]
        out = f"{where['S3OutputPath'].rstrip('/')}/{self.record.training_job_name}/output"
        plain = where.get("CompressionType") == "NONE"
        for part, name in (("model", "model"), ("output/data", "output")):
            folder = self.folder / self._hosts[0] / part
            for host in self._hosts[1:]:  # the first one's files go before the others'
                _complete(folder, self.folder / host / part)
            if not any(folder.iterdir()):
                continue
            if plain:
                Mirror(self._s3, folder, f"{out}/{name}", sent=False).send()
            else:
                bucket, _, key = f"{out}/{name}.tar.gz".removeprefix("s3://").partition("/")
                self._s3.upload_file(str(pack(folder, self.folder / f"{name}.tar.gz")), bucket, key)
            if part == "model":
                self.record.model_artifacts = {"S3ModelArtifacts": f"{out}/model/" if plain else f"{out}/model.tar.gz"}

    def _mirrors(self) -> list[Mirror]:
        kept = self.asked.get("CheckpointConfig")
        bases = [self.folder / host for host in self._hosts]
        return [Mirror(self._s3, self._checkpoints(base), kept["S3Uri"]) for base in bases] if kept else []

    def _checkpoints(self, base: Path) -> Path:
        local = str(self.asked["CheckpointConfig"].get("LocalPath", f"{cell.PLACE}/checkpoints"))
        if not local.startswith(cell.PLACE + "/") or ".." in local:
            raise ValueError(f"the emulator keeps checkpoints below {cell.PLACE} only, not in {local}")
        folder = base / local.removeprefix(cell.PLACE + "/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _env(self, host: str) -> dict[str, str]:
        site = self.folder / host / ".site"
        own = {} if self.asked.get("EnableNetworkIsolation") else {**self._role, **self._address}
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            # What a job installs is its own, and not the emulator's.
            "PIP_TARGET": str(site), "PYTHONPATH": str(site),
            "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, **own,
            "TRAINING_JOB_NAME": self.record.training_job_name, "TRAINING_JOB_ARN": self.record.arn,
            **(self.asked.get("Environment") or {}),
        }  # fmt: skip

    def _tell(self, status: str, secondary: str, message: str) -> None:
        """The job's status from now on, in its record and as an event."""
        record, now = self.record, _now()
        if record.secondary_status_transitions:
            record.secondary_status_transitions[-1].setdefault("EndTime", now)
        record.secondary_status_transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        if status in ("Completed", "Failed", "Stopped"):
            record.secondary_status_transitions[-1]["EndTime"] = now
        record.secondary_status, record.last_modified_time = secondary, now
        record.training_job_status = status
        detail = {
            "TrainingJobName": record.training_job_name, "TrainingJobArn": record.arn, "TrainingJobStatus": status,
            "SecondaryStatus": secondary, "FailureReason": getattr(record, "failure_reason", ""), "RoleArn": record.role_arn,
        }  # fmt: skip
        event = {
            "Source": "aws.sagemaker",
            "DetailType": "SageMaker Training Job State Change",
            "Detail": json.dumps(detail),
        }
        events_backends[self.account][self.region].put_events([event])


def _complete(folder: Path, other: Path) -> None:
    """Add to a folder what only the other one has."""
    for path in sorted(other.rglob("*")):
        target = folder / path.relative_to(other)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
