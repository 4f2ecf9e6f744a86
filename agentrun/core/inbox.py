"""Input that was injected into a run and waits for a model call.

An entry is pending until it is either taken, in the order of injection, into exactly one model call, or the inbox is
closed and it comes back undelivered. There is no third way and no way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from agentrun.core.errors import InboxFull, RunEnded
from agentrun.core.items import Item

__all__ = ["Delivery", "Inbox", "InboxEntry", "InjectionStatus"]

Delivery: TypeAlias = Literal["next", "now", "idle"]
"""When an input goes to the model: with the ``"next"`` call, ``"now"`` in a call that cuts what runs, or when the run
would finish and is ``"idle"``."""

InjectionStatus: TypeAlias = Literal["pending", "delivered", "undelivered"]


@dataclass(slots=True, eq=False)
class InboxEntry:
    """One injected input.

    Attributes:
        id: Unique in its run.
        items: What was injected.
        deliver: When it wants to be delivered.
        status: Where it is.
        turn: The turn whose model call it is part of, once delivered.
        on_settled: Called, once, when the status is no longer pending.
    """

    id: str
    items: tuple[Item, ...]
    deliver: Delivery
    status: InjectionStatus = "pending"
    turn: int | None = None
    on_settled: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def settle(self, status: InjectionStatus, turn: int | None = None) -> None:
        """Leave the pending state."""
        self.status = status
        self.turn = turn
        for callback in self.on_settled:
            callback()


class Inbox:
    """The pending entries of a run, in the order of injection.

    Attributes:
        pending: What waits, oldest first. An attribute, since the turn machine asks several times a turn whether there
            is anything.
    """

    __slots__ = ("_capacity", "_closed", "_last_number", "pending")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.pending: tuple[InboxEntry, ...] = ()
        self._last_number = 0
        self._closed = False

    def add(self, items: tuple[Item, ...], deliver: Delivery) -> InboxEntry:
        """Take an input in.

        Raises:
            RunEnded: The inbox is closed.
            InboxFull: As many entries wait as may; nothing is lost, inject again later.
        """
        if self._closed:
            raise RunEnded("the run has ended: input can no longer be injected; start a new run from result.history")
        if len(self.pending) >= self._capacity:
            raise InboxFull(
                f"{len(self.pending)} injected inputs are already waiting; "
                "wait for one to be delivered, or raise RunConfig.max_pending_injections"
            )
        self._last_number += 1
        entry = InboxEntry(f"injection-{self._last_number}", items, deliver)
        self.pending += (entry,)
        return entry

    def withdraw(self, entry: InboxEntry) -> bool:
        """Take an entry back. Returns ``False`` when it is too late."""
        if entry.status != "pending":
            return False
        self.pending = tuple(other for other in self.pending if other is not entry)
        entry.settle("undelivered")
        return True

    def ready(self, *, finishing: bool) -> list[InboxEntry]:
        """What the next model call would take, without taking it.

        Args:
            finishing: The run has nothing left to do, so ``"idle"`` entries are due if no others are.
        """
        due = [entry for entry in self.pending if entry.deliver != "idle"]
        if not due and finishing:
            return list(self.pending)
        return due

    @property
    def wants_now(self) -> bool:
        """Whether an input waits that cuts what runs."""
        return bool(self.pending) and any(entry.deliver == "now" for entry in self.pending)

    def take(self, entries: Sequence[InboxEntry], turn: int) -> None:
        """Mark ``entries`` as delivered with the model call of ``turn``. The caller adds their items to the history in
        the same synchronous step."""
        taken = set(map(id, entries))
        left = tuple(entry for entry in self.pending if id(entry) not in taken)
        if len(left) + len(entries) != len(self.pending):
            raise AssertionError("only pending entries can be taken, and each only once")
        self.pending = left
        for entry in entries:
            entry.settle("delivered", turn)

    def close(self) -> tuple[InboxEntry, ...]:
        """Refuse further input. What was still pending becomes undelivered and is returned, oldest first."""
        self._closed = True
        left, self.pending = self.pending, ()
        for entry in left:
            entry.settle("undelivered")
        return left
