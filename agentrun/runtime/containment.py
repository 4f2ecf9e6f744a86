"""Calling user code so that it can be cancelled, gets to clean up, and cannot take anything else down.

Cancel scopes re-deliver cancellation at every await, so ``try: ... finally: await session.close()`` would be cut in
its ``finally``. `Contained` relays the user's coroutine step by step. The first cancellation that reaches it raises a
shield just outside, with a deadline: from then on the code may await in peace until its grace is over.

What else was considered: running user code in a task that is never cancelled and told through an event (ordinary
code does not look at events), and shielding from the start (then nothing is ever cancelled).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

import anyio

from agentrun.runtime.backend import Backend, running_backend
from agentrun.runtime.cancellations import (
    absorb_native_cancellations,
    comes_from_cancellation,
    comes_from_scope,
    split_cancelled,
)
from agentrun.runtime.suspension import Suspension, cancellable_trio_wait

__all__ = [
    "Cell",
    "Contained",
    "Outcome",
    "bounded",
    "call",
]

_T = TypeVar("_T")

Ending: TypeAlias = Literal["returned", "raised", "cancelled", "foreign_cancellation", "native_cancellation"]
"""How contained code ended.

``cancelled``: we asked for it and it stopped. ``foreign_cancellation``: it let a cancellation out that nobody asked
for. ``native_cancellation``: somebody called ``Task.cancel()`` on the task (asyncio only).
"""


_ORDINARY: Final = ("returned", "raised")


class Outcome(Generic[_T]):
    """What came of a piece of user code.

    Attributes:
        ending: How it ended.
        value: What it returned.
        error: What it raised, without the cancellations. Together with ``ending="cancelled"`` it is what its
            cleanup raised.
        swallowed: It was cancelled, noticed (the cancellation was thrown in), and returned nevertheless.
        grace_expired: Its cleanup took longer than its grace.
        left_open: It entered a cancel scope or a task group in this task, and did not leave it.
    """

    __slots__ = ("ending", "error", "grace_expired", "left_open", "swallowed", "value")

    def __init__(
        self,
        ending: Ending,
        *,
        value: _T | None = None,
        error: BaseException | None = None,
        swallowed: bool = False,
        grace_expired: bool = False,
    ) -> None:
        self.ending = ending
        self.value: _T | None = value
        self.error: BaseException | None = error
        self.swallowed: bool = swallowed
        self.grace_expired: bool = grace_expired
        self.left_open: bool = False

    @property
    def notable(self) -> bool:
        """Whether there is anything that a report has to say about it: not if the code has just returned, or raised."""
        return self.left_open or self.grace_expired or self.swallowed or self.ending not in _ORDINARY


class Cell:
    """The cancel scope in which a task runs one piece of user code, or one after the other.

    A task that calls one piece after the other stays in its cell meanwhile, which saves a scope for each of them.
    Nothing can cancel it in between: `Contained.cancel` and the others do nothing once their code is over.

    Attributes:
        backend: That of the event loop.
        scope: The scope; another one after a piece of code that was cancelled.
        entered: Whether the task is in it.
        task: That task, on asyncio; ``None`` on trio.
        broken: The code has left scopes of its own open, so this one cannot be left any more.
    """

    __slots__ = ("_shield", "backend", "broken", "entered", "scope", "task")

    def __init__(self, *, shield: bool = False, backend: Backend | None = None) -> None:
        """Args:
        shield: Whether cancellations from outside shall not come in.
        backend: That of the event loop, if it is at hand.
        """
        self._shield = shield
        self.backend: Backend = backend if backend is not None else running_backend()
        self.scope: anyio.CancelScope = self.backend.scope(shield=shield)
        self.entered: bool = False
        self.task: Any = None
        self.broken: bool = False

    def enter(self) -> None:
        """Enter the scope in the current task."""
        self.task = self.backend.current_task()
        self.scope.__enter__()
        self.entered = True

    def leave(self) -> None:
        """Leave the scope."""
        self.entered = False
        self.task = None  # it keeps what it awaits, and all that has called it
        self.broken |= not leave_scope(self.scope)

    def renew(self) -> None:
        """Be as new for the next piece of code: a scope that was cancelled stays so, so there is another then."""
        if self.scope.cancel_called:
            self.leave()
            self.scope = self.backend.scope(shield=self._shield)
            self.enter()
        elif self.scope.deadline != math.inf:
            self.scope.deadline = math.inf


def leave_scope(scope: anyio.CancelScope) -> bool:
    """Leave a cancel scope. Returns whether that was possible: not if scopes inside of it were left open."""
    try:
        scope.__exit__(None, None, None)
    except RuntimeError:
        return False
    return True


class Contained(Generic[_T]):
    """One call of user code. Make it, then ``await contained.run(coroutine)`` once; ``cancel`` may come any time.

    Attributes:
        cell: Where it runs.
    """

    __slots__ = (
        "_armed",
        "_cancel_called",
        "_cancelled_class",
        "_coro",
        "_delivered",
        "_ended_sleep",
        "_expiring",
        "_grace",
        "_grace_scope",
        "_on_delivered",
        "_on_trio",
        "_over",
        "_scope",
        "_settled",
        "_thrown",
        "cell",
    )

    def __init__(
        self,
        grace: float,
        *,
        timeout: float | None = None,
        shield: bool = False,
        on_delivered: Callable[[], None] | None = None,
        cell: Cell | None = None,
    ) -> None:
        """Args:
        grace: Seconds the code has to clean up, from the moment the cancellation reaches it.
        timeout: Seconds after which the code is cancelled by itself.
        shield: Whether cancellations from outside of it shall not reach the code. That of ``cell`` counts if there is
            one.
        on_delivered: Called, synchronously, when the cancellation reaches the code.
        cell: Where the task of the code is, or will be, and as new. The task stays in it.
        """
        self.cell: Cell = cell if cell is not None else Cell(shield=shield)
        self._scope = self.cell.scope
        backend = self.cell.backend
        self._cancelled_class = backend.cancelled
        self._grace_scope = backend.scope()
        if timeout is not None:
            self._scope.deadline = backend.time() + timeout
        self._armed = timeout is not None  # it may be cancelled from now on: somebody asked for it, or time may be up
        self._expiring = False  # the grace has begun, so it may have an end, too
        self._delivered = False
        self._over = self._cancel_called = False
        self._grace = grace
        self._on_delivered = on_delivered
        self._settled = False  # the code knows of our cancellation, and nothing can change that any more
        self._ended_sleep: tuple[Any, ...] = ()  # trio: the scopes of a sleep that was over as we cancelled it
        self._thrown = False  # asyncio: a cancellation, whosever it was, has gone in

    def cancel(self) -> None:
        """Cancel the code. Does nothing once it is over."""
        if not self._over:
            self._armed = True
            self._scope.cancel()

    def set_deadline(self, seconds: float) -> None:
        """Cancel the code in so many seconds from now; replaces the deadline it had. Does nothing once it is over."""
        if not self._over:
            self._armed = True
            self._scope.deadline = self.cell.backend.time() + seconds

    def hasten(self, seconds: float) -> None:
        """The same, unless it has an earlier deadline."""
        if not self._over:
            self._armed = True
            self._scope.deadline = min(self._scope.deadline, self.cell.backend.time() + seconds)

    @property
    def cancel_called(self) -> bool:
        """Whether the code was cancelled, by `cancel` or by its deadline, before it was over."""
        return self._cancel_called if self._over else self._scope.cancel_called

    @property
    def delivered(self) -> bool:
        """Whether the cancellation has reached the code."""
        return self._delivered or self._reached_in_sleep

    @property
    def grace_expired(self) -> bool:
        """Whether the cleanup has taken longer than its grace."""
        return self._grace_scope.cancel_called

    async def run(
        self,
        coro: Coroutine[Any, Any, _T],
        *,
        unwind: Callable[[BaseException | None], Coroutine[Any, Any, None] | None] | None = None,
    ) -> Outcome[_T]:
        """Run ``coro`` and say what came of it. Never raises what the code raised.

        Args:
            coro: The user's coroutine.
            unwind: Called afterwards in the same place, with what the code raised; the coroutine it returns, if it
                does, is awaited there: it may leave context managers that the code entered through the runtime.

        A checkpoint exactly when ``coro`` is one.
        """
        cell = self.cell
        keep = cell.entered
        if not keep:
            cell.enter()
        task = cell.task
        self._on_trio = task is None
        self._coro = coro
        native_before = 0 if task is None else task.cancelling()
        value: _T | None = None
        raised: BaseException | None = None
        grace_scope = self._grace_scope
        grace_scope.__enter__()
        try:
            try:
                value = await self
            except BaseException as exc:  # noqa: BLE001 - classified below; nothing is lost
                raised = exc
            if self._ended_sleep and self._reached_in_sleep:
                self._deliver()  # it has not awaited again
            unwinding = unwind(raised) if unwind is not None else None
            if unwinding is not None:
                self.protect()
                await unwinding
        finally:
            # What nobody has armed cannot have been cancelled: most code ends without anybody asking its scopes.
            self._cancel_called = self._armed and self._scope.cancel_called
            self._over = True
            expired = self._expiring and grace_scope.cancel_called
            if not leave_scope(grace_scope):
                cell.broken = True
                grace_scope.cancel()  # what runs in those that were left open has nobody else to end it
            if not keep:
                cell.leave()
            elif self._armed:
                cell.renew()
        native = 0 if task is None else task.cancelling() - native_before
        outcome: Outcome[_T]
        if raised is None:
            swallowed = self._cancel_called and self._delivered
            outcome = Outcome("returned", value=value, swallowed=swallowed, grace_expired=expired)
        else:
            outcome = self._classify(raised, native, expired)
        outcome.left_open = cell.broken
        del raised  # its traceback holds this frame: a cycle that only the garbage collector would free
        if not native:
            return outcome
        try:
            await absorb_native_cancellations(native_before)
            return outcome
        finally:
            del outcome  # the same

    def protect(self) -> None:
        """Shield what follows in this call from its cancellation, for one grace from now on.

        Does nothing once the grace has expired: a cancelled scope stays cancelled.
        """
        self._grace_scope.shield = True
        self._begin_grace()

    def _begin_grace(self) -> None:
        self._expiring = True
        self._grace_scope.deadline = self.cell.backend.time() + self._grace

    def _classify(self, raised: BaseException, native: int, expired: bool) -> Outcome[_T]:
        """What became of code that raised something."""
        asked = self._cancel_called
        cancellation, error = split_cancelled(raised, self._cancelled_class)
        told = self._delivered or comes_from_cancellation(raised, self._cancelled_class)
        if cancellation is None and not (asked and told):
            return Outcome("raised", error=error, grace_expired=expired)
        if asked:
            return Outcome("cancelled", error=error, grace_expired=expired)
        if native > 0:
            return Outcome("native_cancellation", error=error, grace_expired=expired)
        return Outcome("foreign_cancellation", error=error, grace_expired=expired)

    # The relay: an awaitable that passes every step on to the coroutine and watches what goes in --------------

    if TYPE_CHECKING:

        def __await__(self) -> Generator[Any, Any, _T]: ...
    else:

        def __await__(self):
            return self

    def __iter__(self) -> Contained[_T]:
        return self

    def __next__(self) -> Any:
        # The first step, and each of asyncio's, which throws every cancellation: as long as it has thrown none, there
        # is nothing to watch, and nothing more once the code knows of ours.
        return self.send(None) if self._thrown and not self._settled else self._coro.send(None)

    def send(self, value: Any) -> Any:
        """Resume the coroutine. trio hands a cancellation in as a value: an ``outcome.Error``."""
        if not self._armed:  # nobody wants to cancel it
            try:
                request = self._coro.send(value)
            finally:
                del value  # the traceback of what it carries may hold this frame: see `run`
            if self._thrown and self._armed and not self._settled:
                # In a cleanup that a native cancellation has begun, it has asked in this very step for ours as well.
                return self._look(request)
            return request
        if value is None:
            request = self._coro.send(None)
            return request if self._settled else self._look(request)
        if isinstance(getattr(value, "error", None), self._cancelled_class):
            self._notice()
        elif not self._delivered and self._scope.cancel_called:
            # It is cancelled, but not at this await, which was over already or cannot be cancelled. Cancel it at its
            # next one, where it can be told from the cancellation of a scope of its own; until then it sees nothing.
            self._raise_shield()
        try:
            request = self._coro.send(value)
        finally:
            del value  # as above
        return self._rest(request) if self._settled else self._look(request)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Resume the coroutine with an exception. asyncio throws a cancellation in."""
        exc = typ if val is None else val
        if isinstance(exc, type):
            exc = exc()  # as a coroutine would
        if isinstance(exc, self._cancelled_class):
            self._thrown = True
            if self._delivered or comes_from_scope(exc):
                self._notice()
            # Else it is a native one, such as that of `asyncio.timeout`, which the code may make something else of.
            # Ours is delivered at its next await, unless `_look` finds that it is in its cleanup by then.
        try:
            request = self._coro.throw(exc)
        finally:
            del typ, val, exc  # the traceback holds this frame: see `run`
        return request if self._settled else self._look(request)

    def close(self) -> None:
        """Close the coroutine."""
        self._coro.close()

    def _notice(self) -> None:
        """A cancellation is about to reach the code."""
        if self._delivered:
            # That of a scope of its own, in the middle of the cleanup, unless the grace is over. The scope does not see
            # ours any more, so it will take both if ours is still on its way out, and the code may go on as if there
            # had been none. If the code has dealt with ours before, there is nothing more to take.
            self._settled = (
                self._grace_scope.cancel_called
                or anyio.current_effective_deadline() != -math.inf
                or not Suspension(self._coro).handles(self._cancelled_class)
            )
        elif self._raise_shield(told=True):
            self._deliver()
        elif self._on_trio:
            self._ended_sleep = Suspension(self._coro).scopes_at_the_end_of_a_trio_sleep

    @property
    def _reached_in_sleep(self) -> bool:
        """Whether our cancellation has gone in together with the end of a sleep of trio's, and no scope has taken it.

        A sleep of asyncio's has no scope, so there it is delivered as any other.
        """
        return bool(self._ended_sleep) and not any(scope.cancelled_caught for scope in self._ended_sleep)

    def _look(self, request: Any) -> Any:
        """The code awaits again, and whether it knows of our cancellation is not settled. Returns what it asks for.

        It knows if a cancellation is what it is handling: a nursery of trio's has raised those of its children, or ours
        came together with that of a scope of the code's own which has been left by now. Then it is in its cleanup, and
        the shield must be up. If it does not know, the shield must be down: the event loop tells it at this very await.
        """
        if not self._scope.cancel_called or (self._delivered and anyio.current_effective_deadline() == -math.inf):
            return request
        suspension = Suspension(self._coro)
        knows = suspension.handles(self._cancelled_class) or self._reached_in_sleep
        if knows and self._delivered:
            # A shield of the code's own hides whether it is still in a cancelled scope: then the next look tells. Where
            # no scope of its own has a say, the deadline is that of the grace.
            self._settled = anyio.current_effective_deadline() == self._grace_scope.deadline
            return self._rest(request)
        if knows and (self._grace_scope.shield or not suspension.asks_for_cancellation) and self._raise_shield():
            self._deliver()
            return self._rest(request)
        self._delivered = self._settled = self._grace_scope.shield = False
        if suspension.at_trio_checkpoint and anyio.current_effective_deadline() == -math.inf:
            # trio's `checkpoint` delivers in a scope of its own, later: deliver now, and know that it is ours.
            return cancellable_trio_wait()
        return request

    def _rest(self, request: Any) -> Any:
        """The code awaits in its cleanup: shielded, except at the end of a cancelled nursery of trio's.

        That nursery has cancelled itself, since its body was cancelled. When its last task has ended it must see that
        the cancellation comes from further out: else it takes it for its own, and the code goes on. No cancellation can
        cut that wait. (A nursery that the cleanup has opened is not cancelled: its tasks are part of the cleanup.)
        """
        if self._on_trio:
            shield = self._grace_scope
            if not shield.shield:
                shield.shield = True
            if Suspension(self._coro).at_nursery_exit and anyio.current_effective_deadline() == -math.inf:
                shield.shield = False
        return request

    def _raise_shield(self, *, told: bool = False) -> bool:
        """Raise the shield if our cancellation is in force where the code is, and that of no scope of the code's own.

        What runs in a cancelled scope of the code's own is cut by that one, as it would be without us. And the scope
        must see that ours is cancelled: else it would take the cancellation for its own, and the code would go on.

        Args:
            told: Whether a cancellation is about to reach the code, so one is in force, whosever it is.

        Returns:
            Whether the shield is up. It is looked at afterwards, because moving it makes trio look at all deadlines.
        """
        shield = self._grace_scope
        if not told:
            shield.shield = False
        if not self._scope.cancel_called or not (told or anyio.current_effective_deadline() == -math.inf):
            return False
        shield.shield = True
        if anyio.current_effective_deadline() == -math.inf:
            shield.shield = False
        return shield.shield

    def _deliver(self) -> None:
        self._delivered = self._settled = True
        self._ended_sleep = ()
        self._begin_grace()
        if self._on_delivered is not None:
            self._on_delivered()


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's, and await what it returns if that can be awaited.

    A checkpoint exactly when that is one.
    """
    value = function(*args)
    return await value if inspect.isawaitable(value) else value


async def bounded(function: Callable[[], Any], grace: float) -> Outcome[Any]:
    """Call cleanup code of the user's: shielded from every cancellation, for at most ``grace`` seconds.

    A checkpoint exactly when ``function`` is one.
    """
    contained: Contained[Any] = Contained(grace=0.0, timeout=grace, shield=True)
    return await contained.run(call(function))
