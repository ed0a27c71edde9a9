"""What Ekiben's components cost on top of plain pulumi-aws: `python -m benchmarks.aws_offline [--sizes 1,10,50] [--json]`.

Programs of N endpoints and N training jobs, under the real engine on an emulated AWS: preview, up, up without a change, destroy.
Beside each the same program by hand: the same resources with the same inputs, straight from the classes of pulumi_aws, and the
image that the endpoints share from the resource that builds it. `overhead_percent` is of the time of `up`; growth is linear when
each pair of an endpoint and a job costs the same in a large program as in a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ekiben.emulators import aws, stacks

SOURCES = Path(__file__).parents[1] / "tests" / "rigs" / "project"
CONFIG = "config:\n  ekiben:provider: aws\n  ekiben:emulate: true\n  aws:region: us-east-1\n"
STACK = "bench"
STAGES = ("preview", "up", "no_change", "destroy")
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
            capture_output=True, check=True,
        )  # fmt: skip
        self._env = {**clean, **json.loads(told.stdout)}
        self("stack", "init", STACK)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["pulumi", "--non-interactive", "--color=never", *words], cwd=self.folder, env=self._env, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"pulumi {' '.join(words)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def seconds(self) -> dict[str, float]:
        """Of each stage but `destroy`, after which nothing is left to look at."""
        commands = {"preview": ("preview",), "up": ("up", "--yes", "-f"), "no_change": ("up", "--yes", "-f")}
        return {stage: self._timed(*words) for stage, words in commands.items()}

    def destroy_s(self) -> float:
        return self._timed("destroy", "--yes", "-f")

    def resources(self) -> list[dict[str, Any]]:
        """What the state has, without the stack, its providers and the components."""
        found = json.loads(self("stack", "export"))["deployment"]["resources"]
        return [one for one in found if one.get("custom") and not one["type"].startswith("pulumi:")]

    def _timed(self, *words: str) -> float:
        began = time.perf_counter()
        self(*words)
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--sizes", default="1,10,25,50", help="how many endpoints, and as many jobs, each program has")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, and nothing else there")
    given = parser.parse_args()
    rows = []
    for pairs in map(int, given.sizes.split(",")):
        rows.append(measure(pairs))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    found = {"rows": rows, "up_s_per_pair": growth(rows)}
    print(json.dumps(found, indent=2) if given.json else table(found))
    return 0


def measure(pairs: int) -> dict[str, Any]:
    with project(PROGRAM.format(pairs=pairs)) as ours:
        ekiben_s = ours.seconds()
        resources = ours.resources()
        with project(BY_HAND) as theirs:
            (theirs.folder / "infra" / "resources.json").write_text(json.dumps(by_hand(resources)), encoding="utf-8")
            by_hand_s = theirs.seconds()
            counts = {"resources": len(resources), "resources_by_hand": len(theirs.resources())}
            by_hand_s["destroy"] = theirs.destroy_s()
        ekiben_s["destroy"] = ours.destroy_s()
    return {
        "pairs": pairs, **counts, "ekiben_s": ekiben_s, "by_hand_s": by_hand_s,
        "overhead_percent": 100 * (ekiben_s["up"] / by_hand_s["up"] - 1),
    }  # fmt: skip


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
        found.append(
            {
                "urn": one["urn"], "type": one["type"], "name": one["urn"].rpartition("::")[2],
                "class": [MODULES.get(module, module), name.partition(":")[2]] if of_aws else None,
                "inputs": {snake(key): plain(value) for key, value in inputs.items()} if of_aws else inputs,
                "outputs": sorted(one["outputs"].keys() - one["inputs"].keys()), "retain": one.get("retainOnDelete", False),
                "dependencies": [urn for urn in one.get("dependencies", []) if urn in known],
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


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of `up` that each pair more costs, from each size to the next: about the same where growth is linear."""
    return {
        f"{a['pairs']} to {b['pairs']}": (b["ekiben_s"]["up"] - a["ekiben_s"]["up"]) / (b["pairs"] - a["pairs"])
        for a, b in zip(rows, rows[1:], strict=False)
    }


def table(found: dict[str, Any]) -> str:
    lines = ["pairs  resources  " + "  ".join(f"{stage:>19}" for stage in STAGES) + "  overhead"]
    for row in found["rows"]:
        cells = (f"{row['ekiben_s'][stage]:8.1f} ({row['by_hand_s'][stage]:6.1f})" for stage in STAGES)
        lines.append(
            f"{row['pairs']:5}  {row['resources']:9}  " + "  ".join(f"{cell:>19}" for cell in cells)
            + f"  {row['overhead_percent']:7.1f}%"
        )  # fmt: skip
    lines.append("Seconds; in brackets by hand.")
    lines += [f"A pair more, {span}: {seconds:.2f} s" for span, seconds in found["up_s_per_pair"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
