"""One suite over five stores: a folder, memory, S3 (moto's server), GCS and Azure (fakes at the HTTP edge)."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from ekiben.storage import Storage, open_storage
from tests.fakes.azure import Azure
from tests.fakes.gcs import Gcs
from tests.fakes.http import Server, serving
from tests.storage.observed import Registry

BUCKET = "lake"


def one_at_a_time(server: ThreadedMotoServer) -> None:
    assert server._server is not None
    app, lock = server._server.app, threading.Lock()

    def locked(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    server._server.app = locked


@contextmanager
def s3(env: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    # moto looks for an object and then writes it, without a lock: of many conditional writes at once several succeed, which S3
    # does not let happen. One request at a time mends that.
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    one_at_a_time(server)
    host, port = server.get_host_and_port()
    env.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    env.setenv("AWS_ACCESS_KEY_ID", "testing")
    env.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    env.setenv("AWS_REGION", "us-east-1")
    env.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "50")
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    with serving(Gcs) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[Server]:
    with serving(Azure) as server:
        yield server


@pytest.fixture(scope="session")
def roots(
    tmp_path_factory: pytest.TempPathFactory, gcs_server: Server, azure_server: Server
) -> Iterator[Callable[[str], str]]:
    """The URI of a store's bucket, made when it is first asked for."""
    with pytest.MonkeyPatch.context() as env, ExitStack() as stack:
        account = tmp_path_factory.mktemp("gcs") / "account.json"
        fields = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        account.write_text(json.dumps({**fields, "gcs_base_url": gcs_server.url}))
        env.setenv("GOOGLE_BASE_URL", gcs_server.url)
        env.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
        env.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        env.setenv("AZURE_STORAGE_ACCOUNT_KEY", "bm8gc2VjcmV0")
        env.setenv("AZURE_STORAGE_ENDPOINT", f"{azure_server.url}/account")
        made = {
            "file": (tmp_path_factory.mktemp("buckets")).as_uri(),
            "memory": "memory://lake",
            "gs": f"gs://{BUCKET}",
            "az": f"az://{BUCKET}",
        }

        def root(kind: str) -> str:
            if kind not in made:
                made[kind] = stack.enter_context(s3(env))
            return made[kind]

        yield root


@pytest.fixture(params=["file", "memory", "s3", "gs", "az"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, roots: Callable[[str], str]) -> Storage:
    """A storage of its own for each test."""
    uri = f"{roots(kind)}/{uuid.uuid4().hex[:12]}"
    if kind == "file":
        Path(uri.removeprefix("file://")).mkdir()
    return open_storage(uri)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    """A local folder, for what only folders can get wrong. Its path is odd on purpose."""
    root = tmp_path / "a lake é%20#1"
    root.mkdir()
    return open_storage(root.as_uri())


@pytest.fixture
def registry(store: Storage) -> Registry:
    return Registry(store)


@pytest.fixture
def local(folder: Storage) -> Registry:
    return Registry(folder)
