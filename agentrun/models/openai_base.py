"""What the two OpenAI adapters share: where the key comes from, headers, usage."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic_core import from_json

from agentrun.core.errors import ModelError, UserError
from agentrun.core.items import FilePart
from agentrun.core.model import OutputSchema
from agentrun.core.usage import Usage
from agentrun.models.history import json_bytes
from agentrun.models.http import HttpModel
from agentrun.models.wire import as_object

__all__ = ["OpenAIModel", "call_arguments", "count", "file_fields", "load_event", "schema_name", "usage_from"]

_DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"


class OpenAIModel(HttpModel):
    """Base of the two adapters; the arguments are described there."""

    _prefix = "openai"

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None,
        base_url: str | None,
        headers: Mapping[str, str] | None,
        organization: str | None,
        project: str | None,
        client: Any | None,
        connect_timeout: float | None,
        first_token_timeout: float | None,
        chunk_timeout: float | None,
        max_retries: int,
        max_retry_wait: float,
        max_connections: int | None,
    ) -> None:
        if not model.strip():
            raise UserError("model is empty: pass the name of a model, such as 'gpt-5.1-mini'")
        from_env = os.environ.get("OPENAI_BASE_URL") or None
        url = base_url or from_env or _DEFAULT_BASE_URL
        own = is_openai(url)
        key = api_key
        # A key in the environment belongs to OpenAI, or to the address that the environment names along with it. It
        # is not sent to an address that only the code names: that would hand it to somebody else.
        if key is None and (own or url == from_env):
            key = os.environ.get("OPENAI_API_KEY") or None
        sent = {"user-agent": "agentrun", **{name.lower(): value for name, value in (headers or {}).items()}}
        if key:
            sent.setdefault("authorization", f"Bearer {key}")
        if organization or (own and (organization := os.environ.get("OPENAI_ORG_ID"))):
            sent.setdefault("openai-organization", organization)
        if project or (own and (project := os.environ.get("OPENAI_PROJECT_ID"))):
            sent.setdefault("openai-project", project)
        if own and "authorization" not in sent:
            raise UserError(
                f"no API key for {self._prefix}:{model}: set the environment variable OPENAI_API_KEY, or pass "
                f"api_key='...' to {type(self).__name__}. A server that needs no key is reached with base_url='...', "
                "or use the model 'local'"
            )
        super().__init__(
            base_url=url,
            headers=sent,
            client=client,
            connect_timeout=connect_timeout,
            first_token_timeout=first_token_timeout,
            chunk_timeout=chunk_timeout,
            max_retries=max_retries,
            max_retry_wait=max_retry_wait,
            max_connections=max_connections,
        )
        self.model: Final = model
        self._own: Final = own

    @property
    def name(self) -> str:
        """Provider and model, as in ``"openai:gpt-5.1-mini"``."""
        return f"{self._prefix}:{self.model}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model!r} at {self.base_url}>"

    def _hint(self, status: int) -> str:
        if status == 401:
            if "authorization" not in self._headers:
                return "no API key was sent: pass api_key=..."
            return "check the API key: OPENAI_API_KEY, or the api_key argument"
        if status == 404:
            return f"check the model name {self.model!r} and the base_url {self.base_url!r}"
        return ""


def is_openai(url: str) -> bool:
    """Whether ``url`` is an address of OpenAI's own API."""
    host = urlsplit(url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def schema_name(schema: OutputSchema) -> str:
    """The schema's name in the form that OpenAI accepts: up to 64 letters, digits, underscores and dashes."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", schema.name)[:64] or "output"


def file_fields(part: FilePart) -> dict[str, Any]:
    """A file part's fields, which are the same in both APIs.

    Raises:
        UserError: The part has neither data nor a file id.
    """
    if part.file_id is not None:
        return {"file_id": part.file_id}
    if part.data is None:
        raise UserError("a FilePart needs data='data:...;base64,...' or a file_id")
    return {"filename": part.filename or "file", "file_data": part.data}


_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def call_arguments(value: Any) -> str:
    """The arguments of a tool call as JSON text. Some servers send the object itself; ``None`` is none."""
    return value if isinstance(value, str) else "" if value is None else json_bytes(value).decode()


def load_event(data: bytes, request_id: str | None) -> dict[str, Any]:
    """Parse the data of an event.

    Raises:
        ModelError: It is not a JSON object.
    """
    try:
        value = from_json(data)
    except ValueError:
        # Servers that cut text between tokens sometimes send half a character: as broken UTF-8 or half a surrogate
        # pair. One replacement character is better than the loss of the answer.
        repaired = _LONE_SURROGATE.sub(rb"\\ufffd", data).decode("utf-8", "replace")
        try:
            value = from_json(repaired)
        except ValueError as exc:
            raise ModelError(
                f"the provider sent an event that is not valid JSON ({exc}): {repaired[:200]!r}",
                request_id=request_id,
                retryable=True,
            ) from exc
    if not isinstance(value, dict):
        raise ModelError(
            f"the provider sent an event that is not a JSON object: {data[:200]!r}",
            request_id=request_id,
            retryable=True,
        )
    return as_object(value)


def count(value: Any) -> int:
    """A number of tokens from the wire; whatever is not one counts as 0."""
    return value if isinstance(value, int) and value > 0 else 0


def usage_from(value: Any, input_name: str, output_name: str) -> Usage | None:
    """Usage from the wire; the two APIs name the same numbers differently (``input_tokens``, ``prompt_tokens``)."""
    if not value:
        return None
    usage = as_object(value)
    into = as_object(usage.get(f"{input_name}_details"))
    out = as_object(usage.get(f"{output_name}_details"))
    return Usage(
        input_tokens=count(usage.get(input_name)),
        cached_input_tokens=count(into.get("cached_tokens")),
        output_tokens=count(usage.get(output_name)),
        reasoning_tokens=count(out.get("reasoning_tokens")),
    )
