"""lineage and compare: a real registry and real archives in a folder; what is printed, written for other tools, and drawn."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import IntegrityError, MissingDependency
from ekiben.lineage.lock import installed, pins, recorded
from ekiben.lineage.plot import dumbbells
from ekiben.packing import archive
from ekiben.records import ModelVersion, Part, Platform
from ekiben.registry import ObjectRegistry
from ekiben.storage import open_storage

HASH = "ab" * 32
LOCK = f"""\
# made by hand
NumPy==2.4.6 ; python_version < "3.12" \\
    --hash=sha256:{HASH} \\
    --hash=sha512:{"cd" * 64}
numpy==2.5.5 ; python_version >= "3.12"
typing_extensions==4.16.0
-r other.txt
"""
ENVIRONMENT = {
    "python": "CPython 3.11.7", "os": "Debian", "machine": "x86_64", "cpu": "Xeon", "cpus": 2, "gpus": [], "driver": "",
    "packages": {"ekiben": "0.1.0", "numpy": "2.4.6", "six": "1.17.0", "typing-extensions": "4.16.0"},
    "unpublished": ["ekiben"],
}  # fmt: skip
SLICES = [
    {"by": "sex", "group": "<b>é & co</b>", "rows": 20, "small": True, "auc": 0.9},
    {"by": "sex", "group": "other", "rows": 30, "small": False, "auc": None},
]


class Shop:
    """A platform in a folder, and its versions."""

    def __init__(self, root: Path, uri: str = "") -> None:
        (root / "lake").mkdir(parents=True)
        self.root, self.lake = root, open_storage(uri or (root / "lake").as_uri(), provider="local")
        facts = {"lake": ("storage", self.lake.uri()), "models": ("registry", self.lake.uri("registry/models"))}
        parts = {
            name: Part(name=name, kind=kind, provider="local", ref=name, facts={"uri": uri})  # type: ignore[arg-type]
            for name, (kind, uri) in facts.items()
        }
        self.platform = Platform(project="shop", stack="local", parts=parts)
        self.registry = ObjectRegistry(
            self.lake, "registry/models", provider="local", source="models", publish=lambda event: None
        )

    def version(self, number: int = 1, source: str = "x = 1\n", **more: Any) -> ModelVersion:
        """Register a version; `more` goes over what its run recorded."""
        members = {
            "train.py": source.encode(),
            "requirements.txt": LOCK.encode(),
            "logo.png": f"\0{number // 2}".encode(),
        }
        code = archive.write(members, self.root / "code")
        self.lake.put(f"code/{code.sha256}.tar", code.path)
        output = f"runs/income/run-{number}/output/"
        self.lake.put(
            f"{output}metrics.json", json.dumps({"metrics": {}, "slices": SLICES}).replace("null", "NaN").encode()
        )
        files = [{"uri": f"{self.lake.uri('census/')}a%20b.csv", "sha256": f"{number}" * 64, "bytes": 1234}]
        lineage = {
            "inputs": {"census": {"uri": self.lake.uri("census/"), "sha256": f"{number}" * 64, "rows": 277677, "files": files}},
            "code": {"uri": self.lake.uri(f"code/{code.sha256}.tar"), "sha256": code.sha256, "commit": "c0ffee", "dirty": True},
            "environment": {**ENVIRONMENT, "lock_sha256": archive.sha256(self._lock())},
            "params": {"max_depth": 5 + number}, "seeds": {"seed": 7}, "by": "ana@host", "attempts": 2,
            "job": {"training": "income", "entry": "train.py", "env": {"MODE": "fast"}, "nodes": 1, "vcpu": 2.0},
            "bento": {"uri": self.lake.uri("bentos/template.tar"), "sha256": "9" * 64},
            "run": {"training": "income", "submitted_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01.5Z",
                    "ended_at": "2026-01-01T00:01:00Z", "output_uri": self.lake.uri(output)},
            **more,
        }  # fmt: skip
        return self.registry.register(
            ModelVersion(
                model="income", version=0, key=f"run-{number}", digest=f"{number}" * 64, created_at="2026-01-01T00:02:00Z",
                bento_uri=self.lake.uri(f"bentos/{number}.tar"), created_by="functions/register", run_id=f"run-{number}",
                metrics={"auc": 0.9 + number / 100, "rows": 50.0}, lineage=lineage,
                signature={"columns": ["AGEP", "SCHL"], "target": "employed", "keys": ["id"]},
            )
        )  # fmt: skip

    def _lock(self) -> Path:
        path = self.root / "requirements.txt"
        path.write_text(LOCK, encoding="utf-8")
        return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    made = Shop(tmp_path / "shop")
    monkeypatch.setenv("EKIBEN_PLATFORM", made.platform.to_json())
    monkeypatch.chdir(tmp_path)
    return made


def test_the_tree_says_all_of_it(shop: Shop, ek: Callable[..., Any]) -> None:
    shop.version()
    shop.registry.decide("income:1", "approved", who="ana", why="besser: «größer»")
    shop.registry.alias("income:1", "champion", who="functions/release", why="it was approved")
    said = ek("lineage", "income@champion")
    assert said.code == 0, said.err
    for words in (
        "income:1 (approved, champion), registered 2026-01-01 00:02:00 by functions/register",
        "277,677 rows, 1 file, 1,234 bytes, sha256 1111", "a%20b.csv", "commit c0ffee, with uncommitted changes",
        "CPython 3.11.7, 4 packages", "Xeon, 2 CPUs, x86_64, no GPU", "run run-1 of income", "started 2026-01-01 00:00:01",
        "parameters: max_depth 6", "seeds: seed 7", "attempts: 2", "by: ana@host", "auc 0.91",
        "sex: <b>é & co</b>: rows 20, auc 0.9",
        "sex: other: rows 30", f"bento {'1' * 64}", "ana: approved, pending to approved: besser: «größer»",
        "functions/release: alias champion",
    ):  # fmt: skip
        assert words in said.out, words
    assert [line[0] for line in said.out.splitlines()[1:]].count("└") == 1
    assert ek("lineage", "income@1").out == ek("lineage", "income:1").out == said.out
    told = ek("lineage", "income:1", "--json").json
    assert told["run"]["attempts"] == 2
    assert told["evaluation"]["slices"][1]["auc"] is None
    assert [one["who"] for one in told["decisions"]] == ["functions/register", "ana", "functions/release"]


def test_it_is_the_same_in_a_store_that_is_no_folder(
    tmp_path: Path, ek: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Shop(tmp_path, "memory://lineage")
    there.version(1)
    there.version(2, "x = 2\n")
    monkeypatch.setenv("EKIBEN_PLATFORM", there.platform.to_json())
    assert "memory://lineage/bentos/1.tar" in ek("lineage", "income:1").out
    (event, _) = map(json.loads, ek("lineage", "income:1", "--openlineage", "-").out.splitlines())
    assert (event["inputs"][0]["namespace"], event["inputs"][0]["name"]) == ("memory://lineage", "census")
    bom = ek("lineage", "income:1", "--cyclonedx", "-")
    assert (bom.code, bom.err, len(bom.json["components"])) == (0, "", 4)
    assert ek("compare", "income:1", "income:2", "--json").json["code"]["files"][1]["name"] == "train.py"


def test_what_is_gone_is_said_and_the_rest_is_shown(shop: Shop, ek: Callable[..., Any]) -> None:
    shop.version()
    shop.lake.delete("runs/income/run-1/output/metrics.json")
    said = ek("lineage", "income:1")
    assert said.code == 0
    assert "Not read: slices: local: cannot read 'runs/income/run-1/output/metrics.json'" in said.err
    assert "auc 0.91" in said.out
    assert ek("lineage", "income:2").code == 5
    assert ek("lineage", "income").code == 3


def test_a_version_that_recorded_nothing_is_shown_too(shop: Shop, ek: Callable[..., Any]) -> None:
    bare = dict.fromkeys(("inputs", "code", "environment", "job", "bento", "run", "params", "seeds"), {})
    shop.version(**{**bare, "inputs": "wrong", "by": ""})
    said = ek("lineage", "income:1")
    assert (said.code, "code: commit -" in said.out) == (0, True), said.err
    assert ek("lineage", "income:1", "--cyclonedx", "bom.json").code == 0
    said = ek("lineage", "income:1", "--openlineage", "-")
    assert (said.code, said.out) == (3, "")
    assert "its run recorded none" in said.err
    assert ek("compare", "income:1", "income:1", "--html", "page.html").code == 0


def test_openlineage_has_the_run_its_inputs_and_its_bento(shop: Shop, ek: Callable[..., Any], tmp_path: Path) -> None:
    shop.version()
    assert ek("lineage", "income:1", "--openlineage", "events.ndjson").code == 0
    start, complete = map(json.loads, (tmp_path / "events.ndjson").read_text("utf-8").splitlines())
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert (start["eventTime"], complete["eventTime"]) == ("2026-01-01T00:00:01.5Z", "2026-01-01T00:01:00Z")
    assert uuid.UUID(start["run"]["runId"]) == uuid.UUID(complete["run"]["runId"])
    assert (start["job"]["namespace"], start["job"]["name"]) == ("shop/local", "income")
    assert start["job"]["facets"]["sourceCodeLocation"]["version"] == "c0ffee"
    (read,) = start["inputs"]
    assert (read["namespace"], read["name"]) == ("file", str(tmp_path / "shop" / "lake" / "census"))
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 277677
    assert [field["name"] for field in read["facets"]["schema"]["fields"]] == ["id", "AGEP", "SCHL", "employed"]
    assert read["facets"]["version"]["datasetVersion"] == "1" * 64
    assert start["outputs"] == []
    (made,) = complete["outputs"]
    assert made["facets"]["version"]["datasetVersion"] == "1" * 64
    assert {"key": "metric.auc", "value": "0.91", "source": "EKIBEN"} in made["facets"]["tags"]["tags"]
    parameters = complete["run"]["facets"]["executionParameters"]["parameters"]
    assert {(one["key"], one["value"]) for one in parameters} == {("max_depth", "6"), ("seed.seed", "7")}
    facets = [*complete["run"]["facets"].values(), *complete["job"]["facets"].values(), *made["facets"].values()]
    assert all(facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/") for facet in facets)
    again = ek("lineage", "income:1", "--openlineage", "-").out
    assert again == (tmp_path / "events.ndjson").read_text("utf-8"), "the same run is the same events"


def test_cyclonedx_has_the_model_its_card_its_data_and_its_packages(shop: Shop, ek: Callable[..., Any]) -> None:
    shop.version()
    said = ek("lineage", "income:1", "--cyclonedx", "-")
    assert said.code == 0, said.err
    bom = said.json
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "income", "1")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "auc", "value": "0.91"} in metrics
    assert {"type": "auc", "value": "0.9", "slice": "sex: <b>é & co</b>"} in metrics
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data:census"}]
    parts = {part["bom-ref"]: part for part in bom["components"]}
    assert parts["data:census"]["data"][0]["contents"]["url"] == shop.lake.uri("census/")
    numpy = parts["pkg:pypi/numpy@2.4.6"]
    assert {one["alg"]: one["content"] for one in numpy["hashes"]} == {"SHA-256": HASH, "SHA-512": "cd" * 64}
    assert {name for name in parts if name.startswith("pkg:")} == {
        "pkg:pypi/numpy@2.4.6", "pkg:pypi/typing-extensions@4.16.0"
    }  # fmt: skip
    assert ek("lineage", "income:1", "--cyclonedx", "-").json == bom, "the same version is the same bill"


def test_without_its_code_the_packages_are_those_recorded(shop: Shop, ek: Callable[..., Any]) -> None:
    version = shop.version()
    shop.lake.delete(shop.lake.key(version.lineage["code"]["uri"]))
    said = ek("lineage", "income:1", "--cyclonedx", "-")
    assert "without hashes: local: cannot read" in said.err
    names = {part["name"] for part in said.json["components"] if part["type"] == "library"}
    assert names == set(ENVIRONMENT["packages"])


def test_a_bill_that_would_not_be_valid_is_not_written(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from ekiben.lineage import cyclonedx
    from ekiben.lineage.account import account

    shop.version()
    told = account(pytest.importorskip("ekiben").connect(shop.platform), shop.registry, "income:1")  # type: ignore[arg-type]
    monkeypatch.setattr(cyclonedx, "_card", lambda told: {"nonsense": 1})
    with pytest.raises(IntegrityError, match="would not be valid CycloneDX"):
        cyclonedx.bill(told, [])


@pytest.mark.parametrize(("package", "option"), [("openlineage", "--openlineage"), ("cyclonedx", "--cyclonedx")])
def test_a_library_that_is_not_installed_is_named(
    shop: Shop, ek: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, package: str, option: str
) -> None:
    shop.version()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = ek("lineage", "income:1", option, "out.json")
    assert (said.code, "pip install 'ekiben[lineage]'" in said.err) == (4, True)
    assert MissingDependency.__name__ not in said.err
    assert not Path("out.json").exists()


def test_a_file_that_cannot_be_written_is_an_error(shop: Shop, ek: Callable[..., Any], tmp_path: Path) -> None:
    shop.version()
    said = ek("lineage", "income:1", "--cyclonedx", str(tmp_path / "none" / "bom.json"))
    assert (said.code, "cannot be written: No such file or directory" in said.err) == (3, True)


def test_asking_for_a_tree_loads_nothing_heavy(shop: Shop) -> None:
    shop.version()
    program = (
        "import sys; from ekiben.cli import main\n"
        "try: main(['lineage', 'income:1'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"cyclonedx", "openlineage", "jsonschema", "numpy", "bentoml"} & set(loaded) == set()


def test_a_lock_is_read_with_its_hashes() -> None:
    assert pins(LOCK)[0] == ("numpy", "2.4.6", (("sha256", HASH), ("sha512", "cd" * 64)))
    assert [(pin.name, pin.version) for pin in pins(LOCK)[1:]] == [("numpy", "2.5.5"), ("typing-extensions", "4.16.0")]
    assert [pin.name for pin in installed(LOCK, ENVIRONMENT)] == ["numpy", "typing-extensions"]
    assert [pin.name for pin in installed("", ENVIRONMENT)] == ["ekiben", "numpy", "six", "typing-extensions"]
    assert recorded(ENVIRONMENT) == "numpy==2.4.6\nsix==1.17.0\ntyping-extensions==4.16.0\n"
    assert (pins(""), recorded({})) == ([], "")


def test_two_versions_side_by_side(shop: Shop, ek: Callable[..., Any]) -> None:
    shop.version(1)
    shop.version(
        2,
        "x = 2  # <script>\n",
        environment={**ENVIRONMENT, "packages": {"numpy": "2.5.5", "six": "1.17.0"}, "cpus": 4},
    )
    said = ek("compare", "income:1", "income@2")
    assert said.code == 0, said.err
    found = ek("compare", "income:1", "income@2", "--json").json
    assert found["metrics"] == [{"name": "auc", "a": 0.91, "b": 0.92}, {"name": "rows", "a": 50.0, "b": 50.0}]
    assert {"name": "max_depth", "a": 6, "b": 7} in found["params"]
    assert {"name": "env: MODE", "a": "fast", "b": "fast"} in found["params"]
    assert found["packages"] == [
        {"name": "ekiben", "a": "0.1.0", "b": None},
        {"name": "numpy", "a": "2.4.6", "b": "2.5.5"},
        {"name": "typing-extensions", "a": "4.16.0", "b": None},
    ]
    assert found["packages_equal"] == 1
    assert {"name": "cpus", "a": 2, "b": 4} in found["environment"]
    assert found["data"][0]["files"] == [{"name": "a b.csv", "change": "changed"}]
    files = {file["name"]: file for file in found["code"]["files"]}
    assert files["train.py"]["diff"].splitlines()[-2:] == ["-x = 1", "+x = 2  # <script>"]
    assert (files["logo.png"]["change"], files["logo.png"]["diff"]) == ("changed", "")
    for words in ("0.91", "+0.01", "max_depth", "numpy", "train.py", "package (1 are the same)"):
        assert words in said.out, words


def test_the_page_is_whole_escaped_and_fetches_nothing(shop: Shop, ek: Callable[..., Any], tmp_path: Path) -> None:
    shop.version(1)
    shop.version(2, "x = 2  # <script>alert(1)</script>\n")
    assert ek("compare", "income:1", "income:2", "--html", "page.html").code == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {"src", "href", "xlink:href", "style"} & {name for name, _ in attrs}
            assert not any(name.startswith("on") for name, _ in attrs)

    Reader().feed(text)
    assert tags.count("svg") == 3
    assert {"script", "link", "img", "iframe", "b"} & set(tags) == set()
    assert "url(" not in text
    assert "@import" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "sex: &lt;b&gt;é &amp; co&lt;/b&gt;" in text
    assert "prefers-color-scheme:dark" in text


def test_code_that_is_gone_leaves_the_rest_of_the_comparison(shop: Shop, ek: Callable[..., Any]) -> None:
    shop.version(1)
    version = shop.version(2, "x = 2\n")
    shop.lake.put(shop.lake.key(version.lineage["code"]["uri"]), b"tampered")
    said = ek("compare", "income:1", "income:2", "--json")
    assert said.code == 0
    assert said.json["code"]["files"] == []
    assert "income:2: its code: ekiben: cannot use the code" in said.json["missing"][0]


@pytest.mark.parametrize("values", [(), (0.0, 0.0), (1e-12, 1.0), (-5.0, 3e9), (7.0, 7.0), (None, 2.0), (1, 1_000_000)])
def test_a_plot_has_room_for_any_numbers(values: tuple[Any, ...]) -> None:
    drawn = dumbbells([("x" * 80, *values)] if values else [], "a title")  # type: ignore[list-item]
    at = [float(word.split("=")[1]) for word in drawn.split() if word.startswith("cx=")]
    assert len(at) == len([value for value in values if value is not None])
    assert all(269 <= x <= 646 for x in at)
    assert "nan" not in drawn
