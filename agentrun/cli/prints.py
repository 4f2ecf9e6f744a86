"""What user code prints while the prompt is open."""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["Prints"]


class Prints(io.TextIOBase):
    """Takes the place of ``sys.stdout`` and ``sys.stderr``, so that a ``print`` in a tool does not end up in the middle
    of the prompt. May be written to from any thread."""

    def __init__(self, on_print: Callable[[], None]) -> None:
        """Args:
        on_print: Called when there is something, in the thread that made this object; what other threads print has
            to be asked for.
        """
        super().__init__()
        self._on_print = on_print
        self._thread = threading.get_ident()
        self._pieces: deque[str] = deque()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """For code that asks."""
        return "utf-8"

    def write(self, text: str, /) -> int:
        """Keep ``text``."""
        self._pieces.append(text)
        if threading.get_ident() == self._thread:
            self._on_print()
        return len(text)

    @property
    def waiting(self) -> bool:
        """Whether something was printed that nobody has taken."""
        return bool(self._pieces)

    def take(self) -> str:
        """What was printed since the last time."""
        pieces: list[str] = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        return "".join(pieces)

    @contextmanager
    def installed(self) -> Generator[None, None, None]:
        """Be ``sys.stdout`` and ``sys.stderr``."""
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
