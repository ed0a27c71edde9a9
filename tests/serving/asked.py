"""The requests that both servers are sent."""

from __future__ import annotations

import json
from typing import Any

JSON = {"content-type": "application/json"}
BOUNDARY = "frontier"
FORM = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, content: str | bytes, filename: str = "", kind: str = "") -> bytes:
    where = f'; filename="{filename}"' if filename else ""
    type_ = f"content-type: {kind}\r\n" if kind else ""
    body = content if isinstance(content, bytes) else content.encode()
    return (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{where}\r\n{type_}\r\n'.encode() + body + b"\r\n"
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


# (path, body) posted as JSON; a body that is text or bytes is sent as it is.
POSTED: list[tuple[str, Any]] = [
    ("/life", {}), ("/one", {"person": {"age": 3}}), ("/one", {"person": {"age": 3, "name": "Zoë 日本"}}),
    ("/one", {"person": {"age": 100}}), ("/one", {"person": {"age": "12"}}), ("/one", {"person": {"age": 1.5}}),
    ("/one", {"person": {"age": 3, "name": "bob"}}), ("/one", {"person": {"age": 3, "name": "x" * 11}}),
    ("/one", {"person": {"age": 3, "extra": 1}}), ("/one", {"person": {}}), ("/one", {"person": None}), ("/one", {}),
    ("/one", {"person": {"age": 3, "born": "2020-02-29"}}), ("/one", {"person": {"age": 3, "born": "2021-02-29"}}),
    ("/one", {"person": {"age": 3}, "unknown": 1}), ("/one", []), ("/one", "null"), ("/one", "3"), ("/one", b""),
    ("/one", b"{"), ("/one", b'{"person": {"age": 3}} trailing'), ("/one", b"\xff\xfe"), ("/one", b'{"person": {"age": NaN}}'),
    ("/one", b'{"person": {"age": 1e999}}'), ("/one", b'{"person": {"age": ' + b"9" * 400 + b"}}"),
    ("/one_async", {"person": {"age": 3}, "times": 2}), ("/one_async", {"person": {"age": 3}, "times": "x"}),
    ("/many", {"people": [{"age": 1}, {"age": 2}]}), ("/many", {"people": []}), ("/many", {"people": [{"age": 1}] * 4}),
    ("/many", {"people": [{"age": 1}, {"age": -1}, {}]}), ("/many", {"people": {"age": 1}}),
    ("/root", {"age": 3}), ("/root", {"age": -3}), ("/root", {}), ("/root", []), ("/root", b""),
    ("/root", {"person": {"age": 3}}),
    ("/root_list", [1, 2, 3]), ("/root_list", []), ("/root_list", [1, "x"]), ("/root_list", {}), ("/root_list", b""),
   
    ("/root_list", "3"), ("/root", b"{"),
    ("/one", b"[" * 5000), ("/array", {"x": [None] * 4}), 
    ("/array_in", {"x": 3}),
    ("/frame", {"x": 3}), ("/frame_columns", {"a": {"b": {}}}), ("/root_dict", {"a": 1}), ("/root_dict", {"a": "x"}),
    ("/root_dict", []), ("/root_dict", b""),
    ("/root_text", b"plain words"), ("/root_text", b'"quoted"'), ("/root_text", "Grüße".encode()), ("/root_text", b""),
    ("/root_text", b"\xff"), ("/root_default", "5"), ("/root_default", b""), ("/root_default", "null"),
    ("/scalars", {"a": 1}), ("/scalars", {"a": True, "c": "yes"}), ("/scalars", {"a": 1, "b": "nan", "e": None}),
    ("/scalars", {"a": 2**70}), ("/scalars", {"a": 1, "d": 3}), ("/scalars", {"a": "1", "b": "2", "c": 1}),
    ("/kinds", {"when": "2026-01-02T03:04:05Z", "colour": "red"}), ("/kinds", {"when": 0, "colour": "green", "size": "xl"}),
    ("/colour", {"colour": "blue"}), ("/when", {"when": "2026-01-02T03:04:05+02:00"}), ("/number", {"x": 1}),
    ("/raw", {"size": 3}), ("/nothing", {}),
    ("/untyped", {"x": [1, {"a": None}]}), ("/untyped", {}), ("/defaults", {}), ("/defaults", {"x": 0}),
    ("/defaults", {"y": [1]}), ("/more", {"x": 1, "rest": 2}), ("/more", {"x": 1}), ("/more", {"x": 1, "kwargs": {"b": 2}}),
    ("/unions", {"x": "a"}), ("/unions", {"x": 1, "y": [1]}), ("/unions", {"x": []}),
    ("/array", {"x": [[1, 2], [3, 4]]}), ("/array", {"x": [1, 2, 3, 4]}), ("/array", {"x": [1, 2, 3]}),
    ("/array", {"x": [[1, 2], [3]]}), ("/array", {"x": "abc"}), ("/array", {"x": ["1", "2", "3", "4"]}), ("/array", {}),
    ("/array_any", {"x": 3}), ("/array_any", {"x": []}), ("/array_any", {"x": [[1, 2]]}), ("/array_any", {"x": ["a"]}),
    ("/array_any", {"x": [True, False]}), ("/array_root", [1, 2, 0.1]), ("/array_root", [[1], [2]]), ("/array_root", []),
    ("/array_ints", {"x": [[1, 2], [3, 4]]}), ("/array_ints", {"x": [1.7]}), ("/array_in", {"x": [[1], [2, 3]]}),
    ("/array_nan", {"n": 1}), ("/nan_any", {"n": 1}), ("/nan_arrays", {"n": 1}),
    ("/nan_model", {"n": 1}), ("/frame", {"x": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}), ("/frame", {"x": {"a": [1, 2]}}),
    ("/frame", {"x": []}), ("/frame", {"x": {"a": [1, 2], "b": [1]}}), ("/frame_columns", [[1, 2], [3, 4]]),
    ("/frame_columns", {"a": [1], "b": [2]}), ("/frame_columns", [[1]]), ("/file_out", {"text": "a,b"}),
    ("/file_typed", {"text": "abc"}), ("/picture_out", {"size": 2}), ("/stream", {"n": 3}), ("/stream", {"n": 0}),
    ("/stream", {"n": 2, "fail": 0}), ("/stream", {"n": "x"}), ("/stream_models", {"n": 2}), ("/stream_numbers", {"n": 3}),
    ("/stream_typed", {"n": 3}), ("/seen?a=1&b=%20x", {}), ("/told", {"status": 202}), ("/told_stream", {"status": 206}),
    ("/retyped", {}), ("/response", {"status": 299}), ("/v2/renamed", {"x": 4}), ("/renamed", {"x": 4}),
    ("/own", {"left": 1}), ("/own", {"left": 1, "grid": [[1, 2]]}), ("/own", {"right": 1}), ("/given", {"left": 1}),
    ("/given", {"left": 99}), ("/given", {}), ("/bad_argument", {"x": 1}), ("/not_found", {}), ("/forbidden", {}),
    ("/teapot", {}), ("/given_code", {"code": 409}), ("/given_code", {"code": 502}), ("/crash", {}), ("/crash_async", {}),
    ("/wrong", {}), ("/wrong_model", {}), ("/slow", {"s": 0.01}), ("/slow", {"s": 30}), ("/other", {"x": 1}),
    ("/not_served", {}), ("/", {}), ("/nowhere", {}), ("/one/", {"person": {"age": 3}}), ("/file_root", b"the file itself"),
]  # fmt: skip

# (method, path, body, headers)
OTHERS: list[tuple[str, str, bytes | None, dict[str, str]]] = [
    ("GET", "/livez", None, {}), ("GET", "/readyz", None, {}), ("GET", "/healthz", None, {}), ("HEAD", "/livez", None, {}),
    ("POST", "/livez", b"", {}), ("GET", "/one", None, {}), ("PUT", "/one", b"{}", JSON), ("DELETE", "/nowhere", None, {}),
    ("GET", "/nowhere", None, {}), ("GET", "/livez/", None, {}), ("GET", "/", None, {}), ("GET", "/schema.json", None, {}),
    ("GET", "/static_content/../../app.py", None, {}), ("GET", "/static_content/swagger-ui.css", None, {}),
    ("POST", "/one", b'{"person": {"age": 3}}', {}),
    ("POST", "/one", b'{"person": {"age": 3}}', {"content-type": "text/plain"}),
    ("POST", "/one", b'{"person": {"age": 3}}', {"content-type": "application/json; charset=utf-8"}),
    ("POST", "/one", b"x", {"content-type": "application/vnd.bentoml+pickle"}),
    ("POST", "/%6fne", b'{"person": {"age": 3}}', JSON),
    ("POST", "/root_text", b"plain", {"content-type": "text/plain"}),
    ("POST", "/seen", b"{}", {**JSON, "x-probe": "y", "cookie": "a=b; c=d"}),
    ("POST", "/scalars", b"a=3&d=word&e=4", {"content-type": "application/x-www-form-urlencoded"}),
    ("POST", "/scalars", b"d=word", {"content-type": "application/x-www-form-urlencoded"}),
    ("POST", "/root_default", b"a=1", FORM), ("POST", "/root_list", form(part("a", "1")), MULTIPART),
    ("POST", "/root_dict", b"a=1&b=2&c", FORM), ("POST", "/root_dict", b"a=1&&b=%zz;c=+4&=5", FORM),
    ("POST", "/file_root", form(part("root", "x", "x.txt")), MULTIPART),
    ("POST", "/scalars", form(part("a", "3"), part("d", "word")), MULTIPART),
    ("POST", "/one", form(part("person", '{"age": 3}')), MULTIPART),
    ("POST", "/file", form(part("f", "content", "a.txt", "text/plain"), part("note", "hi"), part("n", "3")), MULTIPART),
    ("POST", "/file", form(part("f", "content", "b.csv"), part("n", "x")), MULTIPART),
    ("POST", "/file", form(part("note", "hi")), MULTIPART),
    ("POST", "/file", form(part("f", "content", "Übung.txt"), part("n", "3", "n.json", "application/json")), MULTIPART),
    ("POST", "/file_kind", form(part("f", png(), "a.png", "image/png")), MULTIPART),
    ("POST", "/file_kind", form(part("f", "text", "a.txt", "text/plain")), MULTIPART),
    ("POST", "/files", form(part("f", "one", "1.txt"), part("f", "two", "2.txt")), MULTIPART),
    ("POST", "/picture", form(part("picture", png(), "a.png", "image/png")), MULTIPART),
    ("POST", "/file", form(part("f", "http://127.0.0.1:1/x")), MULTIPART),
    ("POST", "/file_root", b"http://127.0.0.1:1/x", {"content-type": "text/plain"}),
    ("POST", "/file_root", b"\x00\x01 binary is no text", {"content-type": "application/octet-stream"}),
    ("POST", "/file_root", b"words", {"content-type": "application/vnd.apache.arrow.stream"}),
    ("POST", "/root_text", b"words", {"content-type": "application/x-npy", "accept": "application/x-npy"}),
    ("POST", "/file_out", b'{"text": "a,b"}', {**JSON, "accept": "application/vnd.apache.arrow.stream"}),
    ("POST", "/stream", b'{"n": 2}', {**JSON, "accept": "application/x-npy"}),
    ("POST", "/array_any", b'{"x": [1, 2]}', {**JSON, "accept": "application/json, application/x-npy"}),
    ("POST", "/array_any", b"\x93NUMPY", {"content-type": "application/octet-stream"}),
]  # fmt: skip

# What BentoML answers with a 500 although it is the request that is wrong: we say so.
WRONG: list[tuple[str, Any, dict[str, str]]] = [
    ("/root_list", b"{", JSON), ("/root_list", b"[1,", JSON), ("/root_list", b'1, "root": [2]', JSON),
    ("/root_list", b"[" * 5000, JSON), ("/array", {"x": {"a": 1}}, JSON), ("/array_root", {"a": 1}, JSON),
    ("/array_ints", {"x": [2**80]}, JSON), ("/array_ints", {"x": [2**40]}, JSON), ("/frame", {"x": [[1], 2, None]}, JSON),
    ("/frame_columns", b"word", JSON), ("/file", form(part("f", "words")), MULTIPART),
    ("/picture", form(part("picture", "no picture", "a.png", "image/png")), MULTIPART),
    ("/picture", form(part("picture", png(), "a.png", "image/nothing")), MULTIPART),
    ("/file", b"no form at all", MULTIPART), ("/file", b"--x", {"content-type": "multipart/form-data"}),
    ("/file_root", b"http://[", {"content-type": "text/plain"}), ("/root_dict", b"a=1&" * 1001, FORM),
]  # fmt: skip

# Where BentoML writes NaN or Infinity, which is no JSON, and we write null, as BentoML itself does for models.
NOT_JSON: list[tuple[str, Any, Any]] = [
    ("/number", b'{"x": NaN}', None), ("/number", b'{"x": -Infinity}', None), ("/nan_list", {"n": 1}, [None]),
    ("/nan_models", {"n": 1}, [{"who": {"age": 1, "name": "nobody", "born": None}, "score": None, "tags": []}]),
]  # fmt: skip


def sendable(given: Any) -> bytes | str:
    return given if isinstance(given, bytes | str) else json.dumps(given)
