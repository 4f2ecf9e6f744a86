"""The items a history is made of, and their JSON.

An item is an immutable value. A history is a sequence of items in which each `ToolCall` is answered by exactly one
`ToolOutput`; `agentrun.core.transcript` is what keeps it so.

The JSON form of an item is an object with a ``type`` (``"user_message"``, ``"tool_call"``, ...) and the fields
below; fields that have their default value may be left out when reading. `parse_items` also takes the plain dicts
that the Chat Completions and Responses APIs use, since that is what people have lying around.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

from pydantic import Field, TypeAdapter, ValidationError

from agentrun.core.errors import UserError

__all__ = [
    "AssistantMessage",
    "ContentPart",
    "FilePart",
    "ImagePart",
    "InputItem",
    "Item",
    "Reasoning",
    "RunInput",
    "SystemMessage",
    "TextPart",
    "ToolCall",
    "ToolOutput",
    "ToolStatus",
    "UserMessage",
    "dump_items",
    "items_from_json",
    "items_to_json",
    "parse_input",
    "parse_items",
]

ToolStatus: TypeAlias = Literal["completed", "failed", "cancelled", "rejected", "timed_out"]
"""How a tool call ended."""

MessageStatus: TypeAlias = Literal["completed", "incomplete"]
"""Whether the model said all it wanted to say, or was cut (by an interrupt, an injection or a length limit)."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a user message."""

    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a user message: an ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    type: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file in a user message, as a ``data:`` URL or the id of a file the provider already has."""

    filename: str | None = None
    data: str | None = None
    file_id: str | None = None
    type: Literal["file"] = "file"


ContentPart: TypeAlias = Annotated[TextPart | ImagePart | FilePart, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class UserMessage:
    """Something the user said.

    Attributes:
        content: Text, or a tuple of parts when there is more than text.
    """

    content: str | tuple[ContentPart, ...]
    type: Literal["user_message"] = "user_message"

    @property
    def text(self) -> str:
        """The text of the message; parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class SystemMessage:
    """An instruction to the model inside the conversation."""

    text: str
    type: Literal["system_message"] = "system_message"


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """Something the model said.

    Attributes:
        text: What it said; for an incomplete message what had been said when it was cut.
        status: ``"completed"``, or ``"incomplete"`` when it was cut.
        refusal: The model's refusal, when it refused instead of answering.
        provider_data: What the provider's adapter needs to send the item back unchanged (such as its item id).
    """

    text: str
    status: MessageStatus = "completed"
    refusal: str | None = None
    provider_data: Mapping[str, Any] | None = None
    type: Literal["assistant_message"] = "assistant_message"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The model's reasoning, as far as the provider shows it.

    Attributes:
        text: The reasoning or its summary; may be empty.
        provider_data: What the adapter needs to send it back (item id, encrypted content).
    """

    text: str
    provider_data: Mapping[str, Any] | None = None
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model's wish to have a tool called.

    Attributes:
        call_id: Id that pairs the call with its output; unique in a history.
        name: Name of the tool.
        arguments: The arguments as the model wrote them: JSON text, which need not be valid.
    """

    call_id: str
    name: str
    arguments: str = "{}"
    provider_data: Mapping[str, Any] | None = None
    type: Literal["tool_call"] = "tool_call"


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What came of a tool call.

    Attributes:
        call_id: Id of the call this answers.
        output: What the model is told: text, or any JSON value (sent as JSON text).
        status: How the call ended.
    """

    call_id: str
    output: Any
    status: ToolStatus = "completed"
    type: Literal["tool_output"] = "tool_output"

    @property
    def text(self) -> str:
        """``output`` as the text that is sent to a model."""
        if isinstance(self.output, str):
            return self.output
        return json.dumps(self.output, ensure_ascii=False)


Item: TypeAlias = UserMessage | SystemMessage | AssistantMessage | Reasoning | ToolCall | ToolOutput
"""Anything a history can contain."""

InputItem: TypeAlias = Item | Mapping[str, Any]
"""An item, or a plain dict in agentrun's, the Chat Completions' or the Responses API's style."""

RunInput: TypeAlias = str | Item | Sequence[InputItem]
"""What a run or an injection accepts: text, one item, or a sequence of items or plain dicts."""

_ITEM_CLASSES: Final = (UserMessage, SystemMessage, AssistantMessage, Reasoning, ToolCall, ToolOutput)
_ITEM_TYPES: Final = frozenset(
    ("user_message", "system_message", "assistant_message", "reasoning", "tool_call", "tool_output")
)


@functools.cache
def _adapter() -> TypeAdapter[list[Item]]:
    # Built on first use: building costs milliseconds, and most programs that import agentrun never read JSON items.
    return TypeAdapter(list[Annotated[Item, Field(discriminator="type")]])


def dump_items(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The items as JSON-able dicts, in the form that `parse_items` reads back."""
    return cast("list[dict[str, Any]]", _adapter().dump_python(list(items), mode="json", exclude_defaults=False))


def items_to_json(items: Iterable[Item], *, indent: int | None = None) -> str:
    """The items as JSON text (one array)."""
    return _adapter().dump_json(list(items), indent=indent).decode()


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
        return parse_items([cast("Mapping[str, Any]", value)], what=what)
    if isinstance(cast("object", value), (bytes, bytearray)) or not isinstance(cast("object", value), Iterable):
        raise UserError(f"{what} must be a string or a list of items, not {type(value).__name__}")
    items = parse_items(value, what=what)
    if not items:
        raise UserError(f"{what} is empty: pass a non-empty string, or a list with at least one item")
    return items


def parse_items(values: Iterable[InputItem], *, what: str = "items") -> list[Item]:
    """Turn items and plain dicts into items.

    Dicts may be in agentrun's own JSON form, in Chat Completions style (``{"role": "user", "content": ...}``, with
    ``tool_calls`` and ``role: "tool"``) or in Responses style (``function_call``, ``function_call_output``,
    ``message``, ``reasoning``).

    Raises:
        UserError: An element is none of these; the message gives its position.
    """
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
        try:
            if kind in _ITEM_TYPES and not (kind == "reasoning" and "summary" in value):
                result.extend(_adapter().validate_python([dict(value)]))
            elif "role" in value:
                result.extend(_from_role(value, where))
            else:
                result.extend(_from_responses(value, where))
        except ValidationError as exc:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in error['loc'][2:]) or 'item'}: {error['msg']}"
                for error in exc.errors()
            )
            raise UserError(f"{where} is not a valid item: {problems}") from exc
    return result


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        pieces: list[str] = []
        for part in cast("Sequence[Any]", content):
            if isinstance(part, str):
                pieces.append(part)
            elif isinstance(part, Mapping) and isinstance(cast("Any", part).get("text"), str):
                pieces.append(cast("str", part["text"]))
            elif isinstance(part, Mapping) and "refusal" in part:
                continue
            else:
                raise UserError(f"{where}: content part {part!r} has no text")
        return "".join(pieces)
    raise UserError(f"{where}: content must be text or a list of parts, not {type(content).__name__}")


def _refusal(content: Any) -> str | None:
    if isinstance(content, Sequence) and not isinstance(content, str):
        for part in cast("Sequence[Any]", content):
            if isinstance(part, Mapping) and "refusal" in part:
                return str(cast("Any", part)["refusal"])
    return None


def _user_content(content: Any, where: str) -> str | tuple[TextPart | ImagePart | FilePart, ...]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UserError(f"{where}: content must be text or a list of parts, not {type(content).__name__}")
    parts: list[TextPart | ImagePart | FilePart] = []
    for part in cast("Sequence[Any]", content):
        if isinstance(part, str):
            parts.append(TextPart(part))
            continue
        if isinstance(part, (TextPart, ImagePart, FilePart)):
            parts.append(part)
            continue
        match part:
            case {"type": "text" | "input_text", "text": str(text)}:
                parts.append(TextPart(text))
            case {"type": "image_url", "image_url": {"url": str(url), **rest}}:
                parts.append(ImagePart(url, rest.get("detail", "auto")))
            case {"type": "input_image", "image_url": str(url), **rest}:
                parts.append(ImagePart(url, rest.get("detail", "auto")))
            case {"type": "image", "url": str(url), **rest}:
                parts.append(ImagePart(url, rest.get("detail", "auto")))
            case {"type": "file", "file": {**file}}:
                parts.append(FilePart(file.get("filename"), file.get("file_data"), file.get("file_id")))
            case {"type": "input_file", **file}:
                parts.append(FilePart(file.get("filename"), file.get("file_data"), file.get("file_id")))
            case {"type": "file", **file}:
                parts.append(FilePart(file.get("filename"), file.get("data"), file.get("file_id")))
            case _:
                raise UserError(f"{where}: unknown content part {part!r}; expected text, image or file")
    return tuple(parts)


def _from_role(value: Mapping[str, Any], where: str) -> list[Item]:
    role, content = value["role"], value.get("content")
    match role:
        case "user":
            if content is None or content == "" or content == []:
                raise UserError(f"{where}: a user message needs content")
            return [UserMessage(_user_content(content, where))]
        case "system" | "developer":
            return [SystemMessage(_text(content, where))]
        case "assistant":
            items: list[Item] = []
            text = _text(content, where)
            refusal = value.get("refusal") or _refusal(content)
            status: MessageStatus = "incomplete" if value.get("status") == "incomplete" else "completed"
            if text or refusal:
                data = {"id": value["id"]} if value.get("type") == "message" and "id" in value else None
                items.append(AssistantMessage(text, status, refusal, data))
            for call in value.get("tool_calls") or ():
                match call:
                    case {"id": str(call_id), "function": {"name": str(name), **rest}}:
                        items.append(ToolCall(call_id, name, _arguments(rest.get("arguments"))))
                    case _:
                        raise UserError(f"{where}: tool call {call!r} needs an id and a function with a name")
            if not items:
                raise UserError(f"{where}: an assistant message needs content or tool_calls")
            return items
        case "tool":
            if not isinstance(value.get("tool_call_id"), str):
                raise UserError(f"{where}: a tool message needs a tool_call_id")
            return [ToolOutput(value["tool_call_id"], _text(content, where))]
        case _:
            raise UserError(f"{where}: unknown role {role!r}; expected user, system, developer, assistant or tool")


def _arguments(value: Any) -> str:
    if value is None:
        return "{}"
    return value if isinstance(value, str) else json.dumps(value)


def _from_responses(value: Mapping[str, Any], where: str) -> list[Item]:
    match value:
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), **rest}:
            data = {"id": rest["id"]} if isinstance(rest.get("id"), str) else None
            return [ToolCall(call_id, name, _arguments(rest.get("arguments")), data)]
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            return [ToolOutput(call_id, output if isinstance(output, str) else _text(output, where))]
        case {"type": "reasoning", "summary": summary, **rest}:
            data = {key: rest[key] for key in ("id", "encrypted_content") if rest.get(key) is not None}
            return [Reasoning(_text(summary, where), data or None)]
        case {"content": str(text)} if "type" not in value:
            raise UserError(f"{where}: a message needs a role, as in {{'role': 'user', 'content': {text[:40]!r}}}")
        case _:
            raise UserError(
                f"{where}: {dict(value)!r:.120} is not an item; expected a dict with a role, or with a type of "
                "message, function_call, function_call_output or reasoning"
            )
