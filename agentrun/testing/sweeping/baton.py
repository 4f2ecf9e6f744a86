"""Threads that take turns with the event loop: at any time either the loop runs, or exactly one of them.

Such a thread is a real one of the operating system, so that all that is local to a thread (the running event loop, the
current task, the worker thread's data of anyio and trio) is as it is outside of a sweep. But it runs only while the
event loop waits for it: it is resumed in a step of the loop, and gives the baton back when it pauses or ends. So what
runs when is the loop's decision, and the same in each trial.

What else was considered: greenlets (another dependency, and the thread's locals would be the loop's), and running the
function in the loop's own thread (it could not sleep, nor call back into the loop).

Each call has a fresh thread. Idle ones that are used again, as anyio and trio keep them, would bring what an earlier
trial has left in their locals; and starting one takes less time than everything else in a trial.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final, Literal, TypeAlias

from agentrun.testing.sweeping.blocking import BlockingWatch
from agentrun.testing.sweeping.places import Place, Standing, place_in_stack

__all__ = ["ThreadEnded", "VirtualThread", "current_thread"]

State: TypeAlias = Literal["new", "running", "paused", "ended", "lost"]

_MOST_ENDINGS: Final = 50  # times that a thread is told to end before it is left where it is
_JOIN: Final = 5.0  # seconds; a thread that has given the baton back for good has nothing left to do

_current: dict[int, VirtualThread] = {}
"""The threads that have begun and not ended, by their identity."""


class ThreadEnded(BaseException):
    """Raised in a thread where it pauses, to end it: the trial is over, or nothing else can end the scenario."""


def current_thread() -> VirtualThread | None:
    """The virtual thread that this code runs in, if it does."""
    return _current.get(threading.get_ident())


class VirtualThread(Standing):
    """One call in a thread. It is made, resumed and ended by the event loop; it pauses itself.

    Attributes:
        name: Name of the thread.
        state: ``"lost"`` if it did not give the baton back: nobody waits for it any more.
        seconds: Paused for so many seconds of virtual time; ``None``: until it is woken.
        pauses: How often it has paused. A wake-up that is meant for an earlier pause is none.
        sent: Whether it has asked the event loop for something, so that it may wait for the answer next.
        lost_at: Where it stood when it was lost.
    """

    def __init__(
        self, target: Callable[[], object], name: str, asked_at: Place, on_wake: Callable[[int], None]
    ) -> None:
        """Args:
        target: What runs in the thread, and tells the loop what came of it.
        name: See above.
        asked_at: Where the task stood that has asked for it.
        on_wake: Called with the number of a pause that is to end.
        """
        self.on_wake: Callable[[int], None] = on_wake
        self.name: str = name
        self.state: State = "new"
        self.seconds: float | None = None
        self.pauses: int = 0
        self.sent: bool = False
        self.lost_at: Place | None = None
        self._target = target
        self._asked_at = asked_at
        self._to_thread, self._to_loop = threading.Lock(), threading.Lock()
        self._to_thread.acquire()
        self._to_loop.acquire()
        self._thread: threading.Thread | None = None
        self._ending = False

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.state != "ended"

    # For the event loop -----------------------------------------------------------------------------------------

    def resume(self, watch: BlockingWatch) -> None:
        """Let it run until it pauses or ends. Does nothing if it is not paused, or new.

        Args:
            watch: Looks at it meanwhile, and knows for how long it may run.

        Raises:
            BlockedThread: It does not give the baton back. It is lost then.
        """
        if self.state == "new":
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self.state = "running"
            self._thread.start()
        elif self.state == "paused":
            self.state = "running"
            self._to_thread.release()
        else:
            return
        assert self._thread is not None
        try:
            watch.wait(self._to_loop, self._thread)
        except BaseException:  # or an interrupt from the keyboard
            self.lost_at = self.place()
            self.state = "lost"
            raise

    def end(self, watch: BlockingWatch) -> None:
        """Make it end, by an exception where it pauses; its cleanup runs, and cannot pause."""
        self._ending = True
        if self.state == "new":
            self.state = "ended"
        for _ in range(_MOST_ENDINGS):
            if self.state != "paused":
                return
            self.resume(watch)

    def join(self) -> None:
        """Wait until the operating system has seen the end of it, too. Only if it has ended."""
        if self._thread is not None and self.state == "ended":
            self._thread.join(_JOIN)

    def place(self) -> Place:
        """Where it stands."""
        if self.lost_at is not None:
            return self.lost_at
        frame = self._frame()
        return place_in_stack(frame) if frame is not None else self._asked_at

    def _frame(self) -> FrameType | None:
        ident = self._thread.ident if self._thread is not None else None
        return sys._current_frames().get(ident) if ident is not None and self.alive else None

    def waker(self) -> Callable[[], None]:
        """A function that ends the next pause, in the event loop's own time. It may be called in the loop only."""
        number = self.pauses + 1
        return lambda: self.on_wake(number)

    # For the thread itself --------------------------------------------------------------------------------------

    def pause(self, seconds: float | None) -> None:
        """Give the baton back, and wait: for so many seconds of virtual time, or until the loop wakes it.

        Raises:
            ThreadEnded: It is over.
        """
        if self.state == "running":
            self.seconds = seconds
            self.pauses += 1
            self._hand_back("paused")
            self._to_thread.acquire()
        if self._ending or self.state == "lost":
            raise ThreadEnded

    def asks(self) -> None:
        """It asks the event loop for something, and may wait for the answer next.

        Raises:
            ThreadEnded: It is over.
        """
        if self._ending:
            raise ThreadEnded
        self.sent = True

    def _hand_back(self, state: State) -> None:
        if self.state == "running":  # else nobody waits for it
            self.state = state
            self._to_loop.release()

    def _run(self) -> None:
        ident = threading.get_ident()
        _current[ident] = self
        try:
            self._target()
        except BaseException:  # noqa: BLE001 - the target tells of errors itself; this is that nobody listens any more
            pass
        finally:
            del _current[ident], self._target
            self._hand_back("ended")
