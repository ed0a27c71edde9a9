"""`python -m ekiben.emulators.kubernetes`: build all that a cluster takes, and start none."""

from __future__ import annotations

import sys

from ekiben.emulators.kubernetes import binaries, images, machine
from ekiben.errors import EkibenError


def main() -> int:
    if reason := machine.why_not():
        print(f"No cluster can be here: {reason}.", file=sys.stderr)
        return 0
    try:
        machine.install(_say)
        binaries.ensure(_say)
        images.ensure(_say)
    except EkibenError as error:
        print(error, file=sys.stderr)
        return 5
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
