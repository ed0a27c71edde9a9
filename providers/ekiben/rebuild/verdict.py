"""Are two models the same: byte for byte, or by what they answer?"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ekiben.errors import ModelFailed
from ekiben.packing import archive
from ekiben.station import processes
from ekiben.station.environments import interpreter, lock_of

__all__ = ["booster", "files_of", "predictions", "spread"]

ANSWERS_S = 900
TAIL_LINES = 12
HEAD_BYTES = 64


def files_of(recorded: Path, rebuilt: Path) -> list[dict[str, Any]]:
    """The files of both model folders: [{"name", "recorded", "rebuilt", "equal"}], digests empty where there is no such file."""
    left, right = archive.files(recorded), archive.files(rebuilt)
    found = []
    for name in sorted({*left, *right}):
        before, now = (archive.sha256(side[name]) if name in side else "" for side in (left, right))
        found.append({"name": name, "recorded": before, "rebuilt": now, "equal": before == now})
    return found


def booster(path: Path) -> bool:
    """Is this file a model that XGBoost saved (UBJSON or JSON)?"""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"learner" in file.read(HEAD_BYTES)


def predictions(bento: Path, model: Path, requests: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What `bento` answers to `requests`, with its own model and with the one in the folder `model`, in `folder`.

    {"requests", "numbers" (compared), "largest_difference" (see `spread`), "first_other": the first place where the answers
    differ in more than a number}. Raises ModelFailed where the bento cannot be made to answer.
    """
    asked = folder / "requests.jsonl"
    asked.write_text("".join(json.dumps(one) + "\n" for one in requests), encoding="utf-8")
    other = folder / "rebuilt-bento"
    shutil.copytree(bento, other, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (other, *other.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    archive.remove(other / "src" / "model")
    shutil.copytree(model, other / "src" / "model")
    python = interpreter(lock_of(bento))
    with ThreadPoolExecutor(2) as pool:
        told = pool.submit(_answers, python, bento, asked, folder / "recorded.jsonl")
        now = _answers(python, other, asked, folder / "rebuilt.jsonl")
        before = told.result()
    numbers, largest, first = 0, 0.0, ""
    for i, pair in enumerate(zip(before, now, strict=True)):
        for difference, at in spread(*pair, at=f"answer {i + 1}"):
            if difference is None:
                first = first or at
            else:
                numbers, largest = numbers + 1, max(largest, difference)
    return {"requests": len(requests), "numbers": numbers, "largest_difference": largest, "first_other": first}


def spread(recorded: Any, rebuilt: Any, at: str = "$") -> Iterator[tuple[float | None, str]]:
    """Each number of two JSON values with its difference, absolute, or relative to the recorded one where that is above 1.

    For what differs in another way (a key, a length, a text): None, and the place.
    """
    if isinstance(recorded, dict) and isinstance(rebuilt, dict) and set(recorded) == set(rebuilt):
        for key in recorded:
            yield from spread(recorded[key], rebuilt[key], f"{at}.{key}")
    elif isinstance(recorded, list) and isinstance(rebuilt, list) and len(recorded) == len(rebuilt):
        for i, pair in enumerate(zip(recorded, rebuilt, strict=True)):
            yield from spread(*pair, at=f"{at}[{i}]")
    elif _number(recorded) and _number(rebuilt):
        difference = abs(recorded - rebuilt) / max(1.0, abs(recorded))
        yield (difference if math.isfinite(difference) else math.inf), at
    elif recorded != rebuilt or type(recorded) is not type(rebuilt):
        yield None, f"{at} is {_short(rebuilt)}, not {_short(recorded)}"


def _answers(python: Path, bento: Path, asked: Path, told: Path) -> list[Any]:
    env = processes.child_env({"BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1"})
    program = Path(__file__).with_name("answers.py")
    try:
        done = subprocess.run(
            [str(python), "-P", str(program), str(bento), str(asked), str(told)], env=env, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=ANSWERS_S, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelFailed(f"The bento did not answer within {ANSWERS_S} s.") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TAIL_LINES:])
        raise ModelFailed("The bento does not start.", tail=tail)
    answers = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    if bad := next((answer for answer in answers if answer["status"] >= "500"), None):
        raise ModelFailed(f"The bento failed (HTTP {bad['status']}): {_short(bad['body'])}")
    return answers


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
