"""What is a cancellation, and whose: sorting exceptions, and counting ``Task.cancel()``."""

from __future__ import annotations

import sys
from typing import Any, cast

import anyio
import anyio.lowlevel

__all__ = [
    "absorb_native_cancellations",
    "asyncio_task",
    "comes_from_cancellation",
    "comes_from_scope",
    "holds_cancellation",
    "is_scoped_cancellation",
    "native_cancellations",
    "only_cancellations",
    "split_cancelled",
]


def split_cancelled(
    exc: BaseException, cancelled_class: type[BaseException]
) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception, group or not, into its cancellations and everything else.

    trio mixes cancellations and errors in one group, which neither ``except Exception`` nor ``except Cancelled``
    catches; this takes it apart.

    That of another event loop is one as well: user code that runs such a loop in a thread of its own may let it out.
    """
    kinds = _with_foreign(cancelled_class)
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        cancelled, other = group.split(kinds)
        # A split makes a copy even when there is nothing to take out, of another class perhaps; errors stay themselves.
        return (None, group) if cancelled is None else (cancelled, other)
    return (exc, None) if isinstance(exc, kinds) else (None, exc)


def _with_foreign(cancelled_class: type[BaseException]) -> tuple[type[BaseException], ...]:
    """The running event loop's class of cancellations, and asyncio's, the only other one that code can make itself."""
    asyncio = sys.modules.get("asyncio")  # there is none to be let out if nobody has imported it
    return (cancelled_class,) if asyncio is None else (cancelled_class, asyncio.CancelledError)


def only_cancellations(exc: BaseException) -> bool:
    """Whether ``exc`` is a cancellation, or a group of nothing else, on the running backend."""
    return split_cancelled(exc, anyio.get_cancelled_exc_class())[1] is None


def is_scoped_cancellation(exc: BaseException) -> bool:
    """Whether ``exc`` is a cancellation that a cancel scope delivered, rather than a native ``Task.cancel()``.

    On asyncio, anyio marks its own by their message; on trio there are no others.
    """
    return only_cancellations(exc) and comes_from_scope(exc)


def comes_from_scope(cancellation: BaseException) -> bool:
    """The same of what is known to be a cancellation."""
    if type(cancellation).__module__.startswith("asyncio"):
        return bool(cancellation.args) and str(cancellation.args[0]).startswith("Cancelled via cancel scope ")
    return True


def comes_from_cancellation(exc: BaseException, cancelled_class: type[BaseException]) -> bool:
    """Whether ``exc`` was raised while a cancellation was being handled."""
    seen: set[int] = set()
    link = exc.__context__
    while link is not None and id(link) not in seen:
        if holds_cancellation(link, cancelled_class):
            return True
        seen.add(id(link))
        link = link.__context__
    return False


def holds_cancellation(exc: BaseException, cancelled_class: type[BaseException]) -> bool:
    """Whether ``exc`` is a cancellation, or a group with one in it."""
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", exc).subgroup(cancelled_class) is not None
    return isinstance(exc, cancelled_class)


def asyncio_task() -> Any:
    """The current task of asyncio; ``None`` on trio."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # trio: no running loop


def native_cancellations() -> int:
    """How often ``Task.cancel()`` is in force on the current task; 0 on trio."""
    task = asyncio_task()
    return 0 if task is None else task.cancelling()


async def absorb_native_cancellations(before: int) -> None:
    """Settle the native cancellations of the current task above ``before``: the outcome tells of them.

    One that user code did not let out, or that came too late to be thrown in, would end the task as cancelled, and
    anyio then cancels the whole task group, without an exception. A checkpoint.
    """
    task = sys.modules["asyncio"].current_task()
    assert task is not None
    try:
        # Before Python 3.13 `uncancel` leaves a cancellation pending that was not thrown in yet: this is where it goes.
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.cancel_shielded_checkpoint()
    except anyio.get_cancelled_exc_class():
        pass
    while task.cancelling() > before:
        task.uncancel()
