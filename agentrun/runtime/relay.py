"""Passing every step of a user's coroutine on to it, and watching whether its cancellation reaches it.

The first cancellation that does raises a shield just outside, so that the code may clean up in peace; see
`agentrun.runtime.containment`. What goes in does not always tell whether the code knows of it: then the suspended
coroutine is asked (`agentrun.runtime.suspension`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio

from agentrun.runtime.cancellations import comes_from_scope
from agentrun.runtime.cell import Cell
from agentrun.runtime.suspension import (
    Suspension,
    cancellable_trio_wait,
    coroutines_of_tasks,
    has_caught,
    has_errors,
    is_cancelled,
    trio_step,
)

__all__ = ["Relay"]

_T = TypeVar("_T")

_STEPS_TO_BE_TOLD: Final = 2
_MOST_STEPS_HELD: Final = 20


class Relay(Generic[_T]):
    """An awaitable around a coroutine. `Contained` gives it the coroutine, and asks what has become of it.

    Attributes:
        cell: Where the code runs.
    """

    __slots__ = (
        "_before",
        "_by_errors",
        "_by_native",
        "_cancelling",
        "_coro",
        "_delivered",
        "_entered",
        "_expiring",
        "_grace",
        "_grace_scope",
        "_held",
        "_holding",
        "_knows_perhaps",
        "_native",
        "_on_delivered",
        "_on_trio",
        "_resting",
        "_scope",
        "_thrown",
        "_told_by",
        "_trio_wait",
        "_waits_for_tasks",
        "_watching",
        "cell",
    )

    _coro: Coroutine[Any, Any, _T]
    _on_trio: bool
    _cancelling: int  # asyncio: what `Task.cancelling` was when the code began

    # From `_watch` on:
    _expiring: bool  # the grace has begun, so it may have an end, too
    _delivered: bool  # the code knows of our cancellation
    _knows_perhaps: bool  # it handles a cancellation, in a shield of its own, so ours is not in force
    _by_native: bool  # asyncio: or rather of a native one, to which ours has come
    _by_errors: bool  # asyncio: or it has reached a task group, whose tasks have failed
    _resting: bool  # it knows, and each await of its cleanup must be looked at
    _trio_wait: tuple[Any, ...]  # trio: its own scopes, in which ours has gone in
    _thrown: bool  # asyncio: a cancellation, whosever it was, has gone in
    _native: tuple[BaseException, ...]  # asyncio: the native ones that have gone in
    _before: Sequence[BaseException] | None  # cancellations that the code has held before ours
    _waits_for_tasks: bool  # trio: it was cancelled where its tasks are, and it cannot be
    _entered: Sequence[Any]  # context managers that the code was in when ours reached it
    _held: Any  # a cancellation that has come, while the tasks of the code's groups are told of theirs
    _holding: int  # for so many steps
    _told_by: int  # after so many of them all tasks have been told, as it seems

    def __init__(self, cell: Cell, grace: float, on_delivered: Callable[[], None] | None) -> None:
        """Args:
        cell: Where the code runs.
        grace: Seconds it has to clean up, from the moment its cancellation reaches it.
        on_delivered: Called, synchronously, in that moment.
        """
        self.cell: Cell = cell
        self._scope: anyio.CancelScope = cell.scope
        self._grace_scope: anyio.CancelScope = cell.grace
        self._grace: float = grace
        self._on_delivered: Callable[[], None] | None = on_delivered
        self._watching: bool = False

    def _watch(self) -> None:
        """From now on there may be a cancellation: somebody asks for it, time may be up, or one has come.

        Until then nothing is to be known of one. Most code ends before.
        """
        if self._watching:
            return
        self._watching = True
        self._expiring = self._delivered = self._knows_perhaps = False
        self._by_native = self._by_errors = self._resting = False
        self._thrown = self._waits_for_tasks = False
        self._trio_wait = self._native = self._entered = ()
        self._before = self._held = None
        self._holding = 0
        self._told_by = _STEPS_TO_BE_TOLD

    @property
    def _cancelled_class(self) -> type[BaseException]:
        return self.cell.backend.cancelled

    @property
    def delivered(self) -> bool:
        """Whether the cancellation has reached the code."""
        return self._watching and (self._delivered or self._reached_in_trio_wait)

    def protect(self) -> None:
        """Shield what follows in this call from its cancellation, for one grace from now on.

        Does nothing once the grace has expired: a cancelled scope stays cancelled.
        """
        self._watch()
        self._grace_scope.shield = True
        self._begin_grace()

    def _begin_grace(self) -> None:
        self._expiring = True
        self._grace_scope.deadline = self.cell.backend.time() + self._grace

    if TYPE_CHECKING:

        def __await__(self) -> Generator[Any, Any, _T]: ...
    else:

        def __await__(self):
            return self

    def __iter__(self) -> Relay[_T]:
        return self

    def __next__(self) -> Any:
        # The first step, and each of asyncio's, which throws every cancellation: as long as it has thrown none, there
        # is nothing to look at, and once the code knows of ours, only what `_rest` is there for.
        if self._watching:
            if self._thrown and not self._delivered:
                return self.send(None)
            if self._resting and not self._on_trio:
                self._look_for_errors()
        request = self._coro.send(None)
        return self._behind_a_step(request) if self._watching else request

    def _behind_a_step(self, request: Any) -> Any:
        """The watched code awaits again, behind a step in which it was not told. Returns what it asks for."""
        if self._resting:
            return self._rest(request)
        # On trio it may have asked for ours in this very step, and so for being told where it awaits now. On asyncio it
        # is told by a later step anyway.
        return self._look(request) if self._on_trio and not self._delivered else request

    def send(self, value: Any) -> Any:
        """Resume the coroutine. trio hands a cancellation in as a value: an ``outcome.Error``."""
        if not self._watching:
            try:
                request = self._coro.send(value)
            finally:
                del value  # the traceback of what it carries may hold this frame: see `run`
            return self._behind_a_step(request) if self._watching else request
        if self._held is not None:
            if not self._on_trio:
                return self.throw(self._held)
            value = self._held
        untold = not self._delivered and self._scope.cancel_called
        if untold:
            self._remember(Suspension(self._coro))
        if value is None:
            return self._look(self._coro.send(None))
        if isinstance(getattr(value, "error", None), self._cancelled_class):
            if untold and self._holds(value):
                return trio_step()
            self._notice()
        try:
            request = self._coro.send(value)
        finally:
            del value  # as above
        return self._next(request)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Resume the coroutine with an exception. asyncio throws a cancellation in."""
        exc = typ if val is None else val
        self._watch()
        if self._held is not None:
            exc = self._held  # it is thrown anew each time
        if isinstance(exc, self._cancelled_class):
            self._thrown = True
            suspension: Suspension | None = None
            if not self._delivered and self._scope.cancel_called:
                suspension = Suspension(self._coro)
                self._entered = suspension.entered
            scoped = comes_from_scope(exc)
            if scoped and suspension is not None and self._holds(exc):
                return None
            if not scoped and self.cell.task.cancelling() > self._cancelling:
                self._native += (exc,)  # it is this task that was cancelled, not one that it awaits
            if self._delivered or scoped:
                self._notice()
            # Else it is a native one, such as that of `asyncio.timeout`, which the code may make something else of.
            # Ours is delivered at its next await, unless `_look` finds that it is in its cleanup by then.
            if suspension is not None and not self._delivered:
                self._remember_held(suspension)
        if self._resting:
            self._look_for_errors()
        try:
            request = self._coro.throw(exc)
        finally:
            del typ, val, exc  # the traceback holds this frame: see `run`
        return self._next(request)

    def _next(self, request: Any) -> Any:
        """The code awaits again. Returns what it asks for."""
        if self._resting:
            return self._rest(request)
        return request if self._delivered else self._look(request)

    def close(self) -> None:
        """Close the coroutine."""
        self._coro.close()

    def _holds(self, cancellation: Any) -> bool:
        """Whether to hold ours back for one more step, so that the tasks in groups of the code's get theirs first.

        The shield that it raises covers them as well. One that was about to run when they were cancelled would not be
        told then until the code leaves the group, and would go on with what the cleanup is closing. And one that has
        seen that it is cancelled, and asks for it, would not get it: trio breaks such a task, anyio lets it spin.

        What else was considered: a shield around each await of the cleanup alone (it hides from the code what becomes
        of the scopes it is in).
        """
        tasks = [coro for manager in self._entered for coro in coroutines_of_tasks(manager)]
        self._holding += 1
        if any(Suspension(task).at_checkpoint for task in tasks):
            self._told_by = self._holding + _STEPS_TO_BE_TOLD
        if tasks and self._holding <= min(self._told_by, _MOST_STEPS_HELD):
            self._held = cancellation
            return True
        self._held = None
        return False

    def _forget(self) -> None:
        """The code is over: let go of exceptions and scopes, which lead back to here."""
        self._native = self._entered = self._trio_wait = ()
        self._before = None

    def _remember(self, suspension: Suspension) -> None:
        """Before a step in which ours may be on its way: where the code was, and what it has held, without it."""
        if not self._knows_perhaps:  # what its cleanup has opened is none of these
            self._entered = suspension.entered
        if self._on_trio:
            self._waits_for_tasks |= suspension.at_nursery_exit
        self._remember_held(suspension)

    def _remember_held(self, suspension: Suspension) -> None:
        """What the code has held without ours, the first time that this is asked.

        A cancellation that a timeout of its own has delivered, and that it keeps in a variable, does not tell it of
        ours. The native ones that went in do: what they have begun is cleanup like any other.
        """
        if self._before is None:
            held = suspension.cancellations(self._cancelled_class)
            self._before = [each for each in held if not any(each is native for native in self._native)]

    def _in_danger(self, suspension: Suspension) -> bool:
        """Whether the code is in a cancelled scope of its own in which it was when ours came, or leaves it.

        Such a scope would take ours as well, if it did not see it, and the code would go on. So the shield must be
        down. The scope cuts what is in it anyway. One that the cleanup has opened must not see ours: it is left with
        nothing but its own, and the cleanup goes on.
        """
        return any(
            is_cancelled(manager) for manager in suspension.entered if any(manager is each for each in self._entered)
        )

    @property
    def _let_out(self) -> bool:
        """Whether a scope of its own that it was in when ours came was cancelled as well, and has taken nothing.

        The code has left it, or is about to be cut in it. It would have taken its own cancellation, which the code has
        held since, if it had not seen ours.
        """
        return any(is_cancelled(manager) and not has_caught(manager) for manager in self._entered)

    def _notice(self) -> None:
        """A cancellation is about to reach the code."""
        if self._delivered:
            # That of a scope of its own, in the middle of the cleanup, unless the grace is over. (On asyncio anyio's
            # scopes count cancellations, and do not take ours with their own; but see `_taken`.)
            if self._on_trio and not self._grace_scope.cancel_called and self._in_danger(Suspension(self._coro)):
                self._grace_scope.shield = False
        elif self._raise_shield(told=True):
            self._deliver()
        elif self._on_trio:
            self._trio_wait = Suspension(self._coro).trio_wait_scopes

    @property
    def _taken(self) -> bool:
        """Whether a scope of the code's own has taken our cancellation, which had reached the code inside of it.

        The code goes on behind it then, and must be told again. On trio it does if the code cancels it in a cleanup
        inside of it, and does not await there any more. On asyncio scopes know theirs by the number of the task's
        cancellations. But anyio 4.16 counts those of a group's tasks as the group's, if a scope of theirs was
        cancelled and is left, and a group that waits for its tasks cancels itself when it is cancelled.
        """
        return bool(self._entered) and any(has_caught(manager) for manager in self._entered)

    def _look_for_errors(self) -> None:
        """Before a step of a cleanup on asyncio: whether a group that the code is in is about to raise errors.

        Task groups, anyio's and asyncio's own, then raise these alone, and the code never sees its cancellation.
        """
        self._by_errors |= any(has_errors(manager) for manager in self._entered)

    @property
    def _lost(self) -> bool:
        """Whether the code goes on without having seen its cancellation, though it was delivered: what has become of it
        was a TimeoutError, or the errors of a task group, and these have been handled. It must be told again."""
        if not (self._by_native or self._by_errors):
            return False
        suspension = Suspension(self._coro)
        return (self._by_native and not suspension.handles(self._cancelled_class)) or (
            self._by_errors and not suspension.handles(BaseException)
        )

    @property
    def _reached_in_trio_wait(self) -> bool:
        """Whether our cancellation has gone in at a wait that trio has scopes of its own for, and none has taken it.

        The waits of asyncio have no scopes, so there it is delivered as any other.
        """
        return bool(self._trio_wait) and not any(scope.cancelled_caught for scope in self._trio_wait)

    def _look(self, request: Any) -> Any:
        """The code awaits again, and ours has not been seen to reach it. Returns what it asks for.

        It knows of it if a cancellation is what it is handling: a nursery of trio's has raised those of its children,
        or ours came together with that of a scope of the code's own which has been left by now. Then it is in its
        cleanup, and the shield must be up. If it does not know, the shield must be down: the event loop tells it at
        this very await.
        """
        if not self._scope.cancel_called:
            return request
        suspension = Suspension(self._coro)
        if self._before is None:
            self._remember(suspension)
        told, let_out = self._reached_in_trio_wait, self._let_out
        knows = told or suspension.handles(self._cancelled_class, but=() if let_out else self._before or ())
        relies_on_it = suspension.asks_for_cancellation and not self._grace_scope.shield
        if knows and not relies_on_it and self._raise_shield(told=told, knows=suspension):
            # What `asyncio.timeout` has begun ends as a TimeoutError; then the code must be told of ours all the same.
            self._by_native = bool(self._native) and not let_out
            self._deliver()
            return self._rest(request)
        self._knows_perhaps = knows
        self._grace_scope.shield = False
        if suspension.at_trio_checkpoint and anyio.current_effective_deadline() == -math.inf:
            # trio's `checkpoint` delivers in a scope of its own, later: deliver now, and know that it is ours.
            return cancellable_trio_wait()
        return request

    def _rest(self, request: Any) -> Any:
        """The code awaits in its cleanup: shielded, except where a scope must see ours.

        At the end of a nursery of trio's, for one, which has cancelled itself, since its body was cancelled.
        """
        if self._taken or self._lost:
            self._delivered = self._by_native = self._by_errors = self._resting = False
            self._entered = ()
            return self._look(request)
        if not self._on_trio:
            return request
        shield, suspension = self._grace_scope, Suspension(self._coro)
        if self._in_danger(suspension):
            shield.shield = False
        elif not shield.shield and not suspension.asks_for_cancellation:
            shield.shield = True  # else it has seen ours, and relies on getting it: that await is cut
        return request

    def _raise_shield(self, *, told: bool, knows: Suspension | None = None) -> bool:
        """Raise the shield if our cancellation is in force where the code is, and that of no scope of the code's own.

        What runs in a cancelled scope of the code's own is cut by that one, as it would be without us. And the scope
        must see that ours is cancelled: else it would take the cancellation for its own, and the code would go on.

        Args:
            told: Whether a cancellation is about to reach the code, so one is in force, whosever it is.
            knows: The code, if it knows of ours already. Of its own scopes, those count that it was in when ours came.

        Returns:
            Whether the shield is up. It is looked at afterwards, because moving it makes trio look at all deadlines.
        """
        shield = self._grace_scope
        if not told:
            shield.shield = False
        if not self._scope.cancel_called or not (told or anyio.current_effective_deadline() == -math.inf):
            return False
        shield.shield = True
        if anyio.current_effective_deadline() == -math.inf and (knows is None or self._in_danger(knows)):
            shield.shield = False
        return shield.shield

    def _deliver(self) -> None:
        self._delivered = True
        self._resting = self._by_native or bool(self._entered)
        self._trio_wait = ()
        if not self._expiring:  # told again, it has what is left
            self._begin_grace()
        if self._on_delivered is not None:
            self._on_delivered()
