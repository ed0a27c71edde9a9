"""`python -m ekiben.engine`: have the Pulumi CLI, whatever it takes, and put it on the virtual environment's PATH."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ekiben.engine.environment import find_root
from ekiben.engine.pulumi_cli import ensure, link
from ekiben.errors import EkibenError, SpecError

WORDS = {"path": "on PATH", "installed": "from the official installer", "built": "built from its Go module"}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a compiler that we started ends with us
    try:
        root = find_root()
    except SpecError:
        root = Path.cwd()
    try:
        cli = ensure(root, lambda line: print(line, flush=True))
    except EkibenError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 5
    except KeyboardInterrupt:
        print("Interrupted: repeat it, and it goes on from what is there.", file=sys.stderr)
        return 130
    if sys.prefix != sys.base_prefix:
        link(cli, Path(sys.prefix) / "bin")
    print(f"Pulumi {cli.version}, {WORDS[cli.origin]}: {cli.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
