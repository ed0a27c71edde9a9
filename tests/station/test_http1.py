"""HTTP/1.1 as it is read: what smuggles, overflows or is merely odd is refused; what is right comes out whole."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from ekiben.station import http1
from ekiben.station.http1 import Bad, Chunked

GOOD = b"POST /endpoints/api/predict HTTP/1.1\r\nHost: localhost:1\r\n"


def request(*lines: bytes) -> http1.Request:
    return http1.request(GOOD + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


def test_a_request_says_its_length_and_what_is_passed_on() -> None:
    head = request(
        b"Content-Length: 12", b"X-A:  one two \t", b"x-empty:", b"Authorization: Bearer t", b"Connection: keep-alive, X-Hop",
        b"X-Hop: 1", b"Keep-Alive: 5", b"Ekiben-Request-Id: mine", b"X-Latin: \xe9", b"Connection: x-later", b"X-Later: 2",
    )  # fmt: skip
    assert (head.method, head.target, head.length, head.keep_alive) == (b"POST", b"/endpoints/api/predict", 12, True)
    assert head.lines == b"X-A: one two\r\nx-empty: \r\nX-Latin: \xe9\r\n"
    assert (head.named[b"authorization"], head.named[b"host"]) == (b"Bearer t", b"localhost:1")
    trace = [
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"tracestate: a=1",
        b"baggage: b=2",
    ]
    assert request(*trace).lines == b"".join(line + b"\r\n" for line in trace)
    assert request(b"Transfer-Encoding: Chunked").length == -1
    assert request().length == 0
    assert not request(b"Connection: Close").keep_alive
    assert not http1.request(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").keep_alive


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: 5", b"content-length: 6"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: +5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length: 5 5"],
        [b"Content-Length: "],
        [b"Content-Length: 1e3"],
        [b"Content-Length: \xb2"],
        [b"Content-Length: 9999999999999999"],
        [b"Content-Length : 5"],
        [b" Content-Length: 5"],
        [b"X: a\r\n Content-Length: 5"],
        [b"X: a\r\n\tfolded"],
        [b"X: a\nContent-Length: 5"],
        [b"X: a\rContent-Length: 5"],
        [b"X: a\x00b"],
        [b"X\x00: a"],
        [b"X\xe9: a"],
        [b"X\x0b: a"],
        [b": a"],
        [b"no colon"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding:\x0bchunked"],
        [b"Transfer-Encoding: "],
        [b"Host: other"],
        [b"Authorization: Bearer a", b"Authorization: Bearer b"],
        [b"X-%d: a" % number for number in range(101)],
    ],
)
def test_a_head_that_could_be_read_in_two_ways_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(Bad):
        request(*lines)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/2.0", b"GET / HTTP/1.2", b"GET / HTTP/11", b"GET  / HTTP/1.1", b"GET /a b HTTP/1.1", b"GET / http/1.1",
        b"GET /", b"get / HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /\xe9 HTTP/1.1", b"GET /\x00 HTTP/1.1",
        b"G" * 30 + b" / HTTP/1.1", b"GET\t/ HTTP/1.1", b"", b"\x16\x03\x01",
    ],
)  # fmt: skip
def test_a_first_line_that_is_none_is_refused(first: bytes) -> None:
    with pytest.raises(Bad):
        http1.request(first + b"\r\nHost: a\r\n\r\n")
    with pytest.raises(Bad):
        http1.response(first + b"\r\n\r\n", b"GET")


def test_without_a_host_or_in_chunks_of_an_old_version_it_is_refused() -> None:
    for head in (b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with pytest.raises(Bad):
            http1.request(head)


def test_a_head_is_found_whole_or_refused_when_it_is_too_long() -> None:
    whole = GOOD + b"\r\n"
    assert http1.head_of(whole + b"body\r\n\r\n") == len(whole)
    assert [http1.head_of(whole[:end]) for end in range(len(whole))] == [0] * len(whole)
    with pytest.raises(Bad) as refused:
        http1.head_of(GOOD + b"X: " + b"a" * http1.HEAD_BYTES)
    assert refused.value.status == 431
    # Nor does a head of blanks take longer than its length.
    assert http1.request(GOOD + b"X: a" + b" \t" * 15_000 + b"b\r\n\r\n").named[b"x"].endswith(b"b")


def response(*lines: bytes, status: bytes = b"200 OK", asked: bytes = b"POST") -> http1.Response:
    return http1.response(b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n", asked)


def test_an_answer_says_its_length_and_what_is_passed_on() -> None:
    head = response(
        b"Content-Length: 3", b"Server: x", b"Date: y", b"Set-Cookie: a", b"Set-Cookie: b", b"Connection: close"
    )
    assert (head.status, head.length, head.keep_alive) == (200, 3, False)
    assert head.lines == b"Set-Cookie: a\r\nSet-Cookie: b\r\n"
    assert (response().length, response().keep_alive) == (-2, False)
    assert response(b"Transfer-Encoding: chunked").length == -1
    assert response(status=b"204 No Content").length == 0
    assert response(b"Content-Length: 3", status=b"304 Not Modified").length == 0
    told = response(b"Content-Length: 3", asked=b"HEAD")
    assert (told.length, told.lines) == (0, b"Content-Length: 3\r\n")
    assert response(status=b"200").status == 200
    for lines in ([b"Content-Length: 3", b"Transfer-Encoding: chunked"], [b"Content-Length: 3", b"Content-Length: 4"]):
        with pytest.raises(Bad):
            response(*lines)


parts = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@given(
    parts, st.binary(max_size=10), st.lists(st.integers(1, 30), max_size=20), st.sampled_from([b"", b";a=b", b" ; x"])
)
def test_chunks_come_out_whole_however_they_are_cut(
    bodies: list[bytes], rest: bytes, cuts: list[int], extension: bytes
) -> None:
    sent = (
        b"".join(b"%X%b\r\n%b\r\n" % (len(body), extension, body) for body in bodies)
        + b"0\r\nX-Trailer: 1\r\n\r\n"
        + rest
    )
    chunks, got = Chunked(), []
    while sent and not chunks.done:
        size = cuts.pop() if cuts else len(sent)
        got += chunks.feed(sent[:size])
        sent = sent[size:]
    assert chunks.done
    assert b"".join(got) == b"".join(bodies)
    assert chunks.rest + sent == rest


@pytest.mark.parametrize(
    "sent",
    [
        b"3\r\nabcd\r\n", b"3\r\nabc\n0\r\n\r\n", b"-1\r\n", b"0x3\r\nabc\r\n", b"\r\n",
        b"3 3\r\nabc\r\n", b"g\r\n", b"3\nabc\r\n\r\n",
        b"123456789\r\n", b"1" * 2000, b"3;" + b"x" * 2000 + b"\r\n", b"0\r\nno field\r\n\r\n", b"0\r\nX : 1\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 3000 + b"\r\n", b"\xb2\r\nab\r\n",
    ],
)  # fmt: skip
def test_chunks_that_do_not_say_what_they_are_are_refused(sent: bytes) -> None:
    with pytest.raises(Bad):
        Chunked().feed(sent)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for read in (
        lambda: http1.request(data + b"\r\n\r\n"),
        lambda: http1.response(data + b"\r\n\r\n", b"GET"),
        lambda: Chunked().feed(data),
    ):
        with suppress(Bad):
            read()
