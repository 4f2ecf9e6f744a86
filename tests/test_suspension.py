"""What suspended code is doing, asked of the coroutine itself; played by hand, without an event loop."""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentrun.runtime.suspension import Suspension, coroutines_of_tasks, is_cancelled


class Cancelled(BaseException):
    pass


@types.coroutine
def pause() -> Generator[None]:
    yield


async def clean_up_after(error: BaseException) -> None:
    try:
        raise error
    finally:
        await pause()


async def clean_up_caught(error: BaseException) -> None:
    try:
        raise error
    except BaseException:
        await pause()


class Leaving:
    """Its ``__aexit__`` waits."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        await pause()


async def leave_after(error: BaseException) -> None:
    async with Leaving():
        raise error


async def directly(code: Coroutine[Any, Any, None]) -> None:
    await code


class Awaitable:
    def __init__(self, code: Coroutine[Any, Any, None]) -> None:
        self._code = code

    def __await__(self) -> Any:
        return self._code.__await__()


class AwaitableGenerator(Awaitable):
    def __await__(self) -> Any:
        yield from self._code.__await__()


async def through_an_object(code: Coroutine[Any, Any, None]) -> None:
    await Awaitable(code)


async def through_a_generator(code: Coroutine[Any, Any, None]) -> None:
    await AwaitableGenerator(code)


async def _once(code: Coroutine[Any, Any, None]) -> AsyncGenerator[int]:
    await code
    yield 1


async def through_an_async_generator(code: Coroutine[Any, Any, None]) -> None:
    async for _ in _once(code):
        pass


async def through_a_step_of_an_async_generator(code: Coroutine[Any, Any, None]) -> None:
    await directly(_once(code).asend(None))  # type: ignore[arg-type]


WAYS = [
    directly,
    through_an_object,
    through_a_generator,
    through_an_async_generator,
    through_a_step_of_an_async_generator,
]

Code = Callable[[BaseException], Coroutine[Any, Any, None]]


def looked_at(code: Coroutine[Any, Any, None]) -> Suspension:
    """A look at the code when it has come to its first wait."""
    code.send(None)
    suspension = Suspension(code)
    # What it found is what counts; the code is of no use any more.
    try:
        code.throw(GeneratorExit)
    except BaseException:
        pass
    return suspension


def handles(code: Coroutine[Any, Any, None]) -> bool:
    code.send(None)
    try:
        return Suspension(code).handles(Cancelled)
    finally:
        try:
            code.throw(GeneratorExit)
        except BaseException:
            pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", [clean_up_after, clean_up_caught, leave_after])
def test_cleanup_is_seen_to_come_from_a_cancellation_however_deep_it_is(way: Any, code: Code) -> None:
    assert handles(way(code(Cancelled())))
    assert handles(way(code(BaseExceptionGroup("both", [ValueError(), Cancelled()]))))
    assert handles(way(way(code(Cancelled()))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", [clean_up_after, clean_up_caught, leave_after])
def test_cleanup_that_another_error_led_to_is_none_of_a_cancellation(way: Any, code: Code) -> None:
    assert not handles(way(code(ValueError())))
    assert not handles(way(code(BaseExceptionGroup("both", [ValueError(), KeyError()]))))


@pytest.mark.parametrize("way", WAYS)
def test_code_that_waits_in_its_body_does_not_know_of_a_cancellation(way: Any) -> None:
    async def body() -> None:
        await pause()

    async def after() -> None:
        try:
            raise Cancelled
        except BaseException:
            pass
        await pause()

    assert not handles(way(body()))
    assert not handles(way(after()))


async def checkpoint_if_cancelled() -> None:
    await pause()


async def checkpoint() -> None:
    await cancel_shielded_checkpoint()


async def cancel_shielded_checkpoint() -> None:
    await pause()


async def _nested_child_finished(deeper: int) -> None:
    await wait(deeper)


async def wait(deeper: int) -> None:
    if deeper:
        await wait(deeper - 1)
    else:
        await pause()


@pytest.mark.parametrize("way", WAYS)
def test_code_that_asks_for_its_cancellation_is_recognized(way: Any) -> None:
    assert looked_at(way(checkpoint_if_cancelled())).asks_for_cancellation
    assert not looked_at(way(checkpoint())).asks_for_cancellation
    assert not looked_at(way(wait(0))).asks_for_cancellation


class Manager:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            await pause()


async def in_a_block(manager: Manager) -> None:
    with manager:
        await pause()


async def in_an_async_block(manager: Manager) -> None:
    async with manager:
        await pause()


async def leaves_a_block(manager: Manager) -> None:
    async with manager:
        pass


async def behind_a_block(manager: Manager) -> None:
    with manager:
        pass
    await pause()


@contextlib.contextmanager
def around(manager: Manager) -> Generator[None]:
    with manager:
        yield


@contextlib.asynccontextmanager
async def around_asynchronously(manager: Manager) -> AsyncGenerator[None]:
    async with manager:
        yield


async def in_a_block_of_a_generator(manager: Manager) -> None:
    with around(manager):
        await pause()


async def in_a_block_of_an_async_generator(manager: Manager) -> None:
    async with around_asynchronously(manager):
        await pause()


class LeavingInABlock:
    """Its ``__aexit__`` waits in a block."""

    def __init__(self, manager: Manager) -> None:
        self.made = [manager]

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        with self.made.pop():
            await pause()


async def in_a_block_of_an_aexit(manager: Manager) -> None:
    async with LeavingInABlock(manager):
        pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "code",
    [
        in_a_block,
        in_an_async_block,
        leaves_a_block,
        in_a_block_of_a_generator,
        in_a_block_of_an_async_generator,
        in_a_block_of_an_aexit,
    ],
)
def test_the_blocks_that_code_is_in_or_leaves_are_seen(way: Any, code: Any) -> None:
    manager = Manager()
    suspended = way(code(manager))
    suspended.send(None)
    assert any(each is manager for each in Suspension(suspended).entered)
    with contextlib.suppress(BaseException):
        suspended.throw(GeneratorExit)


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_was_left_is_not_seen_though_it_is_in_a_variable(way: Any) -> None:
    manager = Manager()
    suspended = way(behind_a_block(manager))
    suspended.send(None)
    assert not any(each is manager for each in Suspension(suspended).entered)
    with contextlib.suppress(BaseException):
        suspended.throw(GeneratorExit)


def test_a_cancellation_that_was_known_before_is_not_taken_for_another() -> None:
    known, other = Cancelled(), Cancelled()
    for error, but, expected in ((known, [known], False), (known, [other], True), (known, [], True)):
        code = clean_up_after(error)
        code.send(None)
        suspension = Suspension(code)
        assert suspension.cancellations(Cancelled) == [error] * len(suspension.cancellations(Cancelled)) != []
        assert suspension.handles(Cancelled, but=but) == expected
        with contextlib.suppress(BaseException):
            code.throw(GeneratorExit)


async def test_a_scope_and_a_task_group_are_cancelled_when_they_say_so() -> None:
    scope = anyio.CancelScope()
    assert not is_cancelled(scope)
    scope.cancel()
    assert is_cancelled(scope)
    async with anyio.create_task_group() as group:
        assert not is_cancelled(group)
        group.cancel_scope.cancel()
        assert is_cancelled(group)
    assert not is_cancelled(object())


@pytest.mark.parametrize("way", WAYS)
def test_the_end_of_a_nursery_is_recognized_where_nothing_but_the_wait_is_deeper(way: Any) -> None:
    for deeper in range(2):  # itself, so many calls more, and the wait at the bottom: at most four
        assert looked_at(way(_nested_child_finished(deeper))).at_nursery_exit, deeper
    assert not looked_at(way(_nested_child_finished(2))).at_nursery_exit
    assert not looked_at(way(wait(1))).at_nursery_exit


@pytest.mark.parametrize("way", WAYS)
def test_the_first_half_of_a_checkpoint_of_trios_is_recognized(way: Any) -> None:
    pytest.importorskip("trio")
    assert looked_at(way(checkpoint())).at_trio_checkpoint
    assert not looked_at(way(cancel_shielded_checkpoint())).at_trio_checkpoint
    assert not looked_at(way(checkpoint_if_cancelled())).at_trio_checkpoint
    assert not looked_at(way(wait(3))).at_trio_checkpoint


# The end of a sleep of trio's, played on trio ----------------------------------------------------------------------


class Watched:
    """Awaits the code, and keeps the scopes that it was seen in whenever it went on."""

    def __init__(self, code: Coroutine[Any, Any, None]) -> None:
        self._code = code
        self.seen: list[tuple[Any, ...]] = []

    def __await__(self) -> Generator[Any, Any, None]:
        value: Any = None
        while True:
            if value is not None:
                self.seen.append(Suspension(self._code).trio_wait_scopes)
            try:
                request = self._code.send(value)
            except StopIteration:
                return
            finally:
                del value  # its traceback may hold this frame
            value = yield request


def scopes_at_the_end_of(code: Coroutine[Any, Any, None]) -> list[tuple[Any, ...]]:
    trio = pytest.importorskip("trio")
    clock = pytest.importorskip("trio.testing").MockClock(autojump_threshold=0)
    watched = Watched(code)

    async def main() -> None:
        await watched

    trio.run(main, clock=clock)
    return watched.seen


async def sleeps(seconds: float) -> None:
    await anyio.sleep(seconds)


async def sleeps_in_a_scope(scope: Any) -> None:
    with scope:
        await sleeps(1)


async def sleeps_in_a_timeout(make: Callable[[], Any]) -> None:
    try:
        await sleeps_in_a_scope(make())
    except TimeoutError:
        pass


def anyio_timeout() -> Any:
    return anyio.move_on_after(1)


def anyio_timeout_with_an_error() -> Any:
    return anyio.fail_after(1)


def trio_timeout() -> Any:
    return pytest.importorskip("trio").move_on_after(1)


def test_the_scope_of_a_sleep_of_trios_is_seen_at_its_end() -> None:
    for code in (sleeps(1), directly(sleeps(1))):
        ((scope,),) = scopes_at_the_end_of(code)
        assert scope.cancelled_caught


def test_scopes_around_a_sleep_are_seen_with_it_if_they_are_cancelled_in_the_same_moment() -> None:
    pytest.importorskip("trio")
    ((alone,),) = scopes_at_the_end_of(sleeps_in_a_timeout(anyio.CancelScope))
    assert alone.cancelled_caught
    for make in (anyio_timeout, trio_timeout, anyio_timeout_with_an_error):
        ((outer, inner),) = scopes_at_the_end_of(sleeps_in_a_timeout(make))
        assert outer.cancelled_caught
        assert not inner.cancelled_caught


def test_the_scopes_of_a_checkpoint_of_trios_are_seen_that_gets_a_cancellation() -> None:
    trio = pytest.importorskip("trio")

    async def is_cancelled_in_it(code: Coroutine[Any, Any, None]) -> None:
        with anyio.CancelScope() as outer:
            await trio.lowlevel.cancel_shielded_checkpoint()
            outer.cancel()
            await code

    async def one_deeper() -> None:
        await trio.lowlevel.checkpoint()

    for code in (trio.lowlevel.checkpoint(), trio.sleep(0), one_deeper()):
        *before, (outer, inner) = scopes_at_the_end_of(is_cancelled_in_it(code))
        assert not any(before)
        assert outer.cancelled_caught
        assert not inner.cancelled_caught
        assert inner.deadline == -math.inf


def test_a_wait_of_the_codes_own_is_not_taken_for_that_of_a_checkpoint() -> None:
    trio = pytest.importorskip("trio")

    async def waits() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    assert scopes_at_the_end_of(waits()) == [()]


def test_a_scope_that_was_left_before_the_sleep_is_not_taken_for_one_around_it() -> None:
    trio = pytest.importorskip("trio")

    async def sleeps_after_a_timeout() -> None:
        with trio.move_on_after(1) as scope:
            await sleeps(2)
        assert scope.cancelled_caught
        await sleeps(1)

    cut, (last,) = scopes_at_the_end_of(sleeps_after_a_timeout())
    assert cut == ()
    assert last.cancelled_caught


def test_scopes_are_of_no_interest_where_no_sleep_ends() -> None:
    trio = pytest.importorskip("trio")

    async def waits_in_a_scope() -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()

    async def is_cut() -> None:
        with trio.move_on_after(1):
            await sleeps(2)

    async def goes_on() -> None:
        await trio.lowlevel.checkpoint()

    assert scopes_at_the_end_of(waits_in_a_scope()) == [()]
    assert scopes_at_the_end_of(is_cut()) == [()]
    assert scopes_at_the_end_of(goes_on()) == [()]


# Tasks of groups --------------------------------------------------------------------------------------------------


def names(coroutine: Any) -> list[str]:
    return [str(link.__name__) for link in Suspension(coroutine)._links]


async def test_the_tasks_in_a_group_are_found_until_they_end(anyio_backend_name: str) -> None:
    done = anyio.Event()

    async def first() -> None:
        await done.wait()

    async def second() -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        assert coroutines_of_tasks(group) == []
        group.start_soon(first)
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        found = [names(coroutine) for coroutine in coroutines_of_tasks(group)]
        assert sorted("first" in links for links in found) == [False, True]
        assert sorted("second" in links for links in found) == [False, True]
        done.set()
        await anyio.wait_all_tasks_blocked()
        await anyio.lowlevel.checkpoint()  # the group is told of its end
        [left] = coroutines_of_tasks(group)
        assert "second" in names(left)
        group.cancel_scope.cancel()


async def test_the_tasks_in_a_nursery_of_trios_are_found(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("trio's own")
    import trio

    manager = trio.open_nursery()
    async with manager as nursery:
        nursery.start_soon(trio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        [found] = coroutines_of_tasks(manager)
        assert "sleep_forever" in names(found)
        nursery.cancel_scope.cancel()


async def test_what_is_no_group_of_anyios_or_trios_has_no_tasks(anyio_backend_name: str) -> None:
    class Odd:
        """Has tasks, and is none of these: asyncio's own group, for one, which cancels by itself."""

        def __init__(self, tasks: object) -> None:
            self._tasks = tasks

    class Task:
        coro = "what it runs"

    class WithScope(Odd):
        cancel_scope = None

    assert coroutines_of_tasks(anyio.CancelScope()) == []
    assert coroutines_of_tasks(Odd({Task()})) == []
    assert coroutines_of_tasks(WithScope({Task()})) == []
    group = WithScope([Task()])
    group.cancel_scope = anyio.CancelScope()  # type: ignore[assignment]
    assert coroutines_of_tasks(group) == []  # no set
    group._tasks = {Task()}
    assert coroutines_of_tasks(group) == [Task.coro]
