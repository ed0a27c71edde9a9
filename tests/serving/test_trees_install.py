"""When the stand-in is put in place, and how it gives way to the real package. Each case in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from ekiben.serving import trees
from ekiben.serving.trees import parity
from tests.serving.trees import COLUMNS, KINDS, make_bento, model, told, verdict

PREDICT = """
import json, numpy, xgboost
booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(bytes.fromhex(sys.argv[1])))
rows = numpy.ones((2, 7), numpy.float32)
matrix = xgboost.DMatrix(rows)
before = booster.predict(matrix).tolist()
"""
SAY = """
more = globals().get("more", {})
print(json.dumps({"before": before, "light": "sklearn" not in sys.modules, "version": xgboost.__version__, **more}))
"""
# What `import xgboost` would give, without the seconds that the real one takes.
LOOK = """
import importlib.util, json, threading
for each in threading.enumerate():
    if each.name == "compare-trees":
        each.join()
print(json.dumps({"light": type(importlib.util.find_spec("xgboost").loader).__name__ == "_Finder"}))
"""


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    return make_bento(tmp_path / "bento", fast_path=verdict())


def told_of(program: str, bento: Path | None, cache: Path, **env: str) -> Any:
    return told(PREDICT + program + SAY, model("binary").hex(), bento=bento, cache=cache, **env)


def expected() -> list[float]:
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model("binary")))
    return booster.predict(xgboost.DMatrix(np.ones((2, COLUMNS), np.float32))).tolist()


def test_with_a_verdict_in_the_manifest_xgboost_is_not_imported(fast: Path, tmp_path: Path) -> None:
    found = told_of("", fast, tmp_path / "cache")
    assert found["before"] == expected()
    assert found["light"]
    assert found["version"] == xgboost.__version__
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "stated",
    [
        verdict(max_difference=1e-7),
        verdict(max_difference=None),
        verdict(library="xgboost 0.1"),
        verdict(kind="other"),
        verdict(models=["model.ubj", "another.ubj"]),
        {},
        "yes",
        None,
    ],
    ids=str,
)
def test_any_other_verdict_leaves_xgboost_as_it_is(stated: Any, tmp_path: Path) -> None:
    bento = make_bento(tmp_path / "bento", fast_path=stated)
    (tmp_path / "cache").touch()  # nothing can be remembered, so nothing is compared
    found = told(LOOK, bento=bento, cache=tmp_path / "cache")
    assert not found["light"]
    assert "xgboost itself predicts" in found["log"]


def test_one_setting_turns_it_off(fast: Path, tmp_path: Path) -> None:
    assert not told(LOOK, bento=fast, cache=tmp_path / "cache", EKIBEN_EXACT="1")["light"]
    assert told(LOOK, bento=fast, cache=tmp_path / "cache", EKIBEN_EXACT="0")["light"]


def test_a_bento_without_xgboost_models_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "src" / "model").mkdir(parents=True)
    (tmp_path / "src" / "model" / "model.json").write_text('{"columns": []}')
    assert not told(LOOK, bento=tmp_path, cache=tmp_path / "cache")["light"]


def test_without_a_verdict_the_first_start_compares_beside_it_and_the_next_knows(tmp_path: Path) -> None:
    bento, cache = make_bento(tmp_path / "bento"), tmp_path / "cache"
    assert not told(LOOK, bento=bento, cache=cache)["light"]
    (kept,) = (cache / "ekiben" / "trees").iterdir()
    assert json.loads(kept.read_text()) == verdict()
    assert told(LOOK, bento=bento, cache=cache)["light"]
    kept.write_text(json.dumps(verdict(max_difference=1e-9)))
    assert not told(LOOK, bento=bento, cache=cache)["light"]
    kept.write_text("{")
    (bento / "src" / "model" / "model.ubj").write_bytes(b"{L\0\0learner")  # cannot be compared, and harms nobody
    found = told(LOOK, bento=bento, cache=cache)
    assert not found["light"]
    assert "could not be compared" in found["log"]


TAKING_OVER = {
    "a function": "xgboost.train",
    "a class": "xgboost.XGBClassifier",
    "a method": "booster.get_score()",
    "a matrix's method": "matrix.num_nonmissing()",
    "a slice": "booster[0:2]",
    "a copy": "__import__('copy').deepcopy(booster)",
    "bytes": "__import__('pickle').dumps(booster)",
    "a part by name": "__import__('xgboost.sklearn')",
    "a part that nothing has imported": "__import__('xgboost.testing.data')",
    "another matrix": "xgboost.DMatrix(rows, label=[0, 1])",
    "a base margin": "booster.inplace_predict(rows, base_margin=numpy.zeros(2))",
}


AFTERWARDS = """
named, other = xgboost.Booster, xgboost
exec(what)
import xgboost
import xgboost.core
more = {
    "after": booster.predict(matrix).tolist(), "rows": matrix.num_row(), "names": booster.feature_names,
    "same": [
        type(booster) is xgboost.Booster, type(matrix) is xgboost.DMatrix, isinstance(booster, named),
        xgboost.core.Booster is xgboost.Booster is other.Booster, type(named()) is xgboost.Booster,
        xgboost.__spec__.name == "xgboost", xgboost.core.__spec__.name == "xgboost.core",
    ],
}
"""


def assert_taken_over(found: dict[str, Any]) -> None:
    assert found["before"] == found["after"] == expected()
    assert found["same"] == [True] * 7
    assert (found["rows"], found["names"], found["light"]) == (2, None, False)


def test_what_it_lacks_the_real_package_does_with_the_objects_there_are(fast: Path, tmp_path: Path) -> None:
    found = told_of("what = 'booster.get_score()'\n" + AFTERWARDS, fast, tmp_path / "cache")
    assert_taken_over(found)
    assert "xgboost itself is imported and used from here on, for Booster.get_score" in found["log"]
    # The next start knows from the beginning.
    assert not told(LOOK, bento=fast, cache=tmp_path / "cache")["light"]


def test_a_package_that_was_imported_before_is_kept_for_when_it_is_needed(fast: Path, tmp_path: Path) -> None:
    """As in a child whose parent has imported it: one for each way to need it."""
    program = f"""
import json, os, sys, xgboost
from pathlib import Path
from ekiben.serving import trees
before_all, answers = xgboost, {{}}
for name, what in {TAKING_OVER!r}.items():
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            trees.install(Path({str(fast)!r}))
            {PREDICT.strip().replace(chr(10), chr(10) + " " * 12)}
            light = xgboost is not before_all
            {AFTERWARDS.strip().replace(chr(10), chr(10) + " " * 12)}
            answer = {{"before": before, "light": not light or xgboost is not before_all, **more}}
        except BaseException as error:
            answer = repr(error)
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    answers[name] = json.loads(os.read(reading, 65536))
    os.wait()
    for kept in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
        kept.unlink()
print(json.dumps(answers))
"""
    answers = told(program, model("binary").hex(), cache=tmp_path / "cache")
    for name in TAKING_OVER:
        assert isinstance(answers[name], dict), (name, answers[name])
        assert_taken_over(answers[name])


def test_what_a_caller_sent_is_no_reason_for_the_next_start(fast: Path, tmp_path: Path) -> None:
    odd = (
        "try: booster.inplace_predict([['a'] * 7])\nexcept Exception as error: more = {'error': type(error).__name__}\n"
    )
    found = told_of(odd, fast, tmp_path / "cache")
    assert (found["error"], found["light"]) == ("XGBoostError", False)
    assert told(LOOK, bento=fast, cache=tmp_path / "cache")["light"]


def test_an_error_is_caught_as_the_real_package_s(fast: Path, tmp_path: Path) -> None:
    program = """
wrong = xgboost.DMatrix(numpy.ones((1, 9), numpy.float32))
caught = []
for _ in range(2):
    try:
        booster.predict(wrong)
    except xgboost.core.XGBoostError:
        caught.append(True)
more = {"caught": caught}
"""
    assert told_of(program, fast, tmp_path / "cache")["caught"] == [True, True]


def test_a_class_of_ones_own_is_a_real_booster(fast: Path, tmp_path: Path) -> None:
    program = """
class Mine(xgboost.Booster):
    def twice(self, rows):
        return 2 * self.inplace_predict(rows)
more = {"twice": Mine(model_file=booster.save_raw()).twice(rows).tolist(), "named": Mine.__name__}
"""
    found = told_of(program, fast, tmp_path / "cache")
    assert found["twice"] == [2 * each for each in expected()]
    assert (found["named"], found["light"]) == ("Mine", False)


def test_a_child_predicts_whose_parent_only_loaded_the_library(fast: Path, tmp_path: Path) -> None:
    program = """
import json, os, numpy, xgboost
from ekiben.serving.trees import library
library.load()
answers = []
for _ in range(3):
    reading, writing = os.pipe()
    if os.fork() == 0:
        booster = xgboost.Booster(model_file=bytearray(bytes.fromhex(sys.argv[1])))  # on all the threads it may have
        os.write(writing, json.dumps(booster.inplace_predict(numpy.ones((2, 7), numpy.float32)).tolist()).encode())
        os._exit(0)
    os.close(writing)
    answers.append(json.loads(os.read(reading, 1000)))
    os.wait()
print(json.dumps({"answers": answers}))
"""
    found = told(program, model("binary").hex(), bento=fast, cache=tmp_path / "cache", OMP_NUM_THREADS="2")
    assert found["answers"] == [expected()] * 3


def test_nothing_is_lost_over_many_predictions(fast: Path, tmp_path: Path) -> None:
    program = """
import resource, threading
def ask(count):
    for i in range(count):
        booster.inplace_predict(rows)
        booster.predict(xgboost.DMatrix(rows, nthread=1), pred_contribs=i % 50 == 0)
        if i % 500 == 0:
            xgboost.Booster(model_file=booster.save_raw())
            thread = threading.Thread(target=booster.inplace_predict, args=(rows,)); thread.start(); thread.join()
ask(2000)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ask(8000)
more = {"grown_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start}
"""
    found = told_of(program, fast, tmp_path / "cache")
    assert found["light"]
    assert found["grown_kib"] < 2048


COMPARE = """
import json, sys
from pathlib import Path
from ekiben.serving.trees import parity
folders = [Path(name) for name in sys.argv[1:]]
print(json.dumps({folder.name: parity.compare(folder, ["model.ubj"]) for folder in folders}))
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The verdict on a model of each kind, by a process in which nothing has been handed over to the real package yet."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        (folder / kind).mkdir()
        (folder / kind / "model.ubj").write_bytes(model(kind))
    command = [sys.executable, "-c", COMPARE, *(str(folder / kind) for kind in KINDS)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_finds_models_of_every_kind_equal(kind: str, compared: Any) -> None:
    found = dict(compared[kind])
    assert found.pop("rows") >= 512
    assert found == {name: value for name, value in verdict().items() if name != "rows"}


def test_the_comparison_sees_one_bit(tmp_path: Path) -> None:
    one = np.array([0.5, np.nan], np.float32)
    assert parity._difference(one, one.copy()) == 0.0
    assert 0 < parity._difference(one, np.array([np.nextafter(one[0], np.float32(1)), np.nan], np.float32)) < 1e-7
    for other in (one[:1], one.astype(np.float64), "refused", np.array([np.nan, np.nan], np.float32)):
        assert parity._difference(one, other) == sys.float_info.max
    assert parity._difference("refused", "refused, in other words") == 0.0


def test_the_rows_that_are_compared_go_every_way() -> None:
    booster = xgboost.Booster(model_file=bytearray(model("regression")))
    rows = parity.rows_for(booster)
    leaves = booster.predict(xgboost.DMatrix(rows), pred_leaf=True)
    dump = [json.loads(each) for each in booster.get_dump(dump_format="json")]

    def leaf_count(node: dict[str, Any]) -> int:
        return sum(map(leaf_count, node["children"])) if "children" in node else 1

    reached = sum(len(set(leaves[:, i])) for i in range(leaves.shape[1]))
    assert reached > 0.8 * sum(map(leaf_count, dump))
    assert (rows.tobytes(), np.isnan(rows).any()) == (parity.rows_for(booster).tobytes(), True)


def test_a_model_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    booster = xgboost.Booster(model_file=bytearray(model("binary")))
    for name in ("a.ubj", "b.json"):
        booster.save_model(tmp_path / name)
        assert trees.is_model(tmp_path / name)
    for content in (b"", b"{}", b'{"learner_rate": 1', b"\x80\x04learner"):
        (tmp_path / "other").write_bytes(content)
        assert trees.is_model(tmp_path / "other") == (content[:1] == b"{" and b"learner" in content)
    assert not trees.is_model(tmp_path / "absent")


def test_importing_it_is_light() -> None:
    program = "import sys, json; import ekiben.serving.trees; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert not {"numpy", "xgboost", "pandas"} & set(loaded)
