"""Sessions: slow ones, and ones that fail."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel

from agentrun import Agent, RunConfig, RunResult, UserMessage, tool
from agentrun.sessions import MemorySession
from agentrun.testing import Say, assert_valid_history

from ..stage import Book, Play, call, scene, scripted, steps


def working(book: Book) -> Any:
    """A tool that takes a moment."""

    async def work() -> str:
        async with book.cleaned("work"):
            await anyio.sleep(0.3)
        return "done"

    return tool(work, description="Work.")


class SlowSession(MemorySession):
    """Everything takes a while, and a piece is stored whole or not at all."""

    def __init__(self, book: Book) -> None:
        super().__init__([UserMessage("Earlier.")])
        self._book = book

    async def load(self) -> Any:
        async with self._book.cleaned("load"):
            await anyio.sleep(0.1)
            return await super().load()

    async def append(self, items: Any) -> None:
        self._book.seen("slow session")
        async with self._book.whole("append"):  # once begun it is finished
            await steps(2)
            await super().append(items)
            assert_valid_history(self.items, what="session")
            await anyio.sleep(0.1)


@scene(laws={4, 6, 7}, kinds={"slow session"}, second=1)
def a_slow_session(book: Book) -> Play:
    session = SlowSession(book)

    def after(result: RunResult[Any]) -> None:
        if result.status in ("completed", "interrupted") and result.turns:
            book.expect(4, tuple(session.items) == result.history, "the session has not all of the history")

    model = scripted([Say("Working.", chunks=2), call("work")], Say("Done.", chunks=2))
    return Play(Agent("a", tools=[working(book)], model=model), after, session=session)


class FailingSession(MemorySession):
    """Fails at the given call of the given method."""

    def __init__(self, book: Book, method: str, at: int = 1) -> None:
        super().__init__()
        self._book = book
        self._method = method
        self._left = at
        self.error = OSError("the store is gone")

    async def _maybe(self, method: str) -> None:
        await anyio.sleep(0.1)
        if method == self._method:
            self._left -= 1
            if self._left == 0:
                self._book.seen(f"session that fails to {method}")
                raise self.error

    async def load(self) -> Any:
        await self._maybe("load")
        return await super().load()

    async def append(self, items: Any) -> None:
        await self._maybe("append")
        await super().append(items)


@scene(laws={9}, kinds={"session that fails to load"}, raises=OSError)
def a_session_that_fails_to_load(book: Book) -> Play:
    session = FailingSession(book, "load")
    model = scripted(Say("Done."))

    def after(result: RunResult[Any]) -> None:
        book.expect(13, not model.requests, "the model was called without its history")
        if result.status == "failed":
            book.expect(9, result.error is session.error and not result.errors, result.error)

    return Play(Agent("a", model=model), after, session=session)


@scene(laws={4, 9}, kinds={"session that fails to append"}, raises=OSError)
def a_session_that_fails_to_append(book: Book) -> Play:
    session = FailingSession(book, "append", at=2)

    def after(result: RunResult[Any]) -> None:
        stored = tuple(session.items)
        book.expect(4, stored == result.history[: len(stored)], "what is stored is not the beginning of the history")
        told = [error for error in (result.error, *result.errors) if error is session.error]
        book.expect(9, len(told) <= 1, "the same error was told twice")
        if "session that fails to append" in book.kinds and result.status == "failed":
            book.expect(9, result.error is session.error, result.error)

    model = scripted([Say("Working."), call("work")], Say("Done."))
    return Play(Agent("a", tools=[working(book)], model=model), after, session=session)


class HangingSession(MemorySession):
    """Takes very long to store anything but the first piece."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book
        self._count = 0

    async def append(self, items: Any) -> None:
        self._count += 1
        if self._count == 2:
            self._book.seen("session that hangs")
            await anyio.sleep(30)
        await super().append(items)


@scene(laws={6}, kinds={"session that hangs"}, tidy=False, config=RunConfig(cleanup_grace=1), raises=TimeoutError)
def a_session_that_hangs(book: Book) -> Play:
    def after(result: RunResult[Any]) -> None:
        book.expect(6, result.teardown.seconds <= 2.1, f"the teardown took {result.teardown.seconds} s")

    model = scripted([Say("Working."), call("work")], Say("Done."))
    return Play(Agent("a", tools=[working(book)], model=model), after, session=HangingSession(book))
