"""What the result, the events, the requests and the handle of a run that has ended say about the laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from agentrun.core.errors import RunEnded
from agentrun.core.events import (
    Event,
    InputDelivered,
    InputInjected,
    ModelCallEnded,
    ModelCallStarted,
    RunStarted,
    ToolEnded,
    ToolStarted,
)
from agentrun.core.events import RunEnded as RunEndedEvent
from agentrun.core.items import Item, ToolCall
from agentrun.core.results import RunResult
from agentrun.runtime.handle import ActiveRun
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw
from agentrun.testing.validation import assert_valid_history

__all__ = ["CHECKS_OF_RESULTS"]


def _nothing_is_left(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    state = record.state or live.state()
    if state.scope.children:
        yield BrokenLaw(1, f"something is still alive:\n{state.tree()}")
    if open_streams := getattr(record.model, "open_streams", 0):
        yield BrokenLaw(1, f"{open_streams} streams of the model are still open")


def _one_ending(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    own = [event for event in record.events if not event.path]
    ends = [event for event in own if isinstance(event, RunEndedEvent)]
    if live.status != result.status:
        yield BrokenLaw(2, f"live.status is {live.status!r}, result.status {result.status!r}")
    if len(ends) != 1:
        yield BrokenLaw(2, f"{len(ends)} RunEnded events")
    elif own[-1] is not ends[0]:
        yield BrokenLaw(2, f"RunEnded is not the last event; {own[-1]!r} is")
    elif ends[0].status != result.status:
        yield BrokenLaw(2, f"the result is {result.status!r}, and RunEnded says {ends[0].status!r}")
    if own and not isinstance(own[0], RunStarted):
        yield BrokenLaw(2, f"the first event is {own[0]!r}")
    try:
        live.inject("too late")
    except RunEnded:
        pass
    else:
        yield BrokenLaw(5, "an injection was accepted after the end")


def _right_ending(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    if record.cancelled:
        if record.returned and result.status == "cancelled":
            yield BrokenLaw(3, "a run that was cancelled from outside has returned a result")
    elif result.status == "cancelled":
        yield BrokenLaw(3, "the run is cancelled, and nobody cancelled it from outside")
    if record.interrupted and result.status not in ("interrupted", "cancelled"):
        yield BrokenLaw(2, f"an immediate interrupt was accepted, and the run is {result.status!r}")
    if result.status == "interrupted" and result.interrupt is None:
        yield BrokenLaw(2, "the run is interrupted, and the result does not say by what")


def _valid_history(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    histories: list[tuple[str, Sequence[Item]]] = [("result.history", result.history)]
    histories += [
        (f"model.requests[{index}].items", request.items)
        for index, request in enumerate(getattr(record.model, "requests", ()))
    ]
    if record.session is not None:
        histories.append(("session.items", tuple(record.session.items)))
    for name, items in histories:
        try:
            assert_valid_history(items, what=name)
        except AssertionError as exc:
            yield BrokenLaw(4, str(exc))
    if record.session is not None and result.status != "failed":
        stored = tuple(record.session.items)
        # A run that was stopped before it had read the session does not know what was in it.
        unread = result.turns == 0 and stored[len(stored) - len(result.history) :] == result.history
        if stored != result.history[: len(stored)] and not unread:
            yield BrokenLaw(4, "the session and result.history are not the same conversation")
    if result.items != result.history[len(result.history) - len(result.items) :]:
        yield BrokenLaw(4, "result.items is not the end of result.history")


def _no_input_lost(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    state = record.state or live.state()
    if state.inbox:
        yield BrokenLaw(5, f"input is left in the inbox: {state.inbox}")
    requests = [list(request.items) for request in getattr(record.model, "requests", ())]
    delivered = Counter(event.injection_id for event in record.events if isinstance(event, InputDelivered))
    announced = Counter(event.injection_id for event in record.events if isinstance(event, InputInjected))
    for injection, item in record.injections:
        name = f"injection {injection.id}"
        in_history = list(result.history).count(item)
        undelivered = sum(entry.injection_id == injection.id for entry in result.undelivered)
        if injection.status == "pending":
            yield BrokenLaw(5, f"{name} is still pending after the end")
        if injection.id in record.withdrawn:
            if in_history or undelivered or injection.status != "undelivered":
                yield BrokenLaw(
                    5, f"{name} was withdrawn, and is {injection.status!r}, {in_history} times in the history"
                )
            continue
        if in_history + undelivered != 1:
            yield BrokenLaw(5, f"{name} is {in_history} times in the history and {undelivered} times undelivered")
        if (injection.status == "delivered") != (in_history == 1):
            yield BrokenLaw(5, f"{name} says {injection.status!r}, and is {in_history} times in the history")
        if announced[injection.id] != 1 or delivered[injection.id] != in_history:
            yield BrokenLaw(
                5, f"{name}: {announced[injection.id]} InputInjected and {delivered[injection.id]} InputDelivered"
            )
        seen = [items.count(item) for items in requests]
        if any(count > 1 for count in seen) or seen != sorted(seen) or (any(seen) and not in_history):
            yield BrokenLaw(5, f"{name} is so often in each request: {seen}")


def _tidy(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    teardown = result.teardown
    if record.tidy and not teardown.clean:
        law = 8 if teardown.swallowed_cancellations else 1 if teardown.abandoned_threads else 7
        yield BrokenLaw(law, f"the teardown was not clean: {teardown}")


def _starts_and_ends(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    for path in {event.path for event in record.events}:
        yield from _starts_and_ends_of([event for event in record.events if event.path == path], path)
    items = [item for item in result.items if isinstance(item, ToolCall)]
    calls = Counter(item.call_id for item in items if item.call_id not in record.settled)
    told = Counter(event.call_id for event in record.events if isinstance(event, ToolEnded) and not event.path)
    if calls != told:
        yield BrokenLaw(12, f"the history has the calls {sorted(calls)}, and ToolEnded was told of {sorted(told)}")


def _starts_and_ends_of(events: Sequence[Event], path: tuple[str, ...]) -> Iterator[BrokenLaw]:
    where = f" in the nested run {'/'.join(path)}" if path else ""
    model_calls = 0
    open_calls: set[str] = set()
    ended: set[str] = set()
    for event in events:
        if isinstance(event, ModelCallStarted):
            model_calls += 1
        elif isinstance(event, ModelCallEnded):
            model_calls -= 1
        elif isinstance(event, ToolStarted):
            if event.call_id in open_calls or event.call_id in ended:
                yield BrokenLaw(12, f"{event.call_id} was started twice{where}")
            open_calls.add(event.call_id)
        elif isinstance(event, ToolEnded):
            if event.call_id in ended:
                yield BrokenLaw(12, f"{event.call_id} has ended twice{where}")
            open_calls.discard(event.call_id)
            ended.add(event.call_id)
        if model_calls not in (0, 1):
            yield BrokenLaw(12, f"a ModelCallStarted without its end before the next, or an end without a start{where}")
            model_calls = 0
    if model_calls:
        yield BrokenLaw(12, f"a ModelCallStarted has no ModelCallEnded{where}")
    if open_calls:
        yield BrokenLaw(12, f"started tools have no ToolEnded: {sorted(open_calls)}{where}")


CHECKS_OF_RESULTS: Final[tuple[Callable[[RunRecord, ActiveRun[Any], RunResult[Any]], Iterator[BrokenLaw]], ...]] = (
    _nothing_is_left,
    _one_ending,
    _right_ending,
    _valid_history,
    _no_input_lost,
    _tidy,
    _starts_and_ends,
)
