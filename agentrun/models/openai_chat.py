"""OpenAI's Chat Completions API (https://platform.openai.com/docs/api-reference/chat), streamed, and what speaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from agentrun.models.openai_chat_stream import ChatDecoder

__all__ = ["OpenAIChatModel"]


class OpenAIChatModel(OpenAIModel):
    """A model behind the Chat Completions API: OpenAI's own, or any compatible server through ``base_url``.

    Args:
        model: Name of the model.
        api_key: The key. Default: the environment variable ``OPENAI_API_KEY``, which is used for OpenAI's own
            address and for ``OPENAI_BASE_URL`` only. Other servers get no key unless it is passed here.
        base_url: Address of the API, up to and without ``/chat/completions``. Default: ``OPENAI_BASE_URL``, or
            ``https://api.openai.com/v1``.
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
        store: Whether the provider keeps the completion; sent only when true.
        send_reasoning: Send the model's reasoning back as ``reasoning_content``, which some servers want (DeepSeek,
            when tools were called) and others refuse.

    Raises:
        UserError: The key is missing or an argument has an impossible value.
    """

    _prefix = "openai-chat"

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
        send_reasoning: bool = False,
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
        self._store = store
        self._send_reasoning = send_reasoning
        self._history = HistoryEncoder(self._encode)
        self._tools = ToolEncoder(_tool)

    def _path(self) -> str:
        return "/chat/completions"

    def _decoder(self, request_id: str | None) -> Decoder:
        return ChatDecoder(request_id)

    def _body(self, request: ModelRequest) -> bytes:
        settings = request.settings
        fields: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._store:
            fields["store"] = True
        if request.tools:
            if settings.tool_choice is not None:
                choice = settings.tool_choice
                known = choice in ("auto", "none", "required")
                fields["tool_choice"] = choice if known else {"type": "function", "function": {"name": choice}}
            if settings.parallel_tool_calls is not None:
                fields["parallel_tool_calls"] = settings.parallel_tool_calls
        if settings.temperature is not None:
            fields["temperature"] = settings.temperature
        if settings.top_p is not None:
            fields["top_p"] = settings.top_p
        if settings.max_tokens is not None:
            # OpenAI has renamed it and refuses the old name for models that reason; others know the old name only.
            fields["max_completion_tokens" if self._own else "max_tokens"] = settings.max_tokens
        if settings.reasoning_effort is not None:
            fields["reasoning_effort"] = settings.reasoning_effort
        if settings.stop is not None:
            fields["stop"] = list(settings.stop)
        if settings.seed is not None:
            fields["seed"] = settings.seed
        if (schema := request.output_schema) is not None:
            fields["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": schema_name(schema), "schema": schema.schema, "strict": schema.strict},
            }
        fields.update(settings.extra_body or {})
        body = json_bytes(fields)
        # What is long, and was encoded before.
        if request.tools and "tools" not in fields:
            body = with_array(body, "tools", self._tools.encode(request.tools))
        if "messages" not in fields:
            messages = [self._history.encode(request.items)]
            if request.instructions:
                messages.insert(0, json_bytes({"role": "system", "content": request.instructions}))
            body = with_array(body, "messages", b",".join(part for part in messages if part))
        return body

    # -- items ------------------------------------------------------------------------------------------------

    def _encode(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """One part of the history (see `agentrun.models.history`) as messages."""
        item = items[0]
        match item:
            case UserMessage():
                return [{"role": "user", "content": _user_content(item)}]
            case SystemMessage():
                return [{"role": "system", "content": item.text}]
            case ToolOutput():
                return [{"role": "tool", "tool_call_id": item.call_id, "content": item.text}]
            case _:
                return self._from_model(items)

    def _from_model(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """What the model thought, said and called: one message, since calls have to be in the last one."""
        # A refusal goes back as what was said: the field for it is OpenAI's only.
        texts = [text for item in items if isinstance(item, AssistantMessage) and (text := item.text or item.refusal)]
        calls = [
            {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": object_arguments(item)},
            }
            for item in items
            if isinstance(item, ToolCall)
        ]
        if not texts and not calls:
            return []
        message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts) or None}
        if self._send_reasoning:
            thoughts = [item.text for item in items if isinstance(item, Reasoning) and item.text]
            if thoughts:
                message["reasoning_content"] = "\n\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        return [message]


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
    }
    if spec.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _user_content(item: UserMessage) -> str | list[dict[str, Any]]:
    if isinstance(item.content, str):
        return item.content
    parts: list[dict[str, Any]] = []
    for part in item.content:
        match part:
            case TextPart():
                parts.append({"type": "text", "text": part.text})
            case ImagePart():
                image = {"url": part.url}
                if part.detail != "auto":
                    image["detail"] = part.detail
                parts.append({"type": "image_url", "image_url": image})
            case FilePart():
                parts.append({"type": "file", "file": file_fields(part)})
    return parts
