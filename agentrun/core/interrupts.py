"""Interrupt requests: the first reason wins, a stronger mode escalates a weaker one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentrun.core.plain import PlainValue

__all__ = ["Interrupt", "InterruptLatch", "InterruptMode"]

InterruptMode: TypeAlias = Literal["immediate", "after_turn"]
"""``"immediate"`` cuts the model stream and the tools; ``"after_turn"`` lets both finish."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Interrupt(PlainValue):
    """The interrupt that ended a run, or is ending it.

    Attributes:
        reason: The first reason that was given, or ``None``.
        mode: The strongest mode that was asked for.
    """

    reason: str | None
    mode: InterruptMode


class InterruptLatch:
    """Remembers what was asked for. It never goes back.

    Attributes:
        current: What was asked for so far.
        immediate: Whether everything is to stop now.
    """

    __slots__ = ("current", "immediate")

    def __init__(self) -> None:
        self.current: Interrupt | None = None
        self.immediate: bool = False

    def request(self, reason: str | None, mode: InterruptMode) -> bool:
        """Ask for an interrupt. Returns whether that changed anything.

        The first reason stays, also when a later request escalates; but a reason given late is better than none.
        """
        before = self.current
        if before is None:
            self.current = Interrupt(reason, mode)
        elif before.mode == "after_turn" and mode == "immediate":
            self.current = Interrupt(before.reason if before.reason is not None else reason, "immediate")
        else:
            return False
        self.immediate = mode == "immediate"
        return True
