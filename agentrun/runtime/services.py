"""What a `RunContext` offers outside a tool call: less."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from agentrun.core.errors import CallCancelled, UserError

if TYPE_CHECKING:
    from agentrun.runtime.run import Run

__all__ = ["NoCallServices"]

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
