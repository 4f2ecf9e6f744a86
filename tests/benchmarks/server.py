"""A loopback server that streams answers in the format of the Responses API, in a process of its own.

Answers are made before they are asked for, or kept once they were, and sent with one call, so the server is never what
one waits for. The first part of the path says what answers there are:

* ``/v1/responses``: some deltas, as many as the server was started for.
* ``/hang/v1/responses``: some deltas and then nothing more.
* ``/slowly/v1/responses``: all deltas, each in a packet of its own, which the client has read before the next comes.
* ``/turns/N/v1/responses``: one call of the tool ``echo`` in each of ``N`` turns, then ``done``. Which turn it is
  follows from the outputs of tools in the request, so any number of runs may ask at once.
* ``/meet/M/turns/N/v1/responses``: the same, but no request is answered before ``M`` have come, so that there are as
  many connections at once.
"""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["expected_text", "hanging_answer", "serving"]

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_HANG_AFTER = 5
_PATH = re.compile(rb"(?:/meet/(\d+))?/turns/(\d+)/")
_BETWEEN = 0.001  # seconds from one packet to the next, of those that come slowly
_PATIENCE = 30.0  # seconds that those who meet wait for the others


def pieces(count: int) -> list[str]:
    """The deltas of the answer."""
    return [f"{number} " for number in range(count)]


def expected_text(count: int) -> str:
    """All of them together."""
    return "".join(pieces(count))


@contextmanager
def serving(count: int) -> Iterator[str]:
    """Start the server, for answers of ``count`` deltas; gives its address."""
    command = [sys.executable, "-P", __file__, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.communicate()  # its standard input ends, and so does it


def _answer(items: list[tuple[dict[str, Any], list[dict[str, Any]]]], tokens: int, number: int = 0) -> list[bytes]:
    """A whole answer: the items as they are when they are done, each with the events that lead there."""
    response: dict[str, Any] = {
        "id": f"resp_{number}",  # clients know answers apart by it
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    usage = {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens + 1,
    }
    events: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    for index, (item, steps) in enumerate(items):
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        begun = {**item, "status": "in_progress", **empty}
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        events += [{**step, "item_id": item["id"], "output_index": index} for step in steps]
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    finished = {**response, "status": "completed", "output": [item for item, _ in items], "usage": usage}
    events.append({"type": "response.completed", "response": finished})
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': place})}\n\n".encode()
        for place, event in enumerate(events)
    ]


def _message(texts: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    delta = {"type": "response.output_text.delta", "content_index": 0, "logprobs": [], "obfuscation": "x7Qp"}
    content = [{"type": "output_text", "text": "".join(texts), "annotations": [], "logprobs": []}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return item, [{**delta, "delta": text} for text in texts]


def _call(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    arguments = f'{{"text": "{number}.0"}}'
    item = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}_0", "name": "echo"}
    steps = [
        {"type": "response.function_call_arguments.delta", "delta": arguments},
        {"type": "response.function_call_arguments.done", "arguments": arguments},
    ]
    return {**item, "arguments": arguments, "status": "completed"}, steps


def _chunked(events: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)


@functools.cache
def _turn(number: int, turns: int) -> bytes:
    return _HEAD + _chunked(_answer([_call(number) if number < turns else _message(["done"])], 1, number)) + _END


def hanging_answer(count: int) -> bytes:
    """The beginning of an answer of ``count`` deltas, and no end."""
    return _HEAD + _chunked(_answer([_message(pieces(count))], count)[: 2 + _HANG_AFTER])


class _Answers:
    def __init__(self, count: int) -> None:
        events = _answer([_message(pieces(count))], count)
        self._whole = _HEAD + _chunked(events) + _END
        self._packets = [_HEAD, *(_chunked([event]) for event in events), _END]
        self._cut = hanging_answer(count)
        self._meetings: dict[int, threading.Barrier] = {}
        self._lock = threading.Lock()

    def to(self, request: bytes, body: bytes) -> list[bytes]:
        """The answer, in the packets in which it is to be sent."""
        if b"/slowly/" in request:
            return self._packets
        if b"/turns/" not in request:
            return [self._cut if b"/hang/" in request else self._whole]
        found = _PATH.search(request)
        assert found is not None
        if found[1]:
            self._meet(int(found[1]))
        return [_turn(body.count(b'"function_call_output"'), int(found[2]))]

    def _meet(self, size: int) -> None:
        with self._lock:
            meeting = self._meetings.setdefault(size, threading.Barrier(size))
        try:
            meeting.wait(_PATIENCE)
        except threading.BrokenBarrierError:
            meeting.reset()  # a client that failed must not keep those of the next round


def _serve(connection: socket.socket, answers: _Answers) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as incoming:
        while first := incoming.readline():
            length = 0
            while (line := incoming.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = incoming.read(length)
            try:
                for number, packet in enumerate(answers.to(first, body)):
                    if number:
                        time.sleep(_BETWEEN)
                    connection.sendall(packet)
            except OSError:
                return


def main(count: int) -> None:
    """Serve until standard input ends."""
    answers = _Answers(count)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, answers), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
