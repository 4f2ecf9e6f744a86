"""Items as JSON: what is written can be read, and what cannot be read is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.core.errors import UserError
from agentrun.core.item_json import dump_items, items_from_json, items_to_json, parse_input, parse_items
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


@given(st.lists(s.items, max_size=6))
def test_items_survive_the_way_through_json(items: list[Item]) -> None:
    assert parse_items(dump_items(items)) == items
    text = items_to_json(items)
    text.encode()  # it can be written to a file, whatever is in it
    assert items_from_json(text) == items
    assert items_from_json(text.encode()) == items
    assert items_from_json(items_to_json(items, indent=2)) == items


@given(st.lists(s.items, max_size=4))
def test_items_pass_through_parsing_as_they_are(items: list[Item]) -> None:
    assert all(a is b for a, b in zip(parse_items(items), items, strict=True))


def test_the_json_form_of_an_item_is_made_of_what_json_knows() -> None:
    assert dump_items([UserMessage((TextPart("a"),)), ToolOutput("c", (1, 2))]) == [
        {"type": "user_message", "content": [{"type": "text", "text": "a"}]},
        {"type": "tool_output", "call_id": "c", "output": [1, 2], "status": "completed"},
    ]


@pytest.mark.parametrize("text", ["plain", "name-\udcff"])
def test_json_is_on_one_line_unless_it_is_to_be_indented(text: str) -> None:
    assert items_to_json([SystemMessage(text)]).count("\n") == 0
    assert "\n  {\n    " in items_to_json([SystemMessage(text)], indent=2)


def test_json_stays_readable_where_it_can() -> None:
    assert "Ærøskøbing" in items_to_json([UserMessage("Ærøskøbing")])
    assert r"\udcff" in items_to_json([UserMessage("name-\udcff")])


def test_fields_that_have_their_default_may_be_left_out() -> None:
    assert parse_items(
        [
            {"type": "assistant_message", "text": "a"},
            {"type": "tool_call", "call_id": "c", "name": "n"},
            {"type": "tool_output", "call_id": "c", "output": None},
            {"type": "reasoning", "text": "r"},
            {"type": "user_message", "content": [{"type": "image", "url": "u"}, {"type": "file", "file_id": "f"}]},
        ]
    ) == [
        AssistantMessage("a"),
        ToolCall("c", "n"),
        ToolOutput("c", None),
        Reasoning("r"),
        UserMessage((ImagePart("u"), FilePart(file_id="f"))),
    ]


@given(s.json_values | st.lists(st.dictionaries(st.sampled_from(("type", "role", "content", "x")), s.json_values)))
def test_reading_any_json_gives_items_or_a_user_error(value: Any) -> None:
    try:
        items = items_from_json(json.dumps(value))
    except UserError:
        return
    assert isinstance(value, list)
    assert parse_items(dump_items(items)) == items


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "input is empty: pass a non-empty string, or a list of items"),
        (" \n", "input is empty: pass a non-empty string, or a list of items"),
        ([], "input is empty: pass a non-empty string, or a list with at least one item"),
        (None, "input must be a string or a list of items, not NoneType"),
        (5, "input must be a string or a list of items, not int"),
        (b"x", "input must be a string or a list of items, not bytes"),
        (
            [5],
            (
                "input[0] is int: expected an item such as UserMessage(...) or a dict such as "
                "{'role': 'user', 'content': '...'}"
            ),
        ),
        (["x"], "input[0] is str: expected an item"),
        ([UserMessage("a"), {"type": "user_message"}], "input[1] is not a valid item: content: Field required"),
        ({"type": "user_message"}, "input[0] is not a valid item: content: Field required"),
        ([{"type": "assistant_message", "text": 5}], "input[0] is not a valid item: text: Input should be a valid"),
        ([{"type": "tool_output", "call_id": "c", "output": 1, "status": "odd"}], "not a valid item: status: Input"),
        ([{"type": ["odd"]}], "is not an item; expected a dict with a role, or with a type of message"),
        ([{"type": "odd"}], "input[0]: {'type': 'odd'} is not an item"),
        ([{"type": "tool_call"}], "is not a valid item: call_id: Field required; name: Field required"),
        ([{"type": "reasoning", "text": "r", "provider_data": {5: 6}}], "not a valid item: provider_data.5.[key]: "),
        (
            [{"type": "user_message", "content": [{"type": "odd", "text": "a"}]}],
            "Input tag 'odd' found using 'type' does not match any of the expected tags: 'text', 'image', 'file'",
        ),
        ([{"type": "user_message", "content": [{"text": "a"}]}], "Unable to extract tag using discriminator 'type'"),
    ],
)
def test_input_that_is_none_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_input(value)
    assert message in str(caught.value)


def test_the_name_of_the_argument_is_in_the_message() -> None:
    with pytest.raises(UserError, match=r"^inject: input is empty"):
        parse_input("", what="inject: input")


def test_input_may_be_text_an_item_a_dict_or_a_sequence_of_these() -> None:
    expected = [UserMessage("Hi")]
    assert parse_input("Hi") == expected
    assert parse_input(UserMessage("Hi")) == expected
    assert parse_input({"role": "user", "content": "Hi"}) == expected  # type: ignore[arg-type]
    assert parse_input([{"role": "user", "content": "Hi"}]) == expected
    assert parse_input((UserMessage("Hi"), SystemMessage("S"))) == [UserMessage("Hi"), SystemMessage("S")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the items are not valid JSON"),
        ("{}", "expected a JSON array of items, got dict"),
        (b"\xff", "valid JSON"),
    ],
)
def test_text_that_is_not_an_array_of_items_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        items_from_json(text)


def test_a_user_message_knows_its_text() -> None:
    assert UserMessage("a").text == "a"
    assert UserMessage((TextPart("a"), ImagePart("u"), TextPart("b"))).text == "ab"


def test_a_list_of_parts_becomes_a_value() -> None:
    message = UserMessage([TextPart("a")])  # type: ignore[arg-type]
    assert message == UserMessage((TextPart("a"),))
    assert hash(message) == hash(UserMessage((TextPart("a"),)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "UserMessage.content must be text or a tuple of parts, not NoneType"),
        (b"x", "UserMessage.content must be text or a tuple of parts, not bytes"),
        (("x",), "UserMessage.content contains 'x'; expected TextPart, ImagePart or FilePart"),
    ],
)
def test_a_user_message_of_something_else_is_refused(content: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        UserMessage(content)
    assert str(caught.value) == message


def test_a_tool_output_is_sent_as_text() -> None:
    assert ToolOutput("c", "plain").text == "plain"
    assert ToolOutput("c", {"å": [1, None]}).text == '{"å": [1, null]}'
