"""An incremental decoder of Server-Sent Events: bytes in, events out, however the bytes were cut.

The format is the one of the WHATWG HTML standard, section "Server-sent events"
(https://html.spec.whatwg.org/multipage/server-sent-events.html). ``id`` and ``retry`` fields are ignored: a model's
answer cannot be resumed. Data stays bytes, so a character that was cut in two needs no care here, and JSON can be
parsed from it without decoding it first.
"""

from __future__ import annotations

from typing import Final

from agentrun.core.errors import ModelError

__all__ = ["DEFAULT_MAX_EVENT_BYTES", "SSEDecoder"]

DEFAULT_MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
"""Largest event accepted. The last event of a response repeats the whole response, so it has to be generous."""

_BOM: Final = b"\xef\xbb\xbf"


class SSEDecoder:
    """Decodes one stream of Server-Sent Events.

    Args:
        max_event_bytes: Most bytes that one event, or one unfinished line, may have.
    """

    __slots__ = ("_at_start", "_cr", "_data", "_event", "_max", "_size", "_tail", "_tail_size")

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._at_start = True
        # The last chunk ended in CR, which was taken for a line end at once (waiting would hold an event back); an
        # LF that comes first in the next chunk belongs to it.
        self._cr = False
        # The unfinished last line, in pieces: joined only when its end has come, so that a long line that arrives in
        # many chunks costs linear time.
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """Take the next bytes and return the events that are complete now, as ``(event type, data)``.

        The type is ``""`` when the event names none. Data lines are joined by LF.

        Raises:
            ModelError: An event is larger than the limit.
        """
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._cr and chunk:
            self._cr = False
            if chunk[0] == 10:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._cr = chunk[-1] == 13
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = chunk.rfind(b"\n")
        if end < 0:
            if chunk:
                self._keep(chunk)
            return []
        block = chunk[:end]
        if self._tail:
            self._tail.append(block)
            block = b"".join(self._tail)
            self._tail.clear()
            self._tail_size = 0
        if end + 1 < len(chunk):
            self._keep(chunk[end + 1 :])
        return self._lines(block)

    def _lines(self, block: bytes) -> list[tuple[str, bytes]]:
        events: list[tuple[str, bytes]] = []
        data = self._data
        for line in block.split(b"\n"):
            if not line:
                if data:
                    events.append(
                        (self._event.decode("utf-8", "replace"), data[0] if len(data) == 1 else b"\n".join(data))
                    )
                    data.clear()
                    self._size = 0
                self._event = b""
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._size += len(value) + 1
                if self._size > self._max:
                    self._too_large()
                data.append(value)
            elif line.startswith(b"event:"):
                self._event = line[7:] if line[6:7] == b" " else line[6:]
            elif line == b"data":
                self._size += 1
                if self._size > self._max:
                    self._too_large()
                data.append(b"")
            elif line == b"event":
                self._event = b""
            # Everything else is a comment (it starts with a colon) or a field that does not matter here.
        return events

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._tail_size += len(piece)
        if self._tail_size + self._size > self._max:
            self._too_large()

    def _without_bom(self, chunk: bytes) -> bytes:
        if self._tail:
            chunk = b"".join(self._tail) + chunk
            self._tail.clear()
            self._tail_size = 0
        if len(chunk) < 3 and _BOM.startswith(chunk):
            if chunk:
                self._keep(chunk)
            return b""
        self._at_start = False
        return chunk[3:] if chunk.startswith(_BOM) else chunk

    def _too_large(self) -> None:
        raise ModelError(
            f"the provider sent an event of more than {self._max} bytes; the stream was given up", retryable=False
        )
