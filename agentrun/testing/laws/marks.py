"""What the marks that user code has left say about the laws: whose code ran when, for how long, and to what end.

Each check is sound: what it finds cannot be otherwise in a run that keeps the laws. So what is allowed is written down
beside each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from agentrun.core.events import (
    Event,
    GuardrailEnded,
    InputInjected,
    InterruptRequested,
    RunStarted,
    ToolEnded,
    ToolStarted,
    TurnStarted,
)
from agentrun.core.items import ToolOutput
from agentrun.core.results import RunResult
from agentrun.runtime.handle import ActiveRun
from agentrun.testing.laws.record import Deed, MarkKind, RunRecord
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["CHECKS_OF_MARKS"]

_EPSILON: Final = 1e-6  # seconds; sums of floats


def _all_has_ended(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 1: when the block has been left, all user code has ended, and none begins. Threads may be left, if they are
    named."""
    left = record.left_order
    if left is None:
        return
    for mark in record.awaited_marks():
        if mark.began_order > left:
            yield BrokenLaw(1, f"it began after the block was left: {mark}")
        elif mark.ended_order is None:
            yield BrokenLaw(1, f"it has not ended: {mark}")
        elif mark.ended_order > left:
            yield BrokenLaw(1, f"it was still at work when the block was left: {mark}")
        elif mark.ending == "closed":
            yield BrokenLaw(1, f"its frame was thrown away, and its cleanup not awaited: {mark}")


def _first_reason_wins(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 2: the first reason that was given is the one that counts; the strongest mode is."""
    requests = [
        event
        for event in record.events
        if isinstance(event, InterruptRequested) and not event.path and event.call_id is None
    ]
    interrupt = result.interrupt
    if interrupt is None:
        if requests:
            yield BrokenLaw(2, f"interrupts were accepted, and the result does not say so: {requests}")
        return
    if not requests:
        yield BrokenLaw(2, f"the result has {interrupt}, and no InterruptRequested was told")
        return
    reason = next((request.reason for request in requests if request.reason is not None), None)
    mode = "immediate" if any(request.mode == "immediate" for request in requests) else "after_turn"
    if (interrupt.reason, interrupt.mode) != (reason, mode):
        yield BrokenLaw(2, f"the result has {interrupt}; the first reason was {reason!r}, the strongest mode {mode!r}")


def _streams_before_tools(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: no tool of a run is at work while one of its model streams is open."""
    bodies = [mark for mark in record.awaited_marks() if mark.kind == "body" and not mark.nested]
    for stream in record.marks:
        if stream.kind != "stream" or stream.nested:
            continue
        for body in bodies:
            if body.open_at(stream.began_order) or stream.open_at(body.began_order):
                yield BrokenLaw(6, f"a tool was at work while the model's stream was open: {body}; {stream}")


def _ends_in_order(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: the ends of the tools that a stop has cancelled are told in the order of their calls.

    Calls that were interrupted one by one may end earlier than those before them.
    """
    alone = {event.call_id for event in record.events if isinstance(event, InterruptRequested)}
    order = {item.call_id: index for index, item in enumerate(result.history) if isinstance(item, ToolOutput)}
    last = -1
    for event in record.events:
        if isinstance(event, TurnStarted) and not event.path:
            last = -1
        elif isinstance(event, ToolEnded) and not event.path and event.status == "cancelled":
            position = order.get(event.call_id, last)
            if event.call_id in alone:
                continue
            if position < last:
                yield BrokenLaw(
                    6, f"the end of the cancelled call {event.call_id!r} was told after that of a later one"
                )
            last = max(last, position)


def _cleanup_within_its_grace(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: each cleanup has one grace, and no more. What shields itself has as long as it likes.

    So has the ``finally`` of code that raised a cancellation itself, and was not cancelled: no grace has begun.
    """
    for mark in record.awaited_marks():
        if mark.ended is None or mark.nested:
            continue  # a nested run has settings of its own
        cancelled = mark.kind == "cleanup" and mark.because == "cancelled" and not mark.may_be_cut
        late = cancelled or mark.kind in ("registered", "leaving")
        if late and mark.ended - mark.began > record.grace + _EPSILON:
            yield BrokenLaw(6, f"it took longer than its grace of {record.grace:g} s: {mark}")
        if mark.kind == "on_cancel" and mark.ended - mark.began > record.grace + _EPSILON:
            yield BrokenLaw(6, f"it took longer than its grace of {record.grace:g} s: {mark}")


def _stop(record: RunRecord) -> Deed | None:
    return next((deed for deed in record.deeds if deed.stops), None)


def _teardown_is_bounded(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 6: from the stop to the end it takes no longer than the graces of those who were at work, or began, after it,
    one after the other, and the sections that shield themselves."""
    stop = _stop(record)
    if stop is None or record.left is None:
        return
    late = [mark for mark in record.marks if mark.ended_order is None or mark.ended_order > stop.order]
    shields = sum(mark.planned for mark in late if mark.kind in ("shielded", "critical"))
    most = 2 * record.grace * len(late) + shields
    took = record.left - stop.time
    if took > most + _EPSILON:
        yield BrokenLaw(
            6,
            f"the teardown after {stop.action!r} took {took:g} s; {len(late)} pieces of user code may take {most:g} s",
        )


def _stopped_at_once(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Laws 6 and 10: a stop reaches the stream and the tools that are at work in the same moment, whoever watches.

    Only what shields itself hears of it later, what has heard of a cancellation before, and threads, which look.
    """
    stop = _stop(record)
    if stop is None:
        return
    law = 10 if record.watchers else 6
    shields = [
        mark
        for mark in record.marks
        if mark.kind in ("shielded", "critical")
        and mark.began <= stop.time + _EPSILON  # it may have been on its way there
        and (mark.ended_order is None or mark.ended_order > stop.order)
    ]
    for mark in record.marks:
        if mark.kind not in ("body", "stream") or mark.thread or not mark.open_at(stop.order):
            continue
        if any(shield.call_id == mark.call_id and shield.run == mark.run for shield in shields):
            continue
        heard = min(
            mark.ended if mark.ended is not None else float("inf"),
            mark.cut_at if mark.cut_at is not None else float("inf"),
        )
        if heard > stop.time + _EPSILON:
            yield BrokenLaw(law, f"{stop.action!r} came at {stop.time:g} s, and reached it at {heard:g} s: {mark}")


def _cleanup_finishes(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 7: ordinary cleanup that was begun by a cancellation finishes, and so does what was registered or shields
    itself, unless its grace is over.

    Ordinary cleanup that was begun for another reason may be cut by a cancellation in its middle, and so may that of
    tasks which a tool has started in a task group of its own.
    """
    for mark in record.marks:
        if mark.ended is None or mark.ending != "cancelled" or mark.may_be_cut:
            continue
        if mark.kind in ("shielded", "critical"):
            yield BrokenLaw(7, f"it shields itself, and was cut: {mark}")
        elif mark.kind in ("registered", "leaving") and mark.ended - mark.began < record.grace - _EPSILON:
            yield BrokenLaw(7, f"it was registered, and was cut before its grace was over: {mark}")
        elif mark.kind == "cleanup" and mark.because == "cancelled":
            since = mark.cut_at if mark.cut_at is not None else mark.began
            if mark.ended - since < record.grace - _EPSILON:
                yield BrokenLaw(7, f"it was begun by a cancellation, and was cut before its grace was over: {mark}")


def _registered_is_called(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 7: what a tool has entered is left, what it has registered is called, each once; and its cancellation hook is
    called at most once."""
    pairs: tuple[tuple[MarkKind, MarkKind, str], ...] = (
        ("entering", "leaving", "context managers entered, and left"),
        ("registering", "registered", "cleanup callbacks registered, and called"),
    )
    # What a thread that was left behind registers comes too late, perhaps.
    left = {(m.run, m.call_id) for m in record.marks if m.thread and record.names_thread(m.thread)}
    marks = [m for m in record.marks if (m.run, m.call_id) not in left]
    for before, after, what in pairs:
        owed = Counter((m.run, m.call_id) for m in marks if m.kind == before and m.ending == "returned")
        done = Counter((m.run, m.call_id) for m in marks if m.kind == after)
        for call, count in owed.items():
            if done[call] != count:
                yield BrokenLaw(7, f"call {call[1]!r} has {count} {what} {done[call]}")
    hooks = Counter((mark.run, mark.call_id) for mark in record.marks if mark.kind == "on_cancel")
    for call, count in hooks.items():
        if count > 1:
            yield BrokenLaw(7, f"the cancellation hook of call {call[1]!r} was called {count} times")


def _siblings_unaffected(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 8: in a run that completed, a call is cancelled only if it was interrupted, or input came that cuts in; and a
    tool that has returned without having been cancelled has completed."""
    ends = {event.call_id: event for event in record.events if isinstance(event, ToolEnded) and not event.path}
    own = [mark for mark in record.awaited_marks() if mark.kind == "body" and not mark.nested]
    last = {mark.call_id: mark for mark in own}
    for call_id, mark in last.items():
        end = ends.get(call_id)
        if mark.thread and any(call_id in left for left in result.teardown.expired_graces):
            continue  # it has returned in the very moment in which its grace was over
        if end is not None and mark.ending == "returned" and mark.cut_at is None and end.status != "completed":
            yield BrokenLaw(8, f"tool {mark.name!r} has returned, and its end says {end.status!r}: {end.output!r}")
    cutting = any(isinstance(event, InputInjected) and event.deliver == "now" for event in record.events)
    interrupted = any(isinstance(event, InterruptRequested) and event.call_id is None for event in record.events)
    if result.status != "completed" or cutting or interrupted:
        return
    alone = {event.call_id for event in record.events if isinstance(event, InterruptRequested)}
    for call_id, end in ends.items():
        by_itself = "its task was cancelled" in str(end.output)  # natively, by the tool's own code
        if end.status == "cancelled" and call_id not in alone and not by_itself:
            yield BrokenLaw(8, f"nobody cancelled call {call_id!r}, and its end says so: {end.output!r}")


def _errors_surface_once(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 9: the block raises what made the run fail, itself; nothing else but what its own body raised and
    cancellations comes out of it; and no error is lost: it is in the result, or the model was told."""
    if record.left is None:
        return
    raised, own = record.raised, record.own_error
    if raised is not None and not record.cancelled:
        expected = own if own is not None else result.error
        if not _is_the_same(raised, expected):
            yield BrokenLaw(9, f"the block raised {raised!r}, and should have raised {expected!r}")
    elif raised is None and result.status == "failed" and not record.cancelled:
        yield BrokenLaw(9, f"the run failed with {result.error!r}, and its block raised nothing")
    kept: set[int] = set()
    for error in (result.error, *result.errors):
        _collect(error, kept)
    for error, _ in record.errors:
        # What was raised while another error went out of the same code is that one's context.
        _collect(error.__context__, kept)
    told = "\n".join(item.text for item in result.history if isinstance(item, ToolOutput))
    for error, owner in record.errors:
        thread = owner.partition(" in thread ")[2].strip("'")
        if thread and record.names_thread(thread):
            continue  # nobody listens to it any more
        if id(error) not in kept and str(error) not in told:
            yield BrokenLaw(9, f"the error that the {owner} has raised is nowhere: {error!r}")


def _is_the_same(raised: BaseException, expected: BaseException | None) -> bool:
    """Whether it is that error, or a copy of that group: cancel scopes of trio's make one of each that they let out."""
    if isinstance(raised, BaseExceptionGroup) and isinstance(expected, BaseExceptionGroup):
        one = cast("BaseExceptionGroup[BaseException]", raised)
        other = cast("BaseExceptionGroup[BaseException]", expected)
        return (
            one.message == other.message
            and len(one.exceptions) == len(other.exceptions)
            and all(map(_is_the_same, one.exceptions, other.exceptions))
        )
    return raised is expected


def _collect(error: BaseException | None, into: set[int]) -> None:
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in into:
            continue
        into.add(id(each))
        waiting += [each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", each).exceptions


def _hooks_in_pairs(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 12: each hook of a start is followed by exactly one of the end; each guardrail that ran is told of."""
    open_hooks: defaultdict[tuple[str, str], int] = defaultdict(int)
    for mark in record.marks:
        if mark.kind != "hook":
            continue
        what = mark.name.removesuffix("_start").removesuffix("_end")
        change = 1 if mark.name.endswith("_start") else -1
        open_hooks[what, mark.call_id] += change
        if open_hooks[what, mark.call_id] not in (0, 1):
            yield BrokenLaw(12, f"{mark.name} was called out of turn: {mark}")
            return
    for (what, call_id), count in open_hooks.items():
        if count:
            yield BrokenLaw(12, f"{what}_start was called for {call_id or 'the run'}, and {what}_end was not")
    ran = Counter(mark.name for mark in record.marks if mark.kind == "guardrail" and not mark.nested)
    told = Counter(event.name for event in record.events if isinstance(event, GuardrailEnded) and not event.path)
    for name, count in (ran - told).items():
        yield BrokenLaw(12, f"guardrail {name!r} has run {count} times more than GuardrailEnded was told")


def _nothing_acts_before_it_may(record: RunRecord, live: ActiveRun[Any], result: RunResult[Any]) -> Iterator[BrokenLaw]:
    """Law 13: no tool runs while an input guardrail of the run is at work, after one that has not passed, or without
    the approval that it needs."""
    paths = _paths(record.events)
    bad = {
        (event.path, event.name)
        for event in record.events
        if isinstance(event, GuardrailEnded) and event.kind == "input" and event.outcome in ("tripped", "failed")
    }
    guards = [mark for mark in record.awaited_marks() if mark.kind == "guardrail"]
    for body in record.awaited_marks():
        if body.kind != "body":
            continue
        for guard in guards:
            if guard.run != body.run:
                continue
            if guard.open_at(body.began_order) or body.open_at(guard.began_order):
                yield BrokenLaw(13, f"a tool ran beside a guardrail: {body}; {guard}")
            refused = (paths.get(guard.run, ()), guard.name) in bad and guard.cut_at is None
            if refused and guard.ended_order is not None and guard.ended_order < body.began_order:
                # It has passed the input before, perhaps: only the last answer of a guardrail can be a refusal.
                last = max(other.began_order for other in guards if other.name == guard.name and other.run == guard.run)
                if guard.began_order == last:
                    yield BrokenLaw(13, f"a tool ran after a guardrail that did not pass: {body}; {guard}")
        if not body.nested and body.name in record.needing_approval and body.call_id not in record.approved:
            yield BrokenLaw(13, f"a tool ran without the approval that it needs: {body}")
    asked = {event.call_id for event in record.events if isinstance(event, ToolStarted) and not event.path}
    for call_id in record.rejected & asked:
        yield BrokenLaw(13, f"call {call_id!r} was rejected, and ToolStarted was told")


def _paths(events: list[Event]) -> dict[str, tuple[str, ...]]:
    return {event.run_id: event.path for event in events if isinstance(event, RunStarted)}


CHECKS_OF_MARKS: Final[tuple[Callable[[RunRecord, ActiveRun[Any], RunResult[Any]], Iterator[BrokenLaw]], ...]] = (
    _all_has_ended,
    _first_reason_wins,
    _streams_before_tools,
    _ends_in_order,
    _cleanup_within_its_grace,
    _teardown_is_bounded,
    _stopped_at_once,
    _cleanup_finishes,
    _registered_is_called,
    _siblings_unaffected,
    _errors_surface_once,
    _hooks_in_pairs,
    _nothing_acts_before_it_may,
)
