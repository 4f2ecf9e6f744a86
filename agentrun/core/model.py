"""What a run asks of a model and what it gets back.

`Model` is the one protocol a model has to meet. The stream it opens yields *model events*:

* deltas (`TextDelta`, `ReasoningDelta`, `ToolCallDelta`), which are passed on to the run's watchers as they are;
* finished items (`AssistantMessage`, `Reasoning`, `ToolCall`), in the order in which they belong in the history.
  Text deltas that no `AssistantMessage` sums up become one when the stream ends, so a simple model need only yield
  `TextDelta`s;
* at most one `ResponseEnded`, last, with usage and finish reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

from agentrun.core.errors import UserError
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall
from agentrun.core.plain import Plain, PlainValue
from agentrun.core.usage import Usage

__all__ = [
    "FinishReason",
    "Model",
    "ModelEvent",
    "ModelRequest",
    "ModelSettings",
    "OutputSchema",
    "ResponseEnded",
    "ToolSpec",
    "is_model",
]

FinishReason: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter", "refusal", "other"]
"""Why the model stopped; ``"length"`` and ``"content_filter"`` mean that it had not said all."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ToolSpec(PlainValue):
    """A tool as the model sees it.

    Attributes:
        name: Its name, unique among the tools of a request.
        description: What it does, for the model.
        parameters: JSON schema (an object) of its arguments.
        strict: Whether the provider shall enforce the schema.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class OutputSchema(PlainValue):
    """The JSON schema that the final answer must match (an agent's ``output_type``)."""

    name: str
    schema: Mapping[str, Any]
    strict: bool = True


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ModelSettings(PlainValue):
    """Knobs of a model call. ``None`` leaves the provider's default.

    Attributes:
        temperature: Sampling temperature, 0 or more.
        top_p: Nucleus sampling, between 0 and 1.
        max_tokens: Most tokens the model may generate in one call.
        tool_choice: ``"auto"``, ``"none"``, ``"required"``, or the name of the tool to call.
        parallel_tool_calls: Whether the model may ask for several calls at once.
        reasoning_effort: Such as ``"low"`` or ``"high"``, for models that reason.
        stop: Texts at which generation stops.
        seed: For repeatable sampling, where the provider supports it.
        extra_body: Further fields for the request's JSON body; they win over agentrun's own.
        extra_headers: Further HTTP headers.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    extra_body: Mapping[str, Any] | None = None
    extra_headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not (_is_number(self.temperature) and self.temperature >= 0):
            raise UserError(f"ModelSettings.temperature must be 0 or more, not {self.temperature!r}")
        if self.top_p is not None and not (_is_number(self.top_p) and 0 <= self.top_p <= 1):
            raise UserError(f"ModelSettings.top_p must be between 0 and 1, not {self.top_p!r}")
        if self.max_tokens is not None and not (_is_number(self.max_tokens) and self.max_tokens >= 1):
            raise UserError(f"ModelSettings.max_tokens must be at least 1, not {self.max_tokens!r}")
        if isinstance(cast("object", self.stop), str):
            raise UserError(f"ModelSettings.stop must be a tuple of texts, such as ({self.stop!r},)")

    def merged_with(self, other: ModelSettings | None) -> ModelSettings:
        """These settings, with those that ``other`` sets taking precedence."""
        if other is None:
            return self
        changes = {f.name: value for f in fields(other) if (value := getattr(other, f.name)) is not None}
        return replace(self, **changes) if changes else self


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_DEFAULT_SETTINGS = ModelSettings()


@dataclass(slots=True, repr=False, eq=False)
class ModelRequest(Plain):
    """One call of a model.

    Attributes:
        instructions: The system prompt, or ``None``.
        items: The whole conversation so far. A read-only view: it does not change while the call lasts or after.
        tools: Tools the model may call.
        settings: Knobs.
        output_schema: Schema for the final answer, or ``None`` for free text.
    """

    instructions: str | None
    items: Sequence[Item]
    tools: Sequence[ToolSpec] = ()
    settings: ModelSettings = field(default=_DEFAULT_SETTINGS)
    output_schema: OutputSchema | None = None


@dataclass(slots=True, repr=False, eq=False)
class ResponseEnded(Plain):
    """The model has said all it wanted to say.

    Attributes:
        usage: What it cost, when the provider says so (``requests`` may be left 0; the runtime counts).
        finish_reason: Why it stopped.
        response_id: The provider's id for the response.
    """

    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    response_id: str | None = None


ModelEvent: TypeAlias = (
    TextDelta | ReasoningDelta | ToolCallDelta | AssistantMessage | Reasoning | ToolCall | ResponseEnded
)
"""What a model's stream yields."""


@runtime_checkable
class Model(Protocol):
    """Anything that can answer a `ModelRequest`."""

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Open the answer to ``request``.

        Leaving the context manager must close the connection, whether the answer has been read to its end or not.

        Raises:
            ModelError: On entering or while iterating, when the provider cannot be reached, refuses or breaks off.
        """
        ...


def is_model(value: object) -> bool:
    """Whether ``value`` has what a `Model` needs; at a tenth of what ``isinstance`` costs with a protocol."""
    return callable(getattr(value, "stream", None))
