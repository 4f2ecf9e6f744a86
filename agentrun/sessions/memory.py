"""A session that lives as long as the process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import anyio.lowlevel

from agentrun.core.errors import UserError
from agentrun.core.items import Item, ToolCall
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
        self._call_ids: set[str] = set()  # in the first items, as many as were counted
        self._counted = 0

    async def load(self) -> Sequence[Item]:
        """A copy of the history. A checkpoint."""
        await anyio.lowlevel.checkpoint()
        return tuple(self.items)

    async def append(self, items: Sequence[Item]) -> None:
        """Add ``items``, all or none. A checkpoint.

        Raises:
            UserError: A tool call has an id that is in the history already, from a run that went on at the same time.
        """
        await anyio.lowlevel.checkpoint()
        if new := _call_ids(items):
            if self._counted != len(self.items) or not new.isdisjoint(self._call_ids):
                self._call_ids = _call_ids(self.items)  # who holds the session may have changed its items
            if taken := new & self._call_ids:
                raise UserError(
                    f"the session already has a tool call with the id {min(taken)!r}: another run has used it at the "
                    "same time, and this one did not see what that one added. Let the runs of a session follow one "
                    "another"
                )
            self._call_ids |= new
            self._counted = len(self.items)
        if self._counted == len(self.items):
            self._counted += len(items)
        self.items.extend(items)


def _call_ids(items: Iterable[Item]) -> set[str]:
    return {item.call_id for item in items if isinstance(item, ToolCall)}
