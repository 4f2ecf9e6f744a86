"""Calling user code so that it can be cancelled, gets to clean up, and cannot take anything else down.

Cancel scopes re-deliver cancellation at every await, so ``try: ... finally: await session.close()`` would be cut in
its ``finally``. `Contained` relays the user's coroutine step by step (see `agentrun.runtime.relay`). The first
cancellation that reaches it raises a shield just outside, with a deadline: from then on the code may await in peace
until its grace is over.

What else was considered: running user code in a task that is never cancelled and told through an event (ordinary
code does not look at events), and shielding from the start (then nothing is ever cancelled).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from agentrun.runtime.cancellations import absorb_native_cancellations, comes_from_cancellation, split_cancelled
from agentrun.runtime.cell import Cell
from agentrun.runtime.ctrl_c import interruptible
from agentrun.runtime.relay import Relay

__all__ = ["Contained", "Outcome", "bounded", "call"]

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


class Contained(Relay[_T]):
    """One call of user code. Make it, then ``await contained.run(coroutine)`` once; ``cancel`` may come any time.

    Attributes:
        cell: Where it runs.
    """

    __slots__ = ("_cancel_called", "_over")

    def __init__(
        self,
        grace: float,
        cell: Cell | None = None,
        timeout: float | None = None,
        on_delivered: Callable[[], None] | None = None,
        *,
        shield: bool = False,
    ) -> None:
        """Args:
        grace: Seconds the code has to clean up, from the moment the cancellation reaches it.
        cell: Where the task of the code is, or will be, and as new. The task stays in it, unless the code is cancelled.
        timeout: Seconds after which the code is cancelled by itself.
        on_delivered: Called, synchronously, when the cancellation reaches the code.
        shield: Whether cancellations from outside of it shall not reach the code. That of ``cell`` counts if there is
            one.
        """
        super().__init__(cell if cell is not None else Cell(shield), grace, on_delivered)
        self._over: bool = False
        self._cancel_called: bool = False
        if timeout is not None:
            self.set_deadline(timeout)

    def cancel(self) -> None:
        """Cancel the code. Does nothing once it is over."""
        if not self._over:
            self._watch()
            self._scope.cancel()

    def set_deadline(self, seconds: float) -> None:
        """Cancel the code in so many seconds from now; replaces the deadline it had. Does nothing once it is over."""
        if not self._over:
            self._watch()
            self._scope.deadline = self.cell.backend.time() + seconds

    def hasten(self, seconds: float) -> None:
        """The same, unless it has an earlier deadline."""
        if not self._over:
            self._watch()
            self._scope.deadline = min(self._scope.deadline, self.cell.backend.time() + seconds)

    @property
    def over(self) -> bool:
        """Whether the code has ended."""
        return self._over

    @property
    def deadline(self) -> float:
        """When the code is cancelled by itself, in the clock of the event loop; infinite if it is not."""
        return self._scope.deadline

    @property
    def cancel_called(self) -> bool:
        """Whether the code was cancelled, by `cancel` or by its deadline, before it was over."""
        return self._cancel_called if self._over else self._scope.cancel_called

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
            cell.enter(stay=False)
        task = cell.task
        if task is None:
            self._on_trio, self._coro, native_before = True, interruptible(coro), 0
        else:
            self._on_trio, self._coro, native_before = False, coro, task.cancelling()
            self._cancelling = native_before
        value: _T | None = None
        raised: BaseException | None = None
        swallowed = expired = False
        try:
            try:
                value = await self
            except BaseException as exc:  # noqa: BLE001 - classified below; nothing is lost
                raised = exc
                coro.close()  # Ctrl-C may have come before its first step
            if self._watching and self._reached_in_trio_wait:
                self._deliver()  # it has not awaited again
            unwinding = unwind(raised) if unwind is not None else None
            if unwinding is not None:
                self.protect()
                await unwinding
        finally:
            if self._watching:
                if self._taken or ((self._by_native or self._by_errors) and raised is None):
                    self._delivered = False  # it has not awaited again
                self._cancel_called = self._scope.cancel_called
                swallowed = raised is None and self._cancel_called and self._delivered
                expired = self._expiring and self._grace_scope.cancel_called
                self._forget()
            self._over = True
            if not keep:
                cell.leave()
            elif self._watching or not cell.innermost:
                cell.renew()
        native = 0 if task is None else task.cancelling() - native_before
        outcome: Outcome[_T]
        if raised is None:
            outcome = Outcome("returned", value, None, swallowed, expired)
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

    def _classify(self, raised: BaseException, native: int, expired: bool) -> Outcome[_T]:
        """What became of code that raised something."""
        asked = self._cancel_called
        cancellation, error = split_cancelled(raised, self._cancelled_class)
        # On asyncio the wait for tasks is cancelled as well, but what they raise comes out of it all the same.
        told = asked and (
            self._delivered or self._waits_for_tasks or comes_from_cancellation(raised, self._cancelled_class)
        )
        if cancellation is None and not told:
            return Outcome("raised", error=error, grace_expired=expired)
        if asked:
            return Outcome("cancelled", error=error, grace_expired=expired)
        if native > 0:
            return Outcome("native_cancellation", error=error, grace_expired=expired)
        return Outcome("foreign_cancellation", error=error, grace_expired=expired)


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
