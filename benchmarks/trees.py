"""One row of a tree model, by each way there is: how long it takes, what it needs at start, and whether the answer is xgboost's.

    python -m benchmarks.trees [--json]

Two models: 100 trees on scikit-learn's breast cancer data (30 columns), and the example's (11 columns), as `make demo` or the tests
train it; without its data a model of the same shape on random rows stands for it. Each way runs in a process of its own, on one
thread. Times are the best of many short turns: this machine may have other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
WAYS = (
    "xgboost, inplace_predict",
    "xgboost, DMatrix and predict",
    "ekiben, inplace_predict",
    "ekiben, DMatrix and predict",
    "C API, a matrix kept",
    "C API, as the package calls it",
    "ONNX Runtime",
    "treelite GTIL",
)
TURNS, CALLS = 200, 20


def best_us(call: Callable[[], Any]) -> float:
    for _ in range(CALLS):
        call()
    best = float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - start) / CALLS)
    return round(best * 1e6, 1)


def make_models(folder: Path) -> None:
    """model.ubj, model.onnx and rows.npy of each model, in a folder of its name."""
    import numpy as np
    import xgboost
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from sklearn.datasets import load_breast_cancer

    values, target = load_breast_cancer(return_X_y=True)
    random = np.random.default_rng(7)
    census = random.integers(0, [100, 25, 6, 18, 3, 9, 4, 5, 3, 3, 3], (20_000, 11))
    working = (census[:, 0] > 17) & (census[:, 0] < 66) & (random.random(20_000) < 0.8)
    sets = {"breast cancer": (values, target, 6, 100), "employment": (census, working, 6, 200)}
    for name, (rows, labels, depth, rounds) in sets.items():
        place = folder / name
        place.mkdir()
        rows = rows.astype(np.float32)
        asked = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.1, "nthread": 1, "seed": 7}
        booster = xgboost.train(asked, xgboost.DMatrix(rows, labels), rounds)
        booster.save_model(place / "model.ubj")
        np.save(place / "rows.npy", rows[:1000])
        np.save(place / "answers.npy", booster.inplace_predict(rows[:1000]))
        classifier = xgboost.XGBClassifier()
        classifier.load_model(place / "model.ubj")
        converted = convert_xgboost(classifier, initial_types=[("rows", FloatTensorType([None, rows.shape[1]]))])
        (place / "model.onnx").write_bytes(converted.SerializeToString())


def predictor(way: str, place: Path) -> tuple[Callable[[Any], Any], Callable[[Any], Any] | None]:
    """From rows to probabilities, and to contributions where the way has them."""
    model = str(place / "model.ubj")
    if way.startswith("xgboost"):
        import xgboost

        booster, matrix = xgboost.Booster({"nthread": 1}, model_file=model), xgboost.DMatrix
    elif way.startswith("ekiben"):
        from ekiben.serving.trees.booster import Booster
        from ekiben.serving.trees.matrix import DMatrix

        booster, matrix = Booster({"nthread": 1}, model_file=model), DMatrix
    elif way.startswith("C API"):
        return _c_api(model, kept=way.endswith("kept")), None
    elif way.startswith("ONNX"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(place / "model.onnx", options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(["probabilities"], {"rows": rows})[0][:, 1], None
    else:
        import treelite

        trees = treelite.frontend.load_xgboost_model(model)
        return lambda rows: treelite.gtil.predict(trees, rows, nthread=1).ravel(), None
    if way.endswith("inplace_predict"):
        return booster.inplace_predict, None
    return (
        lambda rows: booster.predict(matrix(rows, nthread=1)),
        lambda rows: booster.predict(matrix(rows, nthread=1), pred_contribs=True),
    )


def _c_api(model: str, *, kept: bool) -> Callable[[Any], Any]:
    """The library's call alone, on prepared arguments; the answer is read only once."""
    from ekiben.serving.trees.booster import PLAIN, Booster, _answer
    from ekiben.serving.trees.matrix import interface

    booster = Booster({"nthread": 1}, model_file=model)
    room, seen = booster._lib.room, {}

    def predict(rows: Any) -> Any:
        if id(rows) not in seen:
            seen[id(rows)] = interface(rows)
            booster.inplace_predict(rows)
        matrix = room.matrix if kept else None
        if booster._lib.predict_dense(booster.handle, seen[id(rows)], PLAIN[0], matrix, *room.out):
            raise RuntimeError("the library refused")
        return _answer(room) if len(rows) > 100 else None

    return predict


def measure(way: str, place: Path) -> dict[str, Any]:
    """In a fresh process: seconds to the first answer, MiB, modules; µs for one row and for 100; the largest difference."""
    import numpy as np

    rows, answers = np.load(place / "rows.npy"), np.load(place / "answers.npy")
    one, hundred = rows[:1].copy(), rows[:100].copy()
    start = time.perf_counter()
    predict, contributions = predictor(way, place)
    predict(one)
    ready_s = time.perf_counter() - start
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    got = predict(rows)
    return {
        "model": place.name, "way": way, "row_us": best_us(lambda: predict(one)),
        "rows_100_us": best_us(lambda: predict(hundred)),
        "contributions_us": best_us(lambda: contributions(one)) if contributions else None,
        "first_answer_s": round(ready_s, 3), "resident_mib": round(resident / 2**20), "modules": len(sys.modules),
        "max_difference": float(np.abs(got - answers).max()), "equal_bits": bool(got.tobytes() == answers.tobytes()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], Path(asked.one[1]))))
        return
    found = []
    if not asked.json:
        head = (
            "model",
            "way",
            "row µs",
            "100 rows µs",
            "contributions µs",
            "first answer s",
            "MiB",
            "modules",
            "difference",
        )
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    with tempfile.TemporaryDirectory(prefix="ekiben-trees-") as private:
        make_models(Path(private))
        for place in sorted(Path(private).iterdir()):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.trees", "--one", way, str(place)]
                environment = {**os.environ, **ONE_THREAD}
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{way}: {done.stderr.splitlines()[-1]}", file=sys.stderr)
                    continue
                found.append(json.loads(done.stdout.splitlines()[-1]))
                if not asked.json:
                    print(row(found[-1]), flush=True)
    if asked.json:
        print(json.dumps(found, indent=2))


def row(each: dict[str, Any]) -> str:
    apart = "none" if each["equal_bits"] else f"{each['max_difference']:.1e}"
    cells = [each[name] for name in list(each)[:8]]
    return "| " + " | ".join("" if cell is None else str(cell) for cell in (*cells, apart)) + " |"


if __name__ == "__main__":
    main()
