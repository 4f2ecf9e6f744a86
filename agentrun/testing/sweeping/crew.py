"""The virtual threads of one trial."""

from __future__ import annotations

import contextvars
import functools
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentrun.testing.sweeping.baton import VirtualThread, current_thread
from agentrun.testing.sweeping.blocking import BlockedThread, BlockingWatch
from agentrun.testing.sweeping.places import place_in_stack
from agentrun.testing.sweeping.relay import TaskRecord
from agentrun.testing.sweeping.thread_patches import set_clock

if TYPE_CHECKING:
    from agentrun.testing.sweeping.points import Trial

__all__ = ["Crew"]


class Crew:
    """Makes the threads of a trial, lets them take their steps, and ends those that are left.

    A step of a thread is a scheduling point like that of a task. When it is taken is up to the event loop.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._records: dict[VirtualThread, TaskRecord] = {}
        self._watch = BlockingWatch(trial.real_end)

    def make(
        self,
        target: Callable[[], object],
        name: str,
        function: Any,
        asked_by: TaskRecord | None,
        on_wake: Callable[[VirtualThread, int], None],
    ) -> VirtualThread:
        """A thread that has not begun.

        Args:
            target: What runs in it.
            name: Its name; a number makes it unique.
            function: The function that was asked for, if that is known.
            asked_by: The task that has asked for it, and that runs now.
            on_wake: Ends a pause of the thread, if it is the one with this number.
        """
        if not self._records:
            set_clock(self._trial.backend.now)
        number = len(self._records) + 1
        thread = VirtualThread(
            target, f"{name} {number}", place_in_stack(sys._getframe(1)), lambda pause: on_wake(thread, pause)
        )
        self._records[thread] = self._trial.adopt_thread(thread, _shown(function, asked_by))
        return thread

    def record(self, thread: VirtualThread) -> TaskRecord:
        """The record of a thread."""
        return self._records[thread]

    def may_call_back(self) -> bool:
        """Whether this is code in a thread of the trial, which runs because the event loop waits for it. It will wait
        for what it asks the loop for now.

        Raises:
            ThreadEnded: The thread is to end: the loop does nothing for it any more.
        """
        thread = current_thread()
        if thread is None or thread not in self._records or thread.state != "running":
            return False
        thread.asks()
        return True

    def resume(self, thread: VirtualThread) -> None:
        """Let a thread take a step. If it does not give the baton back, the trial is over."""
        self._watch.real_end = self._trial.real_end
        try:
            thread.resume(self._watch)
        except BlockedThread as exc:
            self._lose(thread, exc)
        self._note(thread)

    def end_all(self) -> None:
        """End the threads that there are, by an exception in each."""
        for thread in self._records:
            try:
                thread.end(self._watch)
            except BlockedThread as exc:
                self._lose(thread, exc)
            self._note(thread)

    def close(self) -> None:
        """The trial is over: leave no thread behind."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their cleanup may make coroutines that nobody can await any more
            self.end_all()
        for thread, record in self._records.items():
            thread.join()
            if thread.state == "paused":
                self._trial.violate("thread", f"{record.label} could not be ended; it is at", thread.place())

    def _note(self, thread: VirtualThread) -> None:
        record = self._records[thread]
        if not thread.alive and record.ending == "running":
            record.ending = "returned"
            record.coro = None

    def _lose(self, thread: VirtualThread, why: BlockedThread) -> None:
        label, trial = self._records[thread].label, self._trial
        if why.works:
            trial.violate("livelock", f"{label} is at work, and gives no sign of ending; it is at", thread.place())
        else:
            trial.refuse(f"{label}, a thread that waits for something real, at {thread.place()}")
        trial.give_up()


def _shown(function: Any, asked_by: TaskRecord | None) -> str:
    """What a thread is called in reports: its function, or if that is of agentrun's own, the task it works for."""
    while issubclass(type(function), functools.partial):
        in_context = isinstance(getattr(function.func, "__self__", None), contextvars.Context)
        function = function.args[0] if in_context and function.args else function.func
    module = getattr(function, "__module__", None) or ""
    name: str | None = getattr(function, "__qualname__", None)
    if name is not None and not module.startswith("agentrun."):
        return name
    return asked_by.name if asked_by is not None else "a function"
