"""What prints without end, or forks: bounded logs, bounded memory, no process left."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben import Http
from ekiben.errors import FunctionFailed
from ekiben.station import output
from ekiben.station.calls import PRINTED_BYTES
from ekiben.station.output import TAIL_BYTES, JobLog, Pump
from tests.station.stage import Stage, started
from tests.waiting import PATIENCE_S, until

MIB = 1 << 20


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started(tmp_path_factory.mktemp("output")) as stage:
        yield stage


def peak_mib(pid: int) -> float:
    """The most that a process has held (the kernel's high-water mark)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))[1]) / 1024  # type: ignore[index]


def pumped(limit_bytes: int, *chunks: bytes) -> tuple[bytes, Pump]:
    read, write = os.pipe()
    blocks: list[bytes] = []
    pump = Pump(read, blocks.append, limit_bytes)
    with open(write, "wb", buffering=0) as pipe:
        for chunk in chunks:
            pipe.write(chunk)
    pump.join(PATIENCE_S)
    assert all(block.endswith(b"\n") for block in blocks)
    return b"".join(blocks), pump


@pytest.mark.parametrize(
    ("chunks", "expected", "last"),
    [
        ((), b"", ""),
        ((b"a\nb",), b"a\nb\n", "b"),
        ((b"half ", b"a line\n\n \n"), b"half a line\n\n \n", "half a line"),
        ((b"dos\r", b"\nbar\rred\r\n"), b"dos\nbar\rred\n", "bar\rred"),
        ((b"\xff\xfe\n",), b"\xff\xfe\n", "��"),
        ((b"\n",), b"\n", ""),
    ],
)
def test_what_is_printed_comes_in_whole_lines(chunks: tuple[bytes, ...], expected: bytes, last: str) -> None:
    found, pump = pumped(1000, *chunks)
    assert (found, pump.last_line) == (expected, last)


def test_a_line_without_end_is_cut_and_of_too_much_the_beginning_and_the_end_are_kept() -> None:
    lines = [b"%d\n" % number for number in range(100_000)]
    found, pump = pumped(1000, b"".join(lines))
    head, _, rest = found.partition(b"ekiben: that is too much; of what follows the end is kept\n")
    said, _, tail = rest.partition(b"\n")
    dropped = int(re.fullmatch(rb"ekiben: (\d+) bytes are left out here", said)[1])  # type: ignore[index]
    assert len(head) + dropped + len(tail) == sum(map(len, lines))
    assert b"".join(lines).startswith(head)
    assert tail.endswith(b"\n99999\n")
    assert len(head) < 1000 + output.CHUNK_BYTES + output.LINE_BYTES
    assert len(tail) <= TAIL_BYTES
    assert pump.last_line == "99999"
    endless, _ = pumped(10 * MIB, b"x" * MIB)
    assert max(map(len, endless.splitlines())) <= output.CHUNK_BYTES + output.LINE_BYTES
    assert endless.count(b"x") == MIB


def test_lines_of_several_nodes_are_not_mixed(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "log.txt")
    threads = [
        threading.Thread(target=lambda n=n: [log.write(b"%d" % n * 5000 + b"\n") for _ in range(200)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "log.txt").read_bytes().splitlines()
    assert sorted({bytes([line[0]]) for line in lines}) == [b"0", b"1", b"2", b"3"]
    assert {(len(line), len(set(line))) for line in lines} == {(5000, 1)}


def test_a_job_that_prints_300_mb_leaves_a_bounded_log_with_its_end(stage: Stage) -> None:
    prints = f"""
        import os, pathlib, sys, time
        block = (b"x" * 99 + b"\\n") * 10000
        for _ in range(300):
            sys.stdout.buffer.write(block)
        print("the end", flush=True)
        while not pathlib.Path({str(stage.root / "go")!r}).exists():
            time.sleep(0.02)
        raise SystemExit("it failed at the end")
    """
    stage.training("prints", prints)
    stage.submit("prints", "prints-1")
    log = stage.state_dir / "runs" / "prints-1" / "log.txt"
    until(lambda: log.exists() and log.stat().st_size > output.LOG_BYTES)
    (supervisor,) = stage.marked(f"ekiben.station.runner\0{stage.state_dir / 'runs' / 'prints-1'}")
    held_mib = peak_mib(supervisor)
    (stage.root / "go").touch()
    run = stage.ended("prints", "prints-1")
    assert (run.state, run.reason) == ("failed", "it ended with status 1: it failed at the end")
    assert held_mib < 150
    assert peak_mib(int((stage.state_dir / "station.lock").read_text("ascii"))) < 200
    assert log.stat().st_size < output.LOG_BYTES + MIB
    with log.open("rb") as file:
        file.seek(-500, os.SEEK_END)
        end = file.read().decode()
    assert "the end\nit failed at the end\nekiben: failed: it ended with status 1" in end
    log.unlink()
    (stage.lake / "runs/prints/prints-1/log.txt").unlink()


def test_a_handler_that_prints_without_end_leaves_the_end_of_it_and_others_their_log(stage: Stage) -> None:
    stage.function("quiet", "def handler(event, runtime): print('hello')", on=(Http(),))
    stage.client.request("POST", "/functions/quiet", {})
    code = f"def handler(event, runtime):\n    print('y\\n' * {20 * MIB})\n    raise KeyError('at last')"
    stage.function("loud", code, on=(Http(),))
    with pytest.raises(FunctionFailed, match="KeyError: 'at last'") as failed:
        stage.client.request("POST", "/functions/loud", {}, timeout_s=120)
    assert "Traceback" in failed.value.tail
    kept = sum(path.stat().st_size for path in (stage.state_dir / "functions" / "loud").glob("log.txt*"))
    # Each line has its time and its delivery before it, some 45 bytes.
    assert kept < (PRINTED_BYTES + 4 * TAIL_BYTES) * 25
    assert peak_mib(int((stage.state_dir / "station.lock").read_text("ascii"))) < 250


def test_a_handler_whose_children_daemonise_leaves_none(stage: Stage) -> None:
    code = f"""
        import os, subprocess, sys, time
        program = "import time; time.sleep(300)"
        def handler(event, runtime):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        subprocess.Popen([sys.executable, "-c", program, {str(stage.root / "ek-daemon")!r}])
                    os._exit(0)
            print("forked", flush=True)
            time.sleep({{sleep}})
    """
    stage.function("forks", code.format(sleep=0.5), on=(Http(),))
    stage.client.request("POST", "/functions/forks", {})
    stage.gone(f"{stage.root}/ek-daemon")
    stage.function("forks", code.format(sleep=300), on=(Http(),), timeout_s=1)
    with pytest.raises(FunctionFailed, match="time limit of 1 s"):
        stage.client.request("POST", "/functions/forks", {})
    stage.gone(f"{stage.root}/ek-daemon")
