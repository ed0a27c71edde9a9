"""The station's process and edge: who may call, what is declared, ports, locks, restarts."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ekiben.errors import AccessDenied, AlreadyExists, IntegrityError, NotFound, SpecError, Unavailable
from ekiben.station import launch, tokens
from ekiben.station.client import Client
from ekiben.station.noun import Context
from ekiben.station.store import Store
from tests.waiting import PATIENCE_S, alive, until

from .conftest import Station


def digest(state_dir: Path) -> str:
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:8]


def raw(station: Station, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(station.client.url.rpartition(":")[2]), timeout=PATIENCE_S)
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def secret(station: Station) -> str:
    return (station.state_dir / "token").read_text("ascii")


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer wrong", "Basic wrong", "Bearer " + "0" * 64, "Bearer \xe9"])
def test_without_the_token_nothing_is_shown_or_changed(host: Station, given: str) -> None:
    headers = {"Authorization": given} if given else {}
    status, body = raw(host, "PUT", "/v1/resources/bucket/mine", headers, b'{"spec": {}}')
    assert status == 401
    assert json.loads(body)["error"]["type"] == "AccessDenied"
    assert raw(host, "GET", "/v1/resources", headers)[0] == 401
    assert raw(host, "POST", "/v1/stop", headers)[0] == 401
    with pytest.raises(NotFound):
        host.client.request("GET", "/v1/resources/bucket/mine")


@pytest.mark.parametrize("name", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "0.0.0.0:1"])
def test_another_host_name_is_refused_even_with_the_token(host: Station, name: str) -> None:
    headers = {"Host": name, "Authorization": f"Bearer {secret(host)}"}
    assert raw(host, "GET", "/v1/resources", headers)[0] in (400, 403)
    assert raw(host, "GET", "/livez", {"Host": name})[0] in (400, 403)


def test_health_and_metrics_need_no_token(host: Station) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert raw(host, "GET", path, {"Host": "localhost:1"})[0] == 200
    assert b"ekiben_station_info{version=" in raw(host, "GET", "/metrics", {})[1]


def test_a_path_that_is_not_there_and_a_method_that_is_not_taken_answer_in_our_words(host: Station) -> None:
    with pytest.raises(NotFound, match=r"GET /v1/nothing"):
        host.client.request("GET", "/v1/nothing")
    assert host.client.send("PATCH", "/v1/resources").json()["error"]["type"] == "ProviderError"


def test_resources_are_declared_shown_and_deleted_however_often(host: Station) -> None:
    client = host.client
    sent = {"spec": {"retain": False}, "tags": {"ekiben:component": "lâke"}}
    first = client.request("PUT", "/v1/resources/bucket/first-lake", sent)
    assert first == client.request("PUT", "/v1/resources/bucket/first-lake", sent)
    assert first == client.request("GET", "/v1/resources/bucket/first-lake")
    assert first["tags"] == {"ekiben:component": "lâke"}
    assert client.request("GET", "/v1/resources")["resources"] == [first]
    (host.state_dir / "buckets" / "first-lake" / "data.txt").write_text("1")
    for _ in range(2):
        assert client.request("DELETE", "/v1/resources/bucket/first-lake") == {}
    assert not list((host.state_dir / "buckets").glob("*first-lake*"))
    with pytest.raises(NotFound):
        client.request("GET", "/v1/resources/bucket/first-lake")


def test_a_bucket_that_is_retained_keeps_its_objects_and_is_taken_up_again(host: Station) -> None:
    host.client.request("PUT", "/v1/resources/bucket/kept-lake", {"spec": {"retain": True}})
    kept = host.state_dir / "buckets" / "kept-lake" / "data.txt"
    kept.write_text("1")
    host.client.request("DELETE", "/v1/resources/bucket/kept-lake")
    assert kept.read_text() == "1"
    host.client.request("PUT", "/v1/resources/bucket/kept-lake", {"spec": {"retain": False}})
    assert kept.read_text() == "1"


def test_what_was_deleted_by_hand_is_found_missing_and_mended(host: Station) -> None:
    client = host.client
    client.request("PUT", "/v1/resources/bucket/lost-lake", {"spec": {}})
    (host.state_dir / "buckets" / "lost-lake").rmdir()
    with pytest.raises(NotFound):
        client.request("GET", "/v1/resources/bucket/lost-lake")
    client.request("PUT", "/v1/resources/bucket/lost-lake", {"spec": {}})
    assert client.request("GET", "/v1/resources/bucket/lost-lake")["name"] == "lost-lake"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("bucket/lake", b"{"),
        ("bucket/lake", b"[]"),
        ("bucket/lake", b'{"spec": [1]}'),
        ("bucket/lake", b'{"spec": {"retain": NaN}}'),
        ("bucket/lake", b'{"spec": {"retain": 1e999}}'),
        ("bucket/lake", b'{"spec": {"retain": "yes"}}'),
        ("bucket/lake", b'{"spec": {"retained": true}}'),
        ("bucket/lake", b'{"specs": {}}'),
        ("bucket/lake", b"[" * 100_000),
        ("bucket/LAKE", b"{}"),
        ("bucket/..", b"{}"),
        ("bucket/%2e%2e%2f%2e%2e", b"{}"),
        ("nonsense/lake", b"{}"),
        ("endpoint/api", b"{}"),
        ("endpoint/api", b'{"spec": {"spec": {"model": "m@a", "bento": "b", "idle_s": 0}}}'),
        ("record/platform", b'{"spec": {"platform": "{}"}}'),
        ("object/one", b'{"spec": {"bucket": "lake"}}'),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(host: Station, path: str, body: bytes) -> None:
    before = host.client.request("GET", "/v1/resources")
    answer = host.client.send("PUT", f"/v1/resources/{path}", body)
    assert answer.status in (404, 422)
    assert answer.json()["error"]["message"]
    assert host.client.request("GET", "/v1/resources") == before


def test_an_object_is_copied_whole_when_its_hash_is_right(host: Station, tmp_path: Path) -> None:
    client, source = host.client, tmp_path / "code.tar"
    source.write_bytes(b"code")
    digest = hashlib.sha256(b"code").hexdigest()
    spec = {"bucket": "objects", "key": "code/one.tar", "source_path": str(source), "sha256": digest}
    with pytest.raises(NotFound, match="no bucket 'objects'"):
        client.request("PUT", "/v1/resources/object/one", {"spec": spec})
    client.request("PUT", "/v1/resources/bucket/objects", {"spec": {}})
    facts = client.request("PUT", "/v1/resources/object/one", {"spec": spec})["facts"]
    copied = host.state_dir / "buckets/objects/code/one.tar"
    assert facts == {"uri": copied.as_uri()}
    assert copied.read_bytes() == b"code"
    with pytest.raises(IntegrityError):
        client.request("PUT", "/v1/resources/object/one", {"spec": {**spec, "sha256": "0" * 64}})
    assert copied.read_bytes() == b"code"
    source.unlink()
    client.request("PUT", "/v1/resources/object/one", {"spec": spec})
    client.request("PUT", "/v1/resources/object/one", {"spec": {**spec, "key": "code/one.tar", "bucket": "objects"}})
    for key in ("../../token", "/etc/passwd", "a/../../x", "", "a/./b"):
        with pytest.raises(SpecError):
            client.request("PUT", "/v1/resources/object/two", {"spec": {**spec, "key": key}})
    client.request("DELETE", "/v1/resources/object/one")
    assert not copied.exists()


def test_the_platform_record_is_written_whole_and_checked(host: Station) -> None:
    text = json.dumps({"project": "demo", "stack": "test", "parts": {}})
    made = host.client.request("PUT", "/v1/resources/record/platform", {"spec": {"platform": text}})
    assert json.loads(Path(made["facts"]["path"]).read_text())["stack"] == "test"
    with pytest.raises(SpecError):
        host.client.request("PUT", "/v1/resources/record/platform", {"spec": {"platform": '{"stack": 1}'}})
    assert json.loads(Path(made["facts"]["path"]).read_text())["stack"] == "test"


def test_a_function_reaches_only_what_it_uses(host: Station) -> None:
    for name in ("api", "other"):
        host.endpoint(name)
    store = Store(host.state_dir / "station.db")
    context = Context(
        state_dir=host.state_dir, url="", project="", stack="", store=store,
        resource=lambda kind, name: None, resources=lambda kind: [], publish=lambda event: None,
    )  # fmt: skip
    token = tokens.issue(context, "release", ["api"])
    assert token == tokens.issue(context, "release", ["api"])
    assert token not in (host.state_dir / "station.db").read_bytes().decode("latin-1")
    function = Client(host.state_dir, token)
    assert function.request("GET", "/v1/endpoints/api/revisions") == {"revisions": []}
    with pytest.raises(Unavailable, match="no model has been released"):
        function.request("POST", "/endpoints/api/predict", {})
    for method, path in (
        ("GET", "/v1/endpoints/other/revisions"),
        ("POST", "/endpoints/other/predict"),
        ("POST", "/endpoints/other@api/predict"),
        ("POST", "/endpoints/other/api/predict"),
        ("GET", "/v1/resources"),
        ("PUT", "/v1/resources/bucket/api"),
        ("DELETE", "/v1/resources/endpoint/api"),
        ("POST", "/v1/stop"),
        ("GET", "/v1/events"),
        ("GET", "/v1/trainings/other/runs"),
    ):
        with pytest.raises(AccessDenied, match="uses"):
            function.request(method, path, {})
    tokens.revoke(context, "release")
    with pytest.raises(AccessDenied, match="wrong"):
        function.request("GET", "/v1/endpoints/api/revisions")
    assert tokens.issue(context, "release", ["api"]) != token
    store.close()


def test_files_with_secrets_are_the_owners_alone_and_no_log_has_the_token(host: Station) -> None:
    host.client.request("GET", "/v1/resources?token=in-the-query")
    assert host.state_dir.stat().st_mode & 0o777 == 0o700
    for name in ("token", "station.db", "station.log", "access.jsonl", "station.json"):
        assert (host.state_dir / name).stat().st_mode & 0o077 == 0, name
    lines = [json.loads(line) for line in (host.state_dir / "access.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"time", "method", "path", "status", "ms", "endpoint", "revision", "bytes"}
    assert "/v1/resources" in [line["path"] for line in lines]
    for name in ("station.log", "access.jsonl"):
        text = (host.state_dir / name).read_text()
        assert secret(host) not in text
        assert "in-the-query" not in text


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Unavailable, match=rf"^local: cannot start .* port {port}: .*cannot be had.*choose another port.*\.$"
        ):
            launch.ensure(tmp_path / "state", project="demo", stack="test", port=port)
    assert not launch.running(tmp_path / "state")
    client = launch.ensure(tmp_path / "state", project="demo", stack="test", port=port)
    assert client.url.endswith(f":{port}")
    with pytest.raises(AlreadyExists, match=f"already, on port {port}"):
        launch.ensure(tmp_path / "state", project="demo", stack="test", port=port + 1)
    launch.stop(tmp_path / "state")
    launch.stop(tmp_path / "state")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    # root writes where the mode forbids it, but makes no folders in /sys
    wanted = Path("/sys/ekiben") if os.geteuid() == 0 else folder / "state"
    with pytest.raises(AccessDenied, match=rf"{wanted}.*cannot be written(.|\n)*choose another"):
        launch.ensure(wanted, project="demo", stack="test")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(AccessDenied, match="cannot be written"):
        launch.ensure(file / "state", project="demo", stack="test")


def test_two_stations_in_one_folder_are_refused(host: Station) -> None:
    command = launch.command(host.state_dir, project="demo", stack="test")
    for more in ([], ["--detach"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 5
        assert f"one runs there already (process {host.pid()})" in done.stderr
    assert host.client.request("GET", "/v1/resources")


def test_started_twice_at_once_there_is_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(lambda _: launch.ensure(tmp_path / "state", project="d", stack="t"), range(4)))
    assert len({client.url for client in clients}) == 1
    launch.stop(tmp_path / "state")
    assert not launch.running(tmp_path / "state")


def test_killed_and_started_again_it_has_its_port_token_and_resources(station: Station) -> None:
    station.client.request("PUT", "/v1/resources/bucket/lake", {"spec": {}})
    station.endpoint("api")
    before, url, token = station.client.request("GET", "/v1/resources"), station.client.url, secret(station)
    station.kill()
    with pytest.raises(Unavailable, match="does not run; start it with|does not run. Start it with"):
        station.client.request("GET", "/v1/resources")
    assert station.start().url == url
    assert secret(station) == token
    assert station.client.request("GET", "/v1/resources") == before


def test_when_its_port_is_taken_it_moves_and_the_facts_say_so(station: Station) -> None:
    station.endpoint("api")
    port = int(station.client.url.rpartition(":")[2])
    station.kill()
    heard = []

    def listen(taken: socket.socket) -> None:
        with suppress(OSError):  # closed, and nobody came
            heard.append(taken.accept())

    with socket.create_server(("127.0.0.1", port), reuse_port=False) as taken:
        threading.Thread(target=listen, args=(taken,), daemon=True).start()
        with pytest.raises(Unavailable):
            station.client.request("GET", "/v1/resources")
        assert heard == []  # the token went to nobody
        station.start()
        url = station.client.url
        assert not url.endswith(f":{port}")
        assert station.client.request("GET", "/v1/resources/endpoint/api")["facts"] == {"url": f"{url}/endpoints/api"}


def test_a_lost_token_is_made_anew_by_a_restart(station: Station) -> None:
    (station.state_dir / "token").unlink()
    with pytest.raises(AccessDenied, match="token cannot be read .*ekiben station --stop"):
        Client(station.state_dir).request("GET", "/v1/resources")
    launch.stop(station.state_dir)
    assert station.start().request("GET", "/v1/resources") == {"resources": []}


def test_a_station_whose_folder_was_deleted_by_hand_ends_and_spares_its_successor(station: Station) -> None:
    old = station.pid()
    sockets = next(Path(tempfile.gettempdir()).glob(f"ekiben-{os.getuid()}-{digest(station.state_dir)}"))
    shutil.rmtree(station.state_dir)
    station.start()
    until(lambda: not alive(old), "the one that has lost its folder ends")
    assert station.client.request("GET", "/v1/resources") == {"resources": []}
    assert sockets.is_dir()


def test_in_the_foreground_sigterm_and_interrupt_end_it_in_order(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            launch.command(tmp_path / "state", project="demo", stack="test"),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().strip() == Client(tmp_path / "state").url
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        process.stdout.close()
    assert not launch.running(tmp_path / "state")


def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "station.db").write_text("this is no database, it is a text that somebody put here")
    with pytest.raises(Unavailable, match=r"(?s)The end of .*station\.log.*file is not a database"):
        launch.ensure(state_dir, project="demo", stack="test")
    assert not launch.running(state_dir)


def test_the_client_needs_the_standard_library_only() -> None:
    code = "import sys; import ekiben.station.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "pydantic", "pulumi", "bentoml", "obstore", "numpy"} & set(loaded)
