"""How a forked child runs and ends, and notices that its parent is gone.

Standard library only: whoever forks workers imports this before it forks, the one that runs a batch too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

__all__ = ["die_with_parent", "run_and_end"]


def run_and_end(run: Callable[[], object]) -> NoReturn:
    """Call `run` and end this process, without what the parent would do at its own end.

    The status is 0 when it returns, that of a SystemExit, and 1 for anything else, whose traceback is printed.
    """
    status = 1
    try:
        run()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # who reads them may be gone
            os._exit(status)


def die_with_parent(lifeline: int, *, group: bool) -> None:
    """From now on end when the pipe that only the parent holds open closes: the whole group at once, or this process in order."""

    def wait() -> None:
        os.read(lifeline, 1)
        if group:
            os.killpg(0, signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
