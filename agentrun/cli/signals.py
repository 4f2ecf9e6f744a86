"""Signals: the first Ctrl-C is soft, the second hard, the third the system's own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from signal import Signals
from typing import Any, Final

import anyio

__all__ = ["ENDING_SIGNALS", "Presses", "received", "use_system_default"]

ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command, in order."""

_LAST: Final = 3


class Presses:
    """How often Ctrl-C was pressed in a row.

    Counted in the signal handler and not in the event loop, so that the last resort works when the loop hangs, be it
    because user code blocks it or because a cleanup never ends.
    """

    def __init__(self, before_death: Callable[[], None]) -> None:
        self._before_death = before_death
        self.count: int = 0

    def reset(self) -> None:
        """The user did something else: begin to count anew."""
        self.count = 0

    def add(self) -> None:
        """One more; the third one ends the process as if nobody had ever handled the signal."""
        self.count += 1
        if self.count >= _LAST:
            self._before_death()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


def use_system_default() -> None:
    """Let Ctrl-C end the process as it ends any other, as long as nobody receives it.

    Python's own way, a `KeyboardInterrupt` wherever the program happens to be, would come with a traceback, also from
    the middle of an orderly ending.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def received(presses: Presses, *more: Signals) -> Generator[AsyncIterator[Signals], None, None]:
    """Receive the signals that end a command, and ``more``; the presses of Ctrl-C are counted in ``presses``.

    For the main thread. Leaving gives the signals their earlier handlers back.
    """
    # A parent that started us with SIGINT or SIGHUP ignored (a shell's `&` in a script, nohup) meant it.
    wanted = [number for number in (*ENDING_SIGNALS, *more) if signal.getsignal(number) is not signal.SIG_IGN]
    before = signal.getsignal(signal.SIGINT)
    mask: set[int | Signals] | None = None
    try:
        with anyio.open_signal_receiver(*wanted) as signals:
            if signal.SIGINT in wanted:
                _count_as_well(presses)
            try:
                yield signals
            finally:
                # asyncio would leave Python's own handler for an instant.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    finally:
        signal.signal(signal.SIGINT, before)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _count_as_well(presses: Presses) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def count(number: int, frame: Any) -> None:
        presses.add()
        if callable(handler):
            handler(number, frame)

    signal.signal(signal.SIGINT, count)
    signal.siginterrupt(signal.SIGINT, False)
