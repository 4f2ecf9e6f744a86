"""The pieces of user code that the driver runs itself, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from agentrun.core.results import ScopeState
from agentrun.runtime.cancellations import native_cancellations, only_cancellations
from agentrun.runtime.cell import Cell
from agentrun.runtime.containment import Contained, Outcome, call
from agentrun.runtime.reports import foreign_cancellation

if TYPE_CHECKING:
    from agentrun.runtime.run import Run

__all__ = ["Steps", "start_hook"]

_T = TypeVar("_T")


class Steps:
    """What the driver of a run is in the middle of, if that is user code, and how to stop it.

    Attributes:
        cell: Of the driver, which is in it whenever it calls user code or waits.
    """

    __slots__ = ("_finishing", "_ignores_cut", "_kind", "_name", "_run", "_started", "_under_way", "cell")

    def __init__(self, run: Run) -> None:
        self.cell: Cell = Cell(True, run.backend)
        self._run = run
        self._under_way: Contained[Any] | None = None
        self._name = ""
        self._kind: Any = "run"
        self._started = 0.0
        self._ignores_cut = False
        self._finishing = False  # it is to be finished within the grace instead of being cut

    async def take(
        self,
        kind: str,
        name: str,
        coro: Coroutine[Any, Any, _T],
        *,
        ignores_cut: bool = True,
        finish: bool = False,
    ) -> Outcome[_T]:
        """Run one piece of user code inside the driver, contained, and cancelled when the run stops.

        Args:
            kind: What it is, for ``state()``.
            name: Its name, for ``state()`` and the teardown report.
            coro: The code.
            ignores_cut: An injection that cuts in does not concern it.
            finish: When the run stops, it may finish within its grace instead of being cut.
        """
        run = self._run
        ending = run.machine.ending
        if ending and not finish:
            coro.close()  # it is not started at all
            return Outcome("cancelled")
        if not self.cell.entered:
            self.cell.enter_again()
        contained: Contained[_T] = Contained(run.config.cleanup_grace, self.cell)
        if ending:
            contained.set_deadline(run.config.cleanup_grace)
        self._under_way, self._name, self._kind = contained, name, kind
        self._started = run.clock()
        self._ignores_cut, self._finishing = ignores_cut, finish
        try:
            outcome = await contained.run(coro)
        finally:
            self._under_way = None
        if outcome.notable:
            run.reports.note(outcome, f"{kind} {name}")
        run.guards.collect()
        if outcome.ending == "native_cancellation":
            # Somebody cancelled the driver's task natively, which is a cancellation of the run from outside.
            run.cancel()
        return outcome

    @property
    def current(self) -> Contained[Any]:
        """What the step is contained in that asks for it."""
        assert self._under_way is not None
        return self._under_way

    def stop(self) -> None:
        """The run stops: cut the step, or let it finish within the grace if it is one that may."""
        if self._under_way is None:
            return
        if self._finishing:
            self._under_way.hasten(self._run.config.cleanup_grace)
        else:
            self._under_way.cancel()

    def cut(self) -> None:
        """Input that cuts in has come."""
        if not self._ignores_cut:
            self.stop()

    def trip(self) -> None:
        """A guardrail does not pass."""
        if not self._finishing:
            self.stop()

    def state(self, now: float) -> ScopeState | None:
        """For ``ActiveRun.state()``; ``None`` between two steps."""
        if self._under_way is None:
            return None
        status = "cancelling" if self._under_way.cancel_called else "running"
        return ScopeState(self._kind, self._name, "", status, now - self._started)


async def start_hook(
    run: Run, inside: Contained[Any], what: str, hook: Callable[..., Awaitable[object]], *args: Any
) -> None:
    """Call a hook ``inside`` contained code: it is cancelled with it, but what it raises does not concern it."""
    native_before = native_cancellations()
    try:
        await call(hook, *args)
    except Exception as exc:  # noqa: BLE001 - a hook never decides what happens
        run.reports.cleanup_error(exc, what)
    except BaseException as exc:
        asked = inside.cancel_called or native_cancellations() > native_before
        if asked or not only_cancellations(exc):
            raise
        run.reports.cleanup_error(foreign_cancellation(what), what)
