"""Whether the server has been left by the time the caller of an interrupted run goes on, and how long that takes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

import anyio
import httpx

from agentrun import Agent, open_run
from agentrun.events import TextDelta
from agentrun.models import OpenAIResponsesModel

from ..harness import AGENTRUN, FLOOR, Comparison, Settings, compare, on_backends
from ..server import hanging_answer
from .http import pieces_of

TITLE = "from the interrupt of a stream over HTTP until the caller goes on (wall clock); the server is left before"

_DELTAS = 5


class _Server:
    """Answers each connection with some deltas and then nothing, and knows whether the client is still there."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._answer = hanging_answer(_DELTAS)
        self._connection: socket.socket | None = None
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the end
            while True:
                self._connection, _ = self._listener.accept()
                self._connection.recv(65536)
                self._connection.sendall(self._answer)

    def left(self) -> bool:
        """Whether the end of the connection has come to the server's side, at this very moment."""
        assert self._connection is not None
        with self._connection as connection:
            connection.setblocking(False)
            try:
                while connection.recv(65536):
                    pass  # what is left of the request
                return True
            except BlockingIOError:
                return False
            except ConnectionError:
                return True


@contextlib.contextmanager
def _serving() -> Iterator[_Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(listener)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave the thread in `accept`
            thread.join()


async def _agentrun(server: _Server) -> tuple[float, bool]:
    model = OpenAIResponsesModel("m", api_key="k", base_url=server.url)
    async with open_run(Agent("bench", model=model), "Go.") as live:
        seen = 0
        async for event in live.events():
            seen += type(event) is TextDelta
            if seen == _DELTAS:
                break
        await anyio.wait_all_tasks_blocked()
        started = time.perf_counter()
        live.interrupt("stop")
        await live.wait()
        seconds = time.perf_counter() - started
        return seconds, server.left()


async def _floor(server: _Server) -> tuple[float, bool]:
    async with httpx.AsyncClient(verify=False) as client:
        everything = anyio.Event()

        async def drive() -> None:
            seen = 0
            pieces = pieces_of(client, server.url)
            try:
                async for _ in pieces:
                    seen += 1
                    if seen == _DELTAS:
                        everything.set()
            finally:
                await pieces.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive)
            await everything.wait()
            await anyio.wait_all_tasks_blocked()
            started = time.perf_counter()
            tasks.cancel_scope.cancel()
        seconds = time.perf_counter() - started
        return seconds, server.left()


def measure(settings: Settings) -> Iterable[Comparison]:
    """The server is in this process, so that it can be asked in the same moment."""

    async def one(backend: str) -> Comparison:
        left: dict[str, list[bool]] = {AGENTRUN: [], FLOOR: []}

        async def noted(name: str, program: Callable[[_Server], Awaitable[tuple[float, bool]]]) -> tuple[float, None]:
            seconds, was_left = await program(server)
            left[name].append(was_left)
            return seconds, None

        with _serving() as server:
            samples = await compare(
                {AGENTRUN: lambda: noted(AGENTRUN, _agentrun), FLOOR: lambda: noted(FLOOR, _floor)},
                rounds=settings.pick(10, 50),
                own_clock=True,
            )
        comparison = Comparison("stop of a stream over HTTP, p50", backend, samples)
        for name, each in left.items():
            text = f"{name}: the server was left in {sum(each)} of {len(each)} runs when the caller went on"
            comparison.findings.append((text, all(each) if name == AGENTRUN else None))
        return comparison

    yield from on_backends(settings, one)
