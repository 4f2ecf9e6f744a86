"""The handle of a run: everything a user can ask of it and do to it while it lives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from anyio import RunFinishedError
from typing_extensions import TypeVar

from agentrun.core.errors import RunEnded, UserError
from agentrun.core.inbox import Delivery
from agentrun.core.interrupts import InterruptMode
from agentrun.core.items import RunInput
from agentrun.core.results import RunResult, RunState
from agentrun.runtime.hub import EventStream, Overflow
from agentrun.runtime.injection import Injection

if TYPE_CHECKING:
    from agentrun.runtime.run import Run

__all__ = ["ActiveRun", "ThreadHandle"]

OutputT_co = TypeVar("OutputT_co", covariant=True, default=Any)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class ActiveRun(Generic[OutputT_co]):
    """A run, from `open_run`. All methods but ``wait`` are synchronous, never block, and may be called at any time,
    also after the end, any number of times, from any task of the run's event loop. From other threads use
    ``from_thread``.
    """

    __slots__ = ("_failure_told", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._failure_told = False

    def _here(self, name: str) -> Run:
        """The run, if this is the thread of its event loop: from any other, a request would race with the driver."""
        run = self._run
        if not run.loop.is_here:
            raise UserError(
                f"{name}() was called from another thread than the run's; use the same method of run.from_thread"
            )
        return run

    @property
    def id(self) -> str:
        """Unique id of the run."""
        return self._run.id

    @property
    def status(self) -> str:
        """``"running"``, ``"interrupting"``, or how it ended: ``"completed"``, ``"interrupted"``, ``"failed"``,
        ``"cancelled"``."""
        return self._run.status

    @property
    def result(self) -> RunResult[OutputT_co] | None:
        """The result once the run has ended, also when it failed or was cancelled; ``None`` before."""
        return self._run.result

    @property
    def from_thread(self) -> ThreadHandle:
        """The same requests, for other threads."""
        return ThreadHandle(self)

    def events(self, buffer: int = 1024, overflow: Overflow = "wait") -> EventStream:
        """Watch the run. Each call gives a stream of its own, with every event from now on; the first one also gets
        what happened before it was asked for.

        Args:
            buffer: How many events may wait in the stream. When it is full, the model stream waits, until the watcher
                has read half of them; interrupts, errors and the terminal event do not wait for anybody.
            overflow: ``"wait"`` as described, or ``"drop"``: the run never waits for this watcher, which loses deltas
                instead and is told how many by an `EventsDropped`.

        Raises:
            UserError: An argument is not valid.
        """
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:
            raise UserError(f"events(buffer=...) must be a whole number of at least 1, not {buffer!r}")
        if overflow not in ("wait", "drop"):
            raise UserError(f"events(overflow=...) must be 'wait' or 'drop', not {overflow!r}")
        return self._here("events").hub.subscribe(buffer, overflow)

    def inject(self, input: RunInput, *, deliver: Delivery = "next") -> Injection:
        """Give the run more input while it works.

        Args:
            input: Text, a message, or a list of messages or plain dicts.
            deliver: ``"next"`` joins the next model call, and keeps a run going that was about to finish; ``"now"``
                also cuts the model stream or the tools at work short, keeps what was said, and calls the model again
                at once; ``"idle"`` waits until the run would finish, and keeps it going then.

        Returns:
            Where the input is. What no model call has seen is in ``result.undelivered``.

        Raises:
            RunEnded: The run has ended; its ``result`` is attached.
            InboxFull: ``RunConfig.max_pending_injections`` inputs are waiting.
            UserError: The input is empty or not valid.
        """
        if deliver not in ("next", "now", "idle"):
            raise UserError(f"inject(deliver=...) must be 'next', 'now' or 'idle', not {deliver!r}")
        try:
            return self._here("inject").inject(input, deliver)
        except RunEnded as exc:
            exc.result = self._run.result
            raise

    def interrupt(
        self, reason: str | None = None, *, mode: InterruptMode = "immediate", escalate_after: float | None = None
    ) -> bool:
        """Ask the run to end as ``"interrupted"``. The first reason wins; a stronger mode escalates a weaker one.

        Args:
            reason: Why; it is in the result, the terminal event, and the outputs of the tools that it cancels.
            mode: ``"immediate"`` stops the model stream and the tools at their next await; ``"after_turn"`` lets the
                current response and its tools finish first.
            escalate_after: Seconds after which an ``"after_turn"`` interrupt becomes an immediate one.

        Returns:
            Whether that changed anything: ``False`` if the run was being interrupted as strongly, or has ended.

        Raises:
            UserError: An argument is not valid.
        """
        if mode not in ("immediate", "after_turn"):
            raise UserError(f"interrupt(mode=...) must be 'immediate' or 'after_turn', not {mode!r}")
        if reason is not None and not isinstance(reason, str):
            raise UserError(f"interrupt(reason=...) must be text or None, not {type(reason).__name__}")
        if escalate_after is not None and (
            isinstance(escalate_after, bool)
            or not isinstance(escalate_after, (int, float))
            or math.isnan(escalate_after)
            or escalate_after < 0
        ):
            raise UserError(f"interrupt(escalate_after=...) must be 0 or more seconds, not {escalate_after!r}")
        return self._here("interrupt").interrupt(reason, mode, escalate_after)

    def interrupt_tool(self, call_id: str, reason: str | None = None) -> bool:
        """Cancel one tool call; the model is told why, and the run goes on.

        Returns:
            Whether that was still possible.

        Raises:
            UserError: The run never had a call of this id.
        """
        return self._here("interrupt_tool").interrupt_tool(call_id, reason)

    def approve(self, call_id: str) -> bool:
        """Let a tool call run that waits for approval.

        Returns:
            Whether it was waiting.

        Raises:
            UserError: The run never had a call of this id.
        """
        return self._here("approve").decide(call_id, True, None)

    def reject(self, call_id: str, message: str | None = None) -> bool:
        """Refuse a tool call that waits for approval; it has not run and will not.

        Args:
            call_id: Id of the call.
            message: What the model is told.

        Returns:
            Whether it was waiting.

        Raises:
            UserError: The run never had a call of this id.
        """
        return self._here("reject").decide(call_id, False, message)

    def state(self) -> RunState:
        """What is alive right now: status, agent, turn, inbox, usage and the tree of open scopes."""
        return self._here("state").state()

    async def wait(self) -> RunResult[OutputT_co]:
        """Wait for the end, and return the result of a run that completed or was interrupted. A checkpoint.

        Raises:
            Exception: What made the run fail, as itself.
            RunEnded: The run was cancelled from outside (seen only by tasks outside the cancelled scope).
        """
        run = self._run
        await run.wait_done()
        result = run.result
        assert result is not None
        if result.status == "failed":
            self._failure_told = True
            assert result.error is not None
            raise result.error
        if result.status == "cancelled":
            ended = RunEnded("the run was cancelled from outside")
            ended.result = result
            raise ended
        return result

    def __repr__(self) -> str:
        return f"<ActiveRun {self.id} of {self._run.agent.name!r}: {self.status}>"


class ThreadHandle:
    """The requests of an `ActiveRun`, for threads other than the event loop's. Each waits until the loop has done it
    and returns what it returned, or raises what it raised; after the loop has ended it raises `RunEnded`."""

    __slots__ = ("_live",)

    def __init__(self, live: ActiveRun[Any]) -> None:
        self._live = live

    def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        run = self._live._run
        try:
            return run.loop.call(lambda: function(*args, **kwargs))
        except RunFinishedError as exc:
            raise RunEnded("the event loop of the run has ended") from exc

    def inject(self, input: RunInput, *, deliver: Delivery = "next") -> Injection:
        """See `ActiveRun.inject`."""
        return self._call(self._live.inject, input, deliver=deliver)

    def interrupt(
        self, reason: str | None = None, *, mode: InterruptMode = "immediate", escalate_after: float | None = None
    ) -> bool:
        """See `ActiveRun.interrupt`."""
        return self._call(self._live.interrupt, reason, mode=mode, escalate_after=escalate_after)

    def interrupt_tool(self, call_id: str, reason: str | None = None) -> bool:
        """See `ActiveRun.interrupt_tool`."""
        return self._call(self._live.interrupt_tool, call_id, reason)

    def approve(self, call_id: str) -> bool:
        """See `ActiveRun.approve`."""
        return self._call(self._live.approve, call_id)

    def reject(self, call_id: str, message: str | None = None) -> bool:
        """See `ActiveRun.reject`."""
        return self._call(self._live.reject, call_id, message)

    def state(self) -> RunState:
        """See `ActiveRun.state`."""
        return self._call(self._live.state)
