"""The chunks of a streamed chat completion, turned into model events.

Format: https://platform.openai.com/docs/api-reference/chat-streaming. Many servers speak it, not all of them to the
letter: tool calls without ``index`` or ``id``, the name repeated in each chunk, all parallel calls under index 0,
arguments as an object, reasoning as ``reasoning_content`` or ``reasoning``, errors as a chunk, no ``[DONE]``.
"""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any, Final

from pydantic_core import from_json

from agentrun.core.errors import ModelError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Reasoning, ToolCall
from agentrun.core.model import FinishReason, ModelEvent, ResponseEnded
from agentrun.core.usage import Usage
from agentrun.models.http_errors import error_from_event
from agentrun.models.openai_base import call_arguments, load_event, usage_from
from agentrun.models.wire import as_list, as_object, as_text

__all__ = ["ChatDecoder"]

_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "content_filter": "content_filter",
}


class _Call:
    """A tool call that is being written."""

    __slots__ = ("arguments", "call_id", "index", "name", "told", "wire_id")

    def __init__(self, index: int | None, wire_id: str | None) -> None:
        self.index = index
        self.wire_id = wire_id
        self.call_id = wire_id or f"call_{uuid.uuid4().hex[:24]}"
        self.name = ""
        self.arguments: list[str] = []
        self.told = False


class ChatDecoder:
    """Decodes one completion; see `agentrun.models.http_stream.Decoder`."""

    def __init__(self, request_id: str | None) -> None:
        self.complete: bool = False
        self._request_id = request_id
        self._response_id: str | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._usage: Usage | None = None
        self._reason: str | None = None

    def feed(self, event: str, data: bytes, out: deque[ModelEvent]) -> None:
        """Take one event of the stream."""
        if data.startswith(b"[DONE]"):
            self._finish(out)
            return
        chunk = load_event(data, self._request_id)
        error = chunk.get("error")
        if error or event == "error" or chunk.get("object") == "error":
            raise error_from_event(error or chunk, request_id=self._request_id)
        if self._response_id is None and isinstance(chunk.get("id"), str):
            self._response_id = chunk["id"]
        if chunk.get("usage"):
            self._usage = usage_from(chunk["usage"], "prompt_tokens", "completion_tokens")
        for choice in map(as_object, as_list(chunk.get("choices"))):
            if choice.get("index"):  # a second choice, which was not asked for
                continue
            if delta := choice.get("delta"):
                self._delta(as_object(delta), out)
            if reason := choice.get("finish_reason"):
                self._reason = reason

    def end(self, out: deque[ModelEvent]) -> None:
        """The body has ended without ``[DONE]``, which is well if a finish reason was told."""
        if self._reason is None:
            raise ModelError(
                "the provider's answer broke off before it was complete", retryable=True, request_id=self._request_id
            )
        self._finish(out)

    def _delta(self, delta: dict[str, Any], out: deque[ModelEvent]) -> None:
        if content := delta.get("content"):
            if isinstance(content, str):
                self._text.append(content)
                out.append(TextDelta(content))
            else:
                self._parts(content, out)
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            self._reasoning.append(thought)
            out.append(ReasoningDelta(thought))
        if refusal := delta.get("refusal"):
            self._refusal.append(refusal)
        for piece in map(as_object, as_list(delta.get("tool_calls"))):
            self._call_delta(piece, as_object(piece.get("function")), out)
        if legacy := delta.get("function_call"):
            self._call_delta({"index": 0}, as_object(legacy), out)

    def _parts(self, content: Any, out: deque[ModelEvent]) -> None:
        # Mistral's models that reason stream their content as a list of parts.
        for part in map(as_object, as_list(content)):
            if part.get("type") == "thinking":
                for piece in as_list(part.get("thinking")):
                    if text := as_text(as_object(piece).get("text")):
                        self._reasoning.append(text)
                        out.append(ReasoningDelta(text))
            elif text := as_text(part.get("text")):
                self._text.append(text)
                out.append(TextDelta(text))

    def _call_delta(self, piece: dict[str, Any], function: dict[str, Any], out: deque[ModelEvent]) -> None:
        name: str = function.get("name") or ""
        call = self._call_for(piece.get("index"), piece.get("id") or None, name)
        if not call.name:
            call.name = name
        text = call_arguments(function.get("arguments"))
        if text:
            call.arguments.append(text)
        if call.name and (text or not call.told):
            told = text if call.told else "".join(call.arguments)
            call.told = True
            out.append(ToolCallDelta(call.call_id, call.name, told))

    def _call_for(self, index: int | None, wire_id: str | None, name: str) -> _Call:
        calls = self._calls
        found: _Call | None = None
        if index is not None:
            # The last one with the index: servers that give 0 to all calls tell them apart by their ids.
            found = next((call for call in reversed(calls) if call.index == index), None)
            if found is not None and wire_id and name and found.wire_id and found.wire_id != wire_id:
                found = None
        elif wire_id:
            found = next((call for call in calls if call.wire_id == wire_id), None)
            if found is None and calls and not name:
                found = calls[-1]
        elif calls and (not name or (name == calls[-1].name and not _is_object(calls[-1]))):
            found = calls[-1]
        if found is None:
            found = _Call(index, wire_id)
            calls.append(found)
        return found

    def _finish(self, out: deque[ModelEvent]) -> None:
        self.complete = True
        cut = self._reason in ("length", "content_filter")
        calls = [call for call in self._calls if call.name]
        if cut and calls and not _is_object(calls[-1]):
            calls.pop()  # half-written
        if self._reasoning:
            out.append(Reasoning("".join(self._reasoning)))
        text, refusal = "".join(self._text), "".join(self._refusal) or None
        if text or refusal:
            out.append(AssistantMessage(text, "incomplete" if cut else "completed", refusal))
        out.extend(ToolCall(call.call_id, call.name, "".join(call.arguments) or "{}") for call in calls)
        reason: FinishReason | None
        if self._reason is None:
            reason = None
        elif cut:
            reason = _REASONS[self._reason]
        elif calls:
            reason = "tool_calls"  # some servers say "stop" all the same
        elif refusal:
            reason = "refusal"
        else:
            reason = _REASONS.get(self._reason, "other")
        out.append(ResponseEnded(self._usage, reason, self._response_id))


def _is_object(call: _Call) -> bool:
    try:
        return isinstance(from_json("".join(call.arguments)), dict)
    except ValueError:
        return False
