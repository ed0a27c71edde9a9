"""Put a preview on its pull request (GitHub) or merge request (GitLab): one comment, which is updated and never repeated.

    python .ci/comment.py preview.md

The first line of the file is the mark by which the comment is found again. Where and as whom is in the environment that CI gives.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_S = 30
TRIES = 4
PAUSE_S = 2.0
PAGE = 100
LONGEST = 60_000  # characters; GitHub takes 65,536


def main(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    mark = text.partition("\n")[0]
    if not mark.startswith("<!-- "):
        sys.exit(f"{path} does not begin with a mark, so that its comment could not be found again.")
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition("\n")[0] + "\n\n(and more: see the log of the job)"
    if "GITHUB_REPOSITORY" in os.environ:
        issues = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
        headers = {"Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
        put(mark, text, headers, f"{issues}/{os.environ['PULL_REQUEST']}/comments", f"{issues}/comments", "PATCH")
    else:
        notes = "{CI_API_V4_URL}/projects/{CI_PROJECT_ID}/merge_requests/{CI_MERGE_REQUEST_IID}/notes".format(
            **os.environ
        )
        put(mark, text, {"PRIVATE-TOKEN": os.environ["COMMENT_TOKEN"]}, notes, notes, "PUT")


def put(mark: str, text: str, headers: dict[str, str], comments: str, one: str, update: str) -> None:
    """Update the comment that begins with `mark`, or write it; all of it again when the network or the server fails."""
    for left in reversed(range(TRIES)):
        try:
            if known := find(mark, headers, comments):
                ask(update, f"{one}/{known}", headers, {"body": text})
            else:
                ask("POST", comments, headers, {"body": text})
            return
        except urllib.error.HTTPError as error:
            if not left or (error.code < 500 and error.code != 429):
                sys.exit(
                    f"The comment was refused: HTTP {error.code} for {error.url}: {error.read(500).decode(errors='replace')}"
                )
        except OSError as error:
            if not left:
                sys.exit(f"The comment could not be written: {error}")
        time.sleep(PAUSE_S * (TRIES - left))


def find(mark: str, headers: dict[str, str], comments: str) -> int:
    """The id of the comment that begins with `mark`; 0 where none does."""
    page = 1
    while found := ask("GET", f"{comments}?per_page={PAGE}&page={page}", headers):
        for comment in found:
            if (comment["body"] or "").startswith(mark):
                return int(comment["id"])
        if len(found) < PAGE:
            break
        page += 1
    return 0


def ask(method: str, url: str, headers: dict[str, str], body: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {**headers, "Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
