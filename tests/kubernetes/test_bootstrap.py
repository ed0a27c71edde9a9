"""How a pod begins: told to end at any moment, it does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
from collections.abc import Mapping

from ekiben.kubernetes.bootstrap import command, variables

from .store import client

PATIENCE_S = 120
PROBE = b"""
import json, signal
print(json.dumps([int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])]))
"""


def environment(url: str, uri: str, data: bytes) -> Mapping[str, str]:
    told = {one["name"]: one["value"] for one in variables(uri, hashlib.sha256(data).hexdigest())}
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    return {**os.environ, **told, **keys, "AWS_ENDPOINT_URL": url}


def test_a_pod_that_still_fetches_its_archive_ends_when_it_is_told_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment(f"http://127.0.0.1:{silent.getsockname()[1]}", "s3://lake/code/a.tar", b"")
        process = subprocess.Popen(command("probe"), env=env)
        try:
            silent.settimeout(PATIENCE_S)
            asked, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            # No signal ended it, which the first process of a container would not have minded.
            assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
            asked.close()
        finally:
            process.kill()
            process.wait()


def test_what_it_is_told_before_its_module_can_hear_waits(store_url: str, bucket: str) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo("probe.py")
        member.size = len(PROBE)
        tar.addfile(member, io.BytesIO(PROBE))
    uri = f"{bucket}/code/probe.tar"
    client(store_url).put(uri, made.getvalue())
    done = subprocess.run(
        command("probe"), env=environment(store_url, uri, made.getvalue()), capture_output=True, timeout=PATIENCE_S,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [signal.SIGTERM]
