"""Whether what a scenario raised is what it may raise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, cast

import anyio

from agentrun.testing.sweeping.baton import ThreadEnded
from agentrun.testing.sweeping.places import Place, is_own
from agentrun.testing.sweeping.verdicts import SweepRefused, Violation

__all__ = ["ask", "judge_exception", "leaves", "raised_at"]


async def ask(oracle: Callable[..., Any], *args: Any) -> None:
    """Have an oracle look. What it raises is its verdict.

    Raises:
        SweepRefused: It has returned something, and nobody knows how to take it: ``False`` is bad news of what should
            be so, and good news from ``lambda: lock.locked()``.
    """
    value: Any = oracle(*args)
    if isinstance(value, Awaitable):
        value = cast("Any", await value)
    if value is not None:
        raise SweepRefused(
            f"the oracle returned {value!r:.80}; it must raise if something is wrong, as an assertion does, and else "
            "return None"
        )


def judge_exception(
    exc: BaseException, allowed: tuple[type[BaseException], ...]
) -> tuple[tuple[str, ...], Violation | None]:
    """Sort an exception of the scenario: the type names of what is no cancellation, and the violation it is, if so."""
    cancelled = (anyio.get_cancelled_exc_class(), ThreadEnded)
    errors = [leaf for leaf in leaves(exc) if not isinstance(leaf, cancelled)]
    names = tuple(type(error).__name__ for error in errors)
    unexpected = [error for error in errors if not isinstance(error, allowed)]
    if not unexpected:
        return names, None
    first = unexpected[0]
    message = f"{type(first).__name__}: {first}, raised at"
    return names, Violation("exception", message, raised_at(first))


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in the groups in it; an exception that is no group is its own only leaf."""
    if isinstance(exc, BaseExceptionGroup):
        for child in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(child)
    else:
        yield exc


def raised_at(exc: BaseException) -> Place:
    """The deepest line of the code under test in a traceback."""
    found: Any = None
    link: TracebackType | None = exc.__traceback__
    while link is not None:
        if found is None or is_own(link.tb_frame):
            found = link
        link = link.tb_next
    if found is None:
        return Place("<unknown>", 0, "?")
    code = found.tb_frame.f_code
    return Place(code.co_filename, found.tb_lineno, code.co_qualname)
