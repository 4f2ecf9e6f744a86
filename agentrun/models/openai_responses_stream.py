"""The events of a streamed response of the Responses API, turned into model events.

Format: https://platform.openai.com/docs/api-reference/responses-streaming. Events that are not known are ignored, as
the API's documentation asks. Compatible servers leave things out (``output_index``, the name in a finished call, the
output in ``response.completed``); what an item lacks is taken from what was streamed before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from agentrun.core.errors import ModelError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Reasoning, ToolCall
from agentrun.core.model import FinishReason, ModelEvent, ResponseEnded
from agentrun.models.http_errors import error_from_event
from agentrun.models.openai_base import call_arguments, load_event, usage_from
from agentrun.models.wire import as_list, as_object, as_text

__all__ = ["ResponsesDecoder"]

_Key = int | str


class ResponsesDecoder:
    """Decodes one response; see `agentrun.models.http_stream.Decoder`."""

    def __init__(self, request_id: str | None, *, stored: bool = False) -> None:
        self.complete: bool = False
        self._request_id = request_id
        self._stored = stored
        self._calls: dict[_Key, tuple[str, str]] = {}  # call id and name of calls that are being written
        self._text: list[str] = []  # text that no finished message has summed up yet
        self._done: set[_Key] = set()
        self._items = 0
        self._tool_calls = 0
        self._refused = False

    def feed(self, event: str, data: bytes, out: deque[ModelEvent]) -> None:
        """Take one event of the stream."""
        if data == b"[DONE]":  # some compatible servers end their stream as Chat Completions does
            return
        value = load_event(data, self._request_id)
        kind = value.get("type") or event
        # In the order of their frequency: one event for each token, then everything else.
        if kind == "response.output_text.delta":
            text = value.get("delta")
            if text:
                self._text.append(text)
                out.append(TextDelta(text))
        elif kind == "response.function_call_arguments.delta":
            call_id, name = self._calls.get(_key(value), ("", ""))
            if call_id and (piece := value.get("delta")):
                out.append(ToolCallDelta(call_id, name, piece))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            if piece := value.get("delta"):
                out.append(ReasoningDelta(piece))
        elif kind == "response.reasoning_summary_part.added":
            if value.get("summary_index"):
                out.append(ReasoningDelta("\n\n"))
        elif kind == "response.output_item.added":
            self._added(value, out)
        elif kind == "response.output_item.done":
            self._item_done(_key(value), as_object(value.get("item")), out)
        elif kind in ("response.completed", "response.incomplete", "response.done"):
            self._ended(kind, as_object(value.get("response")), out)
        elif kind == "response.failed":
            response = as_object(value.get("response"))
            raise error_from_event(response.get("error"), request_id=self._request_id)
        elif kind == "error":
            nested = value.get("error")
            fields = {key: found for key, found in value.items() if key != "type"}
            raise error_from_event(nested if nested is not None else fields, request_id=self._request_id)

    def end(self, out: deque[ModelEvent]) -> None:
        """The body has ended without one of the events that end a response."""
        raise ModelError(
            "the provider's answer broke off before it was complete", retryable=True, request_id=self._request_id
        )

    def _added(self, value: Mapping[str, Any], out: deque[ModelEvent]) -> None:
        item = as_object(value.get("item"))
        if item.get("type") == "function_call":
            call_id, name = item.get("call_id") or item.get("id"), item.get("name")
            if call_id and name:
                self._calls[_key(value)] = (call_id, name)
                if isinstance(item.get("id"), str):
                    self._calls[item["id"]] = (call_id, name)
                out.append(ToolCallDelta(call_id, name, call_arguments(item.get("arguments") or "")))

    def _item_done(self, key: _Key, item: dict[str, Any], out: deque[ModelEvent]) -> None:
        self._done.add(key)
        if isinstance(item.get("id"), str):
            self._done.add(item["id"])
        self._items += 1
        match item.get("type"):
            case "message":
                self._message(item, out)
            case "reasoning":
                self._reasoning(item, out)
            case "function_call" if item.get("status") != "incomplete":
                known = self._calls.get(key) or self._calls.get(item.get("id") or "") or ("", "")
                call_id, name = item.get("call_id") or known[0], item.get("name") or known[1]
                if not call_id or not name:
                    raise ModelError(
                        f"the provider sent a function call without id or name: {item!r:.200}",
                        request_id=self._request_id,
                        retryable=True,
                    )
                self._tool_calls += 1
                out.append(ToolCall(call_id, name, call_arguments(item.get("arguments")) or "{}", _provider_data(item)))
            case _:  # half a call, or an item of a tool that runs at the provider
                pass

    def _message(self, item: dict[str, Any], out: deque[ModelEvent]) -> None:
        texts: list[str] = []
        refusals: list[str] = []
        for part in map(as_object, as_list(item.get("content"))):
            if part.get("type") == "refusal":
                refusals.append(as_text(part.get("refusal")))
            else:
                texts.append(as_text(part.get("text")))
        text = "".join(texts) or ("" if refusals else "".join(self._text))
        self._text.clear()
        refusal = "".join(refusals) or None
        self._refused = self._refused or refusal is not None
        incomplete = item.get("status") == "incomplete"
        if text or refusal:
            # The id of a message that was cut is left out: it must not go back as the whole one.
            data = None if incomplete else _provider_data(item)
            out.append(AssistantMessage(text, "incomplete" if incomplete else "completed", refusal, data))

    def _reasoning(self, item: dict[str, Any], out: deque[ModelEvent]) -> None:
        summary = _texts(item.get("summary"))
        shown = _texts(item.get("content"))
        data = _provider_data(item) or {}
        if item.get("encrypted_content"):
            data["encrypted_content"] = item["encrypted_content"]
        if data:
            # The summary goes back with the encrypted content as it came: in its parts.
            data["summary"] = summary
            if self._stored:
                data["stored"] = True
        out.append(Reasoning("\n\n".join(summary or shown), data or None))

    def _ended(self, kind: str, response: Mapping[str, Any], out: deque[ModelEvent]) -> None:
        if response.get("status") == "failed":
            raise error_from_event(response.get("error"), request_id=self._request_id)
        self.complete = True
        incomplete = kind == "response.incomplete" or response.get("status") == "incomplete"
        for index, item in enumerate(map(as_object, as_list(response.get("output")))):
            # Normally all were told already; by position or by id, since servers give one or the other.
            if index >= self._items and index not in self._done and item.get("id") not in self._done:
                self._item_done(index, item, out)
        if self._text:
            out.append(AssistantMessage("".join(self._text), "incomplete" if incomplete else "completed"))
            self._text.clear()
        reason: FinishReason
        if incomplete:
            why = as_object(response.get("incomplete_details")).get("reason")
            if why == "content_filter":
                reason = "content_filter"
            else:
                reason = "length" if why in ("max_output_tokens", "max_tokens", None) else "other"
        elif self._tool_calls:
            reason = "tool_calls"
        else:
            reason = "refusal" if self._refused else "stop"
        usage = usage_from(response.get("usage"), "input_tokens", "output_tokens")
        out.append(ResponseEnded(usage, reason, response.get("id")))


def _key(value: Mapping[str, Any]) -> _Key:
    index = value.get("output_index")
    if isinstance(index, int):
        return index
    item_id = value.get("item_id") or as_object(value.get("item")).get("id")
    return item_id if isinstance(item_id, str) else -1


def _texts(parts: Any) -> list[str]:
    return [text for part in as_list(parts) if (text := as_text(as_object(part).get("text")))]


def _provider_data(item: Mapping[str, Any]) -> dict[str, Any] | None:
    item_id = item.get("id")
    return {"id": item_id} if isinstance(item_id, str) and item_id else None
