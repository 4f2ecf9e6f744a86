"""Items from the plain dicts of the Chat Completions and Responses APIs, since that is what people have lying around.

The shapes are those of OpenAI's API reference, for requests: messages with a ``role``, and the Responses API's items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from agentrun.core.errors import UserError
from agentrun.core.items import (
    AssistantMessage,
    FilePart,
    ImagePart,
    Item,
    MessageStatus,
    Reasoning,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)

__all__ = ["item_from_responses_style", "items_from_chat_style"]

_Part: TypeAlias = TextPart | ImagePart | FilePart


def items_from_chat_style(value: Mapping[str, Any], where: str) -> list[Item]:
    """Read a message with a ``role``; one with tool calls is several items.

    Raises:
        UserError: It is not valid; the message begins with ``where``.
    """
    role, content = value["role"], value.get("content")
    match role:
        case "user":
            if content is None or content == "" or content == []:
                raise UserError(f"{where}: a user message needs content")
            return [UserMessage(_user_content(content, where))]
        case "system" | "developer":
            return [SystemMessage(_text(content, where))]
        case "assistant":
            return _assistant_items(value, where)
        case "tool":
            if not isinstance(value.get("tool_call_id"), str):
                raise UserError(f"{where}: a tool message needs a tool_call_id")
            return [ToolOutput(value["tool_call_id"], _text(content, where))]
        case _:
            raise UserError(f"{where}: unknown role {role!r:.60}; expected user, system, developer, assistant or tool")


def item_from_responses_style(value: Mapping[str, Any], where: str) -> Item:
    """Read an item of the Responses API that has no ``role``.

    Raises:
        UserError: It is not valid; the message begins with ``where``.
    """
    match value:
        case {"type": "function_call", "call_id": str(call_id), "name": str(name)}:
            item_id = value.get("id")
            data = {"id": item_id} if isinstance(item_id, str) else None
            return ToolCall(call_id, name, _arguments(value.get("arguments")), data)
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            return ToolOutput(call_id, _text(output, where))
        case {"type": "reasoning", "summary": summary}:
            data = {key: value[key] for key in ("id", "encrypted_content") if value.get(key) is not None}
            return Reasoning(_text(summary, where), data or None)
        case {"content": str(text)} if "type" not in value:
            raise UserError(f"{where}: a message needs a role, as in {{'role': 'user', 'content': {text[:40]!r}}}")
        case _:
            raise UserError(
                f"{where}: {dict(value)!r:.120} is not an item; expected a dict with a role, or with a type of "
                "message, function_call, function_call_output or reasoning"
            )


def _assistant_items(value: Mapping[str, Any], where: str) -> list[Item]:
    items: list[Item] = []
    content = value.get("content")
    text = _text(content, where)
    refusal = value.get("refusal") or _refusal(content)
    if refusal is not None and not isinstance(refusal, str):
        raise UserError(f"{where}: refusal must be text, not {type(refusal).__name__}")
    if text or refusal:
        data = {"id": value["id"]} if value.get("type") == "message" and "id" in value else None
        status: MessageStatus = "incomplete" if value.get("status") == "incomplete" else "completed"
        items.append(AssistantMessage(text, status, refusal, data))
    calls: Any = value.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)):
        raise UserError(f"{where}: tool_calls must be a list, not {type(calls).__name__}")
    for call in cast("Sequence[Any]", cast("object", calls)):
        match call:
            case {"id": str(call_id), "function": {"name": str(name)} as function}:
                items.append(ToolCall(call_id, name, _arguments(cast("Mapping[str, Any]", function).get("arguments"))))
            case _:
                raise UserError(f"{where}: tool call {call!r:.120} needs an id and a function with a name")
    if not items:
        raise UserError(f"{where}: an assistant message needs content or tool_calls")
    return items


def _arguments(value: Any) -> str:
    if value is None:
        return "{}"
    return value if isinstance(value, str) else json.dumps(value)


def _parts(content: object, where: str) -> Sequence[object]:
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise UserError(f"{where}: content must be text or a list of parts, not {type(content).__name__}")
    return cast("Sequence[object]", content)


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    pieces: list[str] = []
    for part in _parts(content, where):
        match part:
            case str(text) | {"text": str(text)}:
                pieces.append(text)
            case {"refusal": str()}:
                continue
            case _:
                raise UserError(f"{where}: content part {part!r:.120} has no text")
    return "".join(pieces)


def _refusal(content: object) -> str | None:
    if isinstance(content, Sequence) and not isinstance(content, str):
        for part in cast("Sequence[object]", content):
            match part:
                case {"refusal": str(refusal)}:
                    return refusal
                case _:
                    continue
    return None


def _user_content(content: Any, where: str) -> str | tuple[_Part, ...]:
    if isinstance(content, str):
        return content
    return tuple(_user_part(part, where) for part in _parts(content, where))


def _user_part(part: Any, where: str) -> _Part:
    match part:
        case TextPart() | ImagePart() | FilePart():
            return part
        case str(text) | {"type": "text" | "input_text", "text": str(text)}:
            return TextPart(text)
        case {"type": "image_url", "image_url": {"url": str(url), **rest}}:
            return _image(url, rest.get("detail"), where)
        case {"type": "input_image", "image_url": str(url)} | {"type": "image", "url": str(url)}:
            return _image(url, part.get("detail"), where)
        case {"type": "file", "file": {**file}}:
            return _file(file.get("filename"), file.get("file_data"), file.get("file_id"), where)
        case {"type": "input_file"}:
            return _file(part.get("filename"), part.get("file_data"), part.get("file_id"), where)
        case {"type": "file"}:
            return _file(part.get("filename"), part.get("data"), part.get("file_id"), where)
        case _:
            raise UserError(f"{where}: unknown content part {part!r:.120}; expected text, image or file")


def _image(url: str, detail: Any, where: str) -> ImagePart:
    match detail:
        case None:
            return ImagePart(url)
        case "auto" | "low" | "high":
            return ImagePart(url, detail)
        case _:
            raise UserError(f"{where}: the detail of an image must be 'auto', 'low' or 'high', not {detail!r:.60}")


def _file(filename: Any, data: Any, file_id: Any, where: str) -> FilePart:
    for name, value in (("filename", filename), ("data", data), ("file_id", file_id)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: the {name} of a file must be text, not {type(value).__name__}")
    if data is None and file_id is None:
        raise UserError(f"{where}: a file needs its data (a data: URL) or a file_id")
    return FilePart(filename, data, file_id)
