"""What a model without tools of its own reads about tools: questions, and the history in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from agentrun.core.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.model import ToolSpec

__all__ = ["ANSWER", "arguments_prompt", "choice_prompt", "plain_items"]

ANSWER: Final = "answer"
"""The choice to call no tool."""

_STATUS_WORDS: Final = {
    "completed": "gave",
    "failed": "failed",
    "cancelled": "was cancelled",
    "rejected": "was rejected",
    "timed_out": "took too long and was stopped",
}


def choice_prompt(tools: Sequence[ToolSpec], names: Sequence[str]) -> str:
    """The question which of ``names`` comes next; the last of them is the example of the answer.

    The example weighs much with a small model: with a tool's name there, it calls tools for ever. With ``answer`` it
    answers once a tool has given something, and still calls a tool when the question is plainly one for it.
    """
    lines = [f"- {tool.name}: {_first_line(tool.description)}" for tool in tools]
    if len(names) > len(tools):
        lines.append(f"- {ANSWER}: No tool is needed, or the tools have already given what is needed.")
    return (
        "What is the next action? The actions are:\n"
        + "\n".join(lines)
        + '\nReply with JSON such as {"action": "'
        + names[-1]
        + '"}.'
    )


def arguments_prompt(tool: ToolSpec) -> str:
    """The request for the arguments of a call; the schema itself is not shown, but kept to all the same."""
    lines: list[str] = []
    for name, schema in cast("Mapping[str, Any]", tool.parameters.get("properties") or {}).items():
        details: Mapping[str, Any] = cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {}
        about = details.get("description") or details.get("title") or details.get("type") or "any value"
        lines.append(f"- {name}: {_first_line(str(about))}")
    return (
        f"Use the tool {tool.name}. {_first_line(tool.description)}\nIts arguments are:\n"
        + ("\n".join(lines) or json.dumps(tool.parameters))
        + "\nReply with the arguments as a JSON object, with values from our conversation."
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def plain_items(items: Sequence[Item]) -> list[Item]:
    """The history without calls, outputs and reasoning: calls in the model's own words, outputs as told by the user.

    Messages that follow each other with the same role become one, as many chat templates insist on turns.
    """
    names: dict[str, str] = {}
    result: list[Item] = []
    for item in items:
        match item:
            case ToolCall():
                names[item.call_id] = item.name
                _say(result, AssistantMessage(f"I use the tool {item.name} with {item.arguments}."))
            case ToolOutput():
                name = names.get(item.call_id, "you used")
                words = _STATUS_WORDS[item.status]
                _say(result, UserMessage(f"The tool {name} {words}: {item.text}"))
            case Reasoning():
                pass
            case UserMessage() | AssistantMessage():
                _say(result, item)
            case SystemMessage():
                result.append(item)
    return result


def _say(result: list[Item], message: UserMessage | AssistantMessage) -> None:
    match (result[-1] if result else None), message:
        case UserMessage(content=str(before)), UserMessage(content=str(text)):
            result[-1] = UserMessage(f"{before}\n\n{text}")
        case AssistantMessage(text=before), AssistantMessage(text=text):
            result[-1] = AssistantMessage(f"{before}\n\n{text}" if before and text else before or text, message.status)
        case _:
            result.append(message)
