"""How fast and how large is `ekiben invoke` on files, against XGBoost's own predict loop over the same rows by the same reader?

    python benchmarks/batch.py [--json] [--tries 3] [--rows 2075259]

The data is the household power set (see power/fetch.py). Both sides read the same Parquet file (and, once, the compressed CSV)
with the same reader; the loop predicts with all cores and writes nothing, `ekiben invoke` writes Parquet with two keys. The best
try counts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "power"))
SMALL_ROWS = 200_000
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="0: all of them")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ekiben-benchmark-") as scratch:
        found = measure(Path(scratch), asked.tries, asked.rows)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:24} {value}")


def measure(scratch: Path, tries: int, limit: int) -> dict[str, Any]:
    import fetch

    csv = fetch.fetch()
    platform = make_platform(scratch, csv)
    rows = limit or fetch.ROWS
    full, small = scratch / "full.parquet", scratch / "small.parquet"
    to_parquet(csv, full, rows)
    to_parquet(csv, small, min(SMALL_ROWS, rows))
    model = scratch / "model" / "model.ubj"
    reader = min(read_alone(full) for _ in range(tries))
    loop = min(predict_loop(full, model) for _ in range(tries))
    large = [invoke(platform, full, scratch) for _ in range(tries)]
    little = invoke(platform, small, scratch)
    packed = invoke(platform, csv, scratch) if not limit else None
    fastest = min(large, key=lambda one: float(one["steady_s"]))
    found = {
        "rows": rows,
        "rows_per_s": round(rows / fastest["steady_s"]),
        "xgboost_rows_per_s": round(rows / loop),
        "reader_rows_per_s": round(rows / reader),
        "share": round(loop / fastest["steady_s"], 3),
        "share_of_command": round(loop / min(one["wall_s"] for one in large), 3),
        "command_s": round(min(one["wall_s"] for one in large), 2),
        "rss_mib": {str(min(SMALL_ROWS, rows)): little["rss_mib"], str(rows): fastest["rss_mib"]},
        "cores": len(os.sched_getaffinity(0)),
        "tries": tries,
    }
    if packed:
        xz = predict_loop(csv, model)
        found["csv_xz"] = {
            "rows_per_s": round(rows / packed["steady_s"]), "xgboost_rows_per_s": round(rows / xz),
            "share": round(xz / packed["steady_s"], 3), "rss_mib": packed["rss_mib"],
        }  # fmt: skip
    return found


def make_platform(scratch: Path, csv: Path) -> Path:
    """A platform of folders with the trained model in its registry: the path of its record."""
    import train

    from ekiben import connect, packing
    from ekiben.records import ModelVersion, Part, Platform, now

    model = scratch / "model"
    train.train(csv, model)
    template = packing.template(HERE / "power" / "bento")
    bento = packing.pack(template.path, model, train.signature(model), sha256=template.sha256, into=scratch)
    lake = scratch / "lake"
    lake.mkdir()
    facts = {"uri": f"{lake.as_uri()}/registry/models"}
    part = Part(name="models", kind="registry", provider="local", ref="models", facts=facts)
    record = scratch / "platform.json"
    record.write_text(Platform(project="benchmark", stack="power", parts={"models": part}).to_json(), "utf-8")
    connect(record).registry().register(
        ModelVersion(
            model="power", version=0, key="one", digest=bento.sha256, bento_uri=bento.path.as_uri(), created_at=now(),
            created_by="benchmark", signature=train.signature(model),
        )
    )  # fmt: skip
    return record


def to_parquet(csv: Path, path: Path, rows: int) -> None:
    """The first rows of the data with numbers as numbers."""
    import pandas as pd

    with lzma.open(csv) as file:
        pd.read_csv(file, na_values=["?"], nrows=rows).to_parquet(path, row_group_size=100_000, index=False)


def batches(path: Path) -> Iterator[Any]:
    """The columns of the model as `ekiben invoke` reads and converts them: a float32 array for each batch."""
    import train

    from ekiben.batch.conform import NULLS, conformed
    from ekiben.batch.frames import encoded
    from ekiben.batch.places import found
    from ekiben.batch.route import Column, Route
    from ekiben.batch.sources import Files, regrouped

    columns = tuple(Column(name, "number", nullable=True) for name in train.COLUMNS)
    route = Route("predict", "matrix", columns, 65_536, dtype="float32")
    for piece in regrouped(Files(found([str(path)], None)).read(dict.fromkeys(train.COLUMNS), 0), route.max_rows):
        made, _ = conformed(route, piece.table, (*NULLS, "?"), piece.texts)
        header, (buffer,) = encoded(route, made, piece.table.num_rows)
        yield memoryview(buffer).cast("B").cast("f", header["shape"])


def read_alone(path: Path) -> float:
    begun = time.monotonic()
    for _ in batches(path):
        pass
    return time.monotonic() - begun


def predict_loop(path: Path, model: Path) -> float:
    """Seconds that XGBoost's own loop takes, with all cores."""
    import numpy as np
    import xgboost

    booster = xgboost.Booster(model_file=model)
    begun = time.monotonic()
    for batch in batches(path):
        booster.inplace_predict(np.asarray(batch))
    return time.monotonic() - begun


def invoke(platform: Path, path: Path, scratch: Path) -> dict[str, float]:
    """Run the command: seconds in all, those without the start of Python and of the workers, the most memory of its processes."""
    words = [
        "invoke",
        "power:1",
        "--input",
        str(path),
        "--output",
        str(scratch / "out.parquet"),
        "--overwrite",
        "--json",
    ]
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ekiben.cli", *words, "--key", "Date", "--key", "Time", "--null", "?"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "EKIBEN_PLATFORM": str(platform)},
    )  # fmt: skip
    most = 0
    while process.poll() is None:
        most = max(most, held(process.pid))
        time.sleep(0.02)
    wall_s = time.monotonic() - begun
    assert process.stdout is not None
    summary = json.loads(process.stdout.read())
    return {"wall_s": wall_s, "steady_s": summary["seconds"] - summary["start_seconds"], "rss_mib": round(most / MIB)}


def held(pid: int) -> int:
    """The bytes of memory that a process and its descendants hold, shared pages counted once (proportional set size)."""
    from ekiben.station.processes import descendants

    total = 0
    for one in descendants(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
