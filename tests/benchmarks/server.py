"""A loopback server that streams answers in the format of the Responses API, in a process of its own.

Every answer is made before the first request comes, and sent with one call, so the server is never what one waits
for. Paths: ``/v1/responses`` gives a whole answer; ``/hang/v1/responses`` gives some deltas and then nothing more.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["expected_text", "serving"]

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_HANG_AFTER = 5


def pieces(count: int) -> list[str]:
    """The deltas of the answer."""
    return [f"{number} " for number in range(count)]


def expected_text(count: int) -> str:
    """All of them together."""
    return "".join(pieces(count))


@contextmanager
def serving(count: int) -> Iterator[str]:
    """Start the server, for answers of ``count`` deltas; gives its address."""
    command = [sys.executable, "-m", __name__, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.communicate()  # its standard input ends, and so does it


def _events(count: int) -> list[bytes]:
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    part = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant"}
    content = [{"type": "output_text", "text": expected_text(count), "annotations": []}]
    done = {**message, "status": "completed", "content": content}
    usage = {"input_tokens": 1, "output_tokens": count, "total_tokens": count + 1}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": {**message, "status": "in_progress"}},
    ]
    delta = {"type": "response.output_text.delta", **part, "logprobs": [], "obfuscation": "x7Qp"}
    events += [{**delta, "delta": piece} for piece in pieces(count)]
    events.append({"type": "response.output_item.done", "output_index": 0, "item": done})
    finished = {**response, "status": "completed", "output": [done], "usage": usage}
    events.append({"type": "response.completed", "response": finished})
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    ]


def _chunked(events: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)


def _serve(connection: socket.socket, whole: bytes, cut: bytes) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as incoming:
        while first := incoming.readline():
            length = 0
            while (line := incoming.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            incoming.read(length)
            try:
                connection.sendall(cut if b"/hang/" in first else whole)
            except OSError:
                return


def main(count: int) -> None:
    """Serve until standard input ends."""
    events = _events(count)
    whole = _HEAD + _chunked(events) + b"0\r\n\r\n"
    cut = _HEAD + _chunked(events[: 2 + _HANG_AFTER])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, whole, cut), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
