"""doctor and station: what is about this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.station import launch
from tests.waiting import PATIENCE_S

SECRET = "no-word-of-this-may-be-shown"


def by_name(said) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in said.json}


def test_doctor_looks_at_everything(ek, folder) -> None:
    said = ek("doctor", "--json")
    found = by_name(said)
    assert {
        "python",
        "pulumi",
        "plugin",
        "packages",
        "uv",
        "folder",
        "disk",
        "gpu",
        "loopback",
        "station",
        "port",
    } < set(found)
    assert said.code == (1 if any(check["state"] == "fail" for check in found.values()) else 0)
    for check in found.values():
        assert check["detail"]
        assert bool(check["remedy"]) == (check["state"] != "ok"), check
    assert not (folder / ".ekiben").exists(), "looking changes nothing"


def test_doctor_names_credentials_and_shows_none(ek, folder, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", SECRET)
    said = ek("doctor")
    assert "AWS_ACCESS_KEY_ID" in said.out
    assert SECRET not in said.out + said.err


def test_doctor_without_a_pulumi_cli(ek, folder, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    said = ek("doctor", "--json")
    assert said.code == 1
    assert by_name(said)["pulumi"]["state"] == "fail"
    assert "make setup" in by_name(said)["pulumi"]["remedy"]
    assert by_name(said)["git"]["state"] == "warn"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_doctor_in_a_read_only_folder(ek, folder) -> None:
    folder.chmod(0o555)
    try:
        assert by_name(ek("doctor", "--json"))["folder"]["state"] == "fail"
    finally:
        folder.chmod(0o755)


def test_doctor_sees_that_the_port_is_taken(ek, platform, folder) -> None:
    state = folder / ".ekiben" / "local"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (state / "station.json").write_text(f'{{"port": {port}, "url": "http://127.0.0.1:{port}"}}')
        found = by_name(ek("doctor", "--json"))
    assert found["port"]["state"] == "warn"
    assert str(port) in found["port"]["detail"]
    assert found["station"]["state"] == "warn"
    assert "ekiben station" in found["station"]["remedy"]


def test_station_starts_answers_and_stops(ek, platform, folder) -> None:
    state = folder / ".ekiben" / "local"
    try:
        url = ek("station", "--background").out.strip()
        assert url.startswith("http://127.0.0.1:")
        assert ek("station", "--background", "--json").json == {"running": True, "stack": "local", "url": url}
        assert by_name(ek("doctor", "--json"))["station"] == {
            "name": "station", "state": "ok", "detail": f"answers at {url}", "remedy": "",
        }  # fmt: skip
    finally:
        said = ek("station", "--stop")
    assert (said.code, launch.running(state)) == (0, False)
    assert "has stopped" in said.err
    assert ek("station", "--stop", "--json").json["running"] is False


def test_station_in_the_foreground_ends_with_ctrl_c(platform, folder) -> None:
    command = [sys.executable, "-m", "ekiben.cli", "station"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()
    assert not launch.running(folder / ".ekiben" / "local")


def test_station_of_a_stack_that_never_was(ek, folder) -> None:
    said = ek("station", "--background")
    assert said.code == 3
    assert "ekiben up" in said.err
    assert not Path(folder, ".ekiben").exists()


def test_station_on_a_port_that_is_taken(ek, platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = ek("station", "--background", "--port", str(other.getsockname()[1]))
    assert said.code == 5
    assert "port" in said.err


@pytest.mark.parametrize("words", [["--background", "--stop"], ["--json"]])
def test_station_options_that_do_not_go_together(ek, platform, words) -> None:
    assert ek("station", *words).code == 3
