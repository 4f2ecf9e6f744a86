"""The transcript: valid after every step (law 4), and no dearer the longer it gets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core import transcript as transcript_module
from agentrun.core.errors import UserError
from agentrun.core.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.transcript import ItemsView, Transcript, check_history

from . import strategies as s

CALL_A, CALL_B = ToolCall("a", "f"), ToolCall("b", "f")
OUT_A, OUT_B = ToolOutput("a", 1), ToolOutput("b", 2)

_few = st.sampled_from(
    (UserMessage("u"), SystemMessage("s"), AssistantMessage("m"), Reasoning("r"), CALL_A, CALL_B, OUT_A, OUT_B)
)


@given(st.lists(_few, max_size=9))
def test_law_4_the_check_agrees_with_the_providers_rules(items: list[Item]) -> None:
    problems = s.problems_of(items)
    try:
        check_history(items)
    except UserError:
        assert problems
    else:
        assert not problems


@given(s.histories())
def test_law_4_valid_histories_are_accepted(items: list[Item]) -> None:
    check_history(items)
    transcript = Transcript(items)
    assert transcript.view() == items
    assert transcript.new_items() == ()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [CALL_A],
            "history[0] is a tool call ('a') that has no output; add a ToolOutput for it, or leave the call out",
        ),
        (
            [CALL_A, UserMessage("u"), OUT_A],
            (
                "history[0] is a tool call ('a') that has no output before history[1]; "
                "add a ToolOutput for it, or leave the call out"
            ),
        ),
        ([CALL_A, CALL_B, OUT_A, CALL_A], "history[1] is a tool call ('b') that has no output before history[3]; add"),
        ([OUT_A], "history[0] is an output without a call: call_id 'a'; each tool call needs exactly one"),
        ([CALL_A, OUT_A, OUT_A], "history[2] is a second output for call_id 'a'; each tool call needs exactly one"),
        ([CALL_A, OUT_A, CALL_A], "history[2] uses call_id 'a' a second time; call ids must be unique"),
    ],
)
def test_law_4_what_is_wrong_with_a_history_is_said_with_its_position(items: list[Item], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_history(items)
    assert message in str(caught.value)
    with pytest.raises(UserError, match=r"^input\["):
        Transcript(items)


@given(st.data())
def test_law_4_whatever_is_added_the_history_stays_valid_and_only_grows(data: st.DataObject) -> None:
    transcript = Transcript(
        data.draw(s.histories().filter(lambda items: not any(isinstance(i, ToolCall) for i in items)))
    )
    seen: list[tuple[ItemsView, tuple[Item, ...]]] = []
    calls = 0
    for _ in range(data.draw(st.integers(0, 6))):
        if data.draw(st.booleans()):
            transcript.append_input(data.draw(st.lists(s.user_messages | s.system_messages, max_size=3)))
        else:
            response, outputs = data.draw(s.responses(calls))
            calls += len(outputs)
            before = len(transcript)
            transcript.commit_response(response, outputs)
            added = transcript.since(before)
            assert added[: len(response)] == tuple(response)
            assert [item.call_id for item in added[len(response) :] if isinstance(item, ToolOutput)] == [
                item.call_id for item in response if isinstance(item, ToolCall)
            ]
        assert not s.problems_of(transcript.view())
        view = transcript.view()
        seen.append((view, tuple(view)))
    for view, copy in seen:
        assert tuple(view) == copy
        assert transcript.since(0)[: len(view)] == copy


@pytest.mark.parametrize(
    ("response", "outputs"),
    [
        ([CALL_A], {}),
        ([], {"a": OUT_A}),
        ([CALL_A], {"b": OUT_B}),
        ([CALL_A, CALL_A], {"a": OUT_A}),
        ([CALL_A, CALL_B], {"a": OUT_A}),
        ([CALL_A], {"a": OUT_B}),
        ([ToolCall("taken", "f")], {"taken": ToolOutput("taken", 1)}),
    ],
)
def test_law_4_an_unpaired_response_is_not_committed(response: list[Any], outputs: dict[str, ToolOutput]) -> None:
    transcript = Transcript([ToolCall("taken", "f"), ToolOutput("taken", 0)])
    with pytest.raises(AssertionError, match="do not pair up|the output for 'a' answers 'b'"):
        transcript.commit_response(response, outputs)
    assert len(transcript) == 2
    assert transcript.unique_call_id("a") == "a"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([UserMessage("u"), CALL_A], r"^input\[1\] is a tool call \('a'\) that has no output"),
        ([ToolCall("taken", "f"), ToolOutput("taken", 1)], "input uses call_id 'taken', which the history already has"),
    ],
)
def test_law_4_input_with_unpaired_calls_is_refused_whole(items: list[Item], message: str) -> None:
    transcript = Transcript([ToolCall("taken", "f"), ToolOutput("taken", 0)])
    with pytest.raises(UserError, match=message):
        transcript.append_input(items)
    assert len(transcript) == 2


def test_a_whole_piece_of_history_is_valid_input() -> None:
    transcript = Transcript([UserMessage("u"), CALL_B, OUT_B])
    transcript.append_input(iter((CALL_A, OUT_A, UserMessage("v"))))
    assert transcript.new_items() == (CALL_A, OUT_A, UserMessage("v"))
    for call, output in ((CALL_A, OUT_A), (CALL_B, OUT_B)):
        with pytest.raises(AssertionError):
            transcript.commit_response([call], {call.call_id: output})
    transcript.begin_new_items()
    assert transcript.new_items() == ()


def test_call_ids_that_come_again_are_made_unique() -> None:
    transcript = Transcript()
    for expected in ("a", "a_2", "a_3"):
        call_id = transcript.unique_call_id("a")
        assert call_id == expected
        transcript.commit_response([ToolCall(call_id, "f")], {call_id: ToolOutput(call_id, 1)})
    assert transcript.unique_call_id("a_2") == "a_2_2"
    assert transcript.unique_call_id("") == "call"
    assert transcript.unique_call_id("", {"call"}) == "call_2"
    assert transcript.unique_call_id("b", {"b"}) == "b_2"


# What a step costs -------------------------------------------------------------------------------------------------


def _operations(action: Callable[[], object]) -> int:
    """How many calls and lines of the transcript's own code an action takes: the same everywhere, unlike seconds."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != transcript_module.__file__:
            return None
        count += 1
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(previous)
    return count


class _CountingList(list[Item]):
    """Counts how many of its items are looked at."""

    reads = 0

    def __iter__(self) -> Any:
        for item in super().__iter__():
            _CountingList.reads += 1
            yield item

    def __getitem__(self, index: Any) -> Any:
        _CountingList.reads += len(range(*index.indices(len(self)))) if isinstance(index, slice) else 1
        return super().__getitem__(index)


def _grown(turns: int) -> Transcript:
    transcript = Transcript([UserMessage("u")])
    for _ in range(turns):
        call_id = transcript.unique_call_id("call_0")  # as servers do that number anew in each response
        transcript.commit_response([ToolCall(call_id, "f")], {call_id: ToolOutput(call_id, 1)})
    return transcript


def _actions(transcript: Transcript) -> Iterable[Callable[[], object]]:
    def turn() -> None:
        call_id = transcript.unique_call_id("call_0")
        transcript.commit_response([ToolCall(call_id, "f")], {call_id: ToolOutput(call_id, 1)})

    yield turn
    yield transcript.view
    yield lambda: transcript.append_input([UserMessage("u")])
    yield lambda: transcript.append_input([ToolCall("fresh", "f"), ToolOutput("fresh", 1)])
    yield lambda: transcript.since(len(transcript) - 1)
    yield lambda: transcript.view()[-1]


def test_a_step_costs_the_same_however_long_the_history_is() -> None:
    short, long = _grown(10), _grown(2_000)
    for transcript in (short, long):
        transcript._items = _CountingList(transcript._items)
    for of_short, of_long in zip(_actions(short), _actions(long), strict=True):
        _CountingList.reads = 0
        operations = _operations(of_short)
        reads, _CountingList.reads = _CountingList.reads, 0
        assert _operations(of_long) == operations
        assert _CountingList.reads == reads <= 1


def test_renaming_call_ids_costs_the_same_however_often_an_id_came() -> None:
    def costs(turns: int) -> int:
        transcript = _grown(turns)
        return _operations(lambda: transcript.unique_call_id("call_0"))

    assert costs(1_000) == costs(10)


# The view ----------------------------------------------------------------------------------------------------------


@given(st.lists(_few, max_size=6), st.lists(_few, max_size=3), st.integers(-8, 8), st.slices(8))
def test_a_view_is_the_sequence_it_was_when_it_was_made(
    items: list[Item], more: list[Item], index: int, cut: slice
) -> None:
    storage = list(items)
    view = ItemsView(storage, len(storage))
    storage += more
    assert len(view) == len(items)
    assert list(view) == items
    assert list(reversed(view)) == items[::-1]
    assert view[cut] == items[cut]
    assert view == items
    assert view == tuple(items)
    assert view != [*items, UserMessage("u")]
    assert repr(view) == f"ItemsView({items!r})"
    try:
        expected = items[index]
    except IndexError:
        with pytest.raises(IndexError, match="^item index out of range$"):
            view[index]
    else:
        assert view[index] is expected


def test_a_view_is_no_text_and_no_key() -> None:
    view = ItemsView([], 0)
    assert view != ""
    assert view != 5
    with pytest.raises(TypeError):
        hash(view)
