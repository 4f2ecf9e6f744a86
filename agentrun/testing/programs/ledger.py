"""Where user code leaves its marks."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from agentrun.core.errors import CallCancelled
from agentrun.runtime.cancellations import split_cancelled
from agentrun.testing.laws.record import Deed, Mark, MarkKind, RunRecord
from agentrun.testing.programs.steps import Cleanup
from agentrun.testing.sweeping.baton import ThreadEnded, current_thread

__all__ = ["Broken", "Code", "Ledger"]


class Broken(Exception):
    """What user code in a program raises on purpose. Each one says where it comes from."""


class Ledger:
    """The marks of one run, in the order in which they are made."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.now: Callable[[], float]
        self._order = 0

    def tick(self) -> int:
        """The next number."""
        self._order += 1
        return self._order

    def deed(self, action: str, *, stops: bool) -> Deed:
        """Something is being done to the run."""
        deed = Deed(action, self.now(), self.tick(), stops, tuple(sorted(self._going_on())))
        self.record.deeds.append(deed)
        return deed

    def _going_on(self) -> set[str]:
        """What user code is at, and what of the runtime shows."""
        going_on: set[str] = set()
        for mark in self.record.marks:
            if mark.ended_order is not None:
                continue
            going_on.add(f"{mark.kind} {mark.name}" if mark.kind in ("session", "hook") else mark.kind)
            if mark.nested:
                going_on.add("nested run")
            if mark.thread:
                going_on.add("thread")
        live = self.record.live
        if live is not None and live.result is None:
            state = live.state()
            if any(entry for entry in state.inbox):
                going_on.add("pending input")
            for child in state.scope.children:
                if child.kind == "tool":
                    going_on.add(f"tool {child.status}")
            if state.blocked_on_watchers:
                going_on.add("blocked on watchers")
            if state.status == "interrupting":
                going_on.add("teardown")
            going_on |= self._between(
                {child.id: child.status for child in state.scope.children if child.kind == "tool"}
            )
        return going_on

    def _between(self, alive: dict[str, str]) -> set[str]:
        """What is going on between the tools of a turn."""
        marks = [mark for mark in self.record.marks if not mark.nested]
        turn = max((mark.began_order for mark in marks if mark.kind == "stream"), default=0)
        bodies = [mark for mark in marks if mark.kind == "body" and mark.began_order > turn]
        found: set[str] = set()
        if alive and any(mark.ended is not None and mark.call_id not in alive for mark in bodies):
            found.add("between tool ends")
        if any(
            alive.get(mark.call_id) == "cancelling" and mark.cut_at is None and mark.ended is None for mark in bodies
        ):
            found.add("cancelled, not told")
        return found


class Code:
    """One call of user code: what it awaits, and what it marks."""

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        *,
        run: str = "",
        nested: bool = False,
        call_id: str = "",
        handled: bool = False,
    ) -> None:
        """Args:
        ledger: Where it leaves its marks.
        name: See `Mark`, and so are the next ones.
        run: See there.
        nested: See there.
        call_id: See there.
        handled: Whether its errors are handled: nobody needs to keep them.
        """
        self.handled = handled
        self.ledger = ledger
        self.name = name
        self.run = run
        self.nested = nested
        self.call_id = call_id
        self.cut_at: float | None = None
        self.thread: str = ""
        self._marks: list[Mark] = []

    def in_loop(self) -> Code:
        """The same call, as far as it runs in the event loop."""
        return Code(
            self.ledger, self.name, run=self.run, nested=self.nested, call_id=self.call_id, handled=self.handled
        )

    def piece(
        self,
        kind: MarkKind,
        name: str = "",
        *,
        because: Literal["returned", "raised", "cancelled"] = "returned",
        planned: float = 0.0,
        may_be_cut: bool = False,
    ) -> _Piece:
        """A context manager that marks what happens inside of it."""
        return _Piece(self, kind, name or self.name, because, planned, may_be_cut)

    def cut(self) -> None:
        """A cancellation has reached the code."""
        if self.cut_at is None:
            self.cut_at = self.ledger.now()
            for mark in self._marks:
                if mark.ended is None:
                    mark.cut_at = self.cut_at

    def uncut(self, before: float | None) -> None:
        """The last one was one of its own: all is as before it, when ``cut_at`` was ``before``."""
        if before is None:
            self.cut_at = None
            for mark in self._marks:
                if mark.ended is None:
                    mark.cut_at = None

    async def pause(self, seconds: float) -> None:
        """Sleep. Notes the cancellation that comes meanwhile."""
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            self.cut()
            raise

    def note(self, raised: BaseException) -> None:
        """If this is a cancellation, it has reached the code."""
        if ending_of(raised) == "cancelled":
            self.cut()

    def broken(self, what: str, *, handled: bool = False) -> Broken:
        """An exception that says where it comes from, to be raised at once."""
        error = Broken(f"{what} of {self.name} {self.call_id}".strip())
        self.raising(error, what, handled=handled)
        return error

    def raising(self, error: BaseException, what: str, *, handled: bool = False) -> None:
        """This error is about to be raised."""
        if not self.nested and not self.handled and not handled:
            where = f" in thread {self.thread!r}" if self.thread else ""
            self.ledger.record.errors.append((error, f"{what} of {self.name} {self.call_id}".strip() + where))

    async def clean_up(self, plan: Cleanup | None, raised: BaseException | None, *, may_be_cut: bool = False) -> None:
        """What a ``finally`` does, in it."""
        if plan is None:
            return
        because = ending_of(raised)
        planned = plan.seconds
        if plan.shielded:
            with self.piece("shielded", because=because, planned=planned), anyio.CancelScope(shield=True):
                await self._take(planned)
        else:
            try:
                with self.piece("cleanup", because=because, planned=planned, may_be_cut=may_be_cut):
                    await self._take(planned)
            except anyio.get_cancelled_exc_class():
                self._forget(raised)  # as in any Python code: what cuts the cleanup takes the place of the error
                raise
        if plan.raises:
            if may_be_cut:
                self._forget(raised)  # the same, and nobody need be told of what takes its place
            raise self.broken("cleanup", handled=may_be_cut)

    def _forget(self, raised: BaseException | None) -> None:
        errors = self.ledger.record.errors
        errors[:] = [(error, owner) for error, owner in errors if error is not raised]

    def clean_up_in_thread(self, plan: Cleanup, raised: BaseException | None) -> None:
        """The same in a thread, where nothing can cut it."""
        with self.piece("cleanup", because=ending_of(raised), planned=plan.seconds):
            time.sleep(plan.seconds / 2)
            time.sleep(plan.seconds / 2)
        if plan.raises:
            raise self.broken("cleanup")

    async def _take(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(seconds / 2)
        await anyio.sleep(seconds / 2)


def ending_of(raised: BaseException | None) -> Literal["returned", "raised", "cancelled"]:
    """What code has ended with."""
    if raised is None:
        return "returned"
    if isinstance(raised, CallCancelled):
        return "cancelled"
    if current_thread() is not None:
        return "raised"  # there are no other cancellations in threads
    return "cancelled" if split_cancelled(raised, anyio.get_cancelled_exc_class())[0] is not None else "raised"


class _Piece:
    """See `Code.piece`."""

    __slots__ = ("_because", "_code", "_kind", "_mark", "_may_be_cut", "_name", "_planned")

    def __init__(self, code: Code, kind: MarkKind, name: str, because: Any, planned: float, may_be_cut: bool) -> None:
        self._code = code
        self._kind: MarkKind = kind
        self._name = name
        self._because = because
        self._planned = planned
        self._may_be_cut = may_be_cut
        self._mark: Mark

    def __enter__(self) -> Mark:
        code, ledger = self._code, self._code.ledger
        self._mark = mark = Mark(
            self._kind, self._name, code.run, code.nested, code.call_id, ledger.now(), ledger.tick(),
            because=self._because, cut_at=code.cut_at, planned=self._planned, may_be_cut=self._may_be_cut,
            thread=code.thread,
        )  # fmt: skip
        code._marks.append(mark)
        ledger.record.marks.append(mark)
        return mark

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        mark, ledger = self._mark, self._code.ledger
        mark.ended, mark.ended_order = ledger.now(), ledger.tick()
        if exc is None:
            mark.ending = "returned"
        elif isinstance(exc, (GeneratorExit, ThreadEnded)):
            mark.ending = "closed"
        else:
            mark.ending = cast("Any", ending_of(exc))
