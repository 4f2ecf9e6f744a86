"""Scheduling points of trio: an instrument that numbers the steps of the tasks below the scenario's root."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Generator
from typing import Any

from agentrun.testing.sweeping.baton import current_thread
from agentrun.testing.sweeping.points import Abandoned, Trial
from agentrun.testing.sweeping.relay import TaskRecord, keep_for_ever
from agentrun.testing.sweeping.trio_threads import TrioCrew, asked_from
from agentrun.testing.sweeping.verdicts import SweepRefused
from agentrun.testing.sweeping.virtual_time import jumping_clock, seeded_trio

__all__ = ["current_crew", "no_foreign_threads", "no_sockets", "run_trial"]

_current: list[_Watch] = []
"""The trial that is running, for what is patched."""


def run_trial(trial: Trial, seed: int) -> None:
    """Run a trial in a fresh trio run, to its end."""
    import trio

    clock = jumping_clock()
    watch = _Watch(trial, clock)
    trial.backend = watch
    instrument: Any = watch  # trio asks for its base class, and looks only for the methods
    _current.append(watch)
    try:
        with seeded_trio(seed):
            trio.run(trial.root, clock=clock, instruments=[instrument])
    except trio.TrioInternalError as exc:
        if not isinstance(exc.__cause__, Abandoned):
            raise
    finally:
        _current.pop()
        watch.crew.close()
        watch.forget()
    if watch.error is not None:
        raise watch.error


class _Watch:
    """The instrument, and the trial's backend.

    trio drops an instrument that raises, with a line in the log. So none of its methods does: an error is kept, and
    raised after the run.
    """

    def __init__(self, trial: Trial, clock: Any) -> None:
        self._trial = trial
        self._clock = clock
        self._autojump = clock._autojump
        clock._autojump = self._jump
        self.records: dict[Any, TaskRecord] = {}
        self.error: BaseException | None = None
        self.crew: TrioCrew = TrioCrew(trial, self.records)
        self.thread: int = threading.get_ident()
        self.token: Any = None

    # Called by trio ---------------------------------------------------------------------------------------------

    def task_spawned(self, task: Any) -> None:
        """Put a relay around each task of the scenario."""
        from trio.lowlevel import current_trio_token

        trial = self._trial
        if self.crew.starting is not None:
            self.records[task] = self.crew.starting
            return
        if not self.records:
            if getattr(task.coro, "cr_code", None) is not Trial.root.__code__:
                return  # one of trio's own
            trial.active = True
            self.token = current_trio_token()
        thread = asked_from(task.coro)
        if self.records and (not trial.active or not (thread is not None or self._is_below_root(task))):
            return
        self.records[task], task.coro = trial.adopt(task.coro, task.name, self._is_ours)
        self.records[task].works_for = thread

    def _is_below_root(self, task: Any) -> bool:
        import trio

        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task in self.records:
            return True
        try:  # a system task that the scenario has spawned
            return trio.lowlevel.current_task() in self.records
        except RuntimeError:
            return False

    def before_task_step(self, task: Any) -> None:
        """Count a step."""
        trial = self._trial
        if trial.active and (record := self.records.get(task)) is not None:
            try:
                trial.before_step(record)
            except BaseException as exc:  # noqa: BLE001 - see the class
                self.error = self.error or exc

    def after_task_step(self, task: Any) -> None:
        """The step is done."""
        trial = self._trial
        if trial.active and (record := self.records.get(task)) is not None:
            try:
                trial.after_step(record, record.ending != "running")
            except BaseException as exc:  # noqa: BLE001 - see the class
                self.error = self.error or exc

    def task_exited(self, task: Any) -> None:
        """A task that waits at the end of its nursery is told of a cancellation by nothing but what its tasks raise."""
        record = self.records.get(task)
        if not self._trial.active or record is None or not record.raised_cancelled:
            return
        nursery: Any = task.parent_nursery
        host = self.records.get(nursery.parent_task)
        if host is None or host.coro is None or nursery._nested_child_running:
            return
        ours = bool(record.deliveries) and not host.deliveries
        told = False
        if not host.told_of_outside:
            host.told_of_outside = told = _sees(nursery.cancel_scope._cancel_status, host.outside)
        if ours or told:
            try:
                host.cancelled(ours)
            except BaseException as exc:  # noqa: BLE001 - see the class
                self.error = self.error or exc

    def before_io_wait(self, timeout: float) -> None:
        """Another turn of the event loop."""
        try:
            self._trial.on_iteration()
        except BaseException as exc:  # noqa: BLE001 - see the class
            self.error = self.error or exc

    def _jump(self) -> None:
        import trio

        if math.isinf(trio.lowlevel.current_statistics().seconds_to_next_deadline):
            self._trial.stuck("deadlock", "all tasks wait, and nothing is left that could wake one:")
        else:
            self._autojump()

    def _is_ours(self, exc: BaseException) -> bool:
        import trio

        return isinstance(exc, trio.Cancelled) and getattr(exc, "reason", None) == self._trial.token

    # What the trial asks of its backend -------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual time."""
        return float(self._clock._virtual_base)

    def cancel_root(self, token: str) -> None:
        """trio has no such thing."""

    def begin_watching(self) -> TaskRecord | None:
        """See `points.Backend`."""
        import trio

        task: Any = trio.lowlevel.current_task()
        if (record := self.records.get(task)) is not None:
            record.outside, record.told_of_outside = task._cancel_status, False
        return record

    def force(self) -> None:
        """Take away all shields of a scenario that is cancelled. End the threads, for which some may wait."""
        self.crew.end_all()
        for task in self.records:
            status = task._cancel_status
            while status is not None:
                if status._scope.shield:
                    status._scope.shield = False
                status = status._parent

    def abandon(self) -> None:
        """Make the clock raise when the event loop looks at it next: the only way out of a task that never ends."""

        def raise_abandoned() -> float:
            raise Abandoned

        self._clock.current_time = raise_abandoned

    async def settle(self) -> None:
        """A nursery has left nothing."""

    def forget(self) -> None:
        """Let go of the tasks."""
        for record in self.records.values():
            if record.ending == "running":
                keep_for_ever(record)
        self.records.clear()

    @property
    def runs(self) -> bool:
        """Whether the task that runs now is one of the scenario's."""
        import trio

        try:
            return trio.lowlevel.current_task() in self.records
        except RuntimeError:
            return False

    def refuse(self, what: str) -> SweepRefused | None:
        """The error for the task that runs now, if it is the scenario's."""
        return self.refuse_thread(what) if self.runs else None

    def refuse_thread(self, what: str) -> SweepRefused:
        """The error for a thread that is none of the scenario's tasks."""
        self._trial.refuse(what)
        return SweepRefused(f"not possible in a sweep: {what}")


def _sees(inside: Any, outside: Any) -> bool:
    """Whether what is cancelled outside is so inside, too: so no scope in between may take the cancellation."""
    while inside is not None and inside is not outside:
        if inside._scope.shield:
            return False
        inside = inside._parent
    return inside is not None and bool(outside.effectively_cancelled)


def current_crew() -> TrioCrew | None:
    """Where the threads of the task that runs now are, if it is one of a trial's."""
    return _current[-1].crew if _current and _current[-1].runs else None


@contextlib.contextmanager
def no_sockets() -> Generator[None]:
    """Refuse, inside this block, what the tasks of a trial would do with sockets and other descriptors."""
    from trio._core import _run as trio_run

    internals: Any = trio_run
    manager = internals.TheIOManager
    originals = {name: getattr(manager, name) for name in ("wait_readable", "wait_writable")}

    def guarded(name: str) -> Any:
        async def wait(self: Any, fd: Any) -> None:
            error = _current[-1].refuse(f"a socket or other file descriptor ({name} of {fd!r})") if _current else None
            if error is not None:
                raise error
            await originals[name](self, fd)

        return wait

    for name in originals:
        setattr(manager, name, guarded(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(manager, name, original)


@contextlib.contextmanager
def no_foreign_threads() -> Generator[None]:
    """Refuse, inside this block, that a thread which is not the trial's calls back into it."""
    import trio

    token: Any = trio.lowlevel.TrioToken
    original = token.run_sync_soon

    def run_sync_soon(self: Any, sync_fn: Any, *args: Any, idempotent: bool = False) -> None:
        watch = _current[-1] if _current else None
        if watch is not None and watch.token is self and threading.get_ident() != watch.thread and not current_thread():
            raise watch.refuse_thread("a thread (which calls run_sync_soon of a trio token)")
        original(self, sync_fn, *args, idempotent=idempotent)

    token.run_sync_soon = run_sync_soon
    try:
        yield
    finally:
        token.run_sync_soon = original
