"""What the events of a run tell, held against each other and against its result."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from agentrun.core.events import (
    Event,
    EventsDropped,
    GuardrailEnded,
    InputDelivered,
    InputInjected,
    InterruptRequested,
    ModelCallEnded,
    ModelCallStarted,
    RunStarted,
    TextDelta,
    ToolEnded,
    ToolStarted,
    TurnStarted,
)
from agentrun.core.events import RunEnded as RunEndedEvent
from agentrun.core.items import AssistantMessage, ToolCall, ToolOutput
from agentrun.core.results import RunResult
from agentrun.runtime.handle import ActiveRun
from agentrun.testing.laws.record import RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["CHECKS_OF_EVENTS"]


def _nested_runs_end(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 1: a nested run has ended before the call that it is part of."""
    running: Counter[tuple[str, ...]] = Counter()
    closed: set[tuple[str, ...]] = set()
    for event in record.events:
        if any(event.path[: len(path)] == path for path in closed):
            yield BrokenLaw(1, f"an event of a nested run came after the end of the call it is part of: {event!r}")
        if isinstance(event, RunStarted) and event.path:
            running[event.path] += 1
        elif isinstance(event, RunEndedEvent) and event.path:
            running[event.path] -= 1
        elif isinstance(event, ToolEnded):
            path = (*event.path, event.call_id)
            closed.add(path)
            if running.pop(path, 0):
                yield BrokenLaw(1, f"{event.call_id} has ended, and a run nested in it has not")
    for path, count in running.items():
        if count:
            yield BrokenLaw(1 if count > 0 else 2, f"starts and ends of the runs nested in {'/'.join(path)} differ")


def _interrupts(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 2: the first reason stays, a mode only gets stronger, and the result says so."""
    told = [event for event in _own(record) if isinstance(event, InterruptRequested) and event.call_id is None]
    for before, after in itertools.pairwise(told):
        if before.reason is not None and after.reason != before.reason:
            yield BrokenLaw(2, f"the reason {before.reason!r} was replaced by a later one, {after.reason!r}")
        if before.mode == "immediate" and after.mode != "immediate":
            yield BrokenLaw(2, "an immediate interrupt was followed by a weaker one that counts")
    in_force = (result.interrupt.reason, result.interrupt.mode) if result.interrupt is not None else None
    if told and in_force != (told[-1].reason, told[-1].mode):
        yield BrokenLaw(2, f"the interrupt told was {told[-1]!r}, and the result says {in_force}")
    for event in _own(record):
        if not isinstance(event, RunEndedEvent) or event.status != "interrupted" or result.interrupt is None:
            continue
        if event.reason != result.interrupt.reason:
            yield BrokenLaw(2, f"{event!r} does not give the reason of {result.interrupt!r}")


def _cuts_have_a_cause(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 2: ``"after_turn"`` cuts nothing. Law 8: nobody but the run, and who asks for it, cuts anything."""
    own = _own(record)
    interrupts = [event for event in own if isinstance(event, InterruptRequested)]
    if (
        result.status in ("failed", "cancelled")
        or any(event.mode == "immediate" and event.call_id is None for event in interrupts)
        or any(isinstance(event, InputInjected) and event.deliver == "now" for event in own)
    ):
        return
    law = 2 if any(event.mode == "after_turn" for event in interrupts) else 8
    asked = {event.call_id for event in interrupts}
    for event in own:
        if isinstance(event, ModelCallEnded) and event.status == "interrupted":
            yield BrokenLaw(law, f"the model call of turn {event.turn} was cut, and nobody asked for that")
        elif isinstance(event, ToolEnded) and event.status == "cancelled" and event.call_id not in asked:
            if "its task was cancelled" in str(event.output):
                continue  # natively, by the tool's own code
            yield BrokenLaw(law, f"{event.call_id} was cancelled, and nobody asked for that")


def _text_is_kept(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 4: what the model was heard to say is in the history, be it cut."""
    if _some_are_missing(record):
        return
    kept = "".join(item.text or item.refusal or "" for item in result.items if isinstance(item, AssistantMessage))
    position = 0
    said: list[str] = []
    for event in _own(record):
        if isinstance(event, TextDelta):
            said.append(event.text)
        elif isinstance(event, ModelCallEnded):
            text = "".join(said)
            said.clear()
            found = kept.find(text, position)
            if found < 0:
                yield BrokenLaw(4, f"the model said {text!r} in turn {event.turn}, which is not in the history")
            else:
                position = found + len(text)


def _outputs_are_in_order(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: what can be seen is in the order of the calls, whatever the order in which the tools have ended."""
    calls = [item.call_id for item in result.items if isinstance(item, ToolCall)]
    outputs = [item.call_id for item in result.items if isinstance(item, ToolOutput)]
    if sorted(calls) == sorted(outputs) and calls != outputs:
        yield BrokenLaw(6, f"the outputs are in the order {outputs}, and the calls in the order {calls}")
    own = _own(record)
    if any(isinstance(event, InterruptRequested) and event.call_id is not None for event in own):
        return  # one that was cancelled alone ends when it ends
    cancelled = [event.call_id for event in own if isinstance(event, ToolEnded) and event.status == "cancelled"]
    expected = [call_id for call_id in calls if call_id in cancelled]
    if sorted(cancelled) == sorted(expected) and cancelled != expected:
        yield BrokenLaw(6, f"the cancelled calls {expected} were told to end in the order {cancelled}")


def _injections_are_in_order(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 5: input is delivered in the order of injection, but idle input waits until the run would finish."""
    injected = [event for event in _own(record) if isinstance(event, InputInjected)]
    delivered = {event.injection_id: event for event in _own(record) if isinstance(event, InputDelivered)}
    order = list(delivered)
    for index, first in enumerate(injected):
        for second in injected[index + 1 :]:
            one, other = first.injection_id, second.injection_id
            overtaken = {one, other} <= delivered.keys() and order.index(other) < order.index(one)
            if overtaken and (first.deliver != "idle" or second.deliver == "idle"):
                yield BrokenLaw(5, f"{other} was delivered before {one}")
    history = iter(result.history)
    for injection_id in order:
        items = next((event.items for event in injected if event.injection_id == injection_id), ())
        if not all(any(item == other for other in history) for item in items):
            yield BrokenLaw(5, f"{injection_id} is not in the history where its delivery was told")
            break
    busy = {turn for turn, event in _turns(record) if isinstance(event, ToolEnded)}
    by_id = {event.injection_id: event for event in injected}
    for event in delivered.values():
        if (entry := by_id.get(event.injection_id)) is not None and entry.deliver == "idle":
            together = [by_id[e.injection_id].deliver for e in delivered.values() if e.turn == event.turn]
            if event.turn == 1 or event.turn - 1 in busy or set(together) != {"idle"}:
                yield BrokenLaw(5, f"idle input was delivered in turn {event.turn}, before the run would have finished")
    for injection, _ in record.injections:
        status = injection.status
        if status != "pending" and (injection.withdraw() or injection.status != status):
            yield BrokenLaw(5, f"injection {injection.id}, which was {status}, could be withdrawn after the end")


def _usage_adds_up(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 12: what the ends of the model calls say adds up to what the result says."""
    if _some_are_missing(record):
        return
    used = [event.usage for event in record.events if isinstance(event, ModelCallEnded) and event.usage is not None]
    tokens = sum(usage.input_tokens for usage in used), sum(usage.output_tokens for usage in used)
    if tokens != (result.usage.input_tokens, result.usage.output_tokens):
        yield BrokenLaw(12, f"the model calls ended with {tokens} tokens in all, and the result says {result.usage}")
    requests = sum(isinstance(event, ModelCallStarted) for event in record.events)
    if requests != result.usage.requests:
        yield BrokenLaw(12, f"there were {requests} model calls, and the result says {result.usage}")


def _guardrails(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 12: each guardrail's end is told. Law 13: until the input guardrails have passed, nothing acts."""
    own = _own(record)
    told = [(event.name, event.kind, event.outcome) for event in own if isinstance(event, GuardrailEnded)]
    kept = [(answer.name, answer.kind, answer.outcome) for answer in result.guardrail_results]
    if told != kept:
        yield BrokenLaw(12, f"the guardrails' ends were told as {told}, and the result has {kept}")
    if result.status == "completed":
        for name, kind, outcome in kept:
            if outcome in ("tripped", "failed") or (outcome == "cancelled" and kind == "input"):
                yield BrokenLaw(13, f"the run completed, and the {kind} guardrail {name} had {outcome}")
    at_work: set[str] = set()
    for event in own:
        if isinstance(event, ToolStarted):
            at_work.add(event.call_id)
        elif isinstance(event, ToolEnded):
            at_work.discard(event.call_id)
        elif isinstance(event, GuardrailEnded) and event.kind == "input" and at_work:
            yield BrokenLaw(13, f"{sorted(at_work)} had started before the input guardrail {event.name} had answered")


def _own(record: RunRecord) -> list[Event]:
    return [event for event in record.events if not event.path]


def _turns(record: RunRecord) -> Iterator[tuple[int, Event]]:
    turn = 0
    for event in _own(record):
        if isinstance(event, TurnStarted):
            turn = event.turn
        yield turn, event


def _some_are_missing(record: RunRecord) -> bool:
    return any(isinstance(event, EventsDropped) for event in record.events)


CHECKS_OF_EVENTS: Final[tuple[Callable[[RunRecord, ActiveRun[Any], RunResult[Any]], Iterator[BrokenLaw]], ...]] = (
    _nested_runs_end,
    _interrupts,
    _cuts_have_a_cause,
    _text_is_kept,
    _outputs_are_in_order,
    _injections_are_in_order,
    _usage_adds_up,
    _guardrails,
)
"""Each is a function of a record, its handle and its result, and yields the laws that are broken."""
