"""Items as JSON, and what a user may pass where items are wanted."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from agentrun.core.errors import UserError
from agentrun.core.item_dicts import item_from_responses_style, items_from_chat_style
from agentrun.core.items import (
    AssistantMessage,
    InputItem,
    Item,
    Reasoning,
    RunInput,
    SystemMessage,
    ToolCall,
    ToolOutput,
    UserMessage,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["dump_items", "items_from_json", "items_to_json", "json_text", "parse_input", "parse_items"]

_ITEM_CLASSES: Final = (UserMessage, SystemMessage, AssistantMessage, Reasoning, ToolCall, ToolOutput)
_ITEM_TYPES: Final = ("user_message", "system_message", "assistant_message", "reasoning", "tool_call", "tool_output")


@functools.cache
def _adapter() -> TypeAdapter[list[Item]]:
    # Imported and built on first use: it costs milliseconds, and most programs never read items from JSON.
    from pydantic import Field, TypeAdapter

    return TypeAdapter(list[Annotated[Item, Field(discriminator="type")]])


def dump_items(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The items as JSON-able dicts, in the form that `parse_items` reads back."""
    dumped: list[dict[str, Any]] = _adapter().dump_python(list(items), mode="json")
    return dumped


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON text that can be encoded as UTF-8, readable where it may be.

    Half of a surrogate pair (file names that are not UTF-8 contain them in Python) can be written only as an escape.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def items_to_json(items: Iterable[Item], *, indent: int | None = None) -> str:
    """The items as JSON text (one array)."""
    return json_text(dump_items(items), indent=indent)


def items_from_json(data: str | bytes) -> list[Item]:
    """Read what `items_to_json` wrote, or an array of Chat/Responses-style objects.

    Raises:
        UserError: The text is not JSON, not an array, or an element is not an item; the message names it.
    """
    try:
        loaded = json.loads(data)
    except ValueError as exc:
        raise UserError(f"the items are not valid JSON: {exc}") from exc
    if not isinstance(loaded, list):
        raise UserError(f"expected a JSON array of items, got {type(loaded).__name__}")
    return parse_items(cast("list[InputItem]", loaded))


def parse_input(value: RunInput, *, what: str = "input") -> list[Item]:
    """Turn what a user passes as input into a list of items.

    Raises:
        UserError: The input is empty or an element is not an item; the message names the argument ``what``.
    """
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{what} is empty: pass a non-empty string, or a list of items")
        return [UserMessage(value)]
    if isinstance(value, _ITEM_CLASSES):
        return [value]
    if isinstance(value, Mapping):
        return parse_items([value], what=what)
    if isinstance(cast("object", value), (bytes, bytearray)) or not isinstance(cast("object", value), Iterable):
        raise UserError(f"{what} must be a string or a list of items, not {type(value).__name__}")
    items = parse_items(value, what=what)
    if not items:
        raise UserError(f"{what} is empty: pass a non-empty string, or a list with at least one item")
    return items


def _check_list(values: object, what: str) -> None:
    name = type(values).__name__
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)):
        raise UserError(f"{what} must be a list of items, not {name}")


def parse_items(values: Iterable[InputItem], *, what: str = "items") -> list[Item]:
    """Turn items and plain dicts into items.

    Dicts may be in agentrun's own JSON form, in Chat Completions style (``{"role": "user", "content": ...}``, with
    ``tool_calls`` and ``role: "tool"``) or in Responses style (``function_call``, ``function_call_output``,
    ``message``, ``reasoning``).

    Raises:
        UserError: An element is none of these; the message gives its position.
    """
    _check_list(values, what)
    result: list[Item] = []
    for index, value in enumerate(values):
        if isinstance(value, _ITEM_CLASSES):
            result.append(value)
            continue
        where = f"{what}[{index}]"
        if not isinstance(cast("object", value), Mapping):
            raise UserError(
                f"{where} is {type(value).__name__}: expected an item such as UserMessage(...) or a dict such as "
                "{'role': 'user', 'content': '...'}"
            )
        kind = value.get("type")
        if kind in _ITEM_TYPES and not (kind == "reasoning" and "summary" in value):
            result.append(_from_own_form(value, where))
        elif "role" in value:
            result.extend(items_from_chat_style(value, where))
        else:
            result.append(item_from_responses_style(value, where))
    return result


def _from_own_form(value: Mapping[str, Any], where: str) -> Item:
    from pydantic import ValidationError

    try:
        return _adapter().validate_python([dict(value)])[0]
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'][2:])}: {error['msg']}" for error in exc.errors()
        )
        raise UserError(f"{where} is not a valid item: {problems}") from exc
