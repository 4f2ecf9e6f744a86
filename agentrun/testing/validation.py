"""The providers' rules for a history, checked from the outside.

This shares no code with the runtime on purpose: it says what the Chat Completions and the Responses APIs accept
(https://platform.openai.com/docs/api-reference), not what the runtime means to write. The position of the first item
that breaks a rule is part of the message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, cast

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

__all__ = ["assert_valid_history"]

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OUTPUT_STATUSES: Final = ("completed", "failed", "cancelled", "rejected", "timed_out")


def assert_valid_history(items: Iterable[Item], *, what: str = "history") -> None:
    """Check that a history can be sent to any provider as it is.

    The rules: the items are user, system and assistant messages, reasoning, tool calls and tool outputs, none of them
    empty; a message of the model has a valid status; reasoning is followed by what it led to; each tool call has an id
    that no other has, a name that providers accept, and a JSON object for its arguments (a call whose output says that
    it failed may have others: that is what failed); each call is answered by exactly one output, after all calls of
    its response and before anything else is said; each output is JSON.

    Args:
        items: The history, such as ``result.history``, ``session.items`` or ``request.items``.
        what: Its name in the error.

    Raises:
        AssertionError: A rule is broken; the message begins with the position, as in ``history[3]``.
    """
    _Checker(what).check(list(items))


class _Checker:
    def __init__(self, what: str) -> None:
        self._what = what
        self._ids: dict[str, int] = {}  # of all calls, with their positions
        self._unanswered: dict[str, ToolCall] = {}
        self._answering = False  # at least one call of the open response has its output

    def check(self, items: list[Item]) -> None:
        for index, item in enumerate(items):
            self._check_item(index, item, items[index + 1] if index + 1 < len(items) else None)
        if self._unanswered:
            call_id = next(iter(self._unanswered))
            self._broken(self._ids[call_id], f"tool call {call_id!r} has no output")

    def _broken(self, index: int, problem: str) -> None:
        raise AssertionError(f"{self._what}[{index}]: {problem}")

    def _expect(self, condition: object, index: int, problem: str) -> None:
        if not condition:
            self._broken(index, problem)

    def _check_item(self, index: int, item: Item, following: Item | None) -> None:
        if isinstance(item, ToolOutput):
            self._check_output(index, item)
            return
        if self._unanswered:
            call_id = next(iter(self._unanswered))
            said_by_model = isinstance(item, (AssistantMessage, Reasoning, ToolCall))
            self._expect(
                said_by_model and not self._answering,
                index,
                f"a {type(item).__name__} comes before the output of tool call {call_id!r} (at {self._ids[call_id]})",
            )
        self._answering = False
        if isinstance(item, ToolCall):
            self._check_call(index, item)
        elif isinstance(item, Reasoning):
            self._expect(
                isinstance(following, (AssistantMessage, Reasoning, ToolCall)),
                index,
                "reasoning must be followed by the message or the call that it led to",
            )
        elif isinstance(item, AssistantMessage):
            self._expect(item.status in ("completed", "incomplete"), index, f"status {item.status!r} is unknown")
            self._expect(_is_text(item.text), index, "the text of the model's message is not text")
            # An empty message that the provider itself has numbered goes back to it by its number.
            self._expect(item.text or item.refusal or item.provider_data, index, "the model's message is empty")
        elif isinstance(item, SystemMessage):
            self._expect(_is_text(item.text) and item.text, index, "the system message is empty")
        elif isinstance(cast("object", item), UserMessage):
            self._check_user_message(index, item)
        else:
            self._broken(index, f"{item!r:.80} is not an item")

    def _check_user_message(self, index: int, item: UserMessage) -> None:
        self._expect(item.content, index, "the user message is empty")
        if isinstance(item.content, str):
            return
        for part in item.content:
            if isinstance(part, TextPart):
                self._expect(part.text, index, "a text part is empty")
            elif isinstance(part, ImagePart):
                valid = part.url.startswith(("https://", "http://", "data:"))
                self._expect(valid, index, f"the image {part.url[:40]!r} is no http(s) or data URL")
            elif isinstance(cast("object", part), FilePart):
                self._expect(part.data or part.file_id, index, "a file part has neither data nor a file id")
            else:
                self._broken(index, f"{part!r:.80} is not a content part")

    def _check_call(self, index: int, call: ToolCall) -> None:
        self._expect(_is_text(call.call_id) and call.call_id, index, "the tool call has no id")
        earlier = self._ids.get(call.call_id)
        self._expect(earlier is None, index, f"call id {call.call_id!r} was used at {earlier} already")
        self._expect(_is_text(call.arguments), index, "the arguments are not text")
        self._ids[call.call_id] = index
        self._unanswered[call.call_id] = call

    def _check_output(self, index: int, output: ToolOutput) -> None:
        call = self._unanswered.pop(output.call_id, None)
        if call is None:
            known = output.call_id in self._ids
            self._broken(index, f"a {'second' if known else 'stray'} output for tool call {output.call_id!r}")
            return
        self._answering = True
        self._expect(output.status in _OUTPUT_STATUSES, index, f"status {output.status!r} is unknown")
        try:
            json.dumps(output.output, allow_nan=False)
        except (TypeError, ValueError) as exc:
            self._broken(index, f"the output is not JSON: {exc}")
        if output.status == "completed":
            position = self._ids[call.call_id]
            name_valid = _is_text(call.name) and _NAME.fullmatch(call.name)
            self._expect(name_valid, position, f"tool name {call.name!r} is not 1 to 64 of a-zA-Z0-9_-")
            problem = f"arguments {call.arguments!r:.60} are not a JSON object"
            self._expect(_is_object(call.arguments), position, problem)


def _is_text(value: object) -> bool:
    # The annotations promise it; this looks.
    return isinstance(value, str)


def _is_object(text: str) -> bool:
    if not text.strip():
        return True  # providers send nothing for a tool without parameters
    try:
        value: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict)
