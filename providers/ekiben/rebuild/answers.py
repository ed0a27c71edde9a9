"""What a bento answers: `python -P answers.py BENTO REQUESTS ANSWERS`, in the bento's own environment.

REQUESTS has a JSON object {"route", "request"} a line, ANSWERS gets {"status" (text), "body"} a line. It is BentoML's own
application that answers, without a socket. Nothing of Ekiben is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(bento: Path, requests: Path, answers: Path) -> None:
    """Answer each request."""
    source = str(bento / "src")
    os.chdir(source)
    sys.path.insert(0, source)
    sys.dont_write_bytecode = True

    from starlette.testclient import TestClient

    with (
        TestClient(application(bento), raise_server_exceptions=False) as client,
        requests.open(encoding="utf-8") as asked,
        answers.open("w", encoding="utf-8") as told,
    ):
        for line in asked:
            one = json.loads(line)
            answer = client.post("/" + one["route"].lstrip("/"), json=one["request"])
            try:
                body = answer.json()
            except ValueError:
                body = answer.text
            told.write(json.dumps({"status": str(answer.status_code), "body": body}) + "\n")


def application(bento: Path) -> Any:
    """The bento's ASGI application."""
    import yaml
    from _bentoml_sdk import images

    # The image is of no use here, and BentoML refuses to read its requirements.txt below a hidden folder such as ~/.cache.
    images.resolve_user_filepath = lambda path, ctx: str(Path(path).resolve())
    module, _, attribute = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))["service"].partition(":")
    service: Any = importlib.import_module(module)
    for name in attribute.split("."):
        service = getattr(service, name)
    return service.to_asgi(is_main=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
