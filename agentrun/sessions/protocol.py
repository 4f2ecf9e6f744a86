"""What a run needs of a place where histories live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from agentrun.core.items import Item

__all__ = ["Session"]


@runtime_checkable
class Session(Protocol):
    """Stores one conversation. Any object with these two methods will do.

    A run loads the history once, at its start, and appends to it: its input, then what each turn added, each time a
    piece that leaves the stored history valid (no tool call without its output). ``append`` is awaited shielded from
    interrupts, with ``cleanup_grace`` seconds to finish once the run is being torn down.
    """

    async def load(self) -> Sequence[Item]:
        """The whole history, oldest first."""
        ...

    async def append(self, items: Sequence[Item]) -> None:
        """Add ``items`` at the end, all or none.

        Raise an error if a call id in them is in the history already. It can be if two runs use the session at once and
        the model numbers its calls alike; no later run could be given the history then.
        """
        ...
