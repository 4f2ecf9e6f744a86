"""The Server-Sent Events decoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import ModelError
from agentrun.models.sse import SSEDecoder


def decode(*chunks: bytes) -> list[tuple[str, bytes]]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data:a\r\n\r\n", [("", b"a")]),
        (b"data:  a\r\r", [("", b" a")]),
        (b"event: x\ndata: a\n\n", [("x", b"a")]),
        (b"event: x\n\ndata: a\n\n", [("", b"a")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data\ndata\n\n", [("", b"\n")]),
        (b"data:\n\n", [("", b"")]),
        (b": comment\n\ndata: a\n\n", [("", b"a")]),
        (b"id: 7\nretry: 10\ndatum: x\ndata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"event: x\nevent\ndata: a\n\n", [("", b"a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [("y", b"a")]),
        (b"data: never ended\n", []),
    ],
)
def test_follows_the_standard_whole_and_byte_by_byte(stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert decode(stream) == expected
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == expected


def test_an_event_is_told_when_its_last_byte_has_come() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [("", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [("", b"b")]


_LINES = st.sampled_from(
    [b"data: {}", b"data: \xf0\x9f\x8c\xa7", b"data", b"event: e", b":c", b"", b"", b"x: y", b"data:\xc3\xa5"]
)
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.lists(st.tuples(_LINES, _ENDS), max_size=12), st.booleans(), st.data())
def test_cuts_make_no_difference(lines: list[tuple[bytes, bytes]], bom: bool, data: st.DataObject) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*pieces) == decode(stream)


@pytest.mark.parametrize("piece", [b"data: xxxxxxxx\n", b"data: xxxxxxxx", b"xxxxxxxxxxxx", b"data\n"])
def test_an_event_that_never_ends_is_an_error_and_not_a_leak(piece: bytes) -> None:
    decoder = SSEDecoder(max_event_bytes=1000)
    with pytest.raises(ModelError, match="more than 1000 bytes"):
        for _ in range(1001):
            decoder.feed(piece)
    assert sum(map(len, decoder._tail)) + decoder._size <= 1100


def test_a_long_line_in_many_chunks_costs_linear_time() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"data: ")
    for _ in range(200_000):  # quadratic joining would copy 20 GB here
        decoder.feed(b"x")
    [(_, data)] = decoder.feed(b"\n\n")
    assert len(data) == 200_000
