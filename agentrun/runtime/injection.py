"""The caller's end of an injected input."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel

from agentrun.core.errors import UserError
from agentrun.core.inbox import Inbox, InboxEntry, InjectionStatus
from agentrun.runtime.threads import call_in_loop

__all__ = ["Injection"]


class Injection:
    """What ``inject`` returns: where the input is, and a way to take it back.

    All but ``wait`` may be asked from any thread.
    """

    __slots__ = ("_entry", "_inbox", "_thread_id", "_token")

    def __init__(self, inbox: Inbox, entry: InboxEntry, token: anyio.lowlevel.EventLoopToken | None = None) -> None:
        """Args:
        inbox: Where it waits.
        entry: The input there.
        token: That of the run's event loop, which runs in this thread, if it is at hand.
        """
        self._inbox = inbox
        self._entry = entry
        self._token = token if token is not None else anyio.lowlevel.current_token()
        self._thread_id = threading.get_ident()

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
        if threading.get_ident() == self._thread_id:
            return self._inbox.withdraw(self._entry)
        try:
            return call_in_loop(lambda: self._inbox.withdraw(self._entry), self._token)
        except anyio.RunFinishedError:
            return False  # the loop has ended, and what was pending is undelivered

    async def wait(self) -> InjectionStatus:
        """Wait until the input is delivered, withdrawn or undelivered, and return the status. A checkpoint.

        Raises:
            UserError: This is not the thread of the run's event loop.
        """
        if threading.get_ident() != self._thread_id:
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
