"""Items from the plain dicts that people have lying around: Chat Completions and Responses style."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import UserError
from agentrun.core.item_json import dump_items, parse_items
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

from . import strategies as s


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"role": "user", "content": "Hi"}, [UserMessage("Hi")]),
        ({"role": "system", "content": "S"}, [SystemMessage("S")]),
        ({"role": "developer", "content": [{"type": "text", "text": "S"}]}, [SystemMessage("S")]),
        ({"role": "assistant", "content": "A"}, [AssistantMessage("A")]),
        ({"role": "assistant", "content": None, "refusal": "No."}, [AssistantMessage("", refusal="No.")]),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
            [AssistantMessage("a", refusal="no")],
        ),
        (
            {
                "role": "assistant",
                "content": "A",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g"}},
                    {"id": "c3", "type": "function", "function": {"name": "g", "arguments": {"y": 2}}},
                ],
            },
            [
                AssistantMessage("A"),
                ToolCall("c1", "f", '{"x": 1}'),
                ToolCall("c2", "g", "{}"),
                ToolCall("c3", "g", '{"y": 2}'),
            ],
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "a"}]},
            [AssistantMessage("a", refusal="no")],
        ),
        ({"role": "assistant", "content": "A", "id": "chat_1"}, [AssistantMessage("A")]),
        ({"role": "assistant", "content": "A", "type": "message"}, [AssistantMessage("A")]),
        ({"role": "tool", "tool_call_id": "c1", "content": "out"}, [ToolOutput("c1", "out")]),
        ({"role": "tool", "tool_call_id": "c1", "content": ["a", {"text": "b"}]}, [ToolOutput("c1", "ab")]),
        (
            {"role": "user", "content": ["a", {"type": "text", "text": "b"}, {"type": "input_text", "text": "c"}]},
            [UserMessage((TextPart("a"), TextPart("b"), TextPart("c")))],
        ),
        (
            {"role": "user", "content": [TextPart("a"), ImagePart("u"), FilePart(file_id="f")]},
            [UserMessage((TextPart("a"), ImagePart("u"), FilePart(file_id="f")))],
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "u1", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "u2"}},
                    {"type": "input_image", "image_url": "u3", "detail": "high"},
                    {"type": "input_image", "image_url": "u4", "detail": None},
                    {"type": "image", "url": "u5", "detail": "auto"},
                ],
            },
            [
                UserMessage(
                    (
                        ImagePart("u1", "low"),
                        ImagePart("u2"),
                        ImagePart("u3", "high"),
                        ImagePart("u4"),
                        ImagePart("u5"),
                    )
                )
            ],
        ),
        (
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:x"}},
                    {"type": "file", "file": {"file_id": "f0"}},
                    {"type": "input_file", "file_id": "f1"},
                    {"type": "input_file", "filename": "b.pdf", "file_data": "data:y"},
                    {"type": "file", "filename": "c.pdf", "data": "data:z"},
                ],
            },
            [
                UserMessage(
                    (
                        FilePart("a.pdf", "data:x"),
                        FilePart(file_id="f0"),
                        FilePart(file_id="f1"),
                        FilePart("b.pdf", "data:y"),
                        FilePart("c.pdf", "data:z"),
                    )
                )
            ],
        ),
        (
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "status": "incomplete",
                "content": [{"type": "output_text", "text": "A", "annotations": []}],
            },
            [AssistantMessage("A", "incomplete", provider_data={"id": "msg_1"})],
        ),
        (
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"x": 1}'},
            [ToolCall("c1", "f", '{"x": 1}', {"id": "fc_1"})],
        ),
        ({"type": "function_call", "call_id": "c1", "name": "f"}, [ToolCall("c1", "f", "{}")]),
        ({"type": "function_call_output", "call_id": "c1", "output": "x"}, [ToolOutput("c1", "x")]),
        (
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "x"}]},
            [ToolOutput("c1", "x")],
        ),
        (
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "R"}]},
            [Reasoning("R", {"id": "rs_1"})],
        ),
        (
            {"type": "reasoning", "summary": [], "encrypted_content": "e", "id": "rs_1"},
            [Reasoning("", {"id": "rs_1", "encrypted_content": "e"})],
        ),
        ({"type": "reasoning", "summary": []}, [Reasoning("")]),
    ],
)
def test_the_dicts_of_the_openai_apis_become_items(value: dict[str, Any], expected: list[Item]) -> None:
    assert parse_items([value]) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"role": "user"}, "items[0]: a user message needs content"),
        ({"role": "user", "content": ""}, "items[0]: a user message needs content"),
        ({"role": "user", "content": []}, "items[0]: a user message needs content"),
        ({"role": "user", "content": 5}, "items[0]: content must be text or a list of parts, not int"),
        ({"role": "user", "content": b"x"}, "items[0]: content must be text or a list of parts, not bytes"),
        ({"role": "user", "content": [{"type": "text"}]}, "items[0]: unknown content part {'type': 'text'}; expected"),
        (
            {"role": "user", "content": [{"type": "image", "url": "u", "detail": "huge"}]},
            "items[0]: the detail of an image must be 'auto', 'low' or 'high', not 'huge'",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "huge"}}]},
            "items[0]: the detail of an image must be 'auto', 'low' or 'high', not 'huge'",
        ),
        *(
            ({"role": "user", "content": [part]}, "items[0]: a file needs its data (a data: URL) or a file_id")
            for part in ({"type": "file"}, {"type": "input_file"}, {"type": "file", "file": {}})
        ),
        *(
            (
                {"role": "user", "content": [{"type": "file", name: 5}]},
                f"items[0]: the {name} of a file must be text, not int",
            )
            for name in ("filename", "data", "file_id")
        ),
        ({"role": "robot", "content": "x"}, "items[0]: unknown role 'robot'; expected user, system, developer"),
        ({"role": ["user"], "content": "x"}, "items[0]: unknown role ['user']"),
        ({"role": "system", "content": [5]}, "items[0]: content part 5 has no text"),
        ({"role": "system", "content": {"text": "x"}}, "items[0]: content must be text or a list of parts, not dict"),
        ({"role": "assistant", "content": [5]}, "items[0]: content part 5 has no text"),
        ({"role": "tool", "tool_call_id": "c", "content": [5]}, "items[0]: content part 5 has no text"),
        ({"type": "reasoning", "summary": [5]}, "items[0]: content part 5 has no text"),
        ({"role": "assistant"}, "items[0]: an assistant message needs content or tool_calls"),
        ({"role": "assistant", "refusal": 5}, "items[0]: refusal must be text, not int"),
        ({"role": "assistant", "tool_calls": 5}, "items[0]: tool_calls must be a list, not int"),
        ({"role": "assistant", "tool_calls": "ab"}, "items[0]: tool_calls must be a list, not str"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c"}]},
            "items[0]: tool call {'id': 'c'} needs an id and a function with a name",
        ),
        ({"role": "tool", "content": "x"}, "items[0]: a tool message needs a tool_call_id"),
        ({"content": "hello"}, "items[0]: a message needs a role, as in {'role': 'user', 'content': 'hello'}"),
        ({"content": "x" * 50}, f"'content': '{'x' * 40}'}}"),
        ({"type": "odd", "content": "x"}, "items[0]: {'type': 'odd', 'content': 'x'} is not an item; expected a dict"),
        (
            {"type": "function_call", "name": "f"},
            (
                "is not an item; expected a dict with a role, or with a type of "
                "message, function_call, function_call_output or reasoning"
            ),
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": 5},
            "items[0]: content must be text or a list of parts, not int",
        ),
    ],
)
def test_a_dict_that_is_no_item_is_refused_with_its_position(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_items([value])
    assert message in str(caught.value)


def test_a_message_about_a_big_part_stays_short() -> None:
    with pytest.raises(UserError) as caught:
        parse_items([{"role": "user", "content": [{"type": "video", "data": "x" * 10_000}]}])
    assert len(str(caught.value)) < 300


_LEAVES = s.json_values | st.sampled_from(("user", "assistant", "tool", "text", "image", "file", "function_call"))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(("user", "system", "assistant", "tool")),
            "type": st.sampled_from(("message", "function_call", "function_call_output", "reasoning", "tool_call")),
            "call_id": _LEAVES,
            "name": _LEAVES,
            "id": _LEAVES,
            "arguments": _LEAVES,
            "output": _LEAVES,
            "status": _LEAVES,
            "refusal": _LEAVES,
            "tool_call_id": _LEAVES,
            "summary": _LEAVES | st.lists(st.fixed_dictionaries({"text": _LEAVES})),
            "tool_calls": _LEAVES
            | st.lists(st.fixed_dictionaries({"id": _LEAVES, "function": st.dictionaries(s.texts, _LEAVES)})),
            "content": _LEAVES
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(("text", "image", "input_image", "image_url", "file", "input_file"))},
                    optional={
                        "text": _LEAVES,
                        "url": _LEAVES,
                        "image_url": _LEAVES | st.fixed_dictionaries({"url": _LEAVES, "detail": _LEAVES}),
                        "detail": _LEAVES,
                        "file": _LEAVES | st.fixed_dictionaries({"file_id": _LEAVES, "filename": _LEAVES}),
                        "file_id": _LEAVES,
                        "data": _LEAVES,
                    },
                )
            ),
        },
    )
)
def test_whatever_is_accepted_is_valid_and_whatever_is_not_is_a_user_error(value: dict[str, Any]) -> None:
    try:
        items = parse_items([value])
    except UserError:
        return
    assert parse_items(dump_items(items)) == items
