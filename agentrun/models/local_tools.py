"""Tool calls from a model that has none, by JSON schema.

Small models do not call tools on their own, and chat templates without a place for tools drop them in silence. But a
server that constrains an answer to a JSON schema (``response_format``) makes any model write valid arguments.
`EmulatedTools` wraps such a model:

* The choice: with ``tool_choice="auto"`` the model first answers a short question, constrained to the names of the
  tools and ``"answer"``. ``"required"`` leaves ``"answer"`` out; the name of a tool, or a single required tool, leaves
  nothing to choose and the question is not asked. How good the choice is depends on the model; it is always valid.
* The arguments are then generated under the tool's schema and streamed as they come; or the answer is, as free text or
  under the request's output schema.
* Calls and outputs in the history become messages in plain words.

One response has one call at most. What both steps cost is summed up in one `ResponseEnded`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from agentrun.core.errors import ModelBehaviorError, UserError
from agentrun.core.events import TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Item, ToolCall, UserMessage
from agentrun.core.model import Model, ModelEvent, ModelRequest, ModelSettings, OutputSchema, ResponseEnded, ToolSpec
from agentrun.core.usage import Usage
from agentrun.models.local_prompts import ANSWER, arguments_prompt, choice_prompt, plain_items

__all__ = ["EmulatedTools"]

_CHOICE_TOKENS: Final = 128
_ARGUMENT_TOKENS: Final = 512


_TAKES_ARGUMENTS: Final = ("properties", "patternProperties", "additionalProperties", "$ref", "anyOf", "oneOf", "allOf")
_TEXT_LIMITS: Final = {"maxLength", "enum", "const", "format", "pattern"}
_LITERALS: Final = {"enum", "const", "default", "examples"}  # values in a schema that are not schemas themselves


class EmulatedTools:
    """A `Model` that has ``model`` call tools through constrained answers.

    Args:
        model: A model that obeys ``ModelRequest.output_schema``.
        max_text: Most characters in a text argument whose schema sets no limit. A small model may otherwise repeat
            itself until it runs out of tokens, in the middle of the JSON. ``None`` sets no limit.
        max_elements: The same for the elements of an array.
        argument_tokens: ``max_tokens`` for generating arguments, where the request sets none.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_text: int | None = 200,
        max_elements: int | None = 8,
        argument_tokens: int = _ARGUMENT_TOKENS,
    ) -> None:
        for name, value in (
            ("max_text", max_text),
            ("max_elements", max_elements),
            ("argument_tokens", argument_tokens),
        ):
            if value is not None and value < 1:
                raise UserError(f"EmulatedTools.{name} must be at least 1, not {value}")
        self._model = model
        self._max_text = max_text
        self._max_elements = max_elements
        self._argument_tokens = argument_tokens

    def __repr__(self) -> str:
        return f"EmulatedTools({self._model!r})"

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Open the answer to ``request``; see `Model.stream`. Entering it asks the model to choose, if it may.

        Raises:
            UserError: ``tool_choice`` names a tool that the request does not have.
            ModelBehaviorError: The model chose something that is not among the tools (it does not obey schemas).
        """
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent], None]:
        items = plain_items(request.items)
        settings = replace(request.settings, tool_choice=None, parallel_tool_calls=None)
        spent = Usage()
        tool = _forced(request)
        if tool is None and _may_call(request):
            tool = await self._choose(request, items, settings, spent)
        if tool is None:
            answer = ModelRequest(request.instructions, items, (), settings, request.output_schema)
            async with self._model.stream(answer) as events:
                yield _Answer(events, spent)
        elif not any(tool.parameters.get(key) for key in _TAKES_ARGUMENTS):
            yield _NoArguments(tool, spent)  # there is nothing to ask the model
        else:
            async with self._model.stream(self._arguments_request(request, items, settings, tool)) as events:
                yield _Arguments(events, tool, spent)

    async def _choose(
        self, request: ModelRequest, items: list[Item], settings: ModelSettings, spent: Usage
    ) -> ToolSpec | None:
        names = [tool.name for tool in request.tools]
        if request.settings.tool_choice != "required":
            names.append(ANSWER)
        question = ModelRequest(
            request.instructions,
            [*items, UserMessage(choice_prompt(request.tools, names))],
            (),
            replace(settings, max_tokens=_CHOICE_TOKENS, stop=None),
            OutputSchema("choice", _object({"action": {"type": "string", "enum": names}})),
        )
        pieces: list[str] = []
        final: str | None = None
        async with self._model.stream(question) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    pieces.append(event.text)
                elif isinstance(event, AssistantMessage):
                    final = event.text
                elif isinstance(event, ResponseEnded) and event.usage is not None:
                    spent.add(event.usage)
        text = "".join(pieces) if final is None else final
        try:
            chosen = json.loads(text)["action"]
        except (ValueError, KeyError, TypeError):
            chosen = None
        if chosen not in names:
            raise ModelBehaviorError(
                f"asked to choose one of {', '.join(names)}, the model wrote {text[:200]!r}: it does not keep to JSON "
                "schemas, so tool calls cannot be emulated with it"
            )
        # A tool may itself be called "answer"; the name then means the tool, as it comes first.
        return next((tool for tool in request.tools if tool.name == chosen), None)

    def _arguments_request(
        self, request: ModelRequest, items: list[Item], settings: ModelSettings, tool: ToolSpec
    ) -> ModelRequest:
        schema = _bounded(tool.parameters, self._max_text, self._max_elements)
        return ModelRequest(
            request.instructions,
            [*items, UserMessage(arguments_prompt(tool))],
            (),
            replace(settings, max_tokens=settings.max_tokens or self._argument_tokens, stop=None),
            OutputSchema("arguments", schema),
        )


def _forced(request: ModelRequest) -> ToolSpec | None:
    choice = request.settings.tool_choice
    if choice in (None, "auto", "none"):
        return None
    if choice == "required":
        return request.tools[0] if len(request.tools) == 1 else None
    for tool in request.tools:
        if tool.name == choice:
            return tool
    known = ", ".join(tool.name for tool in request.tools) or "none"
    raise UserError(f"tool_choice must be 'auto', 'none', 'required' or the name of a tool ({known}), not {choice!r}")


def _may_call(request: ModelRequest) -> bool:
    return bool(request.tools) and request.settings.tool_choice != "none"


@dataclass(slots=True)
class _Answer:
    """Passes the answer on; its end also counts what the choice has cost.

    Iterators here are classes, not generators: a generator that is left half-way has to be closed by someone.
    """

    events: AsyncIterator[ModelEvent]
    spent: Usage

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> ModelEvent:
        event = await anext(self.events)
        return _summed(event, self.spent) if isinstance(event, ResponseEnded) else event


class _Arguments:
    """Turns the text of a constrained answer into a tool call."""

    def __init__(self, events: AsyncIterator[ModelEvent], tool: ToolSpec, spent: Usage) -> None:
        self._events = events
        self._name = tool.name
        self._spent = spent
        self._call_id = _new_call_id()
        self._pieces: list[str] = []
        self._final: str | None = None
        self._pending: list[ModelEvent] | None = None  # what is left to tell once the inner stream has ended

    def __aiter__(self) -> _Arguments:
        return self

    async def __anext__(self) -> ModelEvent:
        end = ResponseEnded(finish_reason="tool_calls")
        while self._pending is None:
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                self._finish(end)
                break
            if isinstance(event, TextDelta):
                self._pieces.append(event.text)
                return ToolCallDelta(self._call_id, self._name, event.text)
            elif isinstance(event, AssistantMessage):
                self._final = event.text
            elif isinstance(event, ResponseEnded):
                end = replace(event, finish_reason="length" if event.finish_reason == "length" else "tool_calls")
                self._finish(end)
            else:
                return event
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.pop(0)

    def _finish(self, end: ResponseEnded) -> None:
        streamed = "".join(self._pieces)
        text = streamed if self._final is None else self._final
        self._pending = [ToolCall(self._call_id, self._name, text.strip()), _summed(end, self._spent)]
        if not streamed:
            self._pending.insert(0, ToolCallDelta(self._call_id, self._name, text))


class _NoArguments:
    """The call of a tool that takes no arguments."""

    def __init__(self, tool: ToolSpec, spent: Usage) -> None:
        call_id = _new_call_id()
        self._pending: list[ModelEvent] = [
            ToolCallDelta(call_id, tool.name, "{}"),
            ToolCall(call_id, tool.name, "{}"),
            ResponseEnded(spent, "tool_calls"),
        ]

    def __aiter__(self) -> _NoArguments:
        return self

    async def __anext__(self) -> ModelEvent:  # not a checkpoint: three events, none of which is waited for
        if not self._pending:
            raise StopAsyncIteration
        return self._pending.pop(0)


def _summed(end: ResponseEnded, spent: Usage) -> ResponseEnded:
    total = spent.copy()
    if end.usage is not None:
        total.add(end.usage)
    return replace(end, usage=None if total == Usage() else total)


def _new_call_id() -> str:
    # Random as the providers' ids are, and not counted from the request's items, which may be a part of the history.
    return f"call_{uuid.uuid4().hex[:24]}"


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _bounded(schema: Mapping[str, Any], max_text: int | None, max_elements: int | None) -> dict[str, Any]:
    """A copy of ``schema`` that allows no further properties and no endless texts or arrays, unless it says so."""

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            node = {
                key: inner if key in _LITERALS else walk(inner)
                for key, inner in cast("Mapping[str, Any]", value).items()
            }
            kind = node.get("type")
            if kind == "string" and max_text is not None and not node.keys() & _TEXT_LIMITS:
                node["maxLength"] = max(max_text, int(node.get("minLength", 0)))
            elif kind == "array" and max_elements is not None and "maxItems" not in node:
                node["maxItems"] = max(max_elements, int(node.get("minItems", 0)), len(node.get("prefixItems", ())))
            elif kind == "object" and "properties" in node:
                node.setdefault("additionalProperties", False)
            return node
        if isinstance(value, (list, tuple)):
            return [walk(inner) for inner in cast("Sequence[Any]", value)]
        return value

    return cast("dict[str, Any]", walk(schema))
