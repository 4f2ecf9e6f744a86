"""The items a history is made of.

An item is an immutable value. A history is a sequence of items in which each `ToolCall` is answered by exactly one
`ToolOutput`; `agentrun.core.transcript` is what keeps it so.

The JSON form of an item is an object with a ``type`` (``"user_message"``, ``"tool_call"``, ...) and the fields
below; fields that have their default value may be left out when reading (`agentrun.core.item_json`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast

from agentrun.core.errors import UserError
from agentrun.core.plain import PlainValue

__all__ = [
    "AssistantMessage",
    "ContentPart",
    "FilePart",
    "ImagePart",
    "InputItem",
    "Item",
    "MessageStatus",
    "Reasoning",
    "RunInput",
    "SystemMessage",
    "TextPart",
    "ToolCall",
    "ToolOutput",
    "ToolStatus",
    "UserMessage",
]

ToolStatus: TypeAlias = Literal["completed", "failed", "cancelled", "rejected", "timed_out"]
"""How a tool call ended."""

MessageStatus: TypeAlias = Literal["completed", "incomplete"]
"""Whether the model said all it wanted to say, or was cut (by an interrupt, an injection or a length limit)."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TextPart(PlainValue):
    """A piece of text in a user message."""

    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ImagePart(PlainValue):
    """An image in a user message: an ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    type: Literal["image"] = "image"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FilePart(PlainValue):
    """A file in a user message, as a ``data:`` URL or the id of a file the provider already has."""

    filename: str | None = None
    data: str | None = None
    file_id: str | None = None
    type: Literal["file"] = "file"


class _ByType:
    """Tells pydantic that ``type`` says which class of a union it is; pydantic is imported only if it asks."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Field

        return handler.generate_schema(Annotated[source, Field(discriminator="type")])


ContentPart: TypeAlias = Annotated[TextPart | ImagePart | FilePart, _ByType()]
"""A piece of a user message."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class UserMessage(PlainValue):
    """Something the user said.

    Attributes:
        content: Text, or a tuple of parts when there is more than text.

    Raises:
        UserError: The content is neither.
    """

    content: str | tuple[ContentPart, ...]
    type: Literal["user_message"] = "user_message"

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            parts = cast("object", self.content)
            if not isinstance(parts, (tuple, list)):
                raise UserError(f"UserMessage.content must be text or a tuple of parts, not {type(parts).__name__}")
            for part in cast("Sequence[object]", parts):
                if not isinstance(part, (TextPart, ImagePart, FilePart)):
                    raise UserError(
                        f"UserMessage.content contains {part!r:.60}; expected TextPart, ImagePart or FilePart"
                    )
            object.__setattr__(self, "content", tuple(self.content))  # a list would not be a value

    @property
    def text(self) -> str:
        """The text of the message; parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SystemMessage(PlainValue):
    """An instruction to the model inside the conversation."""

    text: str
    type: Literal["system_message"] = "system_message"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class AssistantMessage(PlainValue):
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


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Reasoning(PlainValue):
    """The model's reasoning, as far as the provider shows it.

    Attributes:
        text: The reasoning or its summary; may be empty.
        provider_data: What the adapter needs to send it back (item id, encrypted content).
    """

    text: str
    provider_data: Mapping[str, Any] | None = None
    type: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ToolCall(PlainValue):
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


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ToolOutput(PlainValue):
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
