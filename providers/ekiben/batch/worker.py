"""The bento's side: imports its service once, forks a worker for each channel that it is given, and calls a route with batches.

Run by path, `python -P worker.py BENTO CHANNEL` (a folder, and the number of an open socket), with the interpreter of the bento's
own environment, and imports nothing of Ekiben. The first process only imports, so that a worker that dies is replaced at once;
it ends, and kills its workers, when the channel closes.

    {"fork": route} with a channel's descriptor  ->  {"pid"}         {"wait": pid, "kill": true or false}  ->  {"status"}

A worker says {"ready"} or {"error"} when the service is made, then answers each batch: see `Route`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

TAIL_LINES = 20


def main(bento: Path, control: socket.socket) -> None:
    children: set[int] = set()
    try:
        service = load(bento)
    except BaseException as error:
        wire.send(control, said(error))
        return
    wire.send(control, {"ready": True})
    while True:
        try:
            data, handles, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                break
            command, _ = wire.receive(control)
        except (EOFError, ConnectionResetError):
            break
        if "wait" in command:
            if command["kill"]:
                os.kill(command["wait"], signal.SIGKILL)
            _, status = os.waitpid(command["wait"], 0)
            children.discard(command["wait"])
            wire.send(control, {"status": os.waitstatus_to_exitcode(status)})
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            become_worker(service, command["fork"], socket.socket(fileno=handles[0]))
        os.close(handles[0])
        children.add(pid)
        wire.send(control, {"pid": pid})
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def load(bento: Path) -> Any:
    """The service of the bento, as BentoML's own server finds it."""
    source = str(bento / "src")
    os.chdir(source)
    sys.path.insert(0, source)
    # The tree is read-only and its digest is over what it holds.
    sys.dont_write_bytecode = True
    import yaml
    from _bentoml_sdk import images

    # The image is of no use here, and BentoML refuses to read its requirements.txt below a hidden folder.
    images.resolve_user_filepath = lambda path, ctx: str(Path(path).resolve())
    about = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    module, _, attribute = about["service"].partition(":")
    service: Any = importlib.import_module(module)
    for part in attribute.split("."):
        service = getattr(service, part)
    return service


def become_worker(service: Any, name: str, channel: socket.socket) -> None:
    def work() -> None:
        try:
            route = Route(service, name)
        except BaseException as error:
            wire.send(channel, said(error))
            raise
        wire.send(channel, {"ready": True})
        while True:
            try:
                header, buffers = wire.receive(channel)
            except EOFError:
                break
            try:
                answer, out = route.call(header, buffers)
            except Exception as error:
                traceback.print_exc()
                answer, out = said(error), []
            wire.send(channel, answer, out)

    forked.run_and_end(work)


class Route:
    """One route of the service, called with batches.

    matrix  {"kind", "dtype", "shape"} and its bytes              an ndarray
    frame   {"kind", "columns", "rows"} and a buffer for each      a DataFrame
    rows    {"kind"} and the rows as a JSON array                  what pydantic makes of them

    The answer is {"kind": "columns", "columns"} and a buffer for each, or {"kind": "rows"} and {"root": answers} as JSON; either
    with "invalid", the rows (index and reason) that were not given to the model. A column is {"name", "dtype"} with the values
    as numpy has them, or, without a dtype, as a JSON array.
    """

    def __init__(self, service: Any, name: str) -> None:
        self.method = service.apis[name]
        instance = service()
        for member_name in dir(service.inner):
            member = getattr(service.inner, member_name)
            if not member_name.startswith("__") and getattr(member, "__bentoml_startup_hook__", False):
                self._now(getattr(instance, member_name)())
        self.function = getattr(instance, name)
        self.field = next(iter(self.method.input_spec.model_fields))

    def call(self, header: dict[str, Any], buffers: list[bytearray]) -> tuple[dict[str, Any], list[Any]]:
        if header["kind"] == "rows":
            return self._validated(bytes(buffers[0]))
        made = _matrix(header, buffers) if header["kind"] == "matrix" else _frame(header, buffers)
        return self._answer(self._call(made), header["rows"])

    def _validated(self, text: bytes) -> tuple[dict[str, Any], list[Any]]:
        from pydantic import ValidationError

        root = self.field == "root"
        invalid: dict[int, str] = {}
        rows: list[Any] | None = None
        while True:
            try:
                wrapped = text if root else b'{"%s":%s}' % (self.field.encode(), text)
                value = getattr(self.method.input_spec.model_validate_json(wrapped), self.field)
                break
            except ValidationError as error:
                rows = json.loads(text) if rows is None else rows
                left = [i for i in range(len(rows)) if i not in invalid]
                found: dict[int, list[str]] = {}
                for problem in error.errors(include_url=False, include_context=False, include_input=False):
                    place = list(problem["loc"])
                    if len(place) < 2 or not isinstance(place[1], int):
                        raise
                    where = ".".join(map(str, place[2:]))
                    found.setdefault(left[place[1]], []).append(
                        f"{where}: {problem['msg']}" if where else problem["msg"]
                    )
                invalid.update({i: "; ".join(reasons) for i, reasons in found.items()})
                if len(invalid) == len(rows):
                    return {"kind": "rows", "invalid": sorted(invalid.items())}, [b'{"root":[]}']
                text = json.dumps([row for i, row in enumerate(rows) if i not in invalid]).encode()
        header, out = self._answer(self._call(value), len(value))
        return {**header, "invalid": sorted(invalid.items())}, out

    def _call(self, value: Any) -> Any:
        return self._now(self.function(value) if self.field == "root" else self.function(**{self.field: value}))

    @staticmethod
    def _now(result: Any) -> Any:
        return asyncio.run(_await(result)) if inspect.isawaitable(result) else result

    def _answer(self, result: Any, rows: int) -> tuple[dict[str, Any], list[Any]]:
        columns = _columns(result)
        if columns is None:
            if not isinstance(result, list | tuple):
                return wrong(f"it answered {type(result).__name__}, not one answer for each row")
            if len(result) != rows:
                return wrong(f"it gave {len(result)} answers for {rows} rows")
            made = self.method.output_spec(result)
            return {"kind": "rows"}, [made.__pydantic_serializer__.to_json(made, by_alias=True)]
        described, buffers = [], []
        for name, values in columns.items():
            if len(values) != rows:
                return wrong(f"it gave {len(values)} answers for {rows} rows")
            about, buffer = _column(values)
            described.append({"name": name, **about})
            buffers.append(buffer)
        return {"kind": "columns", "columns": described, "rows": rows}, buffers


async def _await(result: Any) -> Any:
    return await result


def wrong(why: str) -> tuple[dict[str, Any], list[Any]]:
    """The route is none for batches: no part of the batch would fare better."""
    return {"error": why, "wrong": True, "trace": ""}, []


def said(error: BaseException) -> dict[str, Any]:
    lines = traceback.format_exception(error)
    return {"error": f"{type(error).__name__}: {error}", "trace": "\n".join("".join(lines).splitlines()[-TAIL_LINES:])}


def _matrix(header: dict[str, Any], buffers: list[bytearray]) -> Any:
    import numpy as np

    return np.frombuffer(buffers[0], dtype=header["dtype"]).reshape(header["shape"])


def _frame(header: dict[str, Any], buffers: list[bytearray]) -> Any:
    import numpy as np
    import pandas as pd

    columns = {}
    for about, buffer in zip(header["columns"], buffers, strict=True):
        known = "dtype" in about
        columns[about["name"]] = np.frombuffer(buffer, dtype=about["dtype"]) if known else json.loads(buffer)
    return pd.DataFrame(columns, index=range(header["rows"]))


def _columns(result: Any) -> dict[str, Any] | None:
    """The answer as columns by name, when it is made of arrays; else None."""
    numpy = sys.modules.get("numpy")
    if isinstance(result, dict):
        return {str(name): values for name, values in result.items()}
    if hasattr(result, "columns") and hasattr(result, "to_numpy"):
        return {str(name): result[name].to_numpy() for name in result.columns}
    if hasattr(result, "to_numpy"):
        return {"prediction": result.to_numpy()}
    if numpy is None or isinstance(result, list | tuple) or not hasattr(result, "__array__"):
        return None
    values = numpy.asarray(result)
    if values.ndim == 2 and values.shape[1] != 1:
        return {f"prediction_{i}": values[:, i] for i in range(values.shape[1])}
    return {"prediction": values.reshape(len(values)) if values.ndim == 2 else values}


def _column(values: Any) -> tuple[dict[str, str], Any]:
    import numpy as np

    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "biufM":
        return {"dtype": array.dtype.str}, np.ascontiguousarray(array).view(np.uint8)
    return {}, json.dumps(array.tolist(), default=str).encode()


def beside(name: str, folder: str = ".") -> Any:
    """The module `name` in this folder, or in one beside it, without putting the folder on the path of what is run."""
    path = Path(__file__).parent / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_ekiben_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wire, forked = beside("wire"), beside("forked", "../serving")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
