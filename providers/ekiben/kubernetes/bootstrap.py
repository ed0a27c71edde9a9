"""How a pod on a stock Python image begins: it fetches an archive, finds its digest right, and becomes a module of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ekiben.kubernetes.pods import variable

__all__ = ["command", "variables"]

# Into a folder of the pod's own. What the archive holds is Ekiben's, or a function's bundle, and its digest says which.
_BEGIN = """
import io, signal, sys, tarfile, tempfile
# The first process of a container is ended by no signal that it has no handler for.
signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
_data = Store.of_environment().get(os.environ["EKIBEN_ARCHIVE_URI"])
_found = hashlib.sha256(_data).hexdigest()
if _found != os.environ["EKIBEN_ARCHIVE_SHA256"]:
    sys.exit("ekiben: the archive has the digest " + _found + ", and not the one that was deployed: nothing of it is run")
_home = tempfile.mkdtemp(prefix="ekiben-")
with tarfile.open(fileobj=io.BytesIO(_data)) as _tar:
    _tar.extractall(_home, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
del _data
os.environ["EKIBEN_ARCHIVE"] = _home
os.environ["PYTHONPATH"] = os.path.join(_home, os.environ.get("EKIBEN_ARCHIVE_LIBRARY", ""))
# It waits until the module has a handler of its own, and takes it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execv(sys.executable, [sys.executable, "-u", "-m", *sys.argv[1:]])
"""


@cache
def command(module: str) -> list[str]:
    """The command of a container whose variables are `variables` and those of the store (`pods.s3_variables`).

    The module finds the archive's folder in EKIBEN_ARCHIVE. It begins with SIGTERM blocked.
    """
    text = Path(__file__).with_name("s3.py").read_text(encoding="utf-8")
    return ["python3", "-c", text + _BEGIN, module]


def variables(uri: str, sha256: str, library: str = "") -> list[dict[str, str]]:
    """What `command` asks: which archive, and where in it `import ekiben` finds Ekiben."""
    told = {"EKIBEN_ARCHIVE_URI": uri, "EKIBEN_ARCHIVE_SHA256": sha256, "EKIBEN_ARCHIVE_LIBRARY": library}
    return [variable(name, value) for name, value in told.items()]
