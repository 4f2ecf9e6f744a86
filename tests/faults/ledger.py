"""What the user code of the scenes has done, told by itself; and what must be true of it after each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from agentrun import RunContext
from agentrun.runtime.cancellations import split_cancelled
from agentrun.testing import BrokenLaw

__all__ = ["Ledger", "book"]


class Ledger:
    """Who has begun and who has cleaned up. There is one, which each run begins afresh."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new run."""
        self.owed: list[str] = []  # cleanups that must come to their end
        self.cleaned: list[str] = []
        self.late: list[str] = []  # cleanups that ended when the run was already over
        self.order: list[str] = []
        self.hooks: list[str] = []
        self.raised: list[BaseException] = []  # errors that the caller has to be told of
        self.returned: list[str] = []  # tools that have returned by themselves
        self.cancelled: list[str] = []  # code that was told to stop
        self.broken: list[BrokenLaw] = []
        self.notes: dict[str, Any] = {}

    @asynccontextmanager
    async def cleaning_up(
        self, name: str, ctx: RunContext[Any] | None = None, *, seconds: float = 0.1, always: bool = False
    ) -> AsyncIterator[None]:
        """``try: ... finally: await ...`` as users write it.

        Args:
            name: Whose it is.
            ctx: To see whether the run was over when the cleanup was.
            seconds: How long it takes.
            always: Also when it is first cancelled in its cleanup: it was registered or shielded.
        """
        if always:
            self.owed.append(name)
        try:
            yield
        except BaseException as exc:
            if split_cancelled(exc, anyio.get_cancelled_exc_class())[0] is not None:
                self.cancelled.append(name)
                if not always:
                    self.owed.append(name)
            raise
        finally:
            await anyio.sleep(seconds)
            self.cleaned.append(name)
            if ctx is not None and ctx.run.result is not None:
                self.late.append(name)

    def check(self) -> None:
        """The laws, as far as the marks tell.

        Raises:
            BrokenLaw: One is broken.
        """
        for broken in self.broken:
            raise broken
        if left := Counter(self.owed) - Counter(self.cleaned):
            raise BrokenLaw(7, f"not cleaned up: {sorted(left)}")
        if self.late:
            raise BrokenLaw(1, f"the run had ended before these had cleaned up: {self.late}")
        starts = Counter(told.removesuffix(" start") for told in self.hooks if told.endswith(" start"))
        ends = Counter(told.removesuffix(" end") for told in self.hooks if told.endswith(" end"))
        if starts != ends:
            raise BrokenLaw(12, f"hooks were told {self.hooks}")


book = Ledger()
