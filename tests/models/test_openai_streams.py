"""What the two APIs send, turned into model events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.core.errors import ModelError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Reasoning, ToolCall
from agentrun.core.model import ModelEvent, ResponseEnded
from agentrun.core.usage import Usage
from agentrun.models.openai_chat_stream import ChatDecoder
from agentrun.models.openai_responses_stream import ResponsesDecoder
from agentrun.models.sse import SSEDecoder

from . import recordings as rec

USAGE = Usage(input_tokens=75, cached_input_tokens=32, output_tokens=1186, reasoning_tokens=1024)


def decode(api: str, pieces: Iterable[bytes], *, end: bool = True) -> list[ModelEvent]:
    decoder: Any = ResponsesDecoder("req_1") if api == "responses" else ChatDecoder("req_1")
    sse, out = SSEDecoder(), deque[ModelEvent]()
    for piece in pieces:
        for event, data in sse.feed(piece):
            if not decoder.complete:
                decoder.feed(event, data, out)
    if end and not decoder.complete:
        decoder.end(out)
    return list(out)


def responses(*events: dict[str, Any]) -> list[ModelEvent]:
    return decode("responses", [rec.sse(*events)])


def chat(*chunks: dict[str, Any], done: bool = True) -> list[ModelEvent]:
    return decode("chat", [rec.chat(*chunks), rec.DONE if done else b""])


def items(events: list[ModelEvent]) -> list[ModelEvent]:
    return [event for event in events if isinstance(event, (AssistantMessage, Reasoning, ToolCall))]


RESPONSES_FULL = [
    ReasoningDelta("Rain?"),
    ReasoningDelta("\n\n"),
    ReasoningDelta("Look."),
    Reasoning("Rain?\n\nLook.", {"id": "rs_67", "encrypted_content": "gAAAAA==", "summary": ["Rain?", "Look."]}),
    TextDelta("Blåbær ☂\n🌧!"),
    AssistantMessage("Blåbær ☂\n🌧!", provider_data={"id": "msg_67"}),
    ToolCallDelta("call_1", "get_weather", ""),
    ToolCallDelta("call_2", "get_weather", ""),
    ToolCallDelta("call_1", "get_weather", '{"city":'),
    ToolCallDelta("call_2", "get_weather", '{"city":"Oslo"}'),
    ToolCallDelta("call_1", "get_weather", '"Bodø"}'),
    ToolCall("call_1", "get_weather", '{"city":"Bodø"}', {"id": "fc_1"}),
    ToolCall("call_2", "get_weather", '{"city":"Oslo"}', {"id": "fc_2"}),
    ResponseEnded(USAGE, "tool_calls", "resp_68"),
]
CHAT_FULL = [
    ReasoningDelta("Rain?"),
    ReasoningDelta(" Look."),
    TextDelta("Blåbær ☂\n🌧!"),
    ToolCallDelta("call_1", "get_weather", ""),
    ToolCallDelta("call_1", "get_weather", '{"city":'),
    ToolCallDelta("call_1", "get_weather", '"Bodø"}'),
    ToolCallDelta("call_2", "get_weather", ""),
    ToolCallDelta("call_2", "get_weather", '{"city":"Oslo"}'),
    Reasoning("Rain? Look."),
    AssistantMessage("Blåbær ☂\n🌧!"),
    ToolCall("call_1", "get_weather", '{"city":"Bodø"}'),
    ToolCall("call_2", "get_weather", '{"city":"Oslo"}'),
    ResponseEnded(USAGE, "tool_calls", "chatcmpl-1"),
]
TEXT = [TextDelta("Blåbær"), TextDelta(" ☂\n"), TextDelta("🌧!")]
RECORDINGS: dict[str, tuple[str, bytes, list[Any]]] = {
    "responses text": (
        "responses",
        rec.RESPONSES_TEXT,
        [
            *TEXT,
            AssistantMessage("Blåbær ☂\n🌧!", provider_data={"id": "msg_67"}),
            ResponseEnded(USAGE, "stop", "resp_68"),
        ],
    ),
    "responses full": ("responses", rec.RESPONSES_FULL, RESPONSES_FULL),
    "chat text": (
        "chat",
        rec.CHAT_TEXT,
        [*TEXT, AssistantMessage("Blåbær ☂\n🌧!"), ResponseEnded(USAGE, "stop", "chatcmpl-1")],
    ),
    "chat full": ("chat", rec.CHAT_FULL, CHAT_FULL),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_gives_the_expected_events_however_it_is_cut_in_two(name: str) -> None:
    api, stream, expected = RECORDINGS[name]
    for cut in range(len(stream) + 1):
        assert decode(api, [stream[:cut], stream[cut:]]) == expected


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_recording_gives_the_same_events_however_it_is_cut(name: str, data: st.DataObject) -> None:
    api, stream, expected = RECORDINGS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=40)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(api, pieces) == expected


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_that_breaks_off_anywhere_is_complete_or_an_error(name: str) -> None:
    api, stream, expected = RECORDINGS[name]
    for cut in range(0, len(stream), 7):
        try:
            events = decode(api, [stream[:cut]])
        except ModelError as error:
            assert error.retryable  # noqa: PT017
            assert error.request_id == "req_1"  # noqa: PT017
        else:
            assert items(events) == items(expected)
            assert isinstance(events[-1], ResponseEnded)


# -- Responses ------------------------------------------------------------------------------------------------


def test_a_response_cut_by_length_keeps_its_text_and_drops_the_half_call() -> None:
    message = {**rec.MESSAGE, "status": "incomplete"}
    half = {**rec.CALL_1, "status": "incomplete", "arguments": '{"ci'}
    events = responses(
        rec.response("created"),
        rec.text_delta("Blåbær"),
        rec.item_event("done", 0, message),
        rec.item_event("added", 1, {**rec.CALL_1, "arguments": ""}),
        rec.arguments_delta(1, "fc_1", '{"ci'),
        rec.response(
            "incomplete", output=[message, half], incomplete_details={"reason": "max_output_tokens"}, usage=rec.USAGE
        ),
    )
    assert items(events) == [AssistantMessage("Blåbær ☂\n🌧!", "incomplete")]
    assert events[-1] == ResponseEnded(USAGE, "length", "resp_68")


def test_a_response_stopped_by_the_content_filter_says_so() -> None:
    events = responses(
        rec.text_delta("Bl"), rec.response("incomplete", incomplete_details={"reason": "content_filter"})
    )
    assert events[1:] == [AssistantMessage("Bl", "incomplete"), ResponseEnded(None, "content_filter", "resp_68")]


def test_a_refusal_is_told_as_one() -> None:
    message = {**rec.MESSAGE, "content": [{"type": "refusal", "refusal": "I won't."}]}
    events = responses(
        {"type": "response.refusal.delta", "item_id": "msg_67", "output_index": 0, "delta": "I won't."},
        rec.item_event("done", 0, message),
        rec.response("completed", output=[message]),
    )
    assert events == [
        AssistantMessage("", refusal="I won't.", provider_data={"id": "msg_67"}),
        ResponseEnded(None, "refusal", "resp_68"),
    ]


def test_items_that_only_the_last_event_holds_are_not_lost() -> None:
    events = responses(rec.response("completed", output=[rec.REASONING, rec.MESSAGE, rec.CALL_1]))
    assert [type(event) for event in events] == [Reasoning, AssistantMessage, ToolCall, ResponseEnded]


def test_items_without_positions_are_told_once() -> None:
    done = rec.item_event("done", 0, rec.MESSAGE)
    del done["output_index"]
    events = responses(rec.text_delta("Blåbær"), done, rec.response("completed", output=[rec.MESSAGE]))
    assert len(items(events)) == 1


def test_a_finished_call_without_its_name_takes_it_from_its_start() -> None:
    bare = {key: value for key, value in rec.CALL_1.items() if key not in ("call_id", "name")}
    events = responses(
        rec.item_event("added", 0, rec.CALL_1), rec.item_event("done", 0, bare), rec.response("completed")
    )
    assert items(events) == [ToolCall("call_1", "get_weather", '{"city":"Bodø"}', {"id": "fc_1"})]


def test_the_event_line_names_the_type_when_the_data_does_not() -> None:
    stream = b'event: response.output_text.delta\ndata: {"delta":"x"}\n\nevent: response.completed\ndata: {}\n\n'
    assert decode("responses", [stream])[0] == TextDelta("x")


@pytest.mark.parametrize(
    ("event", "code", "retryable"),
    [
        ({"type": "error", "code": "server_error", "message": "Oops"}, "server_error", True),
        (
            {"type": "error", "error": {"type": "invalid_request_error", "message": "Oops"}},
            "invalid_request_error",
            False,
        ),
        (rec.response("failed", error={"code": "rate_limit_exceeded", "message": "Oops"}), "rate_limit_exceeded", True),
        (rec.response("completed", status="failed", error={"code": "x", "message": "Oops"}), "x", False),
        (rec.response("failed", error=None), None, False),
    ],
)
def test_an_error_event_is_an_error_with_its_code(event: dict[str, Any], code: str | None, retryable: bool) -> None:
    with pytest.raises(ModelError) as caught:
        responses(rec.response("created"), event)
    assert (caught.value.code, caught.value.retryable, caught.value.request_id) == (code, retryable, "req_1")
    assert code is None or "Oops" in str(caught.value)


# -- Chat Completions -----------------------------------------------------------------------------------------


def test_a_stream_without_done_is_complete_if_it_gave_a_finish_reason() -> None:
    events = chat(rec.chunk({"content": "Hi"}), rec.chunk({}, "stop"), done=False)
    assert events[-1] == ResponseEnded(None, "stop", "chatcmpl-1")


def test_a_stream_without_done_and_finish_reason_broke_off() -> None:
    with pytest.raises(ModelError, match="broke off"):
        chat(rec.chunk({"content": "Hi"}), done=False)


@pytest.mark.parametrize("error", [{"message": "Oops", "code": 502}, "Oops"])
def test_an_error_chunk_in_mid_stream_is_an_error(error: Any) -> None:
    with pytest.raises(ModelError, match="Oops"):
        chat(rec.chunk({"content": "Hi"}), {"error": error})


def test_a_completion_cut_by_length_drops_the_half_call_only() -> None:
    events = chat(
        rec.chunk({"content": "So"}),
        rec.chunk(rec.call_delta(0, "call_1", "a", "{}")),
        rec.chunk(rec.call_delta(1, "call_2", "a", '{"ci')),
        rec.chunk({}, "length"),
    )
    assert items(events) == [AssistantMessage("So", "incomplete"), ToolCall("call_1", "a", "{}")]
    assert isinstance(events[-1], ResponseEnded)
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("finish", "delta", "expected"),
    [
        ("content_filter", {"content": "x"}, "content_filter"),
        ("stop", {"refusal": "No."}, "refusal"),
        ("stop", rec.call_delta(0, "c", "n", "{}"), "tool_calls"),
        ("function_call", {"function_call": {"name": "n", "arguments": "{}"}}, "tool_calls"),
        ("weird", {"content": "x"}, "other"),
    ],
)
def test_finish_reasons(finish: str, delta: dict[str, Any], expected: str) -> None:
    events = chat(rec.chunk(delta), rec.chunk({}, finish))
    assert isinstance(events[-1], ResponseEnded)
    assert events[-1].finish_reason == expected


TWO = [("a", '{"n":1}'), ("b", '{"n":2}')]


@pytest.mark.parametrize(("odd", "text"), [([1, 2], "[1,2]"), (7, "7"), (None, "{}"), ("", "{}")])
def test_arguments_that_are_no_object_are_told_as_they_are(odd: Any, text: str) -> None:
    done = {**rec.CALL_1, "arguments": odd}
    [call, *_] = responses(rec.item_event("done", 0, done), rec.response("completed"))
    assert isinstance(call, ToolCall)
    assert call.arguments == text
    calls = chat(rec.chunk(rec.call_delta(0, "x", "a", odd)), rec.chunk({}, "tool_calls"))
    assert [event.arguments for event in calls if isinstance(event, ToolCall)] == [text]


@pytest.mark.parametrize("first", [{}, {"n": 1}, None, ""])
def test_arguments_of_a_response_that_are_the_object_itself_become_its_text(first: Any) -> None:
    added = {**rec.CALL_1, "status": "in_progress", "arguments": first}
    done = {**rec.CALL_1, "arguments": {"n": 1, "text": "Blåbær"}}
    events = responses(rec.item_event("added", 0, added), rec.item_event("done", 0, done), rec.response("completed"))
    [call] = [event for event in events if isinstance(event, ToolCall)]
    assert call.arguments == '{"n":1,"text":"Blåbær"}'
    assert [e.arguments for e in events if isinstance(e, ToolCallDelta)] == ['{"n":1}' if first == {"n": 1} else ""]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(
            [(0, "x", "a", '{"n"'), (0, "x", "a", ":1}"), (1, "y", "b", '{"n":2}')], TWO, id="id and name repeated"
        ),
        pytest.param([(None, "x", "a", '{"n":1}'), (None, "y", "b", '{"n":2}')], TWO, id="no index"),
        pytest.param(
            [(None, "x", "a", '{"n"'), (None, None, None, ":1}"), (None, "y", "b", '{"n":2}')], TWO, id="in pieces"
        ),
        pytest.param([(None, None, "a", '{"n":1}'), (None, None, "b", '{"n":2}')], TWO, id="neither index nor id"),
        pytest.param([(0, "x", "a", '{"n":1}'), (0, "y", "b", '{"n":2}')], TWO, id="all under index 0"),
        pytest.param([(0, None, "a", '{"n":1}'), (1, None, "b", '{"n":2}')], TWO, id="no id"),
        pytest.param([(0, "", "a", ""), (0, "", None, '{"n":1}')], TWO[:1], id="empty id"),
        pytest.param([(3, "x", "a", '{"n":1}'), (7, "y", "b", '{"n":2}')], TWO, id="gaps"),
        pytest.param([(0, "x", "a", {"n": 1})], TWO[:1], id="arguments as an object"),
        pytest.param([(0, "x", None, '{"n"'), (0, None, "a", ":1}")], TWO[:1], id="the name comes late"),
        pytest.param([(0, "x", "a", None)], [("a", "{}")], id="no arguments"),
    ],
)
def test_tool_calls_of_servers_that_take_liberties(
    pieces: list[tuple[int | None, str | None, str | None, Any]], expected: list[tuple[str, str]]
) -> None:
    events = chat(*(rec.chunk(rec.call_delta(*piece)) for piece in pieces), rec.chunk({}, "tool_calls"))
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == expected
    assert len({call.call_id for call in calls}) == len(calls)
    assert all(call.call_id for call in calls)
    for call in calls:  # what was streamed adds up to what was told in the end
        told = [e.arguments for e in events if isinstance(e, ToolCallDelta) and e.call_id == call.call_id]
        assert ("".join(told) or "{}") == call.arguments


def test_content_in_parts_is_taken_apart() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    events = chat(rec.chunk({"content": [thinking, {"type": "text", "text": "Yes"}]}), rec.chunk({}, "stop"))
    assert items(events) == [Reasoning("Hm."), AssistantMessage("Yes")]


# -- both -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("data", [b"{oops", b"[1]", b'"x"', b""])
def test_malformed_json_is_an_error_that_quotes_it(api: str, data: bytes) -> None:
    with pytest.raises(ModelError, match="not"):
        decode(api, [b"data: " + data + b"\n\n"])


def test_half_characters_become_replacement_characters() -> None:
    lone = rb'data: {"choices":[{"delta":{"content":"a\ud83d"},"finish_reason":"stop"}]}' + b"\n\n"
    broken = b'data: {"choices":[{"delta":{"content":"b\xf0\x9f"},"finish_reason":"stop"}]}\n\n'
    events = decode("chat", [lone, broken])
    assert items(events) == [AssistantMessage("a�b�")]


def test_whole_surrogate_pairs_stay_whole() -> None:
    pair = rb'data: {"choices":[{"delta":{"content":"\ud83c\udf27"},"finish_reason":"stop"}]}' + b"\n\n"
    assert decode("chat", [pair])[0] == TextDelta("🌧")
