"""Where a suspended task stands: the file and line of the user's code, not of the library it waits in."""

from __future__ import annotations

import functools
import gc
import inspect
import linecache
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, cast

__all__ = [
    "Place",
    "Standing",
    "first_line",
    "has_begun",
    "is_own",
    "is_own_module",
    "links",
    "place_in_stack",
    "what_went_on",
    "where",
]

_FRAMED: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)
_LIBRARIES: Final = frozenset({"anyio", "outcome", "sniffio", "trio"})
_ENGINE: Final = "agentrun.testing.sweeping."
_DRIVERS: Final = frozenset(f"{_ENGINE}{name}" for name in ("asyncio_points", "relay", "trio_points"))
_HARNESS: Final = frozenset(
    f"agentrun.testing.{name}" for name in ("checked_tool", "interrupt_sweep", "laws", "sweep", "watched_runs")
)
_NAMED_BY_ANYIO: Final = "_run_coro"  # what anyio wraps around each coroutine that it runs as a task


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code at which a task waits, or begins.

    Attributes:
        file: Path of the source file.
        line: Number of the line, from 1.
        function: Qualified name of the function.
        waiting_in: Name of the innermost function the task waits in, such as ``"sleep"``; empty if it has not begun.
    """

    file: str
    line: int
    function: str
    waiting_in: str = ""

    @property
    def source(self) -> str:
        """The line itself, stripped; empty if the file cannot be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        shown = self.file.rpartition("site-packages" + os.sep)[2]
        if shown == self.file and self.file.startswith(here := str(Path.cwd()) + os.sep):
            shown = self.file[len(here) :]
        text = f"{shown}:{self.line} in {self.function}"
        return f"{text}: `{self.source}`" if self.source else text


class Standing(ABC):
    """What is no coroutine, and stands somewhere nevertheless: a thread that waits for its turn."""

    @abstractmethod
    def place(self) -> Place:
        """Where it stands."""


def place_in_stack(frame: FrameType) -> Place:
    """The same as `where`, for a stack of calls: ``frame`` is the innermost one."""
    waiting_in, deepest = "", None
    link: FrameType | None = frame
    while link is not None:
        module = link.f_globals.get("__name__", "")
        if is_own(link):
            return Place(link.f_code.co_filename, link.f_lineno, link.f_code.co_qualname, waiting_in)
        if deepest is not None and module in _DRIVERS:
            break  # what is further out has started the trial
        if deepest is None and not module.startswith(_ENGINE):
            deepest = link
        waiting_in = link.f_code.co_name
        link = link.f_back
    frame = deepest or frame
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


def where(suspended: Any) -> Place:
    """The place a suspended coroutine stands at: the deepest line that is not a library's.

    For a coroutine that has not begun it is the first line of its function.
    """
    if isinstance(suspended, Standing):
        return suspended.place()
    own: FrameType | None = None
    deepest: FrameType | None = None
    for link in _chain(suspended):
        frame = _frame(link)
        if frame is None:
            continue
        deepest = frame
        if is_own(frame):
            own = frame
    if own is None:
        unstarted = _unstarted(suspended)
        if unstarted is not None:
            return Place(unstarted.co_filename, unstarted.co_firstlineno, unstarted.co_qualname)
    frame = own or deepest
    if frame is None or deepest is None:
        return Place("<unknown>", 0, getattr(suspended, "__qualname__", repr(suspended)))
    waiting_in = deepest.f_code.co_name if deepest is not frame else ""
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname, waiting_in)


def what_went_on(before: list[Any], now: list[Any]) -> FrameType | None:
    """Of two looks at a suspended coroutine with `links`: the deepest frame that has waited all the while."""
    kept = [one for one, other in zip(before, now, strict=False) if one is other]
    return _frame(kept[-1]) if kept else None


def links(suspended: Any) -> list[Any]:
    """A suspended coroutine, what it awaits, what that awaits, and so on, as far as Python code goes."""
    return list(_chain(suspended))


def has_begun(coro: Any) -> bool:
    """Whether a coroutine has taken its first step."""
    return _unstarted(coro) is None


def first_line(function: Any) -> Place | None:
    """Where a function begins, or the method that makes an object callable; ``None`` if it is not written in Python."""
    while isinstance(function, functools.partial):
        function = cast("Any", function).func
    function = inspect.unwrap(function)
    code: Any = getattr(function, "__code__", None) or getattr(function.__call__, "__code__", None)
    return Place(code.co_filename, code.co_firstlineno, code.co_qualname) if isinstance(code, CodeType) else None


def is_own(frame: FrameType) -> bool:
    """Whether a frame is of the code under test: no library's that it waits in, and not the harness's."""
    return is_own_module(frame.f_globals.get("__name__", ""))


def is_own_module(module: str) -> bool:
    """Whether a module is of the code under test; see `is_own`."""
    top = module.partition(".")[0]
    if module.startswith(_ENGINE) or module in _HARNESS:
        return False
    return top not in _LIBRARIES and top not in sys.stdlib_module_names


def _chain(suspended: Any) -> Iterator[Any]:
    """A coroutine, what it awaits, what that awaits, as far as Python code goes."""
    link: Any = suspended
    for _ in range(1000):
        if link is None:
            return
        if isinstance(link, _FRAMED):
            yield link
            link = _awaited(link)
        else:
            # A step of an asynchronous generator, or an awaitable object around a coroutine, or around a method of one
            # (such as its `send`): look inside.
            held: list[Any] = gc.get_referents(link)
            inner: list[Any] = [each for each in held if isinstance(each, _FRAMED)]
            inner += [each.__self__ for each in held if isinstance(getattr(each, "__self__", None), _FRAMED)]
            link = inner[0] if inner else None


def _awaited(link: Any) -> Any:
    if isinstance(link, CoroutineType):
        return cast("Any", link).cr_await
    if isinstance(link, AsyncGeneratorType):
        return cast("Any", link).ag_await
    return link.gi_yieldfrom


def _frame(link: Any) -> FrameType | None:
    if isinstance(link, CoroutineType):
        return link.cr_frame
    if isinstance(link, AsyncGeneratorType):
        return link.ag_frame
    return cast("FrameType | None", link.gi_frame)


def _inner_of_anyio(coro: Any) -> Any:
    """The user's coroutine inside the one that anyio runs as a task."""
    frame = getattr(coro, "cr_frame", None)
    if frame is not None and frame.f_code.co_name == _NAMED_BY_ANYIO:
        handle = frame.f_locals.get("self")
        return getattr(handle, "coro", coro)
    return coro


def _unstarted(coro: Any) -> CodeType | None:
    inner = _inner_of_anyio(coro)
    code = getattr(inner, "cr_code", None)
    frame = getattr(inner, "cr_frame", None)
    # Only an unstarted coroutine has neither begun nor ended.
    if code is None or frame is None or inner.cr_suspended or inner.cr_running:
        return None
    return cast("CodeType", code)
