"""Tool calls from a model that has none, with a scripted inner model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentrun.core.errors import ModelBehaviorError, UserError
from agentrun.core.events import TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.model import (
    FinishReason,
    ModelEvent,
    ModelRequest,
    ModelSettings,
    OutputSchema,
    ResponseEnded,
    ToolSpec,
)
from agentrun.core.usage import Usage
from agentrun.models.local_tools import EmulatedTools

WEATHER = ToolSpec(
    "get_weather",
    "Current weather in a city.\nWith a second line.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Name of the city"}},
        "required": ["city"],
    },
)
CLOCK = ToolSpec("clock", "What time it is.", {"type": "object", "properties": {}})


class Scripted:
    """Answers with the given texts, in pieces, and keeps what it was asked."""

    def __init__(self, *answers: str, finish: FinishReason = "stop", sums_up: bool = True) -> None:
        self.answers = list(answers)
        self.finish = finish
        self.sums_up = sums_up
        self.requests: list[ModelRequest] = []
        self.open = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent], None]:
        self.requests.append(request)
        text = self.answers.pop(0)
        events: list[ModelEvent] = [TextDelta(text[at : at + 4]) for at in range(0, len(text), 4)]
        if self.sums_up:
            events.append(AssistantMessage(text))
        events.append(ResponseEnded(Usage(input_tokens=10, output_tokens=len(events)), self.finish, "r1"))
        self.open += 1
        try:
            yield Given(events)
        finally:
            self.open -= 1


class Given:
    def __init__(self, events: list[ModelEvent]) -> None:
        self.events = events

    def __aiter__(self) -> Given:
        return self

    async def __anext__(self) -> ModelEvent:
        if not self.events:
            raise StopAsyncIteration
        return self.events.pop(0)


async def ask(
    model: EmulatedTools,
    *items: Item,
    tools: Sequence[ToolSpec] = (WEATHER, CLOCK),
    choice: str | None = None,
    **more: Any,
) -> list[ModelEvent]:
    request = ModelRequest("Be brief.", items, tools, ModelSettings(tool_choice=choice), **more)
    events: list[ModelEvent] = []
    async with model.stream(request) as stream:
        async for event in stream:
            events.append(event)  # noqa: PERF401
    return events


def schema_of(request: ModelRequest) -> Any:
    assert request.output_schema is not None
    return request.output_schema.schema


async def test_a_named_tool_is_called_without_asking() -> None:
    inner = Scripted('{"city": "Oslo"}')
    events = await ask(EmulatedTools(inner), UserMessage("Rain in Oslo?"), choice="get_weather")
    *deltas, call, end = events
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Oslo"}')
    assert all(isinstance(d, ToolCallDelta) and d.call_id == call.call_id and d.name == "get_weather" for d in deltas)
    assert "".join(d.arguments for d in deltas if isinstance(d, ToolCallDelta)) == call.arguments
    assert len(deltas) > 1
    assert end == ResponseEnded(Usage(input_tokens=10, output_tokens=5), "tool_calls", "r1")
    (request,) = inner.requests
    assert request.tools == ()
    assert request.settings.tool_choice is None
    assert schema_of(request)["properties"]["city"]["maxLength"] == 200
    assert schema_of(request)["additionalProperties"] is False


async def test_auto_asks_first_and_then_streams_the_answer() -> None:
    inner = Scripted('{"action": "answer"}', "It is fine.")
    events = await ask(EmulatedTools(inner), UserMessage("Hello"))
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["It i", "s fi", "ne."]
    assert events[-2] == AssistantMessage("It is fine.")
    assert events[-1] == ResponseEnded(Usage(input_tokens=20, output_tokens=10), "stop", "r1")
    choice, answer = inner.requests
    assert schema_of(choice)["properties"]["action"]["enum"] == ["get_weather", "clock", "answer"]
    assert answer.items == [UserMessage("Hello")]
    assert answer.output_schema is None


async def test_auto_asks_first_and_then_for_the_arguments() -> None:
    inner = Scripted('{"action": "get_weather"}', '{"city": "Oslo"}')
    events = await ask(EmulatedTools(inner), UserMessage("Rain?"), choice="auto")
    assert isinstance(events[-2], ToolCall)
    assert events[-1] == ResponseEnded(Usage(input_tokens=20, output_tokens=13), "tool_calls", "r1")
    prompt = inner.requests[1].items[-1]
    assert isinstance(prompt, UserMessage)
    assert "get_weather" in prompt.text
    assert "- city: Name of the city" in prompt.text
    assert "second line" not in prompt.text


async def test_required_does_not_offer_the_answer() -> None:
    inner = Scripted('{"action": "clock"}')
    events = await ask(EmulatedTools(inner), UserMessage("Time?"), choice="required")
    assert schema_of(inner.requests[0])["properties"]["action"]["enum"] == ["get_weather", "clock"]
    assert [type(event).__name__ for event in events] == ["ToolCallDelta", "ToolCall", "ResponseEnded"]
    assert isinstance(events[1], ToolCall)
    assert (events[1].name, events[1].arguments) == ("clock", "{}")
    assert events[2] == ResponseEnded(Usage(input_tokens=10, output_tokens=6), "tool_calls")


async def test_the_only_required_tool_without_arguments_asks_nothing() -> None:
    inner = Scripted()
    events = await ask(EmulatedTools(inner), UserMessage("Time?"), tools=[CLOCK], choice="required")
    assert inner.requests == []
    assert events[-1] == ResponseEnded(Usage(), "tool_calls")


@pytest.mark.parametrize(("tools", "choice"), [([], None), ([WEATHER], "none"), ([], "auto"), ([], "required")])
async def test_without_a_tool_to_call_it_answers(tools: list[ToolSpec], choice: str | None) -> None:
    inner = Scripted("Fine.", sums_up=False)
    events = await ask(EmulatedTools(inner), UserMessage("Hello"), tools=tools, choice=choice)
    assert events == [
        TextDelta("Fine"),
        TextDelta("."),
        ResponseEnded(Usage(input_tokens=10, output_tokens=2), "stop", "r1"),
    ]


async def test_the_output_schema_applies_to_the_answer() -> None:
    inner = Scripted('{"action": "answer"}', '{"rain": true}')
    wanted = OutputSchema("weather", {"type": "object"})
    await ask(EmulatedTools(inner), UserMessage("Hello"), output_schema=wanted)
    assert inner.requests[1].output_schema is wanted


async def test_an_unknown_tool_choice_is_refused() -> None:
    with pytest.raises(UserError, match=r"name of a tool \(get_weather, clock\), not 'weather'"):
        await ask(EmulatedTools(Scripted()), UserMessage("Hello"), choice="weather")


@pytest.mark.parametrize("answer", ["Sure!", '{"action": "dance"}', "[]", '{"action": ["clock"]}', '{"action": '])
async def test_a_model_that_does_not_keep_to_schemas_is_told_apart(answer: str) -> None:
    with pytest.raises(ModelBehaviorError, match="does not keep to JSON schemas"):
        await ask(EmulatedTools(Scripted(answer)), UserMessage("Hello"))


async def test_arguments_that_were_cut_say_so() -> None:
    inner = Scripted('{"city": "Os', finish="length")
    events = await ask(EmulatedTools(inner), UserMessage("Rain?"), choice="get_weather")
    assert isinstance(events[-1], ResponseEnded)
    assert events[-1].finish_reason == "length"


async def test_each_call_has_an_id_of_its_own() -> None:
    model = EmulatedTools(Scripted(*['{"city": "Oslo"}'] * 5))
    ids = set[str]()
    for _ in range(5):
        events = await ask(model, UserMessage("Rain?"), choice="get_weather")
        ids |= {event.call_id for event in events if isinstance(event, ToolCall)}
    assert len(ids) == 5


async def test_the_history_reaches_the_model_in_plain_words() -> None:
    inner = Scripted("Fine.")
    await ask(
        EmulatedTools(inner),
        SystemMessage("Be kind."),
        UserMessage("Rain in Oslo and Rome?"),
        Reasoning("Hm."),
        AssistantMessage("Let me see.", "incomplete"),
        ToolCall("a", "get_weather", '{"city": "Oslo"}'),
        ToolCall("b", "get_weather", '{"city": "Rome"}'),
        ToolOutput("a", {"rain": True}),
        ToolOutput("b", "the user pressed stop", "cancelled"),
        UserMessage("Go on."),
        choice="none",
    )
    assert inner.requests[0].items == [
        SystemMessage("Be kind."),
        UserMessage("Rain in Oslo and Rome?"),
        AssistantMessage(
            'Let me see.\n\nI use the tool get_weather with {"city": "Oslo"}.\n\n'
            'I use the tool get_weather with {"city": "Rome"}.'
        ),
        UserMessage(
            'The tool get_weather gave: {"rain": true}\n\nThe tool get_weather was cancelled: the user pressed stop'
            "\n\nGo on."
        ),
    ]


async def test_leaving_early_closes_the_inner_stream() -> None:
    inner = Scripted('{"action": "answer"}', "A long answer.")
    request = ModelRequest(None, [UserMessage("Hello")], [CLOCK])
    async with EmulatedTools(inner).stream(request) as events:
        await anext(events)
        assert inner.open == 1
    assert inner.open == 0


async def test_limits_are_added_where_the_schema_has_none_and_nowhere_else() -> None:
    schema = {
        "type": "object",
        "properties": {
            "free": {"type": "string"},
            "short": {"type": "string", "maxLength": 3},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "type": {"type": "array", "items": {"$ref": "#/$defs/Inner"}},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}] * 9},
            "fixed": {"const": {"type": "string"}},
        },
        "$defs": {"Inner": {"type": "object", "properties": {"text": {"type": "string", "minLength": 30}}}},
    }
    inner = Scripted("{}")
    tool = ToolSpec("t", "A tool.", schema)
    await ask(EmulatedTools(inner, max_text=20, max_elements=4), UserMessage("x"), tools=[tool], choice="t")
    sent = schema_of(inner.requests[0])
    assert sent["properties"]["free"]["maxLength"] == 20
    assert sent["properties"]["short"] == {"type": "string", "maxLength": 3}
    assert sent["properties"]["kind"] == {"type": "string", "enum": ["a", "b"]}
    assert sent["properties"]["type"]["maxItems"] == 4
    assert sent["properties"]["pair"]["maxItems"] == 9
    assert sent["properties"]["fixed"] == {"const": {"type": "string"}}
    assert sent["$defs"]["Inner"]["properties"]["text"]["maxLength"] == 30
    assert sent["$defs"]["Inner"]["additionalProperties"] is False
    assert "maxLength" not in json.dumps(schema["properties"]["free"])  # type: ignore[index]


async def test_a_schema_by_reference_counts_as_taking_arguments() -> None:
    inner = Scripted('{"x": 1}')
    tool = ToolSpec("t", "A tool.", {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object"}}})
    events = await ask(EmulatedTools(inner), UserMessage("x"), tools=[tool], choice="t")
    assert len(inner.requests) == 1
    assert isinstance(events[-2], ToolCall)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(UserError, match=r"EmulatedTools\.max_text must be at least 1, not 0"):
        EmulatedTools(Scripted(), max_text=0)
