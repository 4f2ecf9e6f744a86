"""What the tests of the laws share: steps of the scheduler, and what must be true of any run that has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from agentrun import ActiveRun, RunResult, ToolCall, events
from agentrun.events import Event
from agentrun.testing import ScriptedModel, assert_valid_history

_DELTAS = (events.TextDelta, events.ReasoningDelta, events.ToolCallDelta, events.ToolProgress)


async def checkpoints(count: int) -> None:
    """Let the other tasks take ``count`` steps."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def watch(live: ActiveRun[Any], into: list[Event]) -> None:
    """Collect all events of a run."""
    async for event in live.events():
        into.append(event)  # noqa: PERF401 - what was seen before a cancellation counts


async def collect(live: ActiveRun[Any]) -> list[Event]:
    """All events of a run, when it has ended."""
    seen: list[Event] = []
    await watch(live, seen)
    return seen


def structural(seen: Sequence[Event]) -> list[Event]:
    """The events without the deltas."""
    return [event for event in seen if not isinstance(event, _DELTAS)]


def check_events(seen: Sequence[Event]) -> None:
    """Each start has one end, and the terminal event is there, once, last. ``seen`` is all of one run's events."""
    own = [event for event in seen if not event.path]
    assert isinstance(own[0], events.RunStarted)
    assert [index for index, event in enumerate(own) if isinstance(event, events.RunEnded)] == [len(own) - 1]
    open_calls: set[str] = set()
    ended: Counter[str] = Counter()
    model_calls = 0
    for event in own:
        if isinstance(event, events.ModelCallStarted):
            model_calls += 1
            assert model_calls == 1
        elif isinstance(event, events.ModelCallEnded):
            model_calls -= 1
            assert model_calls == 0
        elif isinstance(event, events.ToolStarted):
            assert event.call_id not in open_calls
            assert event.call_id not in ended
            open_calls.add(event.call_id)
        elif isinstance(event, events.ToolEnded):
            open_calls.discard(event.call_id)
            ended[event.call_id] += 1
    assert not open_calls
    assert not model_calls
    assert set(ended.values()) <= {1}


def check_ended(
    live: ActiveRun[Any], model: ScriptedModel | None = None, seen: Sequence[Event] | None = None
) -> RunResult[Any]:
    """What holds after every ending."""
    result = live.result
    assert result is not None
    assert live.status == result.status
    assert_valid_history(result.history)
    assert result.history[len(result.history) - len(result.items) :] == result.items
    state = live.state()
    assert state.phase == "ended"
    assert state.scope.children == ()
    assert state.inbox == ()
    if model is not None:
        assert model.open_streams == 0
        for request in model.requests:
            assert_valid_history(request.items, what="request")
    if seen is not None:
        check_events(seen)
        last = seen[-1]
        assert isinstance(last, events.RunEnded)
        assert last.status == result.status
        told = [event.call_id for event in seen if isinstance(event, events.ToolEnded) and not event.path]
        new_calls = [item.call_id for item in result.items if isinstance(item, ToolCall)]
        assert sorted(told) == sorted(new_calls)
    return result
