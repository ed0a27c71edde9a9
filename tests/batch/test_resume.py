"""A run that is killed goes on where it stopped, with the same bytes in the end; a run of another kind is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ekiben.batch.places import found
from ekiben.batch.sources import Files
from ekiben.errors import SpecError
from ekiben.station.processes import descendants
from tests.waiting import PATIENCE_S, until

from .conftest import csv, invoke, start

BATCH_ROWS = 10
WORDS = ("free:1", "--route", "frame", "--key", "id", "--batch-rows", BATCH_ROWS, "--workers", 1, "--save-every-s", 0)


def gated(path: Path, gates: dict[int, Path]) -> Path:
    """A hundred rows; the model waits for the file that a row names."""
    rows = [[i, i, 1, gates.get(i, ""), "é" * (i % 3)] for i in range(100)]
    return csv(path, ["id", "x", "größe", "gate", "text"], rows)


pytestmark = pytest.mark.usefixtures("platform")


def parts(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.glob(f".{output.name}.part/parts/*.arrow"))


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/status").read_text() for pid in pids)


@pytest.mark.timeout(900)
def test_killed_at_several_points_the_output_is_the_same_to_the_byte(tmp_path) -> None:
    output = "out.parquet"
    gates = {row: tmp_path / f"gate-{row}" for row in (5, 37, 95)}
    source = gated(tmp_path / "in.csv", gates)
    killed, whole = tmp_path / "killed" / output, tmp_path / "whole" / output
    for place in (killed, whole):
        place.parent.mkdir()
    for at, (row, gate) in enumerate(gates.items()):
        process = start(*WORDS, "--input", source, "--output", killed)
        until(lambda row=row, process=process: len(parts(killed)) == row // BATCH_ROWS or process.poll() is not None)
        if at == 1:
            shutil.copytree(killed.parent / f".{output}.part", tmp_path / "kept")
        family = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not killed.exists()
        until(lambda family=family: gone(family))
        gate.touch()
    summary = json.loads(invoke(*WORDS, "--input", source, "--output", killed, "--json")[0])
    assert (summary["rows"], summary["resumed_rows"]) == (100, 90)
    assert [path.name for path in killed.parent.iterdir()] == [output]
    invoke(*WORDS, "--input", source, "--output", whole)
    assert killed.read_bytes() == whole.read_bytes()

    # As if it had been killed after the output was put in its place, and before its parts were forgotten.
    shutil.copytree(tmp_path / "kept", killed.parent / f".{output}.part")
    invoke(*WORDS, "--input", source, "--output", killed)
    assert killed.read_bytes() == whole.read_bytes()
    assert [path.name for path in killed.parent.iterdir()] == [output]


def interrupted(batch, tmp_path: Path, **options) -> Path:
    """A run that has stopped at its third batch, on a model that raises."""
    path = csv(tmp_path / "in.csv", ["id", "x", "größe"], [[i, i if i < 200 else -1, 0] for i in range(300)])
    with pytest.raises(SpecError, match="Row 201"):
        batch(path, keys=("id",), strict=True, save_every_s=0, **options)
    assert len(parts(tmp_path / "out.parquet")) == 2
    return path


def test_a_changed_input_model_or_option_is_refused_until_it_is_restarted(batch, bento, model, tmp_path) -> None:
    path = interrupted(batch, tmp_path)
    other = bento(3.0)
    another = model._replace(ref="sums:2", digest=other.sha256, uri=other.path.as_uri())
    for said, options in (
        ("other options \\(keys\\)", {"keys": ()}),
        ("other options \\(batch_rows\\)", {"batch_rows": 50}),
        ("other options \\(route\\)", {"route": "matrix", "batch_rows": 100}),
        (
            "it was of sums:1 .* this is sums:2",
            {"model": another},
        ),
    ):
        with pytest.raises(SpecError, match=said):
            batch(path, **{"keys": ("id",), **options})
    text = path.read_text()
    path.write_text(text.replace("150,150,0", "150,151,0"))
    with pytest.raises(SpecError, match=r"the input file://.*in\.csv has changed since.*--restart"):
        batch(path, keys=("id",))
    more = csv(tmp_path / "more.csv", ["id", "x", "größe"], [[1, 1, 1]])
    with pytest.raises(SpecError, match="its input was another one"):
        batch(more, keys=("id",))
    assert len(parts(tmp_path / "out.parquet")) == 2
    summary = batch(path, keys=("id",), restart=True)
    assert (summary["resumed_rows"], summary["predicted"], summary["failed"]) == (0, 200, 100)
    assert pq.read_table(tmp_path / "out.parquet")["y"][150].as_py() == 302.0


def test_errors_of_before_are_in_the_errors_of_after(batch, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["id", "x"], [[i, -1 if i in (3, 250) else i] for i in range(300)])

    def stop(rows: int, failed: int) -> None:
        if rows == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch(path, keys=("id",), save_every_s=0, advance=stop)
    summary = batch(path, keys=("id",))
    assert (summary["failed"], summary["resumed_rows"]) == (2, 200)
    found = [json.loads(line)["row"] for line in (tmp_path / "out.parquet.errors.jsonl").read_text().splitlines()]
    assert found == [4, 251]


def test_what_is_there_is_not_written_over_unasked(batch, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["id", "x"], [[1, 1]])
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(SpecError, match="is there already. Write over it with --overwrite"):
        batch(path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".json") == ["in.csv", "out.parquet", "platform"]
    batch(path, overwrite=True)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1


def test_a_file_that_changes_while_it_is_read_is_not_answered_for(batch, tmp_path) -> None:
    path = csv(tmp_path / "in.csv", ["id", "x"], [[i, i] for i in range(300)])

    source = Files(found([str(path)], None))
    path.write_text(path.read_text() + "300,300\n")
    with pytest.raises(SpecError, match=r"in\.csv has changed while it was read"):
        batch(source)
    assert not (tmp_path / "out.parquet").exists()


def test_two_runs_at_once_do_not_mix(tmp_path) -> None:
    gate = tmp_path / "gate"
    source, output = gated(tmp_path / "in.csv", {15: gate}), tmp_path / "out.csv"
    first = start(*WORDS, "--input", source, "--output", output)
    until(lambda: len(parts(output)) == 1 or first.poll() is not None)
    _, said = invoke(*WORDS, "--input", source, "--output", output, code=3)
    assert "Another run is writing" in said
    gate.touch()
    first.communicate()
    assert first.returncode == 0
    assert len(output.read_text().splitlines()) == 101


def test_an_interrupt_ends_the_workers_and_keeps_what_is_done(tmp_path) -> None:
    gate = tmp_path / "gate"
    source, output = gated(tmp_path / "in.csv", {25: gate}), tmp_path / "out.csv"
    process = start(*WORDS, "--input", source, "--output", output)
    until(lambda: len(parts(output)) == 2 or process.poll() is not None)
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    until(lambda: gone(family))
    gate.touch()
    _, said = invoke(*WORDS, "--input", source, "--output", output)
    assert "100 predictions of free:1 (20 of them before)" in said


def test_a_disk_that_takes_no_more(tmp_path) -> None:
    source, output = gated(tmp_path / "in.csv", {}), tmp_path / "out.jsonl"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    _, said = invoke(*WORDS, "--input", source, "--output", output, code=5, preexec_fn=small)
    assert "cannot write" in said
    assert "File too large" in said
    assert not output.exists()
    assert parts(output)
    before = len(parts(output)) * BATCH_ROWS
    summary = json.loads(invoke(*WORDS, "--input", source, "--output", output, "--json")[0])
    assert (summary["rows"], summary["resumed_rows"]) == (100, before)


def test_a_full_disk_is_told_as_one(batch, tmp_path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    path = csv(tmp_path / "in.csv", ["id", "x"], [[i, i] for i in range(300)])
    (tmp_path / ".out.csv.part").mkdir()
    (tmp_path / ".out.csv.part" / "staged").symlink_to("/dev/full")
    with pytest.raises(
        Exception, match=r"ekiben: cannot write .*the disk or the quota is full\. Make room, then repeat"
    ):
        batch(path, "out.csv")
    (tmp_path / ".out.csv.part" / "staged").unlink()
    assert batch(path, "out.csv")["resumed_rows"] == 300
