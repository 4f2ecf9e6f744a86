"""The items a history is made of, and their JSON."""

from __future__ import annotations

from agentrun.core.item_json import dump_items, items_from_json, items_to_json, parse_input, parse_items
from agentrun.core.items import (
    AssistantMessage,
    ContentPart,
    FilePart,
    ImagePart,
    InputItem,
    Item,
    MessageStatus,
    Reasoning,
    RunInput,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolOutput,
    ToolStatus,
    UserMessage,
)

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
    "dump_items",
    "items_from_json",
    "items_to_json",
    "parse_input",
    "parse_items",
]
