"""The whole loop on this machine: data lands, a model is trained, approved, released and called. `make demo` runs it.

    python infra/demo.py [STACK]            from where the last one stopped; when all is there, just a prediction
    python infra/demo.py [STACK] --clean    destroy it all, and prove that nothing is left

STACK is `local`, this machine, or `aws` or `kubernetes`, which are emulated here. It runs commands that you could type, and shows
each before its output.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PREFIX = "employment/"
STAGES = (
    "The data: US Census, 277,677 people, 2015 to 2018",
    "The environment: storage, registry, training, endpoint, functions",
    "The data lands in storage, and the function `retrain` starts a run",
    "The run, as it happens",
    "The function `register` makes a version of it, which waits for approval",
    "Approved; the function `release` tests it and gives it the traffic",
    "A prediction, and the reason for it",
    "A bad file lands: it is refused, and the model in service stays",
)
PERSON = {
    "AGEP": 40, "SCHL": 21, "MAR": 1, "RELP": 0, "DIS": 2, "ESP": 0, "MIG": 1, "MIL": 4, "DEAR": 2, "DEYE": 2, "DREM": 2,
}  # fmt: skip
BAD = """\
id,year,AGEP,SCHL,MAR,RELP,DIS,ESP,MIG,MIL,DEAR,DEYE,DREM,SEX,RAC1P,employed
900001,2018,40,21,1,0,2,0,1,4,2,2,2,1,1,1
900002,2018,-7,21,1,0,2,0,1,4,2,2,2,2,1,1
900003,2018,51,21,yes,0,2,0,1,4,2,2,2,1,6,1
"""


class Stopped(Exception):
    """The demo cannot go on; the message says why, and what to look at."""


def main(arguments: list[str]) -> int:
    words = [word for word in arguments if word != "--clean"]
    stack = words[0] if words else "local"
    if len(words) > 1 or len(arguments) - len(words) > 1 or not (ROOT / f"Pulumi.{stack}.yaml").exists():
        print(__doc__, file=sys.stderr)
        return 2
    os.environ["EKIBEN_STACK"] = stack
    os.chdir(ROOT)
    provider = "" if stack == "local" else f" PROVIDER={stack}"
    shown = Stages()
    try:
        return clean(stack) if "--clean" in arguments else demo(shown, provider)
    except Stopped as problem:
        why, code = f"The demo stopped: {problem}", 1
    except KeyboardInterrupt:
        why, code = "Interrupted.", 130
    how = (
        f"`make clean-demo{provider}` begins again."
        if "--clean" in arguments
        else f"`make demo{provider}` goes on from here; `make clean-demo{provider}` removes it all."
    )
    print(f"\n{why}\n{how}", file=sys.stderr)
    return code


def demo(show: Stages, provider: str) -> int:
    url = serving()
    if url:
        print("The endpoint is up already: nothing to do but ask it.")
    fresh = not url
    if fresh:
        url = build(show)
    show(7)
    answer = json.loads(run("ekiben", "invoke", "employment-api", "--data", json.dumps({"person": PERSON})))
    if fresh:
        show(8)
        refuse()
    print(f"""
{bold("Done")} in {show.total_s():.0f} s. The endpoint stays up: {bold(url)}
  40 years old, married, a bachelor's degree: {bold(answer["decision"])}, with a chance of {answer["probability"]:.0%}. Why:
  {"; ".join(reason["text"] for reason in answer["reasons"])}

Try next (`. .venv/bin/activate{f"; export EKIBEN_STACK={os.environ['EKIBEN_STACK']}" if provider else ""}` comes first):
  ekiben models employment@champion                     what it was made from, who approved it, and why
  ekiben train employment --param max_depth=4 --follow  another model, to approve and compare
  make clean-demo{provider:39}destroy it all, and see that nothing is left""")
    return 0


def build(show: Stages) -> str:
    """Stages 1 to 6, each only as far as it is not done. The endpoint's address."""
    show(1)
    files = sorted(Path(run("python", "training_jobs/employment/fetch.py").strip().splitlines()[-1]).glob("*.pq"))
    show(2)
    run("ekiben", "up")
    show(3)
    land(files)
    show(4)
    trained = watch(wait("the function `retrain`", newest_run, 60))
    show(5)
    version = wait("the function `register`", lambda: version_of(trained["id"]), 120)
    run("ekiben", "models")
    show(6)
    ref = f"{version['model']}:{version['version']}"
    if version["state"] == "pending":
        why = f"AUC {version['metrics']['auc']:.3f}, of age alone {version['metrics']['baseline_auc']:.3f}"
        run("ekiben", "approve", ref, "--why", why)
    else:
        run("ekiben", "release", ref, "--why", "the demo was interrupted")
    url: str = wait("the function `release`", serving, 180)
    run("ekiben", "endpoints")
    return url


def land(files: list[Path]) -> None:
    """Put the files into the lake, unless they are there."""
    lake = storage()
    lake.delete(f"{PREFIX}bad.csv")
    there = {found.key.removeprefix(PREFIX): found.size_bytes for found in lake.list(PREFIX)}
    if all(there.get(path.name) == path.stat().st_size for path in files):
        print("The files are there.")
    else:
        run("ekiben", "put", *map(str, files), f"lake/{PREFIX}")


def watch(started: dict[str, Any]) -> dict[str, Any]:
    """The run once it has succeeded; one that has failed before is tried again. Raises Stopped."""
    if started["state"] in ("failed", "cancelled"):
        run("ekiben", "train", "employment", "--follow")
    else:
        run("ekiben", "logs", started["id"], "--follow")
    trained: dict[str, Any] = wait("the run to end", lambda: ended(newest_run()), 60)
    run("ekiben", "runs", trained["id"])
    if trained["state"] != "succeeded":
        raise Stopped(f"the run {trained['id']} has {trained['state']}. Its log: ekiben logs {trained['id']}")
    return trained


def refuse() -> None:
    """Land a file with two wrong rows, see its run refuse it, take it away again."""
    lake, known = storage(), newest_run()["id"]
    source = ROOT / ".ekiben" / "bad.csv"
    try:
        source.write_text(BAD, encoding="utf-8")
        print(BAD, end="")
        run("ekiben", "put", str(source.relative_to(ROOT)), f"lake/{PREFIX}")
        refused = wait("its run to end", lambda: ended(newest_run()) if newest_run()["id"] != known else {}, 120)
        run("ekiben", "runs", refused["id"])
        run("ekiben", "endpoints")
    finally:
        source.unlink(missing_ok=True)
        lake.delete(f"{PREFIX}bad.csv")


def clean(stack: str) -> int:
    known = ask("inventory", "--stack", stack)
    if known and not known[0]["items"]:  # to destroy it would start its emulator
        print("There is nothing to destroy.")
    else:
        run("ekiben", "destroy", "--yes")
    run("ekiben", "inventory", "--stack", stack)
    if stack != "local":
        # A cluster is all projects' of this user.
        run("ekiben", "emulate", stack, "--stop", *(["--if-unused"] if stack == "kubernetes" else []))
    return 0


def ask(*words: str) -> Any:
    """What an ekiben command answers with --json; None when it fails, as all do before there is a platform, or is too late."""
    command = [str(BIN / "ekiben"), *words, "--json"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment())
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def serving() -> str:
    """The address of the endpoint, once a revision is ready and has traffic; else empty."""
    for endpoint in ask("endpoints") or []:
        if any(revision["weight"] and revision["state"] == "ready" for revision in endpoint["revisions"]):
            return str(endpoint["url"])
    return ""


def newest_run() -> dict[str, Any]:
    return next(iter(ask("runs", "employment") or []), {})


def ended(found: dict[str, Any]) -> dict[str, Any]:
    return found if found.get("state") in ("succeeded", "failed", "cancelled") else {}


def version_of(run_id: str) -> dict[str, Any]:
    return next((version for version in ask("models") or [] if version["run_id"] == run_id), {})


def storage() -> Any:
    """The storage `lake`. Raises Stopped."""
    from ekiben.cli.platform import runtime
    from ekiben.errors import EkibenError

    try:
        lake = runtime("").storage("lake")
        next(iter(lake.list(PREFIX)), None)
    except EkibenError as error:
        raise Stopped(f"the storage `lake` does not answer: {error} Look at: ekiben status") from error
    return lake


def wait(what: str, probe: Callable[[], Any], at_most_s: int) -> Any:
    """What `probe` answers as soon as it is something. Raises Stopped."""
    began, terminal = time.monotonic(), sys.stdout.isatty()
    while time.monotonic() - began < at_most_s:
        if terminal:
            print(f"\rWaiting for {what}, {time.monotonic() - began:.0f} s ", end="", flush=True)
        if found := probe():
            print(
                "\r\033[K" if terminal else f"Waited for {what}, {time.monotonic() - began:.0f} s\n", end="", flush=True
            )
            return found
        time.sleep(0.5)
    raise Stopped(f"waited {at_most_s} s for {what}. Look at: ekiben functions; ekiben events")


def run(*words: str) -> str:
    """Show a command, then its output as it comes; returns its standard output. Raises Stopped when it fails."""
    print(bold(f"$ {shlex.join(words)}".replace(str(Path.home()), "~")), flush=True)
    program = sys.executable if words[0] == "python" else str(BIN / words[0])
    kept = []
    with subprocess.Popen(
        [program, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                kept.append(line)
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            # The terminal has told the child, too: a second signal would make Pulumi drop what it is doing.
            process.wait(timeout=60)
            raise
    if process.returncode:
        raise Stopped(f"`{shlex.join(words[:2])}` ended with {process.returncode}")
    return "".join(kept)


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


class Stages:
    """Prints the head of each stage, and how long the one before took."""

    def __init__(self) -> None:
        self.began = self.stage_began = time.monotonic()
        self.number = 0

    def __call__(self, number: int) -> None:
        now = time.monotonic()
        if self.number:
            print(f"({now - self.stage_began:.1f} s)")
        self.number, self.stage_began = number, now
        print(f"\n{bold(f'[{number}/{len(STAGES)}] {STAGES[number - 1]}')}", flush=True)

    def total_s(self) -> float:
        return time.monotonic() - self.began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
