"""The caller's end of an injected input."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from agentrun.core.inbox import Inbox, InboxEntry, InjectionStatus

__all__ = ["Injection"]


class Injection:
    """What ``inject`` returns: where the input is, and a way to take it back."""

    __slots__ = ("_entry", "_inbox")

    def __init__(self, inbox: Inbox, entry: InboxEntry) -> None:
        self._inbox = inbox
        self._entry = entry

    @property
    def id(self) -> str:
        """Id of the injection, as in its events."""
        return self._entry.id

    @property
    def status(self) -> InjectionStatus:
        """``"pending"``, ``"delivered"`` (a model call has it) or ``"undelivered"`` (none ever will)."""
        return self._entry.status

    @property
    def turn(self) -> int | None:
        """The turn whose model call has it, or ``None``."""
        return self._entry.turn

    def withdraw(self) -> bool:
        """Take the input back. Returns whether that was still possible; its status is ``"undelivered"`` then."""
        return self._inbox.withdraw(self._entry)

    async def wait(self) -> InjectionStatus:
        """Wait until the input is delivered, withdrawn or undelivered, and return the status. A checkpoint."""
        if self._entry.status != "pending":
            await anyio.lowlevel.checkpoint()
            return self._entry.status
        settled = anyio.Event()
        self._entry.on_settled.append(settled.set)
        try:
            await settled.wait()
        finally:
            self._entry.on_settled.remove(settled.set)
        return self._entry.status

    def __repr__(self) -> str:
        return f"<Injection {self.id} {self.status}>"
