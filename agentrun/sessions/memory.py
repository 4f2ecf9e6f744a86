"""A session that lives as long as the process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio.lowlevel

from agentrun.core.items import Item
from agentrun.core.transcript import check_history

__all__ = ["MemorySession"]


class MemorySession:
    """Keeps a conversation in memory. For tests, scripts, and servers that keep state in the process.

    Attributes:
        items: The history so far.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        """Begin with ``items``.

        Raises:
            UserError: They are not a valid history.
        """
        self.items: list[Item] = list(items)
        check_history(self.items, what="session")

    async def load(self) -> Sequence[Item]:
        """A copy of the history. A checkpoint."""
        await anyio.lowlevel.checkpoint()
        return tuple(self.items)

    async def append(self, items: Sequence[Item]) -> None:
        """Add ``items``. A checkpoint."""
        await anyio.lowlevel.checkpoint()
        self.items.extend(items)
