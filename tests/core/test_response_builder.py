"""A response built of what a model streams: whole, or cut anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import ModelBehaviorError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta, TurnStarted
from agentrun.core.items import AssistantMessage, Reasoning, ToolCall, UserMessage
from agentrun.core.model import ModelEvent, ResponseEnded
from agentrun.core.response import ResponseBuilder
from agentrun.core.usage import Usage

CALL = ToolCall("c", "f")
REASONING = Reasoning("r", {"id": "rs"})
PARTIAL = AssistantMessage("x", "incomplete")
MESSAGE = AssistantMessage("ab", provider_data={"id": "msg"})


def build(*events: ModelEvent) -> ResponseBuilder:
    builder = ResponseBuilder()
    for event in events:
        builder.feed(event)
    return builder


def test_a_response_that_has_not_ended_has_said_neither_what_it_cost_nor_why_it_stopped() -> None:
    builder = build(TextDelta("a"))
    assert (builder.usage, builder.finish_reason) == (None, None)
    builder.feed(ResponseEnded(Usage(input_tokens=1), "length"))
    assert (builder.usage, builder.finish_reason) == (Usage(input_tokens=1), "length")


@pytest.mark.parametrize(
    ("events", "whole", "cut"),
    [
        ([], [], []),
        ([TextDelta("a"), TextDelta("b")], [AssistantMessage("ab")], [AssistantMessage("ab", "incomplete")]),
        ([TextDelta("")], [], []),
        ([TextDelta(""), CALL, TextDelta("a")], [CALL, AssistantMessage("a")], [AssistantMessage("a", "incomplete")]),
        ([TextDelta("a"), TextDelta("b"), MESSAGE], [MESSAGE], [AssistantMessage("ab")]),
        (
            [MESSAGE, TextDelta("c")],
            [MESSAGE, AssistantMessage("c")],
            [AssistantMessage("ab"), AssistantMessage("c", "incomplete")],
        ),
        ([TextDelta("a"), CALL], [AssistantMessage("a"), CALL], [AssistantMessage("a", "incomplete")]),
        ([CALL, TextDelta("a")], [CALL, AssistantMessage("a")], [AssistantMessage("a", "incomplete")]),
        (
            [REASONING, TextDelta("a"), CALL, TextDelta("b")],
            [REASONING, AssistantMessage("ab"), CALL],
            [AssistantMessage("ab", "incomplete")],
        ),
        ([REASONING, CALL], [REASONING, CALL], []),
        ([ReasoningDelta("r"), ToolCallDelta("c", "f", "{")], [], []),
        ([AssistantMessage("")], [], []),
        ([AssistantMessage("", provider_data={"id": "m"})], [AssistantMessage("", provider_data={"id": "m"})], []),
        ([REASONING], [], []),
        ([MESSAGE, REASONING], [MESSAGE], [AssistantMessage("ab")]),
        ([REASONING, AssistantMessage("")], [], []),
        (
            [AssistantMessage("", refusal="No.", provider_data={"id": "m"})],
            [AssistantMessage("", refusal="No.", provider_data={"id": "m"})],
            [AssistantMessage("", refusal="No.")],
        ),
        (
            [AssistantMessage("x", "incomplete")],
            [AssistantMessage("x", "incomplete")],
            [AssistantMessage("x", "incomplete")],
        ),
    ],
)
def test_what_is_kept_of_a_response(events: list[Any], whole: list[Any], cut: list[Any]) -> None:
    assert build(*events).finished() == whole
    assert build(*events).cut() == cut


@pytest.mark.parametrize(
    ("reason", "status"),
    [("length", "incomplete"), ("content_filter", "incomplete"), ("stop", "completed"), (None, "completed")],
)
def test_text_that_ran_into_a_limit_is_incomplete(reason: Any, status: Any) -> None:
    builder = build(TextDelta("a"), ResponseEnded(Usage(1, 2), reason, "resp_1"))
    assert builder.finished() == [AssistantMessage("a", status)]
    assert builder.usage == Usage(1, 2)
    assert builder.finish_reason == reason


@pytest.mark.parametrize("event", [UserMessage("u"), TurnStarted(1, "a"), "text", None])
def test_what_is_no_model_event_is_refused_by_name(event: Any) -> None:
    with pytest.raises(ModelBehaviorError, match=r"which is not a model event; yield TextDelta, ReasoningDelta,"):
        build(event)


class _Delta(ReasoningDelta):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    pass


def test_a_subclass_of_a_delta_is_refused_since_it_would_not_be_passed_on() -> None:
    with pytest.raises(ModelBehaviorError, match=r"ToolCallDelta \(no subclasses of these\)"):
        build(_Delta("r"))


class Odd:
    """Of no type that anything may have."""

    def __repr__(self) -> str:
        raise ValueError


ODD: Any = Odd()


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (ToolCall(ODD, "f"), "ToolCall.call_id is of type Odd; it must be str"),
        (ToolCall("c", ODD), "ToolCall.name is of type Odd; it must be str"),
        (ToolCall("c", "f", ODD), "ToolCall.arguments is of type Odd; it must be str"),
        (ToolCall("c", "f", "{}", ODD), "ToolCall.provider_data is of type Odd; it must be a mapping or None"),
        (Reasoning(ODD), "Reasoning.text is of type Odd; it must be str"),
        (Reasoning("", ODD), "Reasoning.provider_data is of type Odd; it must be a mapping or None"),
        (AssistantMessage(ODD), "AssistantMessage.text is of type Odd; it must be str"),
        (AssistantMessage("", refusal=ODD), "AssistantMessage.refusal is of type Odd; it must be str or None"),
        (
            AssistantMessage("", provider_data=ODD),
            "AssistantMessage.provider_data is of type Odd; it must be a mapping or None",
        ),
        (
            AssistantMessage("", "odd"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            "AssistantMessage.status is 'odd'; it must be one of 'completed', 'incomplete'",
        ),
        (ResponseEnded(ODD), "ResponseEnded.usage is of type Odd; it must be a Usage or None"),
        (ResponseEnded(None, ODD), "ResponseEnded.finish_reason is of type Odd; it must be str or None"),
        (ResponseEnded(Usage(1, ODD)), "Usage.input_tokens is of type Odd; it must be int"),
        (ResponseEnded(Usage(tool_calls=ODD)), "Usage.tool_calls is of type Odd; it must be int"),
    ],
)
def test_what_could_not_be_stored_or_sent_is_refused_by_name_and_leaves_nothing_behind(event: Any, what: str) -> None:
    builder = build(TextDelta("a"))
    with pytest.raises(ModelBehaviorError) as refused:
        builder.feed(event)
    assert str(refused.value) == f"the model's stream yielded something odd: {what}"
    assert builder.cut() == [AssistantMessage("a", "incomplete")]
    assert builder.usage is None


def test_a_delta_that_holds_no_text_is_refused_at_the_end_and_left_out() -> None:
    builder = build(TextDelta("a"), TextDelta(5), TextDelta("b"))  # type: ignore[arg-type]  # pyright: ignore
    assert builder.cut() == [AssistantMessage("ab", "incomplete")]
    with pytest.raises(ModelBehaviorError) as refused:
        builder.end()
    assert (
        str(refused.value) == "the model's stream yielded something odd: TextDelta.text is of type int; it must be str"
    )
    assert builder.cut() == [AssistantMessage("ab", "incomplete")]


_texts = st.text(max_size=3)
_events: st.SearchStrategy[Any] = st.one_of(
    st.builds(TextDelta, _texts),
    st.builds(ReasoningDelta, _texts),
    st.builds(ToolCallDelta, _texts, _texts, _texts),
    st.builds(AssistantMessage, _texts, st.just("completed"), st.none() | _texts, st.none() | st.just({"id": "m"})),
    st.builds(Reasoning, _texts, st.none() | st.just({"id": "r"})),
    st.builds(ToolCall, _texts, _texts),
    st.builds(ResponseEnded, st.none() | st.just(Usage(1)), st.sampled_from((None, "stop", "length"))),
)


@given(st.lists(_events, max_size=10))
def test_law_4_whatever_is_streamed_and_wherever_it_is_cut_what_is_said_is_kept_in_order(events: list[Any]) -> None:
    for position in range(len(events) + 1):
        fed = events[:position]
        builder = build(*fed)
        builder.end()
        said: list[str] = []  # what the messages summed up, and what came after them
        open_text = ""
        for event in fed:
            if isinstance(event, TextDelta):
                open_text += event.text
            elif isinstance(event, AssistantMessage):
                said.append(event.text)
                open_text = ""
        whole, cut = builder.finished(), builder.cut()
        items = [event for event in fed if isinstance(event, (AssistantMessage, Reasoning, ToolCall))]
        # Whole: every finished item that says something as it came, and the open text as one more message.
        texts = [item.text for item in whole if isinstance(item, AssistantMessage) and item.text]
        assert sorted(texts) == sorted(text for text in (*said, open_text) if text)
        rest = [item for item in whole if any(item is fed_item for fed_item in items)]
        assert rest == [item for item in items if any(item is kept for kept in whole)]
        assert len(whole) == len(rest) + bool(open_text)
        assert [item for item in whole if isinstance(item, ToolCall)] == [i for i in items if isinstance(i, ToolCall)]
        assert not whole or not isinstance(whole[-1], Reasoning)
        # Cut: messages only, in order, nothing that a provider would refuse, and only the open text is incomplete.
        assert all(isinstance(item, AssistantMessage) and item.provider_data is None for item in cut)
        assert "".join(item.text for item in cut if isinstance(item, AssistantMessage)) == "".join(said) + open_text
        assert all(isinstance(item, AssistantMessage) and (item.text or item.refusal) for item in cut)
        if open_text:
            assert cut[-1] == AssistantMessage(open_text, "incomplete")
        assert builder.finished() == whole  # asking changes nothing
