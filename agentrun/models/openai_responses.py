"""OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses), streamed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from agentrun.core.errors import UserError
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
from agentrun.core.model import ModelRequest, ToolSpec
from agentrun.models.encoded_tools import ToolEncoder
from agentrun.models.history import HistoryEncoder, json_bytes, object_arguments, with_array
from agentrun.models.http_stream import Decoder
from agentrun.models.openai_base import OpenAIModel, file_fields, schema_name
from agentrun.models.openai_responses_stream import ResponsesDecoder

__all__ = ["OpenAIResponsesModel"]

# Asking for encrypted reasoning makes OpenAI refuse the request for a model that does not reason.
_REASONS: Final = re.compile(r"(ft:)?(o[1-9]|gpt-([5-9]|\d\d)|codex)(?!.*-chat)")


class OpenAIResponsesModel(OpenAIModel):
    """A model behind OpenAI's Responses API, or a server that speaks it.

    Args:
        model: Name of the model, such as ``"gpt-5.1-mini"``.
        api_key: The key. Default: the environment variable ``OPENAI_API_KEY``, which is used for OpenAI's own
            address and for ``OPENAI_BASE_URL`` only. Other servers get no key unless it is passed here.
        base_url: Address of the API. Default: ``OPENAI_BASE_URL``, or ``https://api.openai.com/v1``.
        headers: Further HTTP headers of every request.
        client: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` to send requests with, instead of over agentrun's own
            connections (HTTP/1.1; the certificates and proxies that the environment names). It stays yours to close,
            and has to be used in one event loop only.
        organization: OpenAI organization id. Default: ``OPENAI_ORG_ID``.
        project: OpenAI project id. Default: ``OPENAI_PROJECT_ID``.
        connect_timeout: Seconds to connect. ``None`` means no limit, here as below.
        first_token_timeout: Seconds from sending the request to the first event of the answer.
        chunk_timeout: Seconds between two pieces of the answer.
        max_retries: How often a request is tried again that failed before anything of the answer was handed out, for
            a reason that may pass (connection trouble, timeouts, status 408, 409, 429 and 5xx). If not 0, it is also
            sent anew, at once, when a connection that was used before turns out to be closed.
        max_retry_wait: Longest wait, in seconds, that the provider may ask for before a retry; when it asks for more
            the request fails at once.
        max_connections: Most requests under way at once, in each event loop; others wait. With a ``client`` of your
            own, no larger than the limit of its pool.
        store: Whether OpenAI keeps the response.
        include_encrypted_reasoning: Ask for the reasoning in encrypted form, so that it can be sent back in the next
            call although nothing is stored. Default: when ``store`` is false, for OpenAI's own address and a model
            that reasons.
        reasoning_summary: Ask for a summary of the reasoning, which is streamed as ``ReasoningDelta``.

    Raises:
        UserError: The key is missing or an argument has an impossible value.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: Any | None = None,
        organization: str | None = None,
        project: str | None = None,
        connect_timeout: float | None = 10.0,
        first_token_timeout: float | None = 300.0,
        chunk_timeout: float | None = 120.0,
        max_retries: int = 2,
        max_retry_wait: float = 60.0,
        max_connections: int | None = 100,
        store: bool = False,
        include_encrypted_reasoning: bool | None = None,
        reasoning_summary: Literal["auto", "concise", "detailed"] | None = None,
    ) -> None:
        super().__init__(
            model,
            api_key=api_key,
            base_url=base_url,
            headers=headers,
            organization=organization,
            project=project,
            client=client,
            connect_timeout=connect_timeout,
            first_token_timeout=first_token_timeout,
            chunk_timeout=chunk_timeout,
            max_retries=max_retries,
            max_retry_wait=max_retry_wait,
            max_connections=max_connections,
        )
        if include_encrypted_reasoning is None:
            include_encrypted_reasoning = not store and self._own and _REASONS.match(model) is not None
        self._store = store
        self._encrypted = include_encrypted_reasoning
        self._summary = reasoning_summary
        self._history = HistoryEncoder(self._encode)
        self._tools = ToolEncoder(_tool)

    def _path(self) -> str:
        return "/responses"

    def _decoder(self, request_id: str | None) -> Decoder:
        return ResponsesDecoder(request_id, stored=self._store)

    def _body(self, request: ModelRequest) -> bytes:
        settings = request.settings
        if settings.stop is not None:
            raise UserError(
                "ModelSettings.stop is not supported by the Responses API; leave it out, or use 'openai-chat:...'"
            )
        fields: dict[str, Any] = {"model": self.model, "stream": True, "store": self._store}
        if request.instructions:
            fields["instructions"] = request.instructions
        if request.tools:
            if settings.tool_choice is not None:
                choice = settings.tool_choice
                known = choice in ("auto", "none", "required")
                fields["tool_choice"] = choice if known else {"type": "function", "name": choice}
            if settings.parallel_tool_calls is not None:
                fields["parallel_tool_calls"] = settings.parallel_tool_calls
        if settings.temperature is not None:
            fields["temperature"] = settings.temperature
        if settings.top_p is not None:
            fields["top_p"] = settings.top_p
        if settings.max_tokens is not None:
            fields["max_output_tokens"] = settings.max_tokens
        reasoning = {"effort": settings.reasoning_effort, "summary": self._summary}
        if any(reasoning.values()):
            fields["reasoning"] = {name: value for name, value in reasoning.items() if value}
        if self._encrypted:
            fields["include"] = ["reasoning.encrypted_content"]
        if (schema := request.output_schema) is not None:
            fields["text"] = {
                "format": {
                    "type": "json_schema",
                    "name": schema_name(schema),
                    "schema": schema.schema,
                    "strict": schema.strict,
                }
            }
        fields.update(settings.extra_body or {})
        body = json_bytes(fields)
        # What is long, and was encoded before.
        if request.tools and "tools" not in fields:
            body = with_array(body, "tools", self._tools.encode(request.tools))
        if "input" not in fields:
            body = with_array(body, "input", self._history.encode(request.items))
        return body

    # -- items ------------------------------------------------------------------------------------------------

    def _encode(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """One part of the history (see `agentrun.models.history`) as input items.

        Ids: OpenAI checks that a reasoning item with an id is followed by the very item it was made for, so those
        two go back as they came. Everywhere else ids do nothing but fail when the server does not know them.
        """
        elements: list[dict[str, Any]] = []
        after_reasoning = False
        for position, item in enumerate(items):
            match item:
                case Reasoning():
                    rest = items[position + 1 :]
                    follower = next((other for other in rest if not isinstance(other, Reasoning)), None)
                    if follower is not None and (element := self._reasoning(item, follower)) is not None:
                        elements.append(element)
                        after_reasoning = True
                case AssistantMessage():
                    if item.text or item.refusal:
                        elements.append(_message(item, with_id=after_reasoning))
                case ToolCall():
                    call = {
                        "type": "function_call",
                        "call_id": item.call_id,
                        "name": item.name,
                        "arguments": object_arguments(item),
                    }
                    if after_reasoning and (item_id := _id(item)) is not None:
                        call["id"] = item_id
                    elements.append(call)
                case ToolOutput():
                    elements.append({"type": "function_call_output", "call_id": item.call_id, "output": item.text})
                case UserMessage():
                    elements.append({"role": "user", "content": _user_content(item)})
                case SystemMessage():
                    elements.append({"role": "system", "content": item.text})
        return elements

    def _reasoning(self, item: Reasoning, follower: Item) -> dict[str, Any] | None:
        """The item as it is sent back, or ``None`` when the server could not make sense of it."""
        data = item.provider_data or {}
        item_id, encrypted = data.get("id"), data.get("encrypted_content")
        if not isinstance(item_id, str) or not (encrypted or (self._store and data.get("stored"))):
            return None
        if not isinstance(follower, (AssistantMessage, ToolCall)) or _id(follower) is None:
            return None  # what it was made for was cut
        summary = data.get("summary")
        if summary is None:
            summary = [item.text] if item.text else []
        element: dict[str, Any] = {
            "type": "reasoning",
            "id": item_id,
            "summary": [{"type": "summary_text", "text": text} for text in summary],
        }
        if encrypted:
            element["encrypted_content"] = encrypted
        return element


def _id(item: AssistantMessage | ToolCall) -> str | None:
    found = (item.provider_data or {}).get("id")
    return found if isinstance(found, str) else None


def _tool(spec: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
        "strict": spec.strict,  # always sent: the API's default is true
    }


def _message(item: AssistantMessage, *, with_id: bool) -> dict[str, Any]:
    item_id = _id(item) if with_id else None
    if item_id is None and not item.refusal:
        # The type may be left out, says the reference; not all servers that speak this format agree.
        return {"type": "message", "role": "assistant", "content": item.text}
    content: list[dict[str, Any]] = []
    if item.text:
        content.append({"type": "output_text", "text": item.text, "annotations": []})
    if item.refusal:
        content.append({"type": "refusal", "refusal": item.refusal})
    message: dict[str, Any] = {"type": "message", "role": "assistant", "status": item.status, "content": content}
    if item_id is not None:
        message["id"] = item_id
    return message


def _user_content(item: UserMessage) -> str | list[dict[str, Any]]:
    if isinstance(item.content, str):
        return item.content
    parts: list[dict[str, Any]] = []
    for part in item.content:
        match part:
            case TextPart():
                parts.append({"type": "input_text", "text": part.text})
            case ImagePart():
                parts.append({"type": "input_image", "image_url": part.url, "detail": part.detail})
            case FilePart():
                parts.append({"type": "input_file", **file_fields(part)})
    return parts
