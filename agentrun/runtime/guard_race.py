"""Guardrails at work: each in a scope of its own inside the run's nursery.

Input guardrails race the model call; the driver lets no tool start and no answer count until they have passed. The
first one, in the order in which they are listed, that does not pass makes the run fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from agentrun.core.error_text import describe_error
from agentrun.core.events import GuardrailEnded
from agentrun.core.results import GuardrailResult, ScopeState
from agentrun.runtime.containment import Contained, Outcome
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.guardrails import Guardrail, Trip, bind_guardrail, read_verdict, tripped_error
from agentrun.runtime.reports import foreign_cancellation
from agentrun.runtime.run import UNBORN_AFTER, Run
from agentrun.runtime.services import NoCallServices
from agentrun.runtime.threads import ThreadCall

__all__ = ["GuardRace"]


class _Guard:
    """One guardrail looking at one thing."""

    def __init__(self, guardrail: Guardrail, kind: Literal["input", "output"], subject: Any, started_at: float) -> None:
        self.guardrail = guardrail
        self.kind: Literal["input", "output"] = kind
        self.subject = subject
        self.started_at = started_at
        self.contained: Contained[Any]
        self.result: GuardrailResult | None = None
        self.error: BaseException | None = None
        self.told = False
        self.begun = False
        self.dropped = False  # nobody needs its answer any more
        self.stopping = False

    def stop(self) -> None:
        """For ``ctx.check_cancelled()``, which is asked from threads."""
        self.stopping = True


class GuardRace:
    """The guardrails of a run that are at work, and what they said."""

    __slots__ = ("_guards", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._guards: tuple[_Guard, ...] = ()

    def start(self, guardrails: Iterable[Guardrail], kind: Literal["input", "output"], subject: Any) -> None:
        """Start these guardrails. Synchronous."""
        run = self._run
        for guardrail in guardrails:
            guard = _Guard(guardrail, kind, subject, anyio.current_time())
            timeout = guardrail.timeout if guardrail.timeout is not None else run.config.guardrail_timeout
            # Shielded: an outside cancellation comes through the driver.
            guard.contained = Contained(run.config.cleanup_grace, timeout=timeout, shield=True, on_delivered=guard.stop)
            self._guards += (guard,)
            run.task_group.start_soon(self._work, guard, name=f"agentrun guardrail {guardrail.name}")

    @property
    def busy(self) -> bool:
        """Whether some guardrail has not answered."""
        return any(guard.result is None for guard in self._guards)

    @property
    def unsettled(self) -> bool:
        """Whether some guardrail has not answered, or has answered and nobody has asked yet what."""
        return bool(self._guards)

    def cancel(self) -> None:
        """The run stops: so do the guardrails. Synchronous."""
        for guard in self._guards:
            if guard.result is None:
                guard.contained.cancel()

    def drop_output(self) -> None:
        """The answer that the output guardrails look at is no longer the last word. Synchronous."""
        for guard in self._guards:
            if guard.kind == "output" and guard.result is None:
                guard.dropped = True
                guard.contained.cancel()

    async def settle(self, *, until_stopped: bool = False) -> None:
        """Wait until all have answered. A checkpoint only if one has not.

        Args:
            until_stopped: Return early when the run is to stop (they have been cancelled then).
        """
        self.collect()
        while self.busy and not (until_stopped and self._run.machine.ending):
            self._run.steps.cell.enter_again()
            await self._run.wait_for_news()
            self.collect()
        if until_stopped and self._run.machine.ending:
            return  # whether they have answered by now is the scheduler's doing; the driver asks again at the end
        if not self.busy:
            # When the run stops, it is the driver's turn that says when this is told: after the end of the model's
            # stream, which was cancelled in the same moment, whichever of the two the scheduler lets run first.
            self._publish(cancelled=True)
            self._guards = ()

    async def bury(self) -> None:
        """Give up those whose task was cancelled natively before its first step. A checkpoint if one has not begun."""
        for _ in range(UNBORN_AFTER):
            if all(guard.begun for guard in self._guards):
                return
            await anyio.lowlevel.cancel_shielded_checkpoint()
        for guard in self._guards:
            if not guard.begun and guard.result is None:
                self._answer(guard, Outcome("cancelled"), None)

    @uninterruptible
    async def _work(self, guard: _Guard) -> None:
        """The task of one guardrail; never raises."""
        guardrail = guard.guardrail
        what = f"{guard.kind} guardrail {guardrail.name}"
        outcome: Outcome[Any] = Outcome("cancelled")
        trip: Trip | None = None
        guard.begun = True
        try:
            if not guard.contained.cancel_called:
                outcome = await guard.contained.run(self._call(guard, what))
            # A thread that has ended within its grace has kept to the rules. Its answer comes too late nevertheless.
            late, outcome.swallowed = outcome.swallowed, outcome.swallowed and guardrail.is_async
            self._run.reports.note(outcome, what)
            outcome.swallowed = late
            if outcome.ending == "returned" and not outcome.swallowed:
                trip = read_verdict(guardrail, outcome.value)
        except BaseException as exc:  # noqa: BLE001 - an invalid verdict; whatever it is, it does not pass
            outcome = Outcome("raised", error=exc)
        self._answer(guard, outcome, trip)

    def _answer(self, guard: _Guard, outcome: Outcome[Any], trip: Trip | None) -> None:
        guardrail, kind = guard.guardrail, guard.kind
        stopped = self._run.machine.ending or guard.dropped
        if outcome.ending == "returned" and not outcome.swallowed and trip is None:
            guard.result = GuardrailResult(guardrail.name, kind, "passed")
        elif trip is not None:
            guard.result = GuardrailResult(guardrail.name, kind, "tripped", trip.message, trip.data)
            guard.error = tripped_error(guardrail, kind, trip)
        elif outcome.ending in ("cancelled", "returned") and stopped:
            guard.result = GuardrailResult(guardrail.name, kind, "cancelled")
        elif outcome.ending in ("cancelled", "returned"):
            timeout = guardrail.timeout if guardrail.timeout is not None else self._run.config.guardrail_timeout
            late = Trip(f"it did not answer within {timeout:g} seconds")
            guard.result = GuardrailResult(guardrail.name, kind, "tripped", late.message)
            guard.error = tripped_error(guardrail, kind, late)
        else:
            guard.error = outcome.error or foreign_cancellation(f"{kind} guardrail {guardrail.name}")
            guard.result = GuardrailResult(guardrail.name, kind, "failed", describe_error(guard.error))
        self._tell()

    def _tell(self) -> None:
        """Tell the ends in the order in which the guardrails are listed, and fail with the first that did not pass."""
        self._publish(cancelled=False)
        if any(guard.error is not None for guard in self._guards):
            self._run.steps.trip()  # the model stream stops at once; the driver collects when it has been closed
        self._run.wake()

    def _publish(self, *, cancelled: bool) -> None:
        run = self._run
        for guard in self._guards:
            if guard.result is None:
                if guard.contained.cancel_called:
                    continue
                break
            if guard.result.outcome == "cancelled" and not cancelled:
                break
            if not guard.told:
                guard.told = True
                result = guard.result
                run.guardrail_results += (result,)
                run.publish(GuardrailEnded(result.name, result.kind, result.outcome, result.message))

    def collect(self) -> None:
        """Let the run fail with the first error in the order of the guardrails, whichever of them was quicker."""
        for guard in self._guards:
            if guard.error is not None:
                error, guard.error = guard.error, None
                self._run.fail(error)

    async def _call(self, guard: _Guard, what: str) -> Any:
        run = self._run
        function = guard.guardrail.function
        services = NoCallServices(run, lambda: guard.stopping)
        arguments = bind_guardrail(guard.guardrail, run.context(services), guard.subject)
        if guard.guardrail.is_async:
            return await cast("Awaitable[Any]", function(*arguments))
        thread: ThreadCall[Any] = ThreadCall(lambda: function(*arguments), lambda: None)
        try:
            return await thread.run(run.task_group)
        finally:
            if thread.abandoned:
                run.reports.teardown.abandoned_threads.append(f"{what} in thread {thread.thread_name!r}")

    def scopes(self, now: float) -> list[ScopeState]:
        """For ``ActiveRun.state()``."""
        return [
            ScopeState(
                "guardrail",
                guard.guardrail.name,
                "",
                "cancelling" if guard.contained.cancel_called else "running",
                now - guard.started_at,
            )
            for guard in self._guards
            if guard.result is None
        ]
