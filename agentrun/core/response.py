"""Building a response from the events of a model's stream, whole or cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, get_args

from agentrun.core.errors import ModelBehaviorError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, MessageStatus, Reasoning, ToolCall
from agentrun.core.model import FinishReason, ModelEvent, ResponseEnded
from agentrun.core.usage import Usage

__all__ = ["ResponseBuilder"]


_Fields: TypeAlias = tuple[tuple[str, tuple[type, ...], str], ...]
"""Names of fields, the types that they may have, and how these are called."""

_OTHER_DELTAS: Final = frozenset((ReasoningDelta, ToolCallDelta))
_NONE: Final = type(None)
_DATA: Final = ("provider_data", (_NONE, dict, Mapping), "a mapping or None")
_CALL: Final[_Fields] = (("call_id", (str,), "str"), ("name", (str,), "str"), ("arguments", (str,), "str"), _DATA)
_REASONING: Final[_Fields] = (("text", (str,), "str"), _DATA)
_MESSAGE: Final[_Fields] = (*_REASONING, ("refusal", (str, _NONE), "str or None"))
_STATUSES: Final = get_args(MessageStatus)
_END: Final[_Fields] = (("usage", (Usage, _NONE), "a Usage or None"), ("finish_reason", (str, _NONE), "str or None"))
_USAGE: Final[_Fields] = tuple((name, (int,), "int") for name in Usage.__dataclass_fields__)


def _check(event: object, fields: _Fields) -> None:
    """Look at each field; what is as it nearly always is was seen to be so before, since this costs microseconds."""
    for name, allowed, expected in fields:
        if not isinstance(value := getattr(event, name), allowed):
            raise _odd(type(event).__name__, name, value, expected)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _odd(event: str, name: str, value: object, expected: str) -> ModelBehaviorError:
    return ModelBehaviorError(
        f"the model's stream yielded something odd: {event}.{name} is of type {type(value).__name__}; "
        f"it must be {expected}"
    )


class ResponseBuilder:
    """Collects one response. Feed it every model event, then ask for the ``finished`` or the ``cut`` items."""

    __slots__ = ("_items", "_text", "_text_position", "finish_reason", "outcome", "usage")

    def __init__(self) -> None:
        self._items: list[AssistantMessage | Reasoning | ToolCall] = []
        self._text: list[str] = []  # deltas that no AssistantMessage has summed up yet
        self._text_position = 0
        self.usage: Usage | None = None
        self.finish_reason: FinishReason | None = None
        self.outcome: str = "open"  # how the call ended, for those who are told of its end

    @property
    def partial_text(self) -> str:
        """What was said since the last finished message."""
        try:
            return "".join(self._text)
        except TypeError:  # `end` says what it was
            return "".join(text for text in self._text if _is_text(text))

    def feed(self, event: ModelEvent) -> None:
        """Take in one event.

        Raises:
            ModelBehaviorError: The object is not a model event, or holds what its type does not allow: a history with
                that in it could neither be stored nor sent.
        """
        if type(event) is TextDelta:
            if event.text:
                if not self._text:
                    self._text_position = len(self._items)
                self._text.append(event.text)
        elif isinstance(event, AssistantMessage):
            data = event.provider_data
            if not (type(event.text) is str and event.refusal is None and (data is None or type(data) is dict)):
                _check(event, _MESSAGE)
            if event.status not in _STATUSES:
                raise ModelBehaviorError(
                    f"the model's stream yielded something odd: AssistantMessage.status is {event.status!r:.60}; "
                    f"it must be one of {', '.join(map(repr, _STATUSES))}"
                )
            self._text.clear()
            self._items.append(event)
        elif isinstance(event, ToolCall):
            data = event.provider_data
            if not (
                type(event.call_id) is type(event.name) is type(event.arguments) is str
                and (data is None or type(data) is dict)
            ):
                _check(event, _CALL)
            self._items.append(event)
        elif isinstance(event, Reasoning):
            _check(event, _REASONING)
            self._items.append(event)
        elif isinstance(event, ResponseEnded):
            usage = event.usage
            if not (type(usage) is Usage and type(event.finish_reason) is str):
                _check(event, _END)
            if usage is not None and not (
                type(usage.requests) is type(usage.input_tokens) is type(usage.output_tokens) is int
                and type(usage.cached_input_tokens) is type(usage.reasoning_tokens) is type(usage.tool_calls) is int
            ):
                _check(usage, _USAGE)
            self.usage = usage
            self.finish_reason = event.finish_reason
        elif type(event) not in _OTHER_DELTAS:
            raise ModelBehaviorError(
                f"the model's stream yielded {event!r:.80}, which is not a model event; yield TextDelta, "
                "ReasoningDelta, ToolCallDelta (no subclasses of these), AssistantMessage, Reasoning, ToolCall or "
                "ResponseEnded"
            )

    def end(self) -> None:
        """The stream came to its end. What its deltas hold is looked at here, since there are too many of them.

        Raises:
            ModelBehaviorError: A `TextDelta` held something else than text, which is left out.
        """
        if not self._text:
            return
        try:
            self._text = ["".join(self._text)]
        except TypeError:
            odd = next(text for text in self._text if not _is_text(text))
            raise _odd("TextDelta", "text", odd, "str") from None

    def finished(self) -> list[AssistantMessage | Reasoning | ToolCall]:
        """The items of a response whose stream came to its end.

        Providers take neither empty messages nor reasoning that led to nothing, so these are left out.
        """
        said = list(self._items)
        if self._text:
            status: MessageStatus = "incomplete" if self.finish_reason in ("length", "content_filter") else "completed"
            said.insert(self._text_position, AssistantMessage(self.partial_text, status))
        # One that the provider has numbered is not empty: the reasoning before it cannot be sent back without it.
        items = [
            item
            for item in said
            if not isinstance(item, AssistantMessage) or item.text or item.refusal or item.provider_data
        ]
        while items and isinstance(items[-1], Reasoning):
            items.pop()
        return items

    def cut(self) -> list[AssistantMessage | Reasoning | ToolCall]:
        """What is kept of a response whose stream was cut: the text, marked incomplete.

        Tool calls are dropped, since none of them was issued. So is reasoning: providers refuse reasoning without the
        very item that followed it, and for the same reason messages are kept without the provider's data.
        """
        items: list[AssistantMessage | Reasoning | ToolCall] = [
            AssistantMessage(item.text, item.status, item.refusal)
            for item in self._items
            if isinstance(item, AssistantMessage) and (item.text or item.refusal)
        ]
        if text := self.partial_text:
            items.append(AssistantMessage(text, "incomplete"))
        return items
