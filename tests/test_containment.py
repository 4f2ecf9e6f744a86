"""Contained code by itself: what comes of it in moments that a whole run meets only by chance."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import sys
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import checkpoints

from agentrun.runtime.cell import Cell
from agentrun.runtime.containment import Contained, Outcome, bounded
from agentrun.testing.sweeping.virtual_time import run_virtual


def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")


def trio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("a sleep of asyncio's has no scope, and anyio cancels none that is over")


async def takes_its_time() -> None:
    """A task that a cancellation does not hurry."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(0.02)


async def cancelled_at_work(code: Any, *, grace: float = 5.0, steps: int = 3) -> Outcome[Any]:
    """Run ``code`` in a task of its own, cancel it after some steps, and say what came of it."""
    outcomes: list[Outcome[Any]] = []
    contained: Contained[Any] = Contained(grace, shield=True)

    async def task() -> None:
        outcomes.append(await contained.run(code()))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await checkpoints(steps)
            contained.cancel()
    [outcome] = outcomes
    return outcome


async def test_code_that_has_swallowed_its_cancellation_is_left_in_peace_for_the_grace() -> None:
    async def code() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        await checkpoints(5)
        await anyio.sleep(0.01)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)
    assert not outcome.grace_expired


async def test_an_error_after_a_swallowed_cancellation_is_that_of_cancelled_code() -> None:
    problem = ValueError("too late")

    async def code() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        raise problem

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.error) == ("cancelled", problem)


async def test_a_nursery_of_trios_own_does_not_take_our_cancellation_either(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("trio's own")
    import trio

    said: list[str] = []

    async def code() -> str:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(takes_its_time)
                await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.01)
            await anyio.sleep(0.01)
            said.append("cleaned up")
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.error) == ("cancelled", None)
    assert said == ["cleaned up"]


async def test_code_that_was_cancelled_is_freed_without_the_garbage_collector() -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    async def code() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        try:
            with anyio.CancelScope():
                await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.01)

    gc.collect()
    gc.disable()
    try:
        outcome = await cancelled_at_work(code)
        await checkpoints(3)
        assert things[0]() is None
    finally:
        gc.enable()
    assert outcome.ending == "cancelled"


async def test_an_error_of_a_task_that_cleans_up_meanwhile_is_that_of_cancelled_code() -> None:
    """Also on trio, where code cannot be cancelled while it waits for its tasks."""
    problem = ValueError("too late")

    async def child() -> None:
        try:
            raise problem
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)

    async def code() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert isinstance(outcome.error, ExceptionGroup)
    assert outcome.error.exceptions == (problem,)


@pytest.mark.parametrize("ends", ["raises", "returns"])
async def test_code_that_ends_in_a_shield_of_its_own_was_never_told_of_its_cancellation(ends: str) -> None:
    problem = ValueError("its own")

    async def code() -> str:
        with anyio.CancelScope(shield=True):
            await checkpoints(8)
            if ends == "raises":
                raise problem
        return "done"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.swallowed) == ("raised" if ends == "raises" else "returned", False)
    assert outcome.error is (problem if ends == "raises" else None)


async def test_code_whose_task_group_waits_for_the_cleanup_of_its_tasks_does_not_go_on_behind_it() -> None:
    said: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoints(5)
            said.append("task")

    async def code() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await anyio.sleep_forever()
        finally:
            await checkpoints(3)
            said.append("cleanup")
        said.append("went on")

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert said == ["task", "cleanup"]


async def test_cleanup_may_have_timeouts_of_its_own() -> None:
    said: list[str] = []

    async def code() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            for n in range(2):
                with anyio.move_on_after(0.01):
                    await anyio.sleep_forever()
                await checkpoints(3)
                said.append(f"timeout {n}")

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert said == ["timeout 0", "timeout 1"]
    assert not outcome.grace_expired


async def test_cleanup_may_leave_its_tasks_to_a_task_group() -> None:
    said: list[str] = []

    async def close(what: str) -> None:
        await checkpoints(3)
        await anyio.sleep(0.01)
        said.append(what)

    async def code() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()
        finally:
            async with anyio.create_task_group() as group:
                group.start_soon(close, "file")
                group.start_soon(close, "socket")
            await checkpoints(3)
            said.append("rest")

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert sorted(said) == ["file", "rest", "socket"]
    assert said[-1] == "rest"


@pytest.mark.parametrize("where", ["in a shield", "in a task of its group"])
async def test_a_timeout_in_cleanup_stays_one_though_what_it_has_cut_takes_its_time(where: str) -> None:
    said: list[str] = []

    async def cut() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoints(3)
            said.append("what was cut")

    async def code() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(0.01):
                if where == "in a shield":
                    await cut()
                async with anyio.create_task_group() as group:
                    group.start_soon(cut)
                    await anyio.sleep_forever()
            await checkpoints(3)
            said.append("rest")

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert said == ["what was cut", "rest"]


@pytest.mark.parametrize("last", ["cut", "uncut", "shielded", "shielded for a while"])
async def test_code_whose_own_scope_swallows_its_cancellation_with_that_of_its_cleanup_is_told_again(last: str) -> None:
    """Whatever the last thing is that it awaits in that scope."""
    said: list[str] = []

    async def code() -> None:
        with anyio.CancelScope() as own:
            try:
                await anyio.sleep_forever()
            finally:
                own.cancel()
                try:
                    await anyio.sleep(1)
                finally:
                    if last == "uncut":
                        await anyio.lowlevel.cancel_shielded_checkpoint()
                    elif last == "shielded":
                        with anyio.CancelScope(shield=True):
                            await checkpoints(3)
                    elif last == "shielded for a while":
                        with anyio.move_on_after(1, shield=True):
                            await checkpoints(3)
        await anyio.sleep(1)
        said.append("went on")

    outcome = await cancelled_at_work(code)
    assert outcome.ending == "cancelled"
    assert said == []


async def test_code_that_swallows_its_cancellation_is_left_in_peace_though_a_timeout_had_passed_in_its_cleanup() -> (
    None
):
    async def code() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(0.01):
                await anyio.sleep_forever()
            await checkpoints(3)
        await checkpoints(3)
        await anyio.sleep(0.01)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)


@pytest.mark.parametrize("waits", ["sleeps", "timeouts"])
async def test_code_that_has_swallowed_its_cancellation_may_have_scopes_of_its_own_expire_afterwards(
    waits: str,
) -> None:
    """A sleep of trio's is such a scope. None of them can take what the code has dealt with already."""
    said: list[str] = []

    async def wait() -> None:
        if waits == "sleeps":
            await anyio.sleep(0.01)
        else:
            with anyio.move_on_after(0.01):
                await anyio.sleep_forever()

    async def code() -> str:
        try:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                said.append("swallowed")
        finally:
            await wait()
            await wait()
            said.append("cleaned up")
        await wait()
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)
    assert said == ["swallowed", "cleaned up"]


async def cancelled_as_it_wakes(code: Any) -> Outcome[Any]:
    """Run ``code``, which sleeps until the time it is given, and cancel it before it can go on then.

    If the code is the first to wake, it has not been cancelled, and is to say so by raising.
    """
    for place in range(11):
        at = anyio.current_time() + 0.01
        outcomes: list[Outcome[Any]] = []
        contained: Contained[Any] = Contained(5.0, shield=True)

        async def task(contained: Any = contained, at: float = at, outcomes: Any = outcomes) -> None:
            outcomes.append(await contained.run(code(at)))

        async def canceller(contained: Any = contained, at: float = at) -> None:
            await anyio.sleep_until(at)
            contained.cancel()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for number in range(11):
                    group.start_soon(task if number == place else canceller)
        [outcome] = outcomes
        if outcome.ending != "raised":
            return outcome
    raise AssertionError("the code was the first to wake wherever it began")


@pytest.mark.agentrun_virtual_time
@pytest.mark.parametrize("then", ["returns", "goes on"])
async def test_a_cancellation_that_comes_with_the_end_of_a_sleep_can_be_swallowed_as_any_other(
    then: str, anyio_backend_name: str
) -> None:
    """A sleep of trio's ends by a cancel scope of its own, which lets ours through."""
    trio_only(anyio_backend_name)

    async def code(at: float) -> str:
        try:
            await anyio.sleep_until(at)
        except anyio.get_cancelled_exc_class():
            pass
        else:
            raise LookupError
        if then == "goes on":
            await anyio.sleep(0.01)
            await checkpoints(3)
            await anyio.sleep(0.01)
        return then

    outcome = await cancelled_as_it_wakes(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", then, True)


@pytest.mark.agentrun_virtual_time
async def test_a_cancellation_that_comes_with_the_end_of_a_sleep_is_told_though_its_cleanup_sleeps(
    anyio_backend_name: str,
) -> None:
    trio_only(anyio_backend_name)

    async def code(at: float) -> None:
        try:
            await anyio.sleep_until(at)
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(0.01)
            await anyio.sleep(0.01)
            raise
        else:
            raise LookupError

    outcome = await cancelled_as_it_wakes(code)
    assert (outcome.ending, outcome.error, outcome.swallowed) == ("cancelled", None, False)


@pytest.mark.agentrun_virtual_time
@pytest.mark.parametrize("then", ["returns", "goes on"])
async def test_a_cancellation_that_a_shield_keeps_from_the_end_of_a_sleep_has_not_been_swallowed(then: str) -> None:
    async def code(at: float) -> str:
        with anyio.CancelScope(shield=True, deadline=at) as own:
            await anyio.sleep_until(at)
        if then == "goes on":
            await anyio.sleep_forever()
        if not (own.cancelled_caught or anyio.current_effective_deadline() == float("-inf")):
            raise LookupError
        return then

    outcome = await cancelled_as_it_wakes(code)
    expected = "returned" if then == "returns" else "cancelled"
    assert (outcome.ending, outcome.swallowed) == (expected, False)


async def test_bounded_code_is_not_cut_by_what_is_around_it() -> None:
    async def code() -> str:
        await checkpoints(3)
        return "done"

    with anyio.CancelScope() as scope:
        scope.cancel()
        outcome = await bounded(code, 5.0)
    assert (outcome.ending, outcome.value) == ("returned", "done")


# Where nobody but the code itself knows -------------------------------------------------------------------------------


async def asks_for_a_lock() -> None:
    async with anyio.Lock():
        pass


async def sends() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    with send, receive:
        await send.send(1)


AWAITS: list[Any] = [
    asks_for_a_lock,
    sends,
    anyio.lowlevel.checkpoint,
    anyio.lowlevel.checkpoint_if_cancelled,
    anyio.sleep_forever,
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("wait", AWAITS)
async def test_code_that_has_itself_cancelled_is_told_at_its_next_await(wait: Any, first: bool) -> None:
    said: list[str] = []
    contained: Contained[Any] = Contained(5.0, shield=True)

    async def code() -> None:
        if not first:
            await checkpoints(2)
        contained.cancel()
        try:
            await wait()
            said.append("went on")
        finally:
            await checkpoints(3)
            await anyio.sleep(0.01)
            said.append("cleaned up")

    with anyio.fail_after(5):
        outcome = await contained.run(code())
    assert (outcome.ending, outcome.error, outcome.swallowed) == ("cancelled", None, False)
    assert said == ["cleaned up"]


@pytest.mark.parametrize("wait", AWAITS)
async def test_cleanup_behind_a_group_whose_tasks_take_their_time_never_breaks(wait: Any) -> None:
    """On trio its first await may be cut, if it asks for cancellation; see docs/semantics.md, law 7."""
    said: list[str] = []

    async def code() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(takes_its_time)
                await anyio.sleep_forever()
        finally:
            try:
                if wait is not anyio.sleep_forever:
                    await wait()
            finally:
                await checkpoints(3)
                await anyio.sleep(0.01)
                said.append("cleaned up")

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.error) == ("cancelled", None)
    assert said == ["cleaned up"]


@pytest.mark.parametrize("what", ["cleanup", "swallowed"])
async def test_a_task_group_that_is_opened_afterwards_may_cancel_itself(what: str) -> None:
    said: list[str] = []

    async def group_that_cancels_itself() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await checkpoints(3)
            group.cancel_scope.cancel()
        said.append("group left")
        await anyio.sleep(0.01)
        said.append("cleaned up")

    async def code() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if what == "cleanup":
                await group_that_cancels_itself()
                raise
        await group_that_cancels_itself()
        return "done"

    outcome = await cancelled_at_work(code)
    assert outcome.ending == ("cancelled" if what == "cleanup" else "returned")
    assert outcome.swallowed == (what == "swallowed")
    assert said == ["group left", "cleaned up"]


async def test_code_that_keeps_a_cancellation_of_its_own_in_a_variable_is_told_of_ours() -> None:
    said: list[str] = []
    kept: list[BaseException] = []

    async def code() -> None:
        last: BaseException | None = None
        with anyio.move_on_after(0.001):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as exc:
                last = exc
                raise
        assert last is not None
        contained.cancel()
        with anyio.CancelScope(shield=True):
            await checkpoints(3)
        said.append("out of the shield")
        await anyio.sleep_forever()
        kept.append(last)

    contained: Contained[Any] = Contained(5.0, shield=True)
    with anyio.fail_after(3):
        outcome = await contained.run(code())
    assert (outcome.ending, outcome.grace_expired) == ("cancelled", False)
    assert said == ["out of the shield"]


async def test_code_that_keeps_what_a_scope_of_its_own_has_taken_is_told_of_ours() -> None:
    seen: list[str] = []

    async def code() -> None:
        kept: BaseException | None = None
        with anyio.CancelScope(shield=True), anyio.CancelScope() as own:
            own.cancel()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as exc:
                kept = exc
                with anyio.CancelScope(shield=True):
                    await checkpoints(8)  # ours comes here
                raise
        seen.append("goes on")
        await anyio.sleep(0.2)
        seen.append(f"was not told, and has kept {kept}")

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, seen) == ("cancelled", ["goes on"])


class Unbound:
    """A proxy of nothing: whatever it is asked for, it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}, with nothing behind it")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        await checkpoints(2)


async def test_code_may_hold_objects_that_raise_whatever_they_are_asked_for() -> None:
    said: list[str] = []

    async def code() -> None:
        proxy = Unbound()
        with proxy:
            try:
                async with proxy, anyio.create_task_group() as group:
                    group.start_soon(takes_its_time)
                    await anyio.sleep_forever()
            finally:
                await checkpoints(2)
                said.append("cleaned up")
        del proxy

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.error, said) == ("cancelled", None, ["cleaned up"])


async def test_code_that_handles_the_cancellation_of_a_task_it_awaits_is_told_of_ours(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    said: list[str] = []

    async def code() -> None:
        child = asyncio.ensure_future(asyncio.sleep(5))
        await asyncio.sleep(0)
        child.cancel()
        try:
            await child
        except asyncio.CancelledError:
            contained.cancel()
            said.append("child is gone")
            await asyncio.sleep(5)
            said.append("went on")

    contained: Contained[Any] = Contained(5.0, shield=True)
    with anyio.fail_after(3):
        outcome = await contained.run(code())
    assert (outcome.ending, outcome.grace_expired) == ("cancelled", False)
    assert said == ["child is gone"]


@pytest.mark.parametrize("then", ["goes on", "returns"])
async def test_a_task_group_that_takes_the_cancellation_for_its_own_does_not_keep_it(then: str) -> None:
    """anyio 4.16 on asyncio: it does if a scope in a task of it was cancelled, and is left."""
    seen: list[str] = []

    async def has_a_task() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep_forever()

    async def code() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(has_a_task)
        seen.append("behind the group")
        if then == "goes on":
            await anyio.sleep(60)
            seen.append("went on")
        return "done"

    outcome = await cancelled_at_work(code, steps=6)
    assert "went on" not in seen
    assert not outcome.swallowed
    if then == "goes on" or not seen:
        assert outcome.ending == "cancelled"
    else:
        assert (outcome.ending, outcome.value) == ("returned", "done")


@pytest.mark.agentrun_virtual_time
@pytest.mark.parametrize("then", ["goes on", "returns"])
async def test_a_scope_that_the_cleanup_cancels_around_itself_does_not_keep_the_cancellation(then: str) -> None:
    seen: list[str] = []

    async def code() -> str:
        with anyio.CancelScope() as scope:
            try:
                await anyio.sleep_forever()
            finally:
                scope.cancel()
        seen.append("behind the scope")
        if then == "goes on":
            await anyio.sleep(1)
            seen.append("went on")
        return "done"

    outcome = await cancelled_at_work(code)
    assert "went on" not in seen
    assert not outcome.swallowed
    assert outcome.ending == ("cancelled" if then == "goes on" or not seen else "returned")


@pytest.mark.parametrize("wait", [asks_for_a_lock, sends, anyio.lowlevel.checkpoint])
async def test_code_that_only_ever_awaits_what_does_not_make_it_wait_is_told_at_its_next_await(wait: Any) -> None:
    """Most of these ask for a cancellation first, and cannot be cancelled any more when they let others run."""
    cancelled: list[int] = []
    passes = 0
    contained: Contained[Any] = Contained(5.0, shield=True)

    async def code() -> None:
        nonlocal passes
        for _ in range(20):
            await wait()
            passes += 1

    async def task() -> None:
        assert (await contained.run(code())).ending == "cancelled"

    async with anyio.create_task_group() as group:
        group.start_soon(task)
        await checkpoints(4)
        cancelled.append(passes)
        contained.cancel()
    # The await that is under way may be one that cannot be cancelled any more; the next one is.
    assert passes <= cancelled[0] + 1


async def swallows_what_comes_in_a_checkpoint(seen: list[str]) -> None:
    try:
        await anyio.lowlevel.checkpoint()
    except anyio.get_cancelled_exc_class():
        seen.append("told")
    with anyio.CancelScope(shield=True):
        await checkpoints(2)
        await anyio.sleep(0.001)


async def cancels_a_group_of_its_cleanup(seen: list[str]) -> None:
    try:
        await anyio.lowlevel.checkpoint()
    except anyio.get_cancelled_exc_class():
        seen.append("told")
        raise
    finally:
        async with anyio.create_task_group() as group:
            group.cancel_scope.cancel()
            await anyio.sleep_forever()
        await checkpoints(2)
        seen.append("cleaned up")


@pytest.mark.parametrize("code", [swallows_what_comes_in_a_checkpoint, cancels_a_group_of_its_cleanup])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancellation_that_comes_in_a_checkpoint_is_one_like_any_other(backend: str, code: Any) -> None:
    """On trio that is in two halves, and the order in which tasks are run decides in which of them it comes."""
    cut: set[bool] = set()
    for seed in range(8):
        seen: list[str] = []

        async def main(seen: list[str]) -> Outcome[Any]:
            outcomes: list[Outcome[Any]] = []
            contained: Contained[Any] = Contained(5.0, shield=True)

            async def task() -> None:
                outcomes.append(await contained.run(code(seen)))

            async with anyio.create_task_group() as group:
                group.start_soon(task)
                await anyio.lowlevel.checkpoint()
                contained.cancel()
            return outcomes[0]

        outcome = run_virtual(main, seen, backend=backend, seed=seed)
        told = "told" in seen
        cut.add(told)
        if code is swallows_what_comes_in_a_checkpoint:
            assert (outcome.ending, outcome.swallowed) == ("returned", told)
        elif told:
            assert (outcome.ending, seen) == ("cancelled", ["told", "cleaned up"])
    assert True in cut


async def test_cleanup_behind_a_task_group_that_was_winding_up_by_itself_is_left_in_peace() -> None:
    """It lets our cancellation out, which came meanwhile, in the form of its own."""
    cleaned: list[str] = []

    async def code() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(takes_its_time)
                await checkpoints(2)
                group.cancel_scope.cancel()
                await anyio.sleep_forever()
        finally:
            await checkpoints(2)
            cleaned.append("all of it")

    outcome = await cancelled_at_work(code, steps=6)
    assert (outcome.ending, cleaned) == ("cancelled", ["all of it"])


async def test_code_that_swallows_its_cancellation_behind_a_group_and_awaits_before_it_goes_on_is_left_in_peace() -> (
    None
):
    async def code() -> str:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(takes_its_time)
                group.start_soon(anyio.sleep_forever)
        except anyio.get_cancelled_exc_class():
            await checkpoints(2)
        await checkpoints(3)
        await anyio.sleep(0.01)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)


@pytest.mark.parametrize("then", ["goes on", "returns"])
async def test_code_that_has_itself_cancelled_in_a_cleanup_of_asyncios_timeout_is_told_behind_it(
    then: str, anyio_backend_name: str
) -> None:
    """That cleanup, which a native cancellation has begun, is not cut by ours; but what comes behind it is."""
    asyncio_only(anyio_backend_name)
    contained: Contained[Any] = Contained(0.5, shield=True)
    seen: list[str] = []

    async def code() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                try:
                    await asyncio.sleep(5)
                finally:
                    contained.cancel()
                    await asyncio.sleep(0.001)
                    seen.append("cleaned up")
        if then == "goes on":
            await asyncio.sleep(5)

    outcome = await contained.run(code())
    assert seen == ["cleaned up"]
    assert outcome.ending == ("cancelled" if then == "goes on" else "returned")
    assert (outcome.grace_expired, outcome.swallowed) == (False, False)


@pytest.mark.parametrize("then", ["awaits", "awaits in a shield", "returns"])
async def test_a_cancellation_that_is_swallowed_behind_a_group_with_a_slow_task_is_reported(then: str) -> None:
    async def code() -> str:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(takes_its_time)
                await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        if then == "awaits":
            await anyio.sleep(0.01)
            await anyio.sleep(0.01)
        elif then == "awaits in a shield":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)


@pytest.mark.parametrize("outer", [True, False])
async def test_a_timeout_around_the_body_that_passes_in_its_cleanup_does_not_take_our_cancellation(outer: bool) -> None:
    """It cuts the cleanup, as it would without us. What is outside of it is told of ours, and cleans up in peace."""
    said: list[str] = []

    async def code() -> str:
        try:
            with anyio.move_on_after(0.05):
                try:
                    await anyio.sleep_forever()
                finally:
                    await anyio.sleep(3)
                    said.append("cut")
        finally:
            if outer:
                await anyio.sleep(0.01)
                await anyio.sleep(0.01)
                said.append("cleaned up")
        return "went on"

    with anyio.fail_after(2):
        outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.swallowed) == ("cancelled", False)
    assert said == (["cleaned up"] if outer else [])


async def test_a_cancellation_that_is_swallowed_after_its_cleanup_is_not_told_again() -> None:
    async def code() -> str:
        try:
            try:
                await anyio.sleep_forever()
            finally:
                await anyio.sleep(0.01)
        except anyio.get_cancelled_exc_class():
            pass
        await anyio.sleep(0.01)
        await checkpoints(2)
        await anyio.sleep(0.01)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "went on", True)


# Native cancellation ---------------------------------------------------------------------------------------------


async def test_a_native_cancellation_after_a_swallowed_one_does_not_bring_that_back(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    cancellations: list[str] = []

    async def code() -> str:
        for _ in range(2):
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError as exc:
                cancellations.append("scope" if "cancel scope" in str(exc) else "native")
            task = asyncio.current_task()
            assert task is not None
            if len(cancellations) == 1:
                asyncio.get_running_loop().call_later(0.01, task.cancel)
        await checkpoints(5)
        return "went on"

    outcome = await cancelled_at_work(code)
    assert cancellations == ["scope", "native"]
    assert (outcome.ending, outcome.swallowed) == ("returned", True)


async def test_a_native_cancellation_from_before_is_none_of_the_code(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    outcomes: list[Outcome[Any]] = []
    left: list[int] = []

    async def code() -> None:
        raise asyncio.CancelledError

    async def host() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass
        outcomes.append(await Contained[Any](1.0).run(code()))
        left.append(task.cancelling())
        task.uncancel()

    await asyncio.create_task(host())
    assert [outcome.ending for outcome in outcomes] == ["foreign_cancellation"]
    assert left == [1]


async def test_a_timeout_of_asyncios_that_passes_together_with_the_cancellation_does_not_hide_it(
    anyio_backend_name: str,
) -> None:
    asyncio_only(anyio_backend_name)
    said: list[str] = []
    contained: Contained[Any] = Contained(5.0, shield=True)

    async def code() -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(loop.time() - 1):  # it passes with the next await
                loop.call_soon(contained.cancel)
                await asyncio.sleep(5)
        except TimeoutError:
            said.append("timed out")
        try:
            await asyncio.sleep(5)
            said.append("went on")
        finally:
            await checkpoints(3)
            said.append("cleaned up")

    with anyio.fail_after(3):
        outcome = await contained.run(code())
    assert outcome.ending == "cancelled"
    assert said in (["timed out", "cleaned up"], ["cleaned up"])


async def test_a_native_timeout_in_code_that_could_be_cancelled_and_is_not_changes_nothing(
    anyio_backend_name: str,
) -> None:
    asyncio_only(anyio_backend_name)

    async def code() -> str:
        for _ in range(2):
            try:
                async with asyncio.timeout(0.005):
                    await asyncio.sleep(5)
            except TimeoutError:
                pass
            await asyncio.sleep(0.005)
        return "done"

    outcome = await Contained[Any](1.0, timeout=60, shield=True).run(code())
    assert (outcome.ending, outcome.value, outcome.swallowed) == ("returned", "done", False)


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_cleanup_after_a_native_cancellation_is_not_cut_when_it_has_the_code_cancelled_itself(
    steps: int, timeout: float | None, anyio_backend_name: str
) -> None:
    """As a tool does that interrupts its own run because it was cancelled."""
    asyncio_only(anyio_backend_name)
    said: list[str] = []
    contained: Contained[Any] = Contained(5.0, timeout=timeout, shield=True)

    async def code() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await anyio.sleep_forever()
        finally:
            for _ in range(steps):
                await asyncio.sleep(0)
            contained.cancel()
            await anyio.sleep(0.01)
            said.append("cleaned up")

    async def host() -> Outcome[Any]:
        return await contained.run(code())

    with anyio.fail_after(5):
        outcome = await asyncio.create_task(host())
    assert outcome.ending == "cancelled"
    assert said == ["cleaned up"]


async def test_what_is_asked_of_code_that_is_over_does_not_reach_the_next_code_in_its_place() -> None:
    async def code() -> str:
        await checkpoints(3)
        return "done"

    cell = Cell(shield=True)
    cell.enter()
    first: Contained[str] = Contained(5.0, cell=cell)
    assert (await first.run(code())).value == "done"
    second: Contained[str] = Contained(5.0, cell=cell)
    first.cancel()
    first.set_deadline(-1.0)
    first.hasten(-1.0)
    outcome = await second.run(code())
    cell.leave()
    assert (outcome.ending, outcome.value) == ("returned", "done")
    assert not first.cancel_called


async def test_the_place_of_code_that_was_cancelled_keeps_what_is_outside_from_the_next_code() -> None:
    async def cancelled() -> None:
        first.cancel()
        await anyio.sleep_forever()

    async def code() -> str:
        outside.cancel()
        await checkpoints(3)
        return "done"

    cell = Cell(shield=True)
    with anyio.CancelScope() as outside:
        cell.enter()
        first: Contained[None] = Contained(5.0, cell=cell)
        assert (await first.run(cancelled())).ending == "cancelled"
        assert not cell.entered  # its scopes stay cancelled
        cell.enter_again()
        second: Contained[str] = Contained(5.0, cell=cell)
        outcome = await second.run(code())
        cell.leave()
    assert (outcome.ending, outcome.value) == ("returned", "done")


async def test_pieces_of_code_that_end_by_themselves_share_their_scopes() -> None:
    """Entering and leaving two scopes for each call of a tool or a model would be a good part of what it costs."""
    cell = Cell(shield=True)
    cell.enter()
    scopes = cell.scope, cell.grace
    for _ in range(3):
        assert (await Contained[None](5.0, cell=cell).run(checkpoints(1))).ending == "returned"
        assert (cell.scope, cell.grace) == scopes
    assert (await Contained[None](5.0, cell=cell, timeout=100).run(checkpoints(1))).ending == "returned"
    assert (cell.scope, cell.grace) == scopes
    assert cell.scope.deadline == math.inf
    cell.leave()
    assert not cell.broken


@pytest.mark.parametrize("how", ["cancelled", "shielded", "expired"])
async def test_what_ended_or_shielded_a_cleanup_does_not_reach_the_next_code_in_its_place(how: str) -> None:
    async def cancelled() -> None:
        if how == "shielded":
            first.protect()  # as what follows user code, such as leaving its context managers, is
            return
        first.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            if how == "expired":
                await anyio.sleep_forever()

    async def code() -> str:
        second.cancel()
        await anyio.sleep_forever()
        return "not told"

    cell = Cell(shield=True)
    cell.enter()
    first: Contained[None] = Contained(0.01, cell=cell)
    outcome = await first.run(cancelled())
    assert outcome.ending == ("returned" if how == "shielded" else "cancelled")
    assert outcome.grace_expired == (how == "expired")
    assert cell.entered == (how == "shielded")
    cell.enter_again()
    assert not cell.grace.shield
    assert cell.grace.deadline == math.inf
    grace = cell.grace
    assert (await Contained[None](5.0, cell=cell).run(checkpoints(1))).ending == "returned"
    assert cell.grace is grace
    second: Contained[str] = Contained(5.0, cell=cell)
    told = await second.run(code())
    cell.enter_again()
    third: Contained[None] = Contained(5.0, cell=cell)
    rest = await third.run(checkpoints(2))
    cell.leave()
    assert (told.ending, rest.ending) == ("cancelled", "returned")


async def _cancelled_beside_a_producer(steps: int, lead: int, *, asks: bool, cleanup: int) -> tuple[str, list[str]]:
    """Cancel code in whose task group a producer is still on its way to its first await, and say what became of both.

    Args:
        steps: So many steps the producer takes that cannot be cancelled, before its first await that can.
        lead: So many steps before the cancellation it gets going; behind it, if negative.
        asks: Whether it then asks whether it is cancelled, before it awaits.
        cleanup: So many checkpoints the code's own cleanup takes, in the body of the group.
    """
    send, receive = anyio.create_memory_object_stream[int](0)
    go, told = anyio.Event(), list[str]()
    contained: Contained[Any] = Contained(5, shield=True)
    outcomes: list[Outcome[Any]] = []

    async def producer() -> None:
        try:
            async with send:
                await go.wait()
                for _ in range(steps):
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                if asks:
                    await anyio.lowlevel.checkpoint_if_cancelled()
                await send.send(1)
                await anyio.sleep_forever()
        except BaseException as exc:
            told.append(type(exc).__name__)
            raise

    async def code() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(producer)
            async with receive:
                try:
                    await anyio.sleep_forever()
                finally:
                    for _ in range(cleanup):
                        await anyio.lowlevel.checkpoint()

    async def task() -> None:
        outcomes.append(await contained.run(code()))

    async with anyio.create_task_group() as group:
        group.start_soon(task)
        await checkpoints(5)
        if lead < 0:
            contained.cancel()
        else:
            go.set()
        for _ in range(abs(lead)):
            await anyio.lowlevel.cancel_shielded_checkpoint()
        contained.cancel()
        go.set()
    [outcome] = outcomes
    return f"{outcome.ending} {outcome.error}", told


@pytest.mark.parametrize("cleanup", [0, 1, 4])
@pytest.mark.parametrize("asks", [False, True])
async def test_tasks_of_a_group_that_the_code_was_in_are_cancelled_with_it_wherever_they_are(
    asks: bool, cleanup: int
) -> None:
    cancelled = anyio.get_cancelled_exc_class().__name__
    for _ in range(4):  # trio takes the tasks of a step in any order
        for steps in range(6):
            for lead in range(-5, 6):
                became = await _cancelled_beside_a_producer(steps, lead, asks=asks, cleanup=cleanup)
                assert became == ("cancelled None", [cancelled]), (steps, lead)


async def test_a_task_that_is_told_at_a_checkpoint_in_the_very_step_in_which_the_code_is_stays_told() -> None:
    for _ in range(400):  # trio takes the tasks of a step in any order, and it matters in one of some hundred
        became = await _cancelled_beside_a_producer(0, 0, asks=False, cleanup=4)
        assert became[0] == "cancelled None"


def _cancelled_in_virtual_time(code: Any, backend: str) -> tuple[Outcome[Any], float]:
    """Cancel code after a second; what came of it, and when."""

    async def main() -> tuple[Outcome[Any], float]:
        contained: Contained[Any] = Contained(5, shield=True)
        outcomes: list[Outcome[Any]] = []

        async def task() -> None:
            outcomes.append(await contained.run(code()))

        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await anyio.sleep(1)
            contained.cancel()
        return outcomes[0], anyio.current_time()

    return run_virtual(main, backend=backend)


def test_cleanup_beside_tasks_that_do_not_end_is_over_with_its_grace(anyio_backend_name: str) -> None:
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)

    async def code() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(stubborn)
            try:
                await anyio.sleep_forever()
            finally:
                await anyio.sleep(1)
                cleaned.append(anyio.current_time())
                await anyio.sleep_forever()

    cleaned: list[float] = []
    outcome, _ = _cancelled_in_virtual_time(code, anyio_backend_name)
    assert len(cleaned) == 1
    assert outcome.ending == "cancelled"
    assert outcome.grace_expired


async def test_tasks_that_the_cleanup_itself_starts_are_left_in_peace_beside_others_that_are_not() -> None:
    did: list[str] = []

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await done.wait()

    async def helper() -> None:
        await checkpoints(3)
        did.append("helped")

    async def code() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(stubborn)
            try:
                await anyio.sleep_forever()
            finally:
                await checkpoints(2)
                async with anyio.create_task_group() as own:
                    own.start_soon(helper)
                    await checkpoints(5)
                    did.append("waited")
                await checkpoints(2)
                did.append("went on")
                done.set()

    done = anyio.Event()
    outcome = await cancelled_at_work(code)
    assert (outcome.ending, outcome.error) == ("cancelled", None)
    assert did == ["helped", "waited", "went on"]


class _Retrying:
    """Code that tries again when a task in its group has failed, which it does when it is cancelled."""

    def __init__(self, group: Any, attempts: int) -> None:
        self.group = group
        self.attempts = attempts
        self.log: list[tuple[str, float]] = []

    async def __call__(self) -> None:
        for _ in range(self.attempts):
            try:
                async with self.group() as group:
                    self.start_failing(group)
                    await anyio.sleep(60)
            except* ValueError:
                self._note("failed")
                await anyio.sleep(1)
                self._note("tries again")

    def _note(self, what: str) -> None:
        self.log.append((what, anyio.current_time()))

    def start_failing(self, group: Any) -> None:
        """Start a task, in a group of anyio's or asyncio's, that fails when it is cancelled."""
        if isinstance(group, asyncio.TaskGroup):
            group.create_task(self._fail())
        else:
            group.start_soon(self._fail)

    async def _fail(self) -> None:
        try:
            await anyio.sleep(60)
        finally:
            raise ValueError("broken")


CANCELS_AGAIN = sys.version_info >= (3, 13)
"""asyncio's own task group, when it raises errors in the place of a cancellation, natively, at the next await."""

GROUPS: list[tuple[str, Any]] = [("asyncio", anyio.create_task_group), ("trio", anyio.create_task_group)]
if not CANCELS_AGAIN:
    GROUPS.append(("asyncio", asyncio.TaskGroup))


@pytest.mark.parametrize(("backend", "group"), GROUPS)
def test_code_whose_group_has_raised_errors_in_place_of_its_cancellation_is_told_again(
    backend: str, group: Any
) -> None:
    code = _Retrying(group, attempts=2)
    outcome, ended = _cancelled_in_virtual_time(code, backend)
    handled = [("failed", 1.0), ("tries again", 2.0)]
    # asyncio: it is told again in its second attempt, the group of which raises the same.
    assert code.log == (handled if backend == "trio" else [*handled, ("failed", 2.0), ("tries again", 3.0)])
    assert ended == code.log[-1][1]
    assert not outcome.swallowed
    assert not outcome.grace_expired


@pytest.mark.skipif(not CANCELS_AGAIN, reason="asyncio's own group does not cancel again before 3.13")
def test_asyncios_own_group_tells_the_code_at_once_from_python_3_13_on() -> None:
    code = _Retrying(asyncio.TaskGroup, attempts=2)
    outcome, ended = _cancelled_in_virtual_time(code, "asyncio")
    assert (code.log, ended) == ([("failed", 1.0)], 1.0)
    assert (outcome.ending, outcome.swallowed) == ("cancelled", False)


@pytest.mark.parametrize(("backend", "group"), [each for each in GROUPS if each[0] == "asyncio"])
def test_code_that_is_told_again_has_no_more_than_what_is_left_of_its_grace(backend: str, group: Any) -> None:
    code = _Retrying(group, attempts=20)
    outcome, ended = _cancelled_in_virtual_time(code, backend)
    assert ended == 6.0
    assert outcome.grace_expired


@pytest.mark.parametrize(("backend", "group"), GROUPS)
def test_cleanup_behind_a_group_that_has_raised_errors_is_left_in_peace(backend: str, group: Any) -> None:
    code, cleaned = _Retrying(group, attempts=1), list[float]()

    async def cleans_up() -> None:
        try:
            async with group() as own:
                code.start_failing(own)
                await anyio.sleep(60)
        finally:
            await anyio.sleep(1)
            cleaned.append(anyio.current_time())

    outcome, _ = _cancelled_in_virtual_time(cleans_up, backend)
    assert (outcome.ending, cleaned) == ("cancelled", [2.0])
    assert outcome.error is not None


@pytest.mark.parametrize("when", ["before its first step", "in its first step", "in a later step"])
@pytest.mark.parametrize("first", ["sleep", "checkpoint", "for ever"])
async def test_cleanup_of_code_that_was_cancelled_before_it_awaited_is_left_in_peace(first: str, when: str) -> None:
    """trio tells such code in a scope of its own. What asks for a cancellation in its cleanup must not get it again."""
    seen: list[str] = []

    async def code() -> None:
        if when == "in a later step":
            await checkpoints(1)
        if when != "before its first step":
            contained.cancel()
        try:
            if first == "for ever":
                await anyio.sleep_forever()
            await (anyio.sleep(0) if first == "sleep" else anyio.lowlevel.checkpoint())
            seen.append("not told")
        finally:
            async with anyio.Lock():
                await checkpoints(2)
            seen.append("cleaned up")

    contained: Contained[None] = Contained(5.0)
    if when == "before its first step":
        contained.cancel()
    outcome = await contained.run(code())
    assert seen == ["cleaned up"]
    assert (outcome.ending, outcome.error) == ("cancelled", None)


async def test_an_error_out_of_a_cancelled_scope_of_its_own_is_that_of_a_cleanup_if_the_code_was_cancelled_too() -> (
    None
):
    async def code() -> None:
        with anyio.CancelScope() as own:
            own.cancel()
            contained.cancel()
            try:
                await anyio.sleep_forever()
            except BaseException:
                raise KeyError("gone") from None

    contained: Contained[None] = Contained(5.0)
    outcome = await contained.run(code())
    assert outcome.ending == "cancelled"
    assert isinstance(outcome.error, KeyError)


async def test_only_native_cancellations_that_come_while_the_code_runs_are_its_own(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)

    async def lets_one_out() -> None:
        raise asyncio.CancelledError

    async def host() -> tuple[Outcome[None], int]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        outcome = await Contained[None](5.0).run(lets_one_out())
        return outcome, task.cancelling()

    outcome, cancelling = await asyncio.create_task(host())
    assert outcome.ending == "foreign_cancellation"
    assert cancelling == 1  # which is the host's, and is left to it
