"""The terminal itself: its mode while the prompt is open, given back however the program ends."""

from __future__ import annotations

import os
import signal
import sys
import termios
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Terminal"]

_BRACKETED_PASTE_ON: Final = b"\x1b[?2004h"
_BRACKETED_PASTE_OFF: Final = b"\x1b[?2004l\x1b[?25h\x1b[0m"
_FALLBACK_COLUMNS: Final = 80


class Terminal:
    """A terminal that gives every key as it is pressed, as a context manager.

    Ctrl-C and Ctrl-Z still make signals. Pasted text comes in brackets (``ESC [ 200 ~`` as xterm documents it), so
    that a newline in it does not send it.
    """

    def __init__(self, input_fd: int = 0, output_fd: int = 1) -> None:
        self._in = input_fd
        self._out = output_fd
        self._saved: list[Any] | None = None

    @staticmethod
    def usable() -> bool:
        """Whether stdin and stdout are a terminal that can do what is needed here."""
        streams = (sys.stdin, sys.stdout)  # None when they are closed
        return all(streams) and os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "dumb") not in ("", "dumb")

    def columns(self) -> int:
        """How wide it is."""
        try:
            return os.get_terminal_size(self._out).columns or _FALLBACK_COLUMNS
        except OSError:
            return _FALLBACK_COLUMNS

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.restore()

    def open(self) -> None:
        """Take single keys, without an echo."""
        if self._saved is not None:
            return
        self._saved = termios.tcgetattr(self._in)
        mode = termios.tcgetattr(self._in)
        # Enter is \r and Ctrl-S an ordinary key: an output that stands still would not show what one types.
        mode[0] &= ~(termios.IXON | termios.ICRNL | termios.INLCR | termios.IGNCR)
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        # TCSANOW: what was typed ahead stays, and nothing waits for the output to drain.
        termios.tcsetattr(self._in, termios.TCSANOW, mode)
        self._write(_BRACKETED_PASTE_ON)

    def restore(self) -> None:
        """Give it back as it was. Synchronous; may be called any number of times."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        self._write(_BRACKETED_PASTE_OFF)
        try:
            termios.tcsetattr(self._in, termios.TCSANOW, saved)
        except (termios.error, OSError):
            pass  # it has gone

    def suspend(self) -> None:
        """Stop the process as Ctrl-Z does, with the terminal given back meanwhile; returns when it goes on."""
        self._write(b"\r\n")
        self.restore()
        handler = signal.getsignal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here it stops
        signal.signal(signal.SIGTSTP, handler)
        self.open()

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._out, data)
        except OSError:
            pass
