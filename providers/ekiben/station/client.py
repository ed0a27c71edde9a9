"""Calls to a station. Standard library only: it travels into functions.

A request goes out only while the station's lock is held, so that the token never reaches another program that took its port.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ekiben.errors import AccessDenied, ProviderError, Unavailable
from ekiben.station.wire import from_body

__all__ = ["Answer", "Client", "locked", "running"]

CONNECT_PATIENCE_S = 3.0
RETRY_PAUSE_S = 0.05
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")


def running(state_dir: Path) -> bool:
    """Does a station live in `state_dir`?"""
    return locked(Path(state_dir) / "station.lock")


def locked(path: Path) -> bool:
    """Does a process hold the lock at `path`? That proves that it lives; a file that a crash leaves proves nothing."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back, whatever the status. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when it is empty or is not JSON."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None


class Client:
    """A station, by its state directory. `token`: given, else EKIBEN_TOKEN (a function's own), else the station's file."""

    def __init__(self, state_dir: Path | str, token: str = "") -> None:
        self.state_dir = Path(state_dir)
        self._token = token or os.environ.get("EKIBEN_TOKEN", "")

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end. Raises Unavailable when it never ran."""
        try:
            return str(json.loads((self.state_dir / "station.json").read_text(encoding="utf-8"))["url"])
        except (OSError, ValueError, KeyError) as error:
            raise self._absent() from error

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float = 60.0) -> Any:
        """Send `body` as JSON, return the parsed answer.

        Raises what the station raised; Unavailable when no station runs here or it does not answer within `timeout_s`.
        """
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        answer = self.send(method, path, data, timeout_s=timeout_s)
        if answer.status >= 400:
            raise from_body(answer.status, answer.json())
        return answer.json()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> Answer:
        """Send bytes, return the answer with its status and headers; only a lack of answer raises (Unavailable).

        A refused connection is tried again for a moment (nothing was sent); a broken one only when the method is idempotent.
        """
        deadline = time.monotonic() + CONNECT_PATIENCE_S
        while True:
            if not running(self.state_dir):
                raise self._absent()
            connected = False
            connection: http.client.HTTPConnection | None = None
            try:
                where = urlsplit(self.url)
                connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout_s)
                connection.connect()
                connected = True
                return self._exchange(connection, method, path, body, headers or {})
            except TimeoutError as error:
                raise Unavailable(
                    "local", f"call the station ({method} {path})", f"it did not answer within {timeout_s:g} s",
                    f"Look at {self.state_dir / 'station.log'}, and try again",
                ) from error  # fmt: skip
            except (OSError, http.client.HTTPException, Unavailable) as error:
                again = not connected or method in IDEMPOTENT
                if not again or time.monotonic() > deadline:
                    raise Unavailable(
                        "local", f"call the station ({method} {path})", f"the connection failed ({type(error).__name__})",
                        f"Look at {self.state_dir / 'station.log'}",
                    ) from error  # fmt: skip
            finally:
                if connection is not None:
                    connection.close()
            time.sleep(RETRY_PAUSE_S)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        given = {"Authorization": f"Bearer {self._read_token()}", "Content-Type": "application/json", **headers}
        # A station that refuses a large body answers and closes before all of it was sent: the answer is what counts.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body=body, headers=given)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=named, body=response.read())

    def _read_token(self) -> str:
        if self._token:
            return self._token
        try:
            return (self.state_dir / "token").read_text(encoding="ascii").strip()
        except OSError as error:
            lost = isinstance(error, FileNotFoundError)
            raise AccessDenied(
                "local", f"call the station of {self.state_dir}", f"its token cannot be read ({error.strerror})",
                "Make a new one: `ekiben station --stop`, then `ekiben up`" if lost else "Run as the user who started it",
            ) from error  # fmt: skip

    def _absent(self) -> ProviderError:
        return Unavailable(
            "local",
            "call the station",
            f"the station of {self.state_dir} does not run",
            "Start it with `ekiben station`",
        )
