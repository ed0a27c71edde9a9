"""One call of a function, in a process of its own: `python -P handler.py BUNDLE RESULT`.

Run as a file, so that the copy of ekiben in the bundle is used where there is one. The event comes as a line on stdin, which
then stays open as long as the station lives: when it closes, this process and its group end.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

__all__: list[str] = []


def main(bundle: Path, result: Path) -> int:
    """Call the handler; write {"result": ...} or {"error": ...}. Returns the exit status."""
    station = os.dup(0)
    event_text = sys.stdin.buffer.readline()
    # What the handler starts must not hold the station's pipe.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_end_with, args=(station,), daemon=True).start()
    try:
        text, status = json.dumps({"result": _call(bundle, event_text)}, allow_nan=False), 0
    except BaseException as error:  # SystemExit, too: whatever ends the handler ends one call
        traceback.print_exc()
        text, status = json.dumps({"error": _one_line(error)}), 1
    sys.stdout.flush()
    fresh = result.with_name(result.name + ".tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(result)
    return status


def _call(bundle: Path, event_text: bytes) -> Any:
    own = bundle / "_ekiben"
    if own.is_dir():
        sys.path.insert(0, str(own))
    else:
        sys.path.append(str(Path(__file__).resolve().parents[2]))
    sys.path.insert(0, str(bundle))
    from ekiben.records import Event
    from ekiben.runtime import connect

    event = Event.from_json(event_text)
    return importlib.import_module("main").handler(event, connect())


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _end_with(station: int) -> None:
    while os.read(station, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    # os._exit: threads that the handler left must not keep a call that has answered.
    status = main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stderr.flush()
    os._exit(status)
