"""Event loops whose clock jumps: when all tasks wait, time goes on to the next deadline at once.

Both clocks begin at 0. On asyncio the loop has no selector at all, so it has no file descriptors either, and sockets
and threads cannot wake it; on trio it is a `trio.testing.MockClock`. On both, deadlines that are less than a nanosecond
apart are one moment: else it is a matter of rounding whether ``sleep(0.1)`` ends together with two ``sleep(0.05)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Final, TypeVar

import anyio

from agentrun.core.errors import UserError
from agentrun.testing.sweeping.places import is_own, links, what_went_on

__all__ = ["Deadlock", "VirtualTimeLoop", "jumping_clock", "run_virtual", "seeded_trio"]

_MOMENT: Final = 1e-9
"""Seconds."""

_PATIENCE: Final = 20
"""Turns in which nothing but a cancellation is delivered, again and again, before time goes on nevertheless."""

_DELIVERS: Final = "_deliver_cancellation"
"""The method of anyio's scopes that cancels their tasks, and calls itself again in the next turn."""

T = TypeVar("T")


class Deadlock(RuntimeError):
    """All tasks wait, and nothing is left that could wake one of them."""


class _JumpingSelector:
    """Stands in for the loop's selector. Waiting for so many seconds is setting the clock forward."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.on_iteration()
        if timeout is None:
            self._loop.on_idle()
        elif timeout > 0:
            self._loop.jump()
        else:
            self._loop.on_busy()
        return []


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An asyncio event loop in virtual time, for ``loop_factory=VirtualTimeLoop``.

    There is no I/O in it: what needs a socket, a pipe, a signal or a subprocess raises `NotImplementedError`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _JumpingSelector(self)
        self._clock_resolution = _MOMENT
        self._turns_wasted = 0
        self._waited_for: list[asyncio.TimerHandle] = []  # the timers at the first of these turns
        self._waiting: dict[asyncio.Task[Any], list[Any]] = {}  # the tasks, and where they wait, at the last but one
        self.set_debug(False)  # debug mode keeps the frames of coroutines alive, and its warnings depend on real time

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    def jump(self) -> None:
        """Set the clock to the next deadline; one at the end of time, as of ``sleep(inf)``, is none."""
        loop: Any = self
        deadline = float(loop._scheduled[0]._when)
        if deadline == math.inf:
            self.on_idle()
        else:
            self._go_on_to(deadline)

    def _go_on_to(self, deadline: float) -> None:
        loop: Any = self
        self._now = max(self._now, _end_of_moment(deadline, (handle._when for handle in loop._scheduled)))
        # The loop runs what is due before now + resolution, which must be more than now, centuries from now, too.
        self._clock_resolution = max(_MOMENT, 2 * math.ulp(self._now))

    def on_busy(self) -> None:
        """Called for each turn in which there is something to do, so that time stands still. It must not for ever.

        A cancelled scope of anyio cancels its tasks again in each turn. Code that takes one cancellation and waits on
        is woken each time, and for nothing: the clock has to go on. If that is code of a library, that is
        (``asyncio.TaskGroup``, which waits for the cleanup of its tasks): the code under test shall not do that. What
        has been waited for all the while is a timer; one that is set anew in each turn is not waited for.
        """
        woken = self._cancelled_again()
        if woken is None:
            self._turns_wasted = 0
            return
        self._turns_wasted += 1
        if self._turns_wasted == 1:
            timers: Any = self
            self._waited_for = [timer for timer in timers._scheduled if not timer.cancelled()]
        elif self._turns_wasted == _PATIENCE:
            self._waiting = {task: links(task.get_coro()) for task in woken}
        elif self._turns_wasted > _PATIENCE:
            self._turns_wasted = 0
            before, self._waiting = self._waiting, {}
            for task in woken:
                frame = what_went_on(before.get(task, []), links(task.get_coro()))
                if frame is None or is_own(frame):
                    return
            deadlines = [timer.when() for timer in self._waited_for if not timer.cancelled()]
            if (deadline := min(deadlines, default=math.inf)) != math.inf:
                self._go_on_to(deadline)

    def _cancelled_again(self) -> list[asyncio.Task[Any]] | None:
        """The tasks that are woken, if all that is to be done is anyio's cancelling, and waking what was cancelled."""
        delivers, woken = False, list[asyncio.Task[Any]]()
        loop: Any = self
        for handle in loop._ready:
            if handle.cancelled():
                continue
            if getattr(handle._callback, "__name__", "") == _DELIVERS:
                delivers = True
            elif handle._args and asyncio.isfuture(future := handle._args[-1]) and future.cancelled():
                owners = (getattr(handle._callback, "__self__", None), handle._args[0])  # the latter in a sweep
                woken += [owner for owner in owners if isinstance(owner, asyncio.Task)][:1]
            else:
                return None
        return woken if delivers else None

    def on_iteration(self) -> None:
        """Called once for each turn of the loop."""

    def on_idle(self) -> None:
        """Called when all tasks wait and there is no deadline.

        Raises:
            Deadlock: Always.
        """
        raise Deadlock("all tasks wait, and nothing is left that could wake one of them")

    def _process_events(self, event_list: list[Any]) -> None:
        """There is no I/O, so there are no events."""

    def _write_to_self(self) -> None:
        """The loop never sleeps, so nobody has to wake it."""


def _end_of_moment(deadline: float, deadlines: Iterable[float]) -> float:
    """The last of those that belong to the same moment as ``deadline``, which is the first.

    All of them must be over when the first is: what has timed out may look at the clock whether its time was up.
    """
    return max((each for each in deadlines if each - deadline < _MOMENT), default=deadline)


def jumping_clock() -> Any:
    """A clock for ``trio.run(..., clock=...)``. Its ``_virtual_base`` is the time."""
    import trio.testing
    from trio._core import _run as trio_run

    internals: Any = trio_run
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    # It looks at it even though it stands still: a thread's clocks would ask it again.
    clock._real_clock = lambda: 0.0

    def autojump() -> None:
        deadlines = internals.GLOBAL_RUN_CONTEXT.runner.deadlines
        deadline = deadlines.next_deadline()  # without those that are in the heap although they have changed
        if deadline != math.inf:
            known = (each for each, _, scope in deadlines._heap if each == scope._registered_deadline)
            clock._virtual_base = max(clock._virtual_base, _end_of_moment(deadline, known))

    clock._autojump = autojump
    return clock


@contextlib.contextmanager
def seeded_trio(seed: int) -> Generator[None]:
    """Make trio's scheduler deterministic, in an order that the seed chooses, for the runs inside this block.

    trio has the switch for exactly this (it says so in its source), but no public name for it.
    """
    from trio._core import _run as trio_run

    internals: Any = trio_run
    state = internals._r.getstate()
    flag = internals._ALLOW_DETERMINISTIC_SCHEDULING
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True
    internals._r.seed(seed)
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = flag
        internals._r.setstate(state)


def run_virtual(function: Callable[..., Awaitable[T]], *args: Any, backend: str = "asyncio", seed: int = 0) -> T:
    """Like ``anyio.run``, in virtual time: hours of sleeping take milliseconds.

    Args:
        function: An async function.
        *args: Its arguments.
        backend: ``"asyncio"`` or ``"trio"``.
        seed: Chooses the order in which trio runs tasks that are ready together. asyncio's is always the same.

    Returns:
        What the function returned.

    Raises:
        Deadlock: asyncio: all tasks wait for ever. (trio's clock does not tell.)
        UserError: The backend is unknown.
    """
    if backend == "asyncio":
        return anyio.run(function, *args, backend="asyncio", backend_options={"loop_factory": VirtualTimeLoop})
    if backend == "trio":
        with seeded_trio(seed):
            return anyio.run(function, *args, backend="trio", backend_options={"clock": jumping_clock()})
    raise UserError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
