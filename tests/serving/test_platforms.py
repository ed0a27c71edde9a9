"""`ekiben serve` as each platform runs it: what it sets, what it sends, how it ends it. Lambda is in test_lambda.py."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from ekiben.packing.archive import files, write
from tests.fakes.gcs import Gcs
from tests.fakes.http import Blob, serving
from tests.waiting import PATIENCE_S, until

from .conftest import folder
from .platforms import SERVICE, Load, container, free_port, sealed, why_not_sealed

JSON = {"content-type": "application/json"}
ROW = json.dumps({"x": [1, 2]}).encode()
SLOW = json.dumps({"seconds": 0.5}).encode()
# What each platform sets in a container's environment, and what of it decides anything here.
CLOUD_RUN = {"K_SERVICE": "probe", "K_REVISION": "probe-00001-abc", "K_CONFIGURATION": "probe", "HOME": "/home"}
CONTAINER_APPS = {
    "CONTAINER_APP_NAME": "probe", "CONTAINER_APP_REVISION": "probe--abc", "CONTAINER_APP_PORT": "80", "HOME": "/root",
}  # fmt: skip
KNATIVE = {**CLOUD_RUN, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOME": "/"}
PLATFORMS = [
    pytest.param(CLOUD_RUN, "/readyz", id="cloud-run"),
    pytest.param(CONTAINER_APPS, "/readyz", id="container-apps"),
    pytest.param(KNATIVE, "/readyz", id="knative"),
    pytest.param({"SAGEMAKER_REGION": "eu-west-1"}, "/ping", id="sagemaker"),
]


@pytest.fixture
def bento(tmp_path: Path) -> Path:
    return folder(tmp_path / "bento", SERVICE)


def on(platform: Mapping[str, str], bento: Path | str) -> dict[str, str]:
    """The image's own settings (EKIBEN_*, PORT) and the platform's."""
    return {"PORT": str(free_port()), "EKIBEN_HOST": "0.0.0.0", "EKIBEN_BENTO": str(bento), **platform}


@pytest.mark.parametrize(("platform", "probe"), PLATFORMS)
def test_it_is_ready_when_the_first_prediction_can_be_made_and_not_before(
    tmp_path: Path, bento: Path, platform: dict[str, str], probe: str
) -> None:
    held = tmp_path / "held"
    held.touch()
    with container(tmp_path, env={**on(platform, bento), "HELD_BY": str(held)}) as running:
        until(lambda: (scratch := list(tmp_path.glob("ekiben-serve-*/1/tmp"))) and scratch, "the worker begins")
        assert not running.connects()  # many a platform's default is a probe of the port
        assert running.probe(probe) == 0
        held.unlink()
        running.ready(probe)
        assert running.connects()
        assert running.probe("/livez") == 200
        answer = running.send("POST", "/predict", ROW, JSON)
        assert (answer.status, answer.json) == (200, [2, 4])


ENDED = [
    # A worker ends alike on all of them; with two, and with BentoML, what differs is the probe, and whether there is a home.
    *(pytest.param(*each.values, {"EKIBEN_WORKERS": "1"}, id=f"{each.id}-1") for each in PLATFORMS),
    *(pytest.param(*each.values, {"EKIBEN_WORKERS": "2"}, id=f"{each.id}-2") for each in PLATFORMS[::3]),
    *(pytest.param(*each.values, {"EKIBEN_SERVER": "bentoml"}, id=f"{each.id}-bentoml") for each in PLATFORMS[::3]),
]


@pytest.mark.parametrize(("platform", "probe", "more"), ENDED)
def test_a_sigterm_under_load_loses_no_request(
    tmp_path: Path, bento: Path, platform: dict[str, str], probe: str, more: dict[str, str]
) -> None:
    with container(tmp_path, env={**on(platform, bento), **more}) as running:
        running.ready(probe)
        slow = Load(running, "/slow", SLOW, callers=2)
        load = Load(running, "/predict", ROW)
        until(lambda: load.answered > 50 and slow.answered > 1)
        assert running.stop() == 0
        for each in (load, slow):
            each.join()
            assert each.lost == []
    assert not list(tmp_path.glob("ekiben-serve-*"))


@pytest.mark.parametrize("own", [False, True], ids=["lean", "bentoml"])
def test_sagemaker_pings_and_invokes(tmp_path: Path, bento: Path, own: bool) -> None:
    env = {**on({}, bento), "EKIBEN_SERVER": "bentoml" if own else ""}
    with container(tmp_path, env=env) as running:
        running.ready("/ping")
        answer = running.send("POST", "/invocations", ROW, JSON)
        assert (answer.status, answer.json) == (200, [2, 4])
        assert running.send("POST", "/invocations", b"{", JSON).status == 400
        assert running.send("GET", "/invocations").status == (404 if own else 405)
        given = {**JSON, "X-Amzn-SageMaker-Custom-Attributes": "trace=7, c000b4f9-df62-4c85-a0bf-7c525f9104a4"}
        answer = running.send("POST", "/attributes", b"{}", given)
        assert answer.headers["x-amzn-sagemaker-custom-attributes"] == given["X-Amzn-SageMaker-Custom-Attributes"]
        assert answer.body.decode() == given["X-Amzn-SageMaker-Custom-Attributes"]
        routes = running.send("GET", "/schema.json").json["routes"]
        assert {route["route"] for route in routes} == {"/predict", "/slow", "/attributes"}


def test_what_a_service_itself_has_at_these_paths_goes_before(tmp_path: Path) -> None:
    own = SERVICE.replace("    @bentoml.api\n    def slow", "    @bentoml.api(route='/invocations')\n    def slow")
    with container(tmp_path, env=on({}, folder(tmp_path / "bento", own))) as running:
        running.ready("/ping")
        assert running.send("POST", "/invocations", b'{"seconds": 0}', JSON).json == 0


def test_where_no_method_is_the_default_there_are_no_invocations(tmp_path: Path) -> None:
    bento = folder(tmp_path / "bento", SERVICE.replace("def predict", "def guess"))
    with container(tmp_path, env=on({}, bento)) as running:
        running.ready("/ping")
        assert running.send("POST", "/invocations", ROW, JSON).status == 404


def test_while_it_drains_it_is_not_ready(tmp_path: Path, bento: Path) -> None:
    import http.client

    with container(tmp_path, env=on({}, bento)) as running:
        running.ready("/ping")
        kept = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE_S)
        kept.request("GET", "/ping")
        assert kept.getresponse().read() == b"\n"
        slow = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE_S)
        slow.request("POST", "/slow", SLOW, JSON)
        until(lambda: 'request_in_progress{' in (text := running.send("GET", "/metrics").body.decode())
              and any(line.endswith(" 2") for line in text.splitlines() if "in_progress{" in line), "it is called")  # fmt: skip
        running.process.send_signal(signal.SIGTERM)
        kept.request("GET", "/ping")
        statuses = {kept.getresponse().status}
        answer = slow.getresponse()
        assert (answer.status, answer.read()) == (200, b"0.5")
        assert statuses <= {200, 503}
        assert running.process.wait(PATIENCE_S) == 0


def test_the_port_of_sagemaker_goes_before_the_image_s(tmp_path: Path, bento: Path) -> None:
    port = free_port()
    env = {**on({}, bento), "SAGEMAKER_BIND_TO_PORT": str(port)}
    with container(tmp_path, env=env, port=port) as running:
        running.ready("/ping")


def test_knative_s_probes_and_its_question_for_http2_are_answered(tmp_path: Path, bento: Path) -> None:
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    with container(tmp_path, env=on(KNATIVE, bento)) as running:
        running.ready()
        for path in ("/readyz", "/livez"):
            given = {"user-agent": "kube-probe/1.31", "k-kubelet-probe": "queue", "k-network-probe": "queue"}
            assert running.send("GET", path, None, given).status == 200
        assert running.send("OPTIONS", "/", None, upgrade).status != 101
        forwarded = {
            **JSON,
            "k-proxy-request": "activator",
            "forwarded": "for=10.0.0.1;proto=http",
            "x-forwarded-for": "10.0.0.1",
        }
        assert running.send("POST", "/predict", ROW, forwarded).json == [2, 4]


def test_loopback_is_the_address_unless_another_is_asked_for(tmp_path: Path, bento: Path) -> None:
    env = on({}, bento)
    del env["EKIBEN_HOST"]
    with container(tmp_path, env=env) as running:
        running.ready()
        assert f"served at http://127.0.0.1:{running.port}" in running.said()


def test_what_has_not_its_digest_is_not_loaded(tmp_path: Path, bento: Path) -> None:
    loaded = tmp_path / "loaded"
    (bento / "src" / "service.py").write_text(f"open({str(loaded)!r}, 'w').close()\n{SERVICE}")
    packed = write(files(bento), tmp_path)
    right = packed.sha256
    for name, env, status in (
        ("any.tar", {"EKIBEN_DIGEST": "0" * 64}, 5),
        (f"{'0' * 64}.tar", {}, 5),
        ("any.tar", {}, 3),
    ):
        tar = tmp_path / name
        tar.write_bytes(packed.path.read_bytes())
        with container(tmp_path, env={**on({}, tar.as_uri()), **env}) as running:
            assert running.process.wait(PATIENCE_S) == status
        assert not loaded.exists()
    with container(tmp_path, env={**on({}, (tmp_path / "any.tar").as_uri()), "EKIBEN_DIGEST": right}) as running:
        running.ready()
        assert loaded.exists()


def test_a_bento_comes_from_the_platform_s_own_storage(tmp_path: Path, bento: Path) -> None:
    """Cloud Run, a bucket, and a store that fails once. What is missing, or is another, ends the start and says so."""
    packed = write(files(bento), tmp_path)
    account = tmp_path / "account.json"
    with serving(Gcs) as store:
        fields = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        account.write_text(json.dumps({**fields, "gcs_base_url": store.url}))
        store.blobs["models", f"bentos/{packed.sha256}.tar"] = Blob(packed.path.read_bytes())
        store.blobs["models", f"bentos/{'0' * 64}.tar"] = Blob(packed.path.read_bytes())
        store.fail = [503]
        credentials = {
            "GOOGLE_BASE_URL": store.url,
            "GOOGLE_SERVICE_ACCOUNT": str(account),
            **CLOUD_RUN,
            "HOME": str(tmp_path),
        }
        with container(tmp_path, env=on(credentials, f"gs://models/bentos/{packed.sha256}.tar")) as running:
            running.ready()
            assert running.send("POST", "/predict", ROW, JSON).json == [2, 4]
        asked = len(store.seen)
        with container(tmp_path, env=on(credentials, f"gs://models/bentos/{packed.sha256}.tar")) as running:
            running.ready()
        assert len(store.seen) == asked  # it is there, and right
        for digest, why in (("0" * 64, packed.sha256), ("1" * 64, "1" * 64)):
            with container(tmp_path, env=on(credentials, f"gs://models/bentos/{digest}.tar")) as running:
                assert running.process.wait(PATIENCE_S) == 5
                assert why in running.said()


def test_a_folder_has_its_digest_too_where_one_is_given(tmp_path: Path, bento: Path) -> None:
    digest = write(files(bento), tmp_path).sha256
    with container(tmp_path, env={**on({}, bento), "EKIBEN_DIGEST": digest}) as running:
        running.ready()
    (bento / "src" / "more.py").touch()
    with container(tmp_path, env={**on({}, bento), "EKIBEN_DIGEST": digest}) as running:
        assert running.process.wait(PATIENCE_S) == 5
    assert "they were changed" in running.said()


MONITORED = SERVICE.replace("return 2 * x", """with bentoml.monitor("m") as monitor:
            monitor.log(float(x[0]), "x", "feature", "numerical")
        return 2 * x""")  # fmt: skip


@pytest.mark.skipif(bool(why_not_sealed()), reason=why_not_sealed() or "it can")
@pytest.mark.parametrize(
    ("service", "env"),
    [
        pytest.param(SERVICE, {}, id="no-home"),
        pytest.param(SERVICE, {"HOME": "/nowhere"}, id="lean"),
        pytest.param(SERVICE, {"HOME": "/root", "EKIBEN_WORKERS": "2"}, id="two-workers"),
        pytest.param(MONITORED, {"HOME": "/root"}, id="bentoml"),
    ],
)
def test_nothing_is_written_but_below_tmpdir(tmp_path: Path, service: str, env: dict[str, str]) -> None:
    """A bento by its URI, on a file system of which nothing else can be written."""
    packed = write(files(folder(tmp_path / "bento", service)), tmp_path)
    writable = tmp_path / "tmp"
    writable.mkdir()
    given = {**on({}, packed.path.as_uri()), "TMPDIR": str(writable), **env}
    with container(tmp_path, env=given, command=sealed(writable)) as running:
        running.ready()
        assert running.send("POST", "/predict", ROW, JSON).json == [2, 4]
        assert (writable / f"ekiben-{os.getuid()}" / "bentos" / packed.sha256).is_dir()
        assert "Read-only" not in running.said()
        assert running.stop() == 0
    assert [path.name for path in writable.iterdir()] == [f"ekiben-{os.getuid()}"]


@pytest.mark.skipif(bool(why_not_sealed()), reason=why_not_sealed() or "it can")
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_sagemaker_s_own_place_of_a_model(tmp_path: Path, bento: Path, packed: bool) -> None:
    """`docker run IMAGE serve`: no argument but that, the model in /opt/ml/model, root's file system read-only."""
    writable, model = tmp_path / "tmp", tmp_path / "model"
    writable.mkdir()
    if packed:
        write(files(bento), model)
    else:
        bento.rename(model)
    mounts = ("mount -t tmpfs none /opt", "mkdir -p /opt/ml/model", f"mount --bind {model} /opt/ml/model")
    env = {"PORT": str(free_port()), "EKIBEN_HOST": "0.0.0.0", "TMPDIR": str(writable)}
    with container(tmp_path, env=env, command=sealed(writable, *mounts)) as running:
        running.ready("/ping")
        assert running.send("POST", "/invocations", ROW, JSON).json == [2, 4]
        assert running.stop() == 0


@pytest.mark.skipif(bool(why_not_sealed()), reason=why_not_sealed() or "it can")
def test_as_process_1_of_a_container_it_hears_sigterm_and_buries_the_dead(tmp_path: Path) -> None:
    """The kernel keeps signals that nobody asked for from process 1, and gives it every orphan."""
    orphan = (
        SERVICE
        + """
    @bentoml.api
    def orphan(self) -> int:
        child = os.fork()
        if child == 0:
            if grandchild := os.fork():
                os._exit(0)
            os._exit(7)
        os.waitpid(child, 0)
        return 1
"""
    )
    bento = folder(tmp_path / "bento", orphan)
    with container(tmp_path, env=on({}, bento), command=["unshare", "-rpf", "--mount-proc"]) as running:
        running.ready()
        (first,) = children_of(running.process.pid)
        (worker,) = children_of(first)
        assert running.send("POST", "/orphan", b"{}", JSON).json == 1
        until(lambda: children_of(first) == [worker], "the orphan is buried")
        os.kill(first, signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
