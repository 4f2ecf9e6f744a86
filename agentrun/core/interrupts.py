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
    """Remembers what was asked for. It never goes back."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: Interrupt | None = None

    @property
    def immediate(self) -> bool:
        """Whether everything is to stop now."""
        return self.current is not None and self.current.mode == "immediate"

    def request(self, reason: str | None, mode: InterruptMode) -> bool:
        """Ask for an interrupt. Returns whether that changed anything.

        The first reason stays, also when a later request escalates; but a reason given late is better than none.
        """
        before = self.current
        if before is None:
            self.current = Interrupt(reason, mode)
            return True
        if before.mode == "after_turn" and mode == "immediate":
            self.current = Interrupt(before.reason if before.reason is not None else reason, "immediate")
            return True
        return False
