"""The caller's end of an injected input."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from agentrun.core.errors import UserError
from agentrun.core.inbox import Inbox, InboxEntry, InjectionStatus
from agentrun.runtime.event_loop import EventLoop, running_loop

__all__ = ["Injection"]


class Injection:
    """What ``inject`` returns: where the input is, and a way to take it back.

    All but ``wait`` may be asked from any thread.
    """

    __slots__ = ("_entry", "_inbox", "_loop")

    def __init__(self, inbox: Inbox, entry: InboxEntry, loop: EventLoop | None = None) -> None:
        """Args:
        inbox: Where it waits.
        entry: The input there.
        loop: That of the run, which runs in this thread, if it is at hand.
        """
        self._inbox = inbox
        self._entry = entry
        self._loop = loop if loop is not None else running_loop()

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
        """Take the input back. Returns whether that was still possible; its status is ``"undelivered"`` then.

        From a thread other than the event loop's it waits until the loop has done it.
        """
        try:
            return self._loop.call(lambda: self._inbox.withdraw(self._entry))
        except anyio.RunFinishedError:
            return False  # the loop has ended, and what was pending is undelivered

    async def wait(self) -> InjectionStatus:
        """Wait until the input is delivered, withdrawn or undelivered, and return the status. A checkpoint.

        Raises:
            UserError: This is not the thread of the run's event loop.
        """
        if not self._loop.is_here:
            raise UserError(
                "Injection.wait() was called in another event loop than the run's; look at its status there instead"
            )
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
