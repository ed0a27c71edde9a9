"""`python -m ekiben.emulators.kubernetes`: build all that a cluster takes, and start none."""

from __future__ import annotations

import sys

from ekiben.emulators.kubernetes import launch
from ekiben.errors import EkibenError


def main() -> int:
    try:
        launch.build(_say)
    except EkibenError as error:
        print(error, file=sys.stderr)
        return 5
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
