"""The event loop of a run, as it is seen from any thread."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from agentrun.runtime.backend import Backend, running_backend

__all__ = ["EventLoop", "running_loop"]

_T = TypeVar("_T")

_LOOK_SECONDS: Final = 0.1


class EventLoop:
    """An event loop that runs in a thread, or has run there. `running_loop` makes it."""

    __slots__ = ("__weakref__", "_native", "_thread_id", "_token")

    def __init__(self) -> None:
        self._token = anyio.lowlevel.current_token()
        self._native: Any = self._token.native_token
        self._thread_id = threading.get_ident()

    def is_same(self, other: EventLoop) -> bool:
        """Whether ``other`` is this loop: there may be several objects for one."""
        return self._native is other._native

    @property
    def is_here(self) -> bool:
        """Whether the current thread is that of the loop."""
        return threading.get_ident() == self._thread_id

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the loop, at once if this is its thread; return what it returns, or raise what it raises.

        Not `anyio.from_thread.run_sync` on asyncio: what that hands over after the loop's last step is never called,
        and nobody tells the thread, which waits for ever. An abandoned thread does that as its program ends, which then
        cannot.

        Args:
            function: What to call.

        Raises:
            anyio.RunFinishedError: The loop has ended before it came to it.
        """
        if self.is_here:
            return function()  # waiting for the loop inside the loop would be for ever
        loop = self._native
        if not hasattr(loop, "call_soon_threadsafe"):
            return anyio.from_thread.run_sync(function, token=self._token)
        called: Future[_T] = Future()

        def call() -> None:
            if (sniffio := sys.modules.get("sniffio")) is not None:
                sniffio.current_async_library_cvar.set("asyncio")  # no task is running, so anyio could not tell
            try:
                called.set_result(function())
            except BaseException as exc:
                called.set_exception(exc)
                if not isinstance(exc, Exception):
                    raise

        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:  # it is closed
            raise anyio.RunFinishedError from None
        while True:
            try:
                called.exception(timeout=_LOOK_SECONDS)  # returned, so that a TimeoutError is this one's
                return called.result()
            except TimeoutError:
                if called.done():
                    raise  # the function's own
                if loop.is_closed():
                    raise anyio.RunFinishedError from None

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop soon, from any thread, and do not wait for it.

        Does nothing if the loop has ended.

        Args:
            function: What to call; it must not raise.
        """
        loop = self._native
        schedule = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
        try:
            schedule(function)
        except RuntimeError:  # it is closed; trio's own error is one, too
            pass


def _nothing() -> None:
    return None


# What was made last, as long as somebody has it. Nearly all programs have runs in one event loop, and a run is small:
# to find the loop's token each time would be a hundredth of it.
_last: Callable[[], EventLoop | None] = _nothing


def running_loop(backend: Backend | None = None) -> EventLoop:
    """The event loop that runs in this thread.

    Args:
        backend: That of the loop, if it is at hand.

    Raises:
        NoEventLoopError: None is running.
    """
    global _last
    backend = backend if backend is not None else running_backend()
    loop = _last()
    if loop is None or loop._native is not backend.native_loop() or not loop.is_here:
        loop = EventLoop()
        _last = weakref.ref(loop)
    return loop
