"""The request bodies that are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentrun.core.errors import UserError
from agentrun.core.item_json import items_from_json, items_to_json
from agentrun.core.items import (
    AssistantMessage,
    FilePart,
    ImagePart,
    Item,
    Reasoning,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from agentrun.core.model import ModelRequest, ModelSettings, OutputSchema, ToolSpec
from agentrun.models import OpenAIChatModel, OpenAIResponsesModel
from agentrun.models.history import HistoryEncoder

from .test_openai_streams import RESPONSES_FULL

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HISTORY: list[Item] = [
    SystemMessage("Speak Norse."),
    UserMessage("Rain?"),
    *[event for event in RESPONSES_FULL if isinstance(event, (AssistantMessage, Reasoning, ToolCall))],
    ToolOutput("call_1", {"rain": True}),
    ToolOutput("call_2", "The call was cancelled: user pressed stop", "cancelled"),
    AssistantMessage("It r", "incomplete"),
    UserMessage(
        (
            TextPart("And this?"),
            ImagePart("https://example.com/a.png", "low"),
            ImagePart("data:image/png;base64,AA=="),
            FilePart("a.pdf", "data:application/pdf;base64,AA=="),
            FilePart(file_id="file-1"),
        )
    ),
    Reasoning("Cut before it came to anything", {"id": "rs_9", "encrypted_content": "x", "summary": []}),
    AssistantMessage("", "completed", "I won't."),
    UserMessage("Try."),
    Reasoning("From elsewhere"),
    ToolCall("call_3", "get_weather", '{"ci'),
    ToolOutput("call_3", "Invalid arguments", "failed"),
]


def responses_body(request: ModelRequest, **options: Any) -> Any:
    model = OpenAIResponsesModel(options.pop("model", "gpt-5.1-mini"), **{"api_key": "sk-test", **options})
    return json.loads(model._body(request))


def chat_body(request: ModelRequest, **options: Any) -> Any:
    return json.loads(OpenAIChatModel("gpt-5.1-mini", **{"api_key": "sk-test", **options})._body(request))


def test_a_full_history_for_the_responses_api() -> None:
    body = responses_body(ModelRequest("Be brief.", HISTORY))
    assert {key: body[key] for key in body if key != "input"} == {
        "model": "gpt-5.1-mini",
        "stream": True,
        "store": False,
        "instructions": "Be brief.",
        "include": ["reasoning.encrypted_content"],
    }
    call = {"type": "function_call", "name": "get_weather"}
    assert body["input"] == [
        {"role": "system", "content": "Speak Norse."},
        {"role": "user", "content": "Rain?"},
        {
            "type": "reasoning",
            "id": "rs_67",
            "summary": [{"type": "summary_text", "text": "Rain?"}, {"type": "summary_text", "text": "Look."}],
            "encrypted_content": "gAAAAA==",
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "id": "msg_67",
            "content": [{"type": "output_text", "text": "Blåbær ☂\n🌧!", "annotations": []}],
        },
        {**call, "call_id": "call_1", "arguments": '{"city":"Bodø"}', "id": "fc_1"},
        {**call, "call_id": "call_2", "arguments": '{"city":"Oslo"}', "id": "fc_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": '{"rain": true}'},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": "The call was cancelled: user pressed stop",
        },
        {"type": "message", "role": "assistant", "content": "It r"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And this?"},
                {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                {"type": "input_file", "file_id": "file-1"},
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "refusal", "refusal": "I won't."}],
        },
        {"role": "user", "content": "Try."},
        {**call, "call_id": "call_3", "arguments": '{"invalid_json":"{\\"ci"}'},
        {"type": "function_call_output", "call_id": "call_3", "output": "Invalid arguments"},
    ]


def test_a_full_history_for_chat_completions() -> None:
    body = chat_body(ModelRequest("Be brief.", HISTORY))
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "gpt-5.1-mini",
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    def call(call_id: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}

    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Speak Norse."},
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": "Blåbær ☂\n🌧!",
            "tool_calls": [call("call_1", '{"city":"Bodø"}'), call("call_2", '{"city":"Oslo"}')],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"rain": true}'},
        {"role": "tool", "tool_call_id": "call_2", "content": "The call was cancelled: user pressed stop"},
        {"role": "assistant", "content": "It r"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ],
        },
        {"role": "assistant", "content": "I won't."},
        {"role": "user", "content": "Try."},
        {"role": "assistant", "content": None, "tool_calls": [call("call_3", '{"invalid_json":"{\\"ci"}')]},
        {"role": "tool", "tool_call_id": "call_3", "content": "Invalid arguments"},
    ]


SETTINGS = ModelSettings(
    temperature=0.5,
    top_p=0.9,
    max_tokens=100,
    tool_choice="get_weather",
    parallel_tool_calls=False,
    reasoning_effort="low",
    seed=7,
    extra_body={"service_tier": "flex", "temperature": 1},
)
FULL = ModelRequest(
    None,
    [UserMessage("Hi")],
    [ToolSpec("get_weather", "Weather.", SCHEMA, strict=True), ToolSpec("b", "B.", {"type": "object"})],
    SETTINGS,
    OutputSchema("Weather in [Oslo]", SCHEMA),
)


def test_settings_tools_and_schema_for_the_responses_api() -> None:
    function = {"type": "function", "name": "get_weather", "description": "Weather.", "parameters": SCHEMA}
    assert responses_body(FULL, model="gpt-4.1", reasoning_summary="auto", store=True) == {
        "model": "gpt-4.1",
        "stream": True,
        "store": True,
        "tools": [
            {**function, "strict": True},
            {"type": "function", "name": "b", "description": "B.", "parameters": {"type": "object"}, "strict": False},
        ],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "parallel_tool_calls": False,
        "temperature": 1,
        "top_p": 0.9,
        "max_output_tokens": 100,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {
            "format": {"type": "json_schema", "name": "Weather_in__Oslo_", "schema": SCHEMA, "strict": True},
        },
        "service_tier": "flex",
        "input": [{"role": "user", "content": "Hi"}],
    }


def test_settings_tools_and_schema_for_chat_completions() -> None:
    function = {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA, "strict": True}
    expected = {
        "model": "gpt-5.1-mini",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {"type": "function", "function": function},
            {"type": "function", "function": {"name": "b", "description": "B.", "parameters": {"type": "object"}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "temperature": 1,
        "top_p": 0.9,
        "max_completion_tokens": 100,
        "reasoning_effort": "low",
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "Weather_in__Oslo_", "schema": SCHEMA, "strict": True},
        },
        "service_tier": "flex",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert chat_body(FULL) == expected
    expected["max_tokens"] = expected.pop("max_completion_tokens")
    assert chat_body(FULL, base_url="http://localhost:8000/v1") == expected


def test_stop_texts_are_sent_or_refused() -> None:
    request = ModelRequest(None, [], settings=ModelSettings(stop=("END",)))
    assert chat_body(request)["stop"] == ["END"]
    with pytest.raises(UserError, match="openai-chat"):
        responses_body(request)


@pytest.mark.parametrize(
    ("model", "options", "asked"),
    [
        ("gpt-5.1-mini", {}, True),
        ("o4-mini", {}, True),
        ("ft:o4-mini:acme", {}, True),
        ("gpt-4o", {}, False),
        ("gpt-5-chat-latest", {}, False),
        ("gpt-5.1-mini", {"store": True}, False),
        ("gpt-5.1-mini", {"base_url": "http://localhost/v1"}, False),
        ("gpt-4o", {"include_encrypted_reasoning": True}, True),
        ("gpt-5.1-mini", {"include_encrypted_reasoning": False}, False),
    ],
)
def test_encrypted_reasoning_is_asked_for_where_it_exists(model: str, options: dict[str, Any], asked: bool) -> None:
    assert ("include" in responses_body(ModelRequest(None, []), model=model, **options)) is asked


def test_reasoning_without_encrypted_content_goes_back_only_to_where_it_is_stored() -> None:
    stored = Reasoning("R", {"id": "rs_1", "summary": [], "stored": True})
    request = ModelRequest(None, [stored, AssistantMessage("A", provider_data={"id": "msg_1"})])
    kept = responses_body(request, store=True)["input"]
    assert [element.get("id") for element in kept] == ["rs_1", "msg_1"]
    assert responses_body(request)["input"] == [{"type": "message", "role": "assistant", "content": "A"}]


def test_reasoning_whose_message_was_cut_stays_home() -> None:
    reasoning = Reasoning("R", {"id": "rs_1", "encrypted_content": "x"})
    request = ModelRequest(None, [reasoning, AssistantMessage("A", "incomplete")])
    assert responses_body(request)["input"] == [{"type": "message", "role": "assistant", "content": "A"}]


def test_reasoning_goes_back_to_chat_servers_on_request() -> None:
    request = ModelRequest(None, [Reasoning("R"), AssistantMessage("A")])
    assert chat_body(request, send_reasoning=True)["messages"] == [
        {"role": "assistant", "content": "A", "reasoning_content": "R"}
    ]


def test_a_history_survives_its_json_form() -> None:
    again = items_from_json(items_to_json(HISTORY))
    assert responses_body(ModelRequest(None, again)) == responses_body(ModelRequest(None, HISTORY))


@pytest.mark.parametrize("arguments", ["", "  ", "{}", '{"a": 1}'])
def test_good_arguments_are_sent_as_they_are(arguments: str) -> None:
    [call] = responses_body(ModelRequest(None, [ToolCall("c", "n", arguments)]))["input"]
    assert call["arguments"] == (arguments.strip() or "{}")


@pytest.mark.parametrize("arguments", ["[1]", "5", "null", '{"a":', "{'a': 1}", '{"a": 1} {'])
def test_arguments_that_are_no_object_are_wrapped(arguments: str) -> None:
    [call] = responses_body(ModelRequest(None, [ToolCall("c", "n", arguments)]))["input"]
    assert json.loads(call["arguments"]) == {"invalid_json": arguments}


def test_half_characters_do_not_make_a_history_unsendable() -> None:
    body = responses_body(ModelRequest(None, [UserMessage("a\ud83d"), ToolOutput("c", {"t": "\udf27"})]))
    assert body["input"][0]["content"] == "a?"


def test_a_file_part_without_a_file_is_refused() -> None:
    with pytest.raises(UserError, match="FilePart"):
        chat_body(ModelRequest(None, [UserMessage((FilePart("a.pdf"),))]))


def test_something_that_is_no_json_is_refused() -> None:
    request = ModelRequest(None, [], settings=ModelSettings(extra_body={"x": object()}))
    with pytest.raises(UserError, match="JSON"):
        chat_body(request)


def test_each_item_is_encoded_once_however_often_it_is_sent() -> None:
    encoded: list[int] = []

    def encode(items: Any) -> list[dict[str, Any]]:
        encoded.extend(map(id, items))
        return [{"n": len(items)}]

    encoder = HistoryEncoder(encode)
    for length in range(1, len(HISTORY) + 1):
        fresh = HistoryEncoder(lambda items: [{"n": len(items)}])
        assert encoder.encode(HISTORY[:length]) == fresh.encode(HISTORY[:length])
    # A run of the model's items is encoded anew while it grows; here by up to four items.
    assert len(encoded) <= len(HISTORY) + 8
    encoded.clear()
    encoder.encode(list(HISTORY))
    assert encoded == []
    changed = [*HISTORY[:3], UserMessage("Something else")]
    assert encoder.encode(changed).endswith(b'{"n":1}')


def test_what_is_remembered_is_bounded() -> None:
    encoder = HistoryEncoder(lambda items: [{"text": items[0].text}])  # type: ignore[union-attr]
    for _ in range(100):
        encoder.encode([UserMessage("x" * 1_000_000)])
    assert sum(entry.size for entry in encoder._latest.values()) <= 16 * 1024 * 1024
    for _ in range(100):
        encoder.encode([UserMessage("x")])
    assert len(encoder._latest) == 32
    encoder.encode([UserMessage("x" * 17 * 1024 * 1024)])
    assert len(encoder._latest) == 32
    assert sum(entry.size for entry in encoder._latest.values()) <= 16 * 1024 * 1024
