"""Whether a thread that has the baton works, or waits for what will not come while the event loop stands still."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

__all__ = ["BlockedThread", "BlockingWatch"]

_LOOK_EVERY: Final = 0.25  # seconds of real time
_MOST_IDLE_LOOKS: Final = 8  # looks, not seconds: a machine that stood still meanwhile has taken only one
_MOST_LOOKS_IN_THE_DARK: Final = 40
_AT_WORK: Final = "RD"  # running, or waiting for a processor or a disk

_now = time.perf_counter  # it may be exchanged in a trial


class BlockedThread(Exception):
    """A thread does not give the baton back.

    Attributes:
        works: It is at work, for longer than a trial may last; else it waits for something real.
    """

    def __init__(self, *, works: bool) -> None:
        super().__init__(works)
        self.works: bool = works


class BlockingWatch:
    """Waits for a thread that has the baton, within reason.

    A thread may work for as long as the trial may last. But one that is not at work for two seconds waits: for a lock,
    a socket, a pipe or a thread of its own. Where the system does not tell (it does on Linux), ten seconds count as
    waiting.
    """

    def __init__(self, real_end: float) -> None:
        """Args:
        real_end: Until when it may work, by ``time.perf_counter()``.
        """
        self.real_end: float = real_end

    def wait(self, baton: threading.Lock, thread: threading.Thread) -> None:
        """Wait for the baton.

        Raises:
            BlockedThread: It does not come.
        """
        if baton.acquire(timeout=_LOOK_EVERY):
            return
        before, idle = _work(thread), 0
        while not baton.acquire(timeout=_LOOK_EVERY):
            now = _work(thread)
            at_work = now is not None and (now[0] in _AT_WORK or now != before)
            before, idle = now, 0 if at_work else idle + 1
            if idle >= (_MOST_IDLE_LOOKS if now is not None else _MOST_LOOKS_IN_THE_DARK):
                raise BlockedThread(works=False)
            if _now() > self.real_end:
                raise BlockedThread(works=True)


def _work(thread: threading.Thread) -> tuple[str, str, str] | None:
    """The state of a thread and the processor time that it has used, as far as the system tells.

    Not by the clock of the thread (``time.pthread_getcpuclockid``): for one that has just ended it is undefined.
    """
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    return after_name[0], after_name[11], after_name[12]
