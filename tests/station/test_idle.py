"""What an idle station costs: what it may have imported, and parents that hold memory for nothing."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from ekiben.records import ModelVersion
from ekiben.station.parents import Parents
from tests.waiting import until

from .conftest import Station, sent, to_zero

# The station lives as long as the stack, so each module that it holds is held for ever. A new one needs a reason.
ALLOWED = {
    "ekiben",
    "aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "frozenlist", "idna", "multidict", "propcache", "yarl",  # the other routes
    "uvloop",  # the loop
    "annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",  # the specs
    "cronsim",  # schedules
    "packaging", "platformdirs",  # the environments of bentos
}  # fmt: skip
# What aiohttp uses when it happens to be installed.
OPTIONAL = {"aiodns", "brotli", "brotlicffi", "certifi", "chardet", "charset_normalizer", "pycares", "zstandard"}
# Compiled parts of what must never be in the station, as they are named in a process's maps.
HEAVY = re.compile(r"/(numpy|pyarrow|pandas|xgboost|scipy|sklearn|bentoml|grpc|obstore|onnxruntime|uvicorn|httptools)/")


PROGRAM = """
import sys, json
from aiohttp import web
import uvloop, ekiben.station.__main__, ekiben.station.app, ekiben.station.front
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


def test_the_station_imports_what_it_needs_and_nothing_else() -> None:
    said = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    site = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    found = {name.partition(".")[0] for name, file in json.loads(said).items() if file and file.startswith(site)}
    assert {"aiohttp", "pydantic", "uvloop"} <= found
    assert {name for name in found if not name.startswith("_")} - ALLOWED - OPTIONAL == set()


def test_nothing_that_it_does_for_endpoints_loads_anything_heavy(
    station: Station, doubling: ModelVersion, tmp_path: Path
) -> None:
    (tmp_path / "lake").mkdir()
    spec = {"model": "probe@champion", "bento": "x", "idle_s": 1}
    station.client.request(
        "PUT", "/v1/resources/endpoint/api", {"spec": {"spec": spec, "storage_uri": (tmp_path / "lake").as_uri()}}
    )
    station.shift("api", **{station.deploy("api", doubling): 100})
    assert sent(station.call("api")) == 6.0
    to_zero(station, "api")
    assert station.client.request("GET", "/v1/endpoints/api/predictions")["predictions"]
    station.client.request("DELETE", "/v1/resources/endpoint/api")
    assert list((tmp_path / "lake").rglob("*.parquet"))
    loaded = {match[1] for match in HEAVY.finditer(Path(f"/proc/{station.pid()}/maps").read_text())}
    assert loaded == set()


def test_parents_that_hold_too_much_for_nothing_end_and_are_there_again_when_needed(tmp_path: Path) -> None:
    async def main() -> None:
        parents = Parents(tmp_path, idle_mib=0, idle_s=0.05)
        parent = parents.of(Path(sys.executable), 1)
        await parent.preload([])
        first = parent.pid
        while parent.pid:
            await asyncio.sleep(0.01)
        await parent.preload([])
        assert parent.pid not in (0, first)
        await parents.close()
        parents = Parents(tmp_path, idle_mib=10_000, idle_s=0.05)
        kept = parents.of(Path(sys.executable), 1)
        await kept.preload([])
        while parents._resting is None or not parents._resting.done():
            await asyncio.sleep(0.01)
        assert kept.pid
        await parents.close()
        assert not kept.pid

    asyncio.run(main())


def test_a_parent_that_is_on_its_way_out_forks_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        parents = Parents(tmp_path)
        parent = parents.of(Path(sys.executable), 1)
        await parent.preload([])
        for number in range(5):
            resting = asyncio.create_task(parent.rest())
            await asyncio.sleep(0.002 * number)
            command = {
                "id": f"w{number}", "modules": [], "socket": str(parents.scratch / f"{number}.sock"), "bento": str(tmp_path),
                "log": str(tmp_path / "log"), "env": {}, "metrics_dir": str(tmp_path), "timeout_s": 1,
            }  # fmt: skip
            child = await parent.fork(command)
            assert child.pid
            parent.kill(child.id, 9)
            await child.exited
            await resting
        await parents.close()

    asyncio.run(main())


def test_idle_the_memory_of_a_fresh_station_is_small(station: Station) -> None:
    until(lambda: station.client.request("GET", "/readyz"))
    rollup = Path(f"/proc/{station.pid()}/smaps_rollup").read_text()
    assert int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) < 64 * 1024  # type: ignore[index]
