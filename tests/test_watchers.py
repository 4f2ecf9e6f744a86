"""Watchers that come and go: each is on its own, and nothing of one that has gone is left."""

from __future__ import annotations

import gc
import threading

import anyio
import pytest
from laws.support import checkpoints

from agentrun.core.events import Event, EventsDropped, RunEnded, TextDelta, ToolProgress
from agentrun.core.inbox import Inbox
from agentrun.core.items import UserMessage
from agentrun.runtime.backend import running_backend
from agentrun.runtime.hub import EventHub, EventStream
from agentrun.runtime.injection import Injection

DELTA = TextDelta("x")


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_watcher_that_goes_takes_no_other_with_it(how: str) -> None:
    hub = EventHub(running_backend())
    watchers = [hub.subscribe(1, "wait") for _ in range(3)]
    gone = watchers.pop(1)
    if how == "closed":
        gone.close()
        gone.close()
    else:
        del gone
        gc.collect()
    hub.publish(DELTA)
    assert [list(watcher._queue) for watcher in watchers] == [[DELTA], [DELTA]]
    assert hub.lagging
    for watcher in watchers:
        watcher.close()
    hub.publish(DELTA)
    assert not hub.lagging
    assert [list(watcher._queue) for watcher in watchers] == [[], []]


async def test_a_closed_stream_has_no_more_events() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(9, "wait")
    hub.publish(DELTA)
    hub.publish(DELTA)
    assert await anext(stream) is DELTA
    stream.close()
    hub.publish(DELTA)
    assert [event async for event in stream] == []


async def test_nobody_is_waited_for_once_the_watchers_have_caught_up() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(2, "wait")
    hub.publish(DELTA)
    assert not hub.pressed
    hub.publish(DELTA)
    assert hub.pressed
    async with anyio.create_task_group() as group:
        group.start_soon(hub.wait_for_watchers)
        while not hub.waiting:
            await anyio.sleep(0)
        assert [await anext(stream), await anext(stream)] == [DELTA, DELTA]
    assert hub.waiting is False
    assert hub.pressed is False


async def test_a_wait_for_watchers_that_is_cancelled_is_over() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(1, "wait")
    hub.publish(DELTA)
    with anyio.move_on_after(0):
        await hub.wait_for_watchers()
    assert hub.waiting is False
    assert stream.lagging
    assert hub.pressed  # the next one waits again


async def test_a_watcher_that_comes_late_and_has_enough_to_read_already_is_waited_for() -> None:
    hub = EventHub(running_backend())
    hub.publish(DELTA)
    assert not hub.pressed
    first = hub.subscribe(1, "wait")
    assert first.lagging
    assert hub.pressed


async def test_a_watcher_that_comes_while_another_is_waited_for_does_not_end_that() -> None:
    hub = EventHub(running_backend())
    first = hub.subscribe(1, "wait")
    hub.publish(DELTA)
    second = hub.subscribe(1, "wait")
    assert not second.lagging
    assert first.lagging
    assert hub.pressed


async def test_the_end_comes_once() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(9, "wait")
    hub.end(RunEnded("completed"))
    hub.end(RunEnded("failed"))
    hub.publish(DELTA)
    assert [event async for event in stream] == [RunEnded("completed")]


# The caller's end of an injected input ------------------------------------------------------------------------------


async def test_waiting_for_an_injection_ends_when_its_fate_is_known() -> None:
    inbox = Inbox(9)
    entry = inbox.add((UserMessage("u"),), "next")
    told: list[str] = []

    async def wait() -> None:
        told.append(await Injection(inbox, entry).wait())

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(wait)
        while len(entry.on_settled) < 2:
            await anyio.sleep(0)
        assert told == []
        inbox.take([entry], 1)
    assert told == ["delivered", "delivered"]
    assert entry.on_settled == []
    with anyio.fail_after(10):
        assert await Injection(inbox, entry).wait() == "delivered"


async def test_a_wait_for_an_injection_that_is_cancelled_leaves_nothing_behind() -> None:
    inbox = Inbox(9)
    injection = Injection(inbox, entry := inbox.add((UserMessage("u"),), "next"))
    with anyio.move_on_after(0):
        await injection.wait()
    assert entry.on_settled == []
    assert injection.status == "pending"
    assert injection.withdraw()
    assert await injection.wait() == "undelivered"


# The hub by itself: what is kept, what is lost, and when the model stream may go on -------------------------------


async def rest(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


async def test_a_watcher_that_may_lose_deltas_keeps_as_many_as_its_buffer_takes() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(3, "drop")
    deltas = [TextDelta(str(n)) for n in range(5)]
    for delta in deltas:
        hub.publish(delta)
        assert not hub.pressed  # nobody ever waits for it
    hub.end(RunEnded("completed", None))
    assert await rest(stream) == [*deltas[:3], EventsDropped(2), RunEnded("completed", None)]


async def test_where_deltas_are_missing_is_told_once_and_before_what_comes_next() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(4, "drop")
    deltas = [TextDelta(str(n)) for n in range(9)]
    for delta in deltas[:6]:
        hub.publish(delta)
    assert [await anext(stream) for _ in range(3)] == deltas[:3]
    hub.publish(deltas[6])  # there is room again
    hub.publish(deltas[7])
    hub.end(RunEnded("completed", None))
    assert await rest(stream) == [
        deltas[3],
        EventsDropped(2),
        deltas[6],
        deltas[7],
        RunEnded("completed", None),
    ]


async def test_of_the_progress_of_tools_a_lagging_watcher_keeps_twice_its_buffer() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(3, "wait")
    told = [ToolProgress("c", "work", n) for n in range(8)]
    for n, event in enumerate(told):
        hub.pressed = False
        hub.publish(event)
        assert hub.pressed == (n >= 2)
    hub.end(RunEnded("completed", None))
    assert await rest(stream) == [*told[:6], EventsDropped(2), RunEnded("completed", None)]


async def test_a_watcher_that_lagged_may_catch_up_by_half_before_the_model_stream_goes_on() -> None:
    hub = EventHub(running_backend())
    stream = hub.subscribe(6, "wait")
    went_on: list[str] = []

    async def model() -> None:
        await hub.wait_for_watchers()
        went_on.append("model")

    for n in range(6):
        hub.publish(TextDelta(str(n)))
    read = 0
    async with anyio.create_task_group() as group:
        group.start_soon(model)
        await checkpoints(5)
        assert hub.waiting
        while not went_on:
            await anext(stream)
            read += 1
            await checkpoints(5)
    assert read == 3


async def test_a_watcher_may_leave_after_the_end() -> None:
    hub = EventHub(running_backend())
    first, second = hub.subscribe(3, "wait"), hub.subscribe(3, "wait")
    hub.end(RunEnded("completed", None))
    first.close()
    await second.aclose()
    assert await rest(first) == await rest(second) == []


@pytest.mark.parametrize("buffered", [0, 40])
async def test_a_cancellation_that_is_kept_does_not_keep_the_watcher_that_it_ended(buffered: int) -> None:
    hub = EventHub(running_backend())
    kept: list[BaseException] = []
    read: list[Event] = []

    async def watch() -> None:
        try:
            async for event in hub.subscribe(1000, "wait"):
                read.append(event)
                if len(read) == 32:
                    scope.cancel()  # it takes the next one after a checkpoint
        except BaseException as exc:
            kept.append(exc)
            raise

    for _ in range(buffered):
        hub.publish(DELTA)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await checkpoints(3)
            scope.cancel()
    assert len(kept) == 1
    assert hub._streams == []


async def test_a_watcher_that_is_collected_in_another_thread_is_waited_for_no_more() -> None:
    hub = EventHub(running_backend())
    watchers = [hub.subscribe(1, "wait")]
    hub.publish(DELTA)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(hub.wait_for_watchers)
            await checkpoints(3)
            assert hub.waiting
            collector = threading.Thread(target=watchers.clear)
            collector.start()
            collector.join()
    assert not hub.waiting


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_watcher_that_outlives_its_event_loop_may_be_collected_anywhere(backend: str) -> None:
    async def main() -> list[EventStream]:
        return [EventHub(running_backend()).subscribe(1, "wait")]

    watchers = anyio.run(main, backend=backend)
    hub = watchers[0]._hub
    collector = threading.Thread(target=watchers.clear)
    collector.start()
    collector.join()
    assert watchers == []
    assert not hub.lagging
