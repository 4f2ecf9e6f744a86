"""Scheduling points of asyncio: a loop that numbers the steps of its tasks, always in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextvars import Context
from typing import Any, Final

from agentrun.testing.sweeping.asyncio_threads import AsyncioCrew
from agentrun.testing.sweeping.baton import VirtualThread, current_thread
from agentrun.testing.sweeping.judging import raised_at
from agentrun.testing.sweeping.places import Place, is_own_module
from agentrun.testing.sweeping.points import Abandoned, Trial
from agentrun.testing.sweeping.relay import TaskRecord, keep_for_ever
from agentrun.testing.sweeping.verdicts import SweepRefused
from agentrun.testing.sweeping.virtual_time import VirtualTimeLoop

__all__ = ["ordered_scopes", "run_trial"]

# A step and a wake-up are the only private methods of a task that are ever scheduled; `cancel` and so on are public.
_PUBLIC: Final = frozenset(name for name in dir(asyncio.Task) if not name.startswith("_"))
_ASKS_FOR_A_TASK: Final = "run_coroutine_threadsafe.<locals>.callback"  # what a thread has the loop call for it
_BY_SCOPE: Final = "Cancelled via cancel scope "


def run_trial(trial: Trial) -> None:
    """Run a trial in a fresh loop, to its end."""
    loop = SweepLoop(trial)
    trial.backend = loop
    try:
        with _known_to_sniffio(), contextlib.suppress(Abandoned):
            loop.run_until_complete(trial.root())
            if loop._asyncgens:  # type: ignore[attr-defined]
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.tell_of_errors_that_nobody_has_seen()
    finally:
        loop.crew.close()
        loop.forget()
        loop.close()


@contextlib.contextmanager
def _known_to_sniffio() -> Generator[None]:
    """Say that this thread runs asyncio, also between the steps of the tasks: anyio is used there, too."""
    try:
        import sniffio
    except ImportError:
        yield  # anyio does without
        return
    local: Any = sniffio.thread_local
    before, local.name = local.name, "asyncio"
    try:
        yield
    finally:
        local.name = before


class _SweepTask(asyncio.Task[Any]):
    """A task with a number. Sets of tasks, of which asyncio has some, are then always in the same order."""

    def __init__(self, coro: Any, record: TaskRecord, **options: Any) -> None:
        self.record = record
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.record.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SweepLoop(VirtualTimeLoop):
    """A loop for one trial. Tells the trial of each step of each task; refuses what is not virtual."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self._trial = trial
        self._tasks: list[_SweepTask] = []
        self._thread = threading.get_ident()
        self.crew: AsyncioCrew = AsyncioCrew(trial, self)
        self._ended: list[_SweepTask] = []  # the tasks that had ended when the scenario did
        self._asked_by: VirtualThread | None = None  # the thread that has asked for the task that is being made
        self.set_exception_handler(self._complain)

    # Tasks and their steps --------------------------------------------------------------------------------------

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **options: Any) -> Any:
        """As in any loop; the task's steps are points of the trial."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        trial = self._trial
        shown = name if name is not None else getattr(coro, "__qualname__", type(coro).__name__)
        record, relay = trial.adopt(coro, str(shown), self._is_ours)
        record.works_for = self._asked_by
        task = _SweepTask(relay, record, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) == 1:
            trial.active = True
        return task

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """As in any loop. The generator has been reported if it matters, and so the task that closes it is no news."""
        loop: Any = self
        loop._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self._close, agen.aclose())

    def _close(self, closing: Any) -> None:
        self.create_task(closing).record.may_be_left = True

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As in any loop; what is a step of a task is counted when it happens."""
        owner = getattr(callback, "__self__", None)
        if type(owner) is _SweepTask and getattr(callback, "__name__", "") not in _PUBLIC:
            return super().call_soon(self._step, owner, callback, *args, context=context)
        return super().call_soon(callback, *args, context=context)

    def _step(self, task: _SweepTask, callback: Callable[..., object], *args: Any) -> None:
        trial = self._trial
        if not trial.active:
            callback(*args)
            return
        record = task.record
        trial.before_step(record)
        callback(*args)
        if trial.active:
            trial.after_step(record, task.done())

    def _is_ours(self, exc: BaseException) -> bool:
        message = str(exc.args[0]) if exc.args else ""
        if self._trial.token in message:
            return True
        # A task group that is left because of our cancellation cancels its tasks again, in its own name.
        return message.startswith(_BY_SCOPE) and _is_inside(asyncio.current_task(), self._trial.cancelled_scopes())

    # The loop's turns -------------------------------------------------------------------------------------------

    def on_iteration(self) -> None:
        """Let the trial look whether it goes on for too long."""
        self._trial.on_iteration()

    def on_idle(self) -> None:
        """Nothing is left that could wake a task: the scenario is stuck."""
        self._trial.stuck("deadlock", "all tasks wait, and nothing is left that could wake one:")

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._tell(str(context.get("message", "unknown")), context.get("exception"))

    def _tell(self, what: str, error: BaseException | None) -> None:
        if error is not None:
            what = f"{what}: {type(error).__name__}: {error}"
        if error is None or error.__traceback__ is None:
            self._trial.violate("unhandled", what)
        else:
            self._trial.violate("unhandled", f"{what}, raised at", raised_at(error))

    def tell_of_errors_that_nobody_has_seen(self) -> None:
        """Of those of tasks. asyncio says so when a task is freed, which here is when the trial has been judged."""
        for task in self._ended:
            if task._log_traceback:
                self._tell(f"{task.record.label} failed, and nobody has looked", task.exception())

    # What the trial asks of its backend -------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual time."""
        return self.time()

    def cancel_root(self, token: str) -> None:
        """``Task.cancel()`` on the root."""
        self._tasks[0].cancel(token)

    def begin_watching(self) -> None:
        """Nothing: here each task is told by a step of its own, which agentrun sees itself."""

    def force(self) -> None:
        """Cancel all tasks natively: that goes through shields. End the threads, for which some may wait."""
        self.crew.end_all()
        for task in self._tasks:
            if not task.done():
                task.cancel("the scenario is stuck")

    def abandon(self) -> None:
        """Raise out of the loop."""
        raise Abandoned

    async def settle(self) -> None:
        """Cancel what was left, and forget cancellations of the root that are still counted."""
        root = self._tasks[0]
        while root.cancelling():
            root.uncancel()
        self._tell_of_timers()
        self._ended = [task for task in self._tasks[1:] if task.done()]
        left = [task for task in self._tasks[1:] if not task.done()]
        for _ in range(3):
            if left:
                for task in left:
                    task.cancel("left behind")
                await asyncio.wait(left, timeout=1.0)
                left = [task for task in left if not task.done()]

    def _tell_of_timers(self) -> None:
        """Of callbacks of the scenario's own that are still to be called. Those of asyncio belong to some task."""
        loop: Any = self
        for timer in loop._scheduled:
            code = getattr(timer._callback, "__code__", None)  # of a method, too; a cancelled timer has no callback
            if code is not None and is_own_module(timer._callback.__module__ or ""):
                place = Place(code.co_filename, code.co_firstlineno, code.co_qualname)
                self._trial.violate(
                    "resource", f"{code.co_qualname} is still to be called by the event loop, at", place
                )

    def forget(self) -> None:
        """Leave no task to complain that it was destroyed while pending: the trial has said so."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                keep_for_ever(task.record)

    # What is not virtual ----------------------------------------------------------------------------------------

    def refuse(self, what: str) -> SweepRefused:
        """The error for what cannot be done in a sweep; the sweep ends with it, even if the scenario catches it."""
        self._trial.refuse(what)
        return SweepRefused(f"not possible in a sweep: {what}")

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As in any loop, but not from threads that are not of the trial."""
        if threading.get_ident() != self._thread and not self.crew.may_call_back():
            raise self.refuse("a thread (which calls loop.call_soon_threadsafe)")
        thread = current_thread()
        if thread is not None and getattr(callback, "__qualname__", "") == _ASKS_FOR_A_TASK:
            return super().call_soon_threadsafe(self._make_task_for, thread, callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _make_task_for(self, thread: VirtualThread, callback: Callable[..., object], *args: Any) -> None:
        self._asked_by = thread
        try:
            callback(*args)
        finally:
            self._asked_by = None

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """As in any loop, in a virtual thread; but not in a thread pool of the scenario's own."""
        if executor is not None:
            name = getattr(func, "__qualname__", repr(func))
            raise self.refuse(f"a thread pool of its own (loop.run_in_executor({type(executor).__name__}, {name}))")
        return self.crew.call(func, args)

    def set_task_factory(self, factory: Any) -> None:
        """Refused: an eager task has no first scheduling point."""
        if factory is not None:
            raise self.refuse("a task factory of its own")


_REFUSED: Final = {
    "a socket": (
        "create_connection create_server create_datagram_endpoint create_unix_connection create_unix_server "
        "connect_accepted_socket sock_connect sock_accept sock_recv sock_recv_into sock_recvfrom sock_sendall "
        "sock_sendto"
    ),
    "a subprocess": "subprocess_exec subprocess_shell",
    "a file descriptor": "add_reader add_writer connect_read_pipe connect_write_pipe sendfile",
    "a signal": "add_signal_handler",
}


def _refusing(name: str, kind: str) -> Callable[..., Any]:
    """A method of the loop that refuses. What is awaited in other loops is not awaited: it raises at once."""

    def refuse(self: SweepLoop, *args: Any, **options: Any) -> Any:
        shown = [getattr(arg, "__qualname__", None) or repr(arg) for arg in args if arg is not None]
        raise self.refuse(f"{kind} (loop.{name}({', '.join(shown):.100}))")

    return refuse


for _kind, _names in _REFUSED.items():
    for _name in _names.split():
        setattr(SweepLoop, _name, _refusing(_name, _kind))


def _is_inside(task: Any, scopes: Collection[Any]) -> bool:
    """Whether one of the scopes is in force where the task is: around it, and no shield between."""
    from anyio._backends import _asyncio as backend

    internals: Any = backend
    state = internals._task_states.get(task)
    scope = state.cancel_scope if state is not None else None
    while scope is not None:
        if scope in scopes:
            return True
        scope = None if scope.shield else scope._parent_scope
    return False


class _OrderedSet:
    """A set that keeps the order of insertion, as far as anyio uses its sets."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def add(self, item: Any) -> None:
        self._items[item] = None

    def remove(self, item: Any) -> None:
        del self._items[item]

    def discard(self, item: Any) -> None:
        self._items.pop(item, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items


@contextlib.contextmanager
def ordered_scopes() -> Generator[None]:
    """Make anyio's scopes cancel their tasks and child scopes in order of creation, inside this block.

    They iterate over plain sets, whose order depends on the addresses of their elements.
    """
    from anyio._backends import _asyncio as backend

    scope_class: Any = backend.CancelScope
    original = scope_class.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._tasks = _OrderedSet()
        self._child_scopes = _OrderedSet()

    scope_class.__init__ = init
    try:
        yield
    finally:
        scope_class.__init__ = original
