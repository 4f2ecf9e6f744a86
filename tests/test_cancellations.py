"""What is a cancellation, and whose."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun.runtime.cancellations import (
    absorb_native_cancellations,
    comes_from_cancellation,
    holds_cancellation,
    is_scoped_cancellation,
    native_cancellations,
    only_cancellations,
    split_cancelled,
)


class Cancelled(BaseException):
    pass


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


def test_a_group_holds_a_cancellation_if_one_of_its_errors_is_one() -> None:
    assert holds_cancellation(Cancelled(), Cancelled)
    assert holds_cancellation(group(ValueError(), group(Cancelled())), Cancelled)
    assert not holds_cancellation(ValueError(), Cancelled)
    assert not holds_cancellation(group(ValueError(), KeyError()), Cancelled)


def test_an_exception_is_split_into_its_cancellations_and_its_errors() -> None:
    cancelled, error = Cancelled(), ValueError()
    assert split_cancelled(cancelled, Cancelled) == (cancelled, None)
    assert split_cancelled(error, Cancelled) == (None, error)
    errors = group(error, KeyError())
    assert split_cancelled(errors, Cancelled) == (None, errors)  # itself, not a copy
    cancellations, others = split_cancelled(group(cancelled, error), Cancelled)
    assert isinstance(cancellations, BaseExceptionGroup)
    assert isinstance(others, ExceptionGroup)
    assert cancellations.exceptions == (cancelled,)
    assert others.exceptions == (error,)


def raised_while_handling(*handled: BaseException) -> BaseException:
    """An error that was raised while the first of these was handled, which was raised while the next was, and so on."""
    error: BaseException = ValueError("last")
    link = error
    for each in handled:
        link.__context__ = each
        link = each
    return error


def test_an_error_comes_from_a_cancellation_that_was_being_handled_however_far_back() -> None:
    assert comes_from_cancellation(raised_while_handling(Cancelled()), Cancelled)
    assert comes_from_cancellation(raised_while_handling(KeyError(), Cancelled()), Cancelled)
    assert comes_from_cancellation(raised_while_handling(KeyError(), OSError(), group(Cancelled())), Cancelled)
    assert not comes_from_cancellation(raised_while_handling(), Cancelled)
    assert not comes_from_cancellation(raised_while_handling(KeyError(), OSError()), Cancelled)
    assert not comes_from_cancellation(Cancelled(), Cancelled)  # it is one


def test_errors_that_refer_to_each_other_come_to_an_end() -> None:
    first, second = KeyError(), OSError()
    error = raised_while_handling(first, second)
    second.__context__ = first
    assert not comes_from_cancellation(error, Cancelled)


async def caught_in_scope() -> BaseException:
    caught: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            caught.append(exc)
            raise
    return caught[0]


async def test_the_cancellation_of_a_scope_is_told_from_everything_else() -> None:
    scoped = await caught_in_scope()
    assert only_cancellations(scoped)
    assert only_cancellations(group(scoped, scoped))
    assert is_scoped_cancellation(scoped)
    for other in (ValueError(), group(scoped, ValueError())):
        assert not only_cancellations(other)
        assert not is_scoped_cancellation(other)


@pytest.mark.parametrize("message", [None, "timed out", 5])
async def test_a_native_cancellation_is_none_of_a_scope(message: Any, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    assert native_cancellations() == 0
    task = asyncio.current_task()
    assert task is not None
    task.cancel(message)
    assert native_cancellations() == 1
    with pytest.raises(asyncio.CancelledError) as caught:
        await anyio.sleep_forever()
    assert only_cancellations(caught.value)
    assert not is_scoped_cancellation(caught.value)
    task.uncancel()
    assert native_cancellations() == 0


async def test_a_task_that_nobody_cancels_natively_counts_none() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert native_cancellations() == 0


@pytest.mark.parametrize("thrown", [False, True])
@pytest.mark.parametrize("before", [0, 1])
async def test_native_cancellations_are_absorbed_down_to_those_before(
    before: int, thrown: bool, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    task = asyncio.current_task()
    assert task is not None
    for _ in range(before + 2):
        task.cancel()
    if thrown:
        with pytest.raises(asyncio.CancelledError):
            await anyio.sleep_forever()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await absorb_native_cancellations(before)  # the cancelled scope around it does not cut it
        left = native_cancellations()
    assert left == before
    if before:
        task.uncancel()
    await anyio.lowlevel.checkpoint()  # none was left pending
