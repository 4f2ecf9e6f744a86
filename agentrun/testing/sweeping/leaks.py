"""What a run of a scenario leaves behind in the process."""

from __future__ import annotations

import contextlib
import dis
import gc
import os
import re
import sys
import threading
import warnings
import weakref
from collections.abc import Generator
from pathlib import Path
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from agentrun.testing.sweeping.places import Place

if TYPE_CHECKING:
    from agentrun.testing.sweeping.points import Trial

__all__ = ["LeakWatch", "watch_async_generators"]

_Process: TypeAlias = tuple[set[threading.Thread], set[str], set[str]]
"""Threads, file descriptors and child processes."""

_ADDRESS = re.compile(r" at (0x)?[0-9a-f]{6,}")
_NUMBER_OF_A_THREAD = re.compile(r"^(ThreadPoolExecutor|Thread)-\d+(_\d+)?")  # another one in each trial
_FD_DIRECTORIES = ("/proc/self/fd", "/dev/fd")

_LEAVE_THEIR_GENERATORS: Final = frozenset({"httpcore", "httpcore2", "httpx", "httpx2"})
"""Libraries that iterate over generators of their own without closing them. What counts there is the response: closing
that, as ``async with client.stream(...)`` does, gives the connection back."""

# Python 3.12 keeps some hundred objects of its own frozen; a program that has frozen more wants them to stay so.
_OWN_FROZEN: Final = 1000


class LeakWatch:
    """Compares the process before and after each trial. One for a whole sweep: ``with LeakWatch() as watch``.

    It takes over the warnings and the unraisable errors of the process, freezes the garbage collector's view of what
    was there before (so that collecting after each trial is cheap), and switches automatic collection off (it would
    make finalizers run at other points each time).
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._warnings: list[warnings.WarningMessage] = []
        self._unraisable: list[str] = []
        self._before: _Process | None = None
        self._fd_directory = next((path for path in _FD_DIRECTORIES if Path(path).is_dir()), None)

    def __enter__(self) -> Self:
        stack = self._stack
        log = stack.enter_context(warnings.catch_warnings(record=True))
        assert log is not None
        self._warnings = log
        warnings.filterwarnings("always", category=ResourceWarning)
        warnings.filterwarnings("always", message=r"coroutine .* was never awaited", category=RuntimeWarning)
        hook = sys.unraisablehook
        sys.unraisablehook = self._note_unraisable
        stack.callback(setattr, sys, "unraisablehook", hook)
        if gc.get_freeze_count() < _OWN_FROZEN:
            # Garbage of earlier is not taken for what a trial has left: it is frozen, too. Collecting it first would
            # take more time, in a test process with its many objects, than many a sweep.
            gc.freeze()
            stack.callback(gc.unfreeze)
        else:
            gc.collect()
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def around(self, trial: Trial) -> Generator[None]:
        """Watch one trial; what it leaves behind becomes its violations."""
        del self._warnings[:], self._unraisable[:]
        threads, descriptors, children = self._before or _look(self._fd_directory)
        yield
        gc.collect()
        self._before = after = _look(self._fd_directory)  # what one trial has left is not the fault of the next
        for thread in after[0] - threads:
            name = _NUMBER_OF_A_THREAD.sub(r"\1", thread.name)
            trial.violate("thread", f"{name!r} is still alive")
        if left := after[1] - descriptors:
            trial.violate("fd", ", ".join(f"{number} ({_target(number)})" for number in sorted(left, key=int)))
        for child in sorted(after[2] - children):
            trial.violate("subprocess", f"process {child} still runs")
        for warning in self._warnings:
            text = str(warning.message)
            # trio warns of asynchronous generators, too; `watch_async_generators` has seen them on both backends.
            if issubclass(warning.category, (ResourceWarning, RuntimeWarning)) and "Async generator" not in text:
                trial.violate("resource", _ADDRESS.sub("", text))
        for text in self._unraisable:
            trial.violate("unhandled", text)

    def _note_unraisable(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        doing = unraisable.err_msg or f"in {unraisable.object!r:.80}"
        self._unraisable.append(f"{type(error).__name__}: {error} ({doing})")


@contextlib.contextmanager
def watch_async_generators(trial: Trial) -> Generator[None]:
    """Notice asynchronous generators that are left to the garbage collector, or still open at the end of this block.

    Their cleanup would run at some other time, in some other task, or never. One that has no cleanup where it stands
    may be left, and so may those of libraries whose users cannot close them all.
    """
    alive: list[weakref.ref[AsyncGeneratorType[Any, Any]]] = []
    # Two names, not the named tuple: that is not tracked by the garbage collector, and would keep each loop for ever.
    first_before, finalizer_before = sys.get_asyncgen_hooks()

    def first_iteration(generator: Any) -> None:
        alive.append(weakref.ref(generator))
        if first_before is not None:
            first_before(generator)

    def finalizer(generator: Any) -> None:
        if _has_no_cleanup(generator):
            return  # it is freed now, and that is that; the event loop would make a task to close it
        _complain(trial, generator, "was left to the garbage collector at")
        if finalizer_before is not None:
            finalizer_before(generator)

    sys.set_asyncgen_hooks(first_iteration, finalizer)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(first_before, finalizer_before)
        for reference in alive:
            generator = reference()
            if generator is not None and generator.ag_frame is not None and not _has_no_cleanup(generator):
                _complain(trial, generator, "is still open at")


def _complain(trial: Trial, generator: AsyncGeneratorType[Any, Any], what: str) -> None:
    frame, code = generator.ag_frame, generator.ag_code
    if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LEAVE_THEIR_GENERATORS:
        return
    line = frame.f_lineno if frame is not None else code.co_firstlineno
    trial.violate("asyncgen", f"{generator.__qualname__} {what}", Place(code.co_filename, line, code.co_qualname))


def _has_no_cleanup(generator: AsyncGeneratorType[Any, Any]) -> bool:
    """Whether closing it would run nothing: it stands at a ``yield`` that is in no ``try`` and no ``with``."""
    frame, code = generator.ag_frame, generator.ag_code
    if frame is None or generator.ag_await is not None:
        return False
    internals: Any = dis
    handlers = {
        entry.target for entry in internals._parse_exception_table(code) if entry.start <= frame.f_lasti < entry.end
    }
    # From Python 3.12 on the compiler puts a handler of its own around each generator, for a StopIteration.
    own = {step.offset for step in dis.get_instructions(code) if step.argrepr == "INTRINSIC_STOPITERATION_ERROR"}
    return handlers <= own


def _look(fd_directory: str | None) -> _Process:
    return set(threading.enumerate()), _descriptors(fd_directory), _children()


def _descriptors(directory: str | None) -> set[str]:
    if directory is None:
        return set()
    return {number for number in os.listdir(directory) if _is_open(int(number))}  # noqa: PTH208 - speed


def _is_open(descriptor: int) -> bool:
    """Whether it is, still: the descriptor of the listing itself is not."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - a link to what is no path
    except OSError:
        return "?"


def _children() -> set[str]:
    """Ids of the child processes, where the kernel tells."""
    try:
        return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())
    except OSError:
        return set()
