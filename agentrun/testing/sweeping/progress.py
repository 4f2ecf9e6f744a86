"""A line that says how far a long sweep has come, for people who look at a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self

__all__ = ["Progress"]

_FIRST_AFTER = 2.0
_EVERY = 0.2


class Progress:
    """``with Progress(...) as progress``, then ``progress.step()`` for each run. Writes to stderr, if it is a terminal.

    Args:
        title: What is going on.
        enabled: ``None`` means: if stderr is a terminal, and it takes longer than two seconds.
    """

    def __init__(self, title: str, enabled: bool | None = None) -> None:
        self._title = title
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._done = self._total = self._failures = 0
        self._next = time.perf_counter() + _FIRST_AFTER
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def expect(self, runs: int) -> None:
        """So many more runs are to come."""
        self._total += runs

    def step(self, failed: bool) -> None:
        """One run is done."""
        self._done += 1
        self._failures += failed
        if self._enabled and (now := time.perf_counter()) >= self._next:
            self._next = now + _EVERY
            self._shown = True
            width = 30 * self._done // max(self._total, self._done, 1)
            failures = f", {self._failures} failed" if self._failures else ""
            bar = "#" * width + "-" * (30 - width)
            sys.stderr.write(f"\r\x1b[K{self._title} [{bar}] {self._done}/{self._total}{failures}")
            sys.stderr.flush()
