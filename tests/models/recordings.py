"""Streams as the two APIs send them, written by hand after their public documentation.

They hold what decoders stumble over: characters of several bytes, a line end inside JSON text, comments, parallel
calls, and numbers of tokens in detail.
"""

from __future__ import annotations

import json
from typing import Any


def sse(*events: dict[str, Any], named: bool = True, end: str = "\n") -> bytes:
    """Events of the Responses API (``named``) or chunks of Chat Completions as a body."""
    lines: list[str] = []
    for number, event in enumerate(events):
        if named:
            lines.append(f"event: {event['type']}{end}")
            event = {**event, "sequence_number": number}
        lines.append(f"data: {json.dumps(event, ensure_ascii=False)}{end}{end}")
    return "".join(lines).encode()


_RESPONSE = {"id": "resp_68", "object": "response", "created_at": 1741476777, "model": "gpt-5.1-mini", "store": False}
USAGE = {
    "input_tokens": 75,
    "input_tokens_details": {"cached_tokens": 32},
    "output_tokens": 1186,
    "output_tokens_details": {"reasoning_tokens": 1024},
    "total_tokens": 1261,
}
MESSAGE = {
    "id": "msg_67",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Blåbær ☂\n🌧!", "annotations": []}],
}
REASONING = {
    "id": "rs_67",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Rain?"}, {"type": "summary_text", "text": "Look."}],
    "encrypted_content": "gAAAAA==",
}
CALL_1 = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": '{"city":"Bodø"}',
}
CALL_2 = {**CALL_1, "id": "fc_2", "call_id": "call_2", "arguments": '{"city":"Oslo"}'}


def response(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": {**_RESPONSE, "status": kind, "output": [], **fields}}


def text_delta(text: str, index: int = 0) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta",
        "item_id": "msg_67",
        "output_index": index,
        "content_index": 0,
        "delta": text,
    }


def item_event(kind: str, index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": item}


def arguments_delta(index: int, item_id: str, delta: str) -> dict[str, Any]:
    return {
        "type": "response.function_call_arguments.delta",
        "item_id": item_id,
        "output_index": index,
        "delta": delta,
    }


def summary_delta(part: int, delta: str) -> dict[str, Any]:
    return {
        "type": "response.reasoning_summary_text.delta",
        "item_id": "rs_67",
        "output_index": 0,
        "summary_index": part,
        "delta": delta,
    }


RESPONSES_TEXT = sse(
    response("created"),
    response("in_progress"),
    item_event("added", 0, {**MESSAGE, "status": "in_progress", "content": []}),
    {
        "type": "response.content_part.added",
        "item_id": "msg_67",
        "output_index": 0,
        "content_index": 0,
        "part": {"type": "output_text", "text": "", "annotations": []},
    },
    text_delta("Blåbær"),
    text_delta(" ☂\n"),
    text_delta("🌧!"),
    {
        "type": "response.output_text.done",
        "item_id": "msg_67",
        "output_index": 0,
        "content_index": 0,
        "text": "Blåbær ☂\n🌧!",
    },
    item_event("done", 0, MESSAGE),
    response("completed", output=[MESSAGE], usage=USAGE),
)

RESPONSES_FULL = b"\xef\xbb\xbf: keep-alive\n\n" + sse(
    response("created"),
    item_event("added", 0, {"id": "rs_67", "type": "reasoning", "summary": []}),
    {"type": "response.reasoning_summary_part.added", "item_id": "rs_67", "output_index": 0, "summary_index": 0},
    summary_delta(0, "Rain?"),
    {"type": "response.reasoning_summary_part.added", "item_id": "rs_67", "output_index": 0, "summary_index": 1},
    summary_delta(1, "Look."),
    item_event("done", 0, REASONING),
    item_event("added", 1, {**MESSAGE, "status": "in_progress", "content": []}),
    text_delta("Blåbær ☂\n🌧!", 1),
    item_event("done", 1, MESSAGE),
    item_event("added", 2, {**CALL_1, "status": "in_progress", "arguments": ""}),
    item_event("added", 3, {**CALL_2, "status": "in_progress", "arguments": ""}),
    arguments_delta(2, "fc_1", '{"city":'),
    arguments_delta(3, "fc_2", '{"city":"Oslo"}'),
    arguments_delta(2, "fc_1", '"Bodø"}'),
    {
        "type": "response.function_call_arguments.done",
        "item_id": "fc_1",
        "output_index": 2,
        "name": "get_weather",
        "arguments": '{"city":"Bodø"}',
    },
    item_event("done", 2, CALL_1),
    item_event("done", 3, CALL_2),
    {"type": "response.something.new", "value": 1},
    response("completed", output=[REASONING, MESSAGE, CALL_1, CALL_2], usage=USAGE),
    end="\r\n",
)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "gpt-5.1-mini",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        "usage": None,
        **fields,
    }


CHAT_USAGE = {
    "prompt_tokens": 75,
    "completion_tokens": 1186,
    "total_tokens": 1261,
    "prompt_tokens_details": {"cached_tokens": 32, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 1024, "audio_tokens": 0},
}
DONE = b"data: [DONE]\n\n"


def chat(*chunks: dict[str, Any], end: str = "\n") -> bytes:
    return sse(*chunks, named=False, end=end)


def call_delta(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = (("index", index), ("id", call_id), ("type", "function" if call_id else None), ("function", function))
    return {"tool_calls": [{key: value for key, value in fields if value is not None}]}


CHAT_TEXT = (
    chat(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Blåbær"}),
        chunk({"content": " ☂\n"}),
        chunk({"content": "🌧!"}),
        chunk({}, "stop"),
        chunk(usage=CHAT_USAGE),
    )
    + DONE
)

CHAT_FULL = (
    b": keep-alive\r\r"
    + chat(
        chunk({"role": "assistant", "content": None, "reasoning_content": "Rain?"}),
        chunk({"reasoning_content": " Look."}),
        chunk({"content": "Blåbær ☂\n🌧!"}),
        chunk(call_delta(0, "call_1", "get_weather", "")),
        chunk(call_delta(0, None, None, '{"city":')),
        chunk(call_delta(0, None, None, '"Bodø"}')),
        chunk(call_delta(1, "call_2", "get_weather", "")),
        chunk(call_delta(1, None, None, '{"city":"Oslo"}')),
        chunk({}, "tool_calls"),
        chunk(usage=CHAT_USAGE),
        end="\r",
    )
    + DONE
)
