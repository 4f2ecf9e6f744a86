"""What is behind a `RunContext`: all that it offers in a tool call, and less of it elsewhere."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import anyio
import anyio.lowlevel

from agentrun.core.errors import CallCancelled, UserError
from agentrun.core.events import ToolProgress
from agentrun.core.items import ToolCall
from agentrun.runtime.cancellations import split_cancelled
from agentrun.runtime.containment import Contained, call

if TYPE_CHECKING:
    from agentrun.runtime.run import Run

__all__ = ["NoCallServices", "ToolCallServices"]

_T = TypeVar("_T")


class NoCallServices:
    """The services of a context that belongs to a guardrail, a hook or an instructions function."""

    def __init__(self, run: Run, is_cancelled: Callable[[], bool] | None = None) -> None:
        self._run = run
        self._is_cancelled = is_cancelled

    def progress(self, data: Any) -> None:
        self._refuse("progress")

    def on_cleanup(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        self._refuse("on_cleanup")

    async def enter_async_context(self, cm: AbstractAsyncContextManager[_T]) -> _T:
        self._refuse("enter_async_context")

    def check_cancelled(self) -> None:
        # Looked at first: threads ask, too, and a run that stops has said why before it cancels.
        cancelled = self._is_cancelled is not None and self._is_cancelled()
        if self._run.machine.ending:
            raise CallCancelled(self._run.stop_reason)
        if cancelled:
            raise CallCancelled("it took too long, or its answer is no longer needed")

    async def wait_interrupted(self) -> str | None:
        self._refuse("wait_interrupted")

    def critical(self, max_seconds: float) -> AbstractAsyncContextManager[None]:
        self._refuse("critical")

    def _refuse(self, name: str) -> NoReturn:
        raise UserError(f"ctx.{name}() is for tools: this context belongs to no tool call")


class ToolCallServices:
    """The services of a tool call, which is one itself, so that it need not make another object.

    Attributes:
        run: The run that the call is part of.
        call: What the model asked for.
        cancel_reason: Why the call is cancelled; ``None`` if it is not.
    """

    __slots__ = ("_cleanups", "_contained", "_interrupted", "_stopping", "call", "cancel_reason", "run")

    def __init__(self, run: Run, call: ToolCall) -> None:
        self.run: Run = run
        self.call: ToolCall = call
        self.cancel_reason: str | None = None
        self._contained: Contained[Any] | None = None  # what the call runs in
        self._cleanups: list[Callable[[BaseException | None], Awaitable[object]]] = []
        self._interrupted: anyio.Event | None = None
        self._stopping: bool = False  # it is cancelled, or its time is up

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the call has."""

    @property
    def what(self) -> str:
        """The call, for reports."""
        return f"tool {self.call.name} ({self.call.call_id})"

    def tell_cancelled(self, reason: str) -> None:
        """The call is being cancelled: those of it know who ask."""
        self.cancel_reason = reason
        self._stopping = True
        self.notify_interrupt()

    def notify_interrupt(self) -> None:
        """Release those who wait in ``ctx.wait_interrupted()``."""
        if self._interrupted is not None:
            self._interrupted.set()

    def progress(self, data: Any) -> None:
        event = ToolProgress(self.call.call_id, self.call.name, data)
        self.run.post(lambda: self.run.publish(event) if not self.ended else None)

    def on_cleanup(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        async def cleanup(_: BaseException | None) -> None:
            await call(callback)

        self._cleanups.append(cleanup)

    async def enter_async_context(self, cm: AbstractAsyncContextManager[_T]) -> _T:
        value = await cm.__aenter__()
        # No await between the two: a context that was entered is one that will be left.
        self._cleanups.append(
            lambda exc: cm.__aexit__(type(exc) if exc is not None else None, exc, exc.__traceback__ if exc else None)
        )
        return value

    def check_cancelled(self) -> None:
        # A plain flag: this is asked from threads, where no scope may be looked at.
        if self._stopping or self.ended:
            raise CallCancelled(self.cancel_reason or "the call timed out")

    async def wait_interrupted(self) -> str | None:
        current = self.run.machine.interrupts.current
        if current is None and self.cancel_reason is None:
            if self._interrupted is None:
                self._interrupted = anyio.Event()
            await self._interrupted.wait()
        else:
            await anyio.lowlevel.checkpoint()
        current = self.run.machine.interrupts.current
        return current.reason if current is not None else self.cancel_reason

    @contextlib.asynccontextmanager
    async def critical(self, max_seconds: float) -> AsyncGenerator[None]:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + max_seconds) as scope:
            yield
        if scope.cancelled_caught:
            self.run.reports.teardown.expired_graces.append(f"critical section of {self.what}")
            # An interrupt that came meanwhile is told here: the relay knows this await for one that asks for it.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise TimeoutError(f"the critical section of {self.what} took longer than {max_seconds:g} seconds")

    def _unwind(self, raised: BaseException | None) -> Coroutine[Any, Any, None] | None:
        return self._run_cleanups(raised) if self._cleanups else None

    async def _run_cleanups(self, raised: BaseException | None) -> None:
        contained = self._contained
        assert contained is not None
        grace = self.run.config.cleanup_grace
        while self._cleanups:
            cleanup = self._cleanups.pop()
            with contextlib.ExitStack() as stack:
                if contained.grace_expired:
                    # The tool has used up its grace, but what it registered has a right to its own.
                    stack.enter_context(anyio.CancelScope(shield=True, deadline=anyio.current_time() + grace))
                else:
                    contained.protect()
                try:
                    await cleanup(raised)
                except BaseException as exc:  # noqa: BLE001 - reported; the next cleanup must run
                    cancelled, error = split_cancelled(exc, anyio.get_cancelled_exc_class())
                    if error is not None:
                        self.run.reports.cleanup_error(error, f"cleanup of {self.what}")
                    elif cancelled is not None:
                        self.run.reports.teardown.expired_graces.append(f"cleanup of {self.what}")
