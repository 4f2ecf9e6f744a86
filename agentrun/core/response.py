"""Building a response from the events of a model's stream, whole or cut."""

from __future__ import annotations

from agentrun.core.errors import ModelBehaviorError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, MessageStatus, Reasoning, ToolCall
from agentrun.core.model import FinishReason, ModelEvent, ResponseEnded
from agentrun.core.usage import Usage

__all__ = ["ResponseBuilder"]


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
        return "".join(self._text)

    def feed(self, event: ModelEvent) -> None:
        """Take in one event.

        Raises:
            ModelBehaviorError: The object is not a model event.
        """
        if type(event) is TextDelta:
            if event.text:
                if not self._text:
                    self._text_position = len(self._items)
                self._text.append(event.text)
        elif isinstance(event, AssistantMessage):
            self._text.clear()
            self._items.append(event)
        elif isinstance(event, (Reasoning, ToolCall)):
            self._items.append(event)
        elif isinstance(event, ResponseEnded):
            self.usage = event.usage
            self.finish_reason = event.finish_reason
        elif not isinstance(event, (ReasoningDelta, ToolCallDelta)):
            raise ModelBehaviorError(
                f"the model's stream yielded {event!r:.80}, which is not a model event; "
                "yield TextDelta, ReasoningDelta, ToolCallDelta, AssistantMessage, Reasoning, ToolCall or ResponseEnded"
            )

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
