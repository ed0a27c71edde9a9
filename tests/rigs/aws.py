"""The rig of the provider `aws`: on the emulator, or with EKIBEN_LIVE=aws on the account that the environment names.

What it makes on a real account, what that costs, and how it goes away again: docs/aws.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from tests.rigs.stack import THEIRS, Stack

REGION = "us-east-1"
LIVE = os.environ.get("EKIBEN_LIVE") == "aws"


def make(base: type) -> Any:
    class AwsRig(base):  # type: ignore[misc, valid-type]
        provider = "aws"
        holds = False  # Lambda refuses at once what is more than it runs

        def up(self) -> ek.Platform:
            if LIVE:
                region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION
                self.stack = Stack({"ekiben:provider": "aws", "aws:region": region})
                return self.stack.up()
            self.stack = Stack(
                {"ekiben:provider": "aws", "ekiben:emulate": True, "aws:region": REGION}, theirs=(*THEIRS, "AWS_")
            )
            self.env = pytest.MonkeyPatch()
            platform = self.stack.up()
            lead_there(self.env, self.stack)
            return platform

        def down(self) -> None:
            from ekiben.emulators import aws, stacks

            try:
                self.stack.down()
            finally:
                if not LIVE:
                    self.env.undo()
                    aws.stop(stacks.state_dir(self.stack.folder))
                    shutil.rmtree(self.stack.folder)
            if LIVE:  # what could not be destroyed is in the state
                shutil.rmtree(self.stack.folder)

        def again(self) -> int:
            return self.stack.again()

        def rest(self, endpoint: str) -> None:
            function = self.platform.parts[endpoint].facts["function"]
            self._signal(signal.SIGKILL, f"AWS_LAMBDA_FUNCTION_NAME={function}")

        def take_away(self, run: ek.Run) -> None:
            jobs = self.client("sagemaker").list_training_jobs(NameContains=run.id)["TrainingJobSummaries"]
            self._signal(
                signal.SIGTERM, f"TRAINING_JOB_NAME={jobs[0]['TrainingJobName']}", "\0-m\0ekiben.aws.container\0"
            )

        def client(self, service: str) -> Any:
            import boto3

            return boto3.session.Session().client(service, region_name=REGION)

        def _signal(self, number: int, variable: str, word: str = "") -> None:
            """To the processes of the emulator with this in their environment, and the word in their command."""
            if LIVE:
                pytest.skip("what runs on AWS cannot be killed from here")
            found = 0
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
                    if entry.name.isdigit() and variable.encode() in environ.split(b"\0") and word.encode() in command:
                        os.kill(int(entry.name), number)
                        found += 1
            assert found, f"no process has {variable}"

    return AwsRig()


def lead_there(env: pytest.MonkeyPatch, stack: Stack) -> None:
    """The run face finds the emulator in the environment of this process."""
    from ekiben.emulators import stacks

    server = stacks.found(stack.folder)
    assert server is not None
    for name in stacks.foreign(os.environ):
        env.delenv(name)
    for name, value in server.environment.items():
        env.setenv(name, value)
