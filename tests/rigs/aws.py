"""The rig of the provider `aws`: on the emulator, or with EKIBEN_LIVE=aws on the account that the environment names.

What it makes on a real account, what that costs, and how it goes away again: docs/aws.md.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

import ekiben as ek
from tests.rigs.stack import THEIRS, Stack

REGION = "us-east-1"
LIVE = os.environ.get("EKIBEN_LIVE") == "aws"


def make(base: type) -> Any:
    class AwsRig(base):  # type: ignore[misc, valid-type]
        provider = "aws"

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

        def again(self) -> int:
            return self.stack.again()

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
