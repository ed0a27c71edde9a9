"""What Ekiben's components cost on top of plain pulumi-aws: `python -m benchmarks.aws_offline [--sizes 10,25,50] [--json]`.

Programs of N endpoints and N training jobs, under the real engine on an emulated AWS: preview, up, up without a change, destroy.
Beside each an `up` of the same program by hand: the same resources with the same inputs, straight from the classes of pulumi_aws,
each taking from the others' outputs what it takes from them with us; and the image that the endpoints share from the resource that
builds it. `overhead_percent` is of the time of `up`, and of the CPU time that the engine, its plugins and the program took for it,
in which other work on the machine shows less. Growth is told by a line through the CPU time of `up` over the sizes.

A size that was measured is not measured again while the commit is the same, so that one that was interrupted goes on; --fresh
measures all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ekiben.emulators import aws, stacks
from ekiben.lineage import git_state

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "tests" / "rigs" / "project"
PAGE = ROOT / "docs" / "benchmarks.md"
KEPT = ROOT / ".build" / "aws-offline.json"
BEGIN, END = "<!-- aws-offline:begin -->", "<!-- aws-offline:end -->"
SIZES = (10, 25, 50)
COMMAND_S = 3600
CONFIG = "config:\n  ekiben:provider: aws\n  ekiben:emulate: true\n  aws:region: us-east-1\n"
STACK = "bench"
STAGES = {
    "preview": ("preview",),
    "up": ("up", "--yes", "-f"),
    "no_change": ("up", "--yes", "-f", "--expect-no-changes"),
    "destroy": ("destroy", "--yes", "-f"),
}
PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
models = cloud.Registry("models", storage=lake)
made = [lake, models]
for n in range({pairs}):
    spec = ek.TrainingSpec(source="training_jobs/tiny", inputs={{"points": "lake/points/"}})
    made.append(cloud.Training(f"job-{{n}}", spec, storage=lake))
    made.append(cloud.Endpoint(f"api-{{n}}", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny"), registry=models))
ek.export(*made)
"""
BY_HAND = '''
import json
import pulumi
import pulumi_aws

class Ours(pulumi.CustomResource):
    """An image that is built, and what runs leave: no plugin of AWS has them."""

made = {}
for one in json.load(open("resources.json")):
    depends_on = [made[urn] for urn in one["dependencies"]]
    opts = pulumi.ResourceOptions(depends_on=depends_on, retain_on_delete=one["retain"])
    given = {key: pulumi.FileAsset(value["path"]) if isinstance(value, dict) and "path" in value else value
             for key, value in one["inputs"].items()}
    for key, urns in one["from"].items():
        known = pulumi.Output.all(*(made[urn].id for urn in urns))
        given[key] = known.apply(lambda _, value=given[key]: value)
    if one["class"]:
        module, name = one["class"]
        kind = getattr(getattr(pulumi_aws, module), name)
        made[one["urn"]] = kind(one["name"], opts=opts, **given)
    else:
        made[one["urn"]] = Ours(one["type"], one["name"], {**given, **dict.fromkeys(one["outputs"])}, opts)
'''


class Project:
    """A program in a folder of its own, on an emulated AWS of its own, and the plain CLI on it."""

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
        (folder / "infra" / "__main__.py").write_text(program, encoding="utf-8")
        (folder / f"Pulumi.{STACK}.yaml").write_text(CONFIG, encoding="utf-8")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "EKIBEN_", "PULUMI_"))}
        told = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", "env", "--stack", STACK, "--json"], cwd=folder, env=clean, text=True,
            capture_output=True, check=True, timeout=COMMAND_S,
        )  # fmt: skip
        self._env = {**clean, **json.loads(told.stdout)}
        self("stack", "init", STACK)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["pulumi", "--non-interactive", "--color=never", *words], cwd=self.folder, env=self._env, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=COMMAND_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"pulumi {' '.join(words)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def took(self, stage: str) -> Took:
        """Raises RuntimeError where a second `up` changes something."""
        began, cpu_s = time.perf_counter(), _children_s()
        self(*STAGES[stage])
        took = Took(time.perf_counter() - began, _children_s() - cpu_s)
        say(f"  {stage}: {took.wall_s:.1f} s, {took.cpu_s:.1f} s of CPU")
        return took

    def resources(self) -> list[dict[str, Any]]:
        """What the state has, without the stack, its providers and the components."""
        found = json.loads(self("stack", "export"))["deployment"]["resources"]
        return [one for one in found if one.get("custom") and not one["type"].startswith("pulumi:")]


class Took(NamedTuple):
    """cpu_s: of the command and all that it has started and waited for, so without the emulator."""

    wall_s: float
    cpu_s: float


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="how many endpoints, and as many jobs, each program has"
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, and leave docs/benchmarks.md alone")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured at this commit")
    given = parser.parse_args()
    sizes = tuple(map(int, given.sizes.split(",")))
    known = {} if given.fresh else kept()
    if missing := [pairs for pairs in sizes if str(pairs) not in known]:
        say("before all, what is built and fetched once for this machine")
        measure(1)
    for number, pairs in enumerate(missing, 1):
        say(f"{number} of {len(missing)}: {pairs} endpoints and {pairs} jobs")
        known[str(pairs)] = measure(pairs)
        keep(known)
    rows = [known[str(pairs)] for pairs in sizes]
    found = {"rows": rows, "growth": growth(rows), "load": os.getloadavg()[2], "cpus": os.cpu_count()}
    print(json.dumps(found, indent=2) if given.json else table(found))
    if sizes == SIZES and not given.json:
        write(table(found))
    return 0


def measure(pairs: int) -> dict[str, Any]:
    with project(PROGRAM.format(pairs=pairs)) as ours:
        say(" with Ekiben's components")
        ekiben = {stage: ours.took(stage) for stage in STAGES if stage != "destroy"}
        resources = ours.resources()
        ekiben["destroy"] = ours.took("destroy")
    with project(BY_HAND) as theirs:
        say(" by hand")
        (theirs.folder / "infra" / "resources.json").write_text(json.dumps(by_hand(resources)), encoding="utf-8")
        plain = theirs.took("up")
        counts = {"resources": len(resources), "resources_by_hand": len(theirs.resources())}
    return {
        "pairs": pairs, **counts,
        "ekiben_s": {stage: took.wall_s for stage, took in ekiben.items()},
        "ekiben_cpu_s": {stage: took.cpu_s for stage, took in ekiben.items()},
        "by_hand_up_s": plain.wall_s,
        "by_hand_up_cpu_s": plain.cpu_s,
        "up_s_per_resource": ekiben["up"].wall_s / len(resources),
        "up_cpu_s_per_resource": ekiben["up"].cpu_s / len(resources),
        "overhead_percent": 100 * (ekiben["up"].wall_s / plain.wall_s - 1),
        "overhead_cpu_percent": 100 * (ekiben["up"].cpu_s / plain.cpu_s - 1),
    }  # fmt: skip


def kept() -> dict[str, Any]:
    """What was measured at this commit, by size."""
    try:
        found = json.loads(KEPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found["rows"]) if found["code"] == git_state(ROOT) and not found["code"]["dirty"] else {}


def keep(rows: dict[str, Any]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    fresh = KEPT.with_name(f".{KEPT.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"code": git_state(ROOT), "rows": rows}), encoding="utf-8")
    fresh.replace(KEPT)


@contextmanager
def project(program: str) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as name:
        folder = Path(name).resolve()
        try:
            yield Project(folder, program)
        finally:
            aws.stop(stacks.state_dir(folder))


def by_hand(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources as a program by hand would name them: the class, its arguments, and what it waits for."""
    known = {one["urn"] for one in resources}
    found = []
    for one in resources:
        module, _, name = one["type"].removeprefix("aws:").partition("/")
        of_aws = one["type"].startswith("aws:")
        inputs = {key: value for key, value in one["inputs"].items() if not key.startswith("__")}
        made_of = {key: urns for key, urns in one.get("propertyDependencies", {}).items() if urns and key in inputs}
        others = {urn for urn in one.get("dependencies", []) if urn in known} - {
            urn for urns in made_of.values() for urn in urns
        }
        found.append(
            {
                "urn": one["urn"], "type": one["type"], "name": one["urn"].rpartition("::")[2],
                "class": [MODULES.get(module, module), name.partition(":")[2]] if of_aws else None,
                "inputs": {snake(key): plain(value) for key, value in inputs.items()} if of_aws else inputs,
                "outputs": sorted(one["outputs"].keys() - one["inputs"].keys()), "retain": one.get("retainOnDelete", False),
                "dependencies": sorted(others),
                "from": {snake(key) if of_aws else key: urns for key, urns in made_of.items()},
            }
        )  # fmt: skip
    return found


# pulumi_aws's modules that Python cannot call by their names.
MODULES = {"lambda": "lambda_"}


def plain(value: Any) -> Any:
    """A file as its path; all else as it is."""
    if (
        isinstance(value, dict)
        and "path" in value
        and any(key.startswith("4dabf18193072939515e22adb298388d") for key in value)
    ):
        return {"path": value["path"]}
    return value


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def growth(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The line through the CPU seconds of `up` over the endpoints (and jobs), of ours and by hand. residual_percent: how far the
    figure that is furthest from it is from it. No line without two sizes.
    """
    if len(rows) < 2:
        return {}
    pairs = [row["pairs"] for row in rows]
    took = {"ekiben": [row["ekiben_cpu_s"]["up"] for row in rows], "by_hand": [row["by_hand_up_cpu_s"] for row in rows]}
    found = {}
    for who, cpu_s in took.items():
        line = statistics.linear_regression(pairs, cpu_s)
        off = [abs(s / (line.intercept + line.slope * n) - 1) for n, s in zip(pairs, cpu_s, strict=True)]
        found[who] = {"cpu_s": line.intercept, "cpu_s_per_pair": line.slope, "residual_percent": 100 * max(off)}
    return found


def table(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        "| endpoints and jobs | resources | preview s | up s | no-change up s | destroy s | up s, by hand | overhead % | of CPU % "
        "| up s per resource | CPU s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["rows"]:
        took = " | ".join(f"{row['ekiben_s'][stage]:.1f}" for stage in STAGES)
        lines.append(
            f"| {row['pairs']} | {row['resources']} | {took} | {row['by_hand_up_s']:.1f} | {row['overhead_percent']:.0f} "
            f"| {row['overhead_cpu_percent']:.0f} | {row['up_s_per_resource']:.3f} | {row['up_cpu_s_per_resource']:.3f} |"
        )
    lines_of = {
        who: f"{line['cpu_s']:.1f} s of CPU time and {line['cpu_s_per_pair']:.2f} s for each endpoint with its job"
        f" ({line['residual_percent']:.0f} % off at most)"
        for who, line in found["growth"].items()
    }
    told = [f"An `up` takes {lines_of['ekiben']}; by hand {lines_of['by_hand']}."] if lines_of else []
    told.append(f"{found['cpus']} cores, shared with other work: the load was {found['load']:.1f}.")
    return "\n".join([*lines, "", " ".join(told)])


def write(figures: str) -> None:
    """Put the figures where the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    fresh = PAGE.with_name(f".{PAGE.name}.{os.getpid()}")
    fresh.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")
    fresh.replace(PAGE)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
