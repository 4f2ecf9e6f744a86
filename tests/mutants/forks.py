"""A fork of this process that does something and says how it is getting on, and can be ended at any moment."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import Self

__all__ = ["Fork"]


class Fork:
    """A context manager; when the block is left, the process and those of its group are gone."""

    def __init__(self, work: Callable[[Callable[[bytes], object]], object]) -> None:
        """Args:
        work: What it does, with a function by which it can say something.
        """
        self._work = work
        self._reading = self._pid = -1

    def __enter__(self) -> Self:
        self._reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._be_the_child(writing)
        os.close(writing)
        return self

    def _be_the_child(self, writing: int) -> None:
        try:  # nothing of what the parent does further out, such as removing files, is to happen here
            os.setsid()
            self._work(lambda what: os.write(writing, what))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def hear(self, seconds: float) -> bytes | None:
        """The next byte that it says, nothing if it has ended, ``None`` if it has not said anything in that time."""
        ready, _, _ = select.select([self._reading], [], [], seconds)
        return os.read(self._reading, 1) if ready else None

    def __exit__(self, *_: object) -> None:
        os.close(self._reading)
        for kill in (os.killpg, os.kill):  # the group, and the child itself if it has not made its group yet
            try:
                kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(self._pid, 0)
