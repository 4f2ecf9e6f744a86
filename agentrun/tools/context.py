"""What a tool sees of the run it is part of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from agentrun.core.usage import Usage

if TYPE_CHECKING:
    # For readers and type checkers only: at run time this module must not know the layers above it.
    from agentrun.runtime.agent import Agent
    from agentrun.runtime.handle import ActiveRun

__all__ = ["CallServices", "DepsT", "RunContext"]

DepsT = TypeVar("DepsT")
_T = TypeVar("_T")


class CallServices(Protocol):
    """What the runtime provides behind a `RunContext`; tools never see this."""

    def progress(self, data: Any) -> None: ...
    def on_cleanup(self, callback: Callable[[], Awaitable[object] | object]) -> None: ...
    async def enter_async_context(self, cm: AbstractAsyncContextManager[_T]) -> _T: ...
    def check_cancelled(self) -> None: ...
    async def wait_interrupted(self) -> str | None: ...
    def critical(self, max_seconds: float) -> AbstractAsyncContextManager[None]: ...


class RunContext(Generic[DepsT]):
    """A tool's, guardrail's or hook's view of its run. Annotate the first parameter with it to receive it.

    Attributes:
        deps: What the caller of the run passed as ``deps``.
        agent: The agent at work.
        usage: What the run has used so far (a live view; copy it to keep it).
        run: The handle of the run, to inject input or interrupt from inside a tool.
        call_id: Id of the tool call, or ``""`` outside a tool.
        tool_name: Name of the tool, or ``""`` outside a tool.
    """

    __slots__ = ("_services", "agent", "call_id", "deps", "run", "tool_name", "usage")

    def __init__(
        self,
        *,
        deps: DepsT,
        agent: Agent[Any, Any],
        usage: Usage,
        run: ActiveRun[Any],
        services: CallServices,
        call_id: str = "",
        tool_name: str = "",
    ) -> None:
        self.deps: DepsT = deps
        self.agent: Agent[Any, Any] = agent
        self.usage: Usage = usage
        self.run: ActiveRun[Any] = run
        self.call_id: str = call_id
        self.tool_name: str = tool_name
        self._services = services

    def progress(self, data: Any) -> None:
        """Tell the run's watchers how far the tool is, as a `ToolProgress` event. Works from a tool's thread too.

        Args:
            data: Anything; JSON-able if the events leave the process.
        """
        self._services.progress(data)

    def on_cleanup(self, callback: Callable[[], Awaitable[object] | object]) -> None:
        """Have ``callback`` called when the call ends, however it ends; the last one registered is called first.

        It is called shielded from cancellation, with ``cleanup_grace`` seconds of time, after the tool's own code.
        """
        self._services.on_cleanup(callback)

    async def enter_async_context(self, cm: AbstractAsyncContextManager[_T]) -> _T:
        """Enter ``cm`` and have the runtime leave it when the call ends, shielded and within the grace.

        A checkpoint exactly when entering ``cm`` is one.
        """
        return await self._services.enter_async_context(cm)

    def check_cancelled(self) -> None:
        """Raise `CallCancelled` if the call was cancelled. For code that runs in a thread, to be called often."""
        self._services.check_cancelled()

    async def wait_interrupted(self) -> str | None:
        """Wait until the run, or this call, is asked to stop (in any mode), and return the reason.

        For tools that can stop by themselves at a good moment when the run is interrupted ``"after_turn"``.
        """
        return await self._services.wait_interrupted()

    def critical(self, max_seconds: float) -> AbstractAsyncContextManager[None]:
        """A section that an interrupt does not cut: ``async with ctx.critical(2.0): ...``.

        Args:
            max_seconds: After this long the section is no longer protected: it is cancelled, and raises
                `TimeoutError` unless the call is being cancelled anyway.
        """
        return self._services.critical(max_seconds)
