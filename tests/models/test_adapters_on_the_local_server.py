"""Both OpenAI adapters, and whole runs, against a real server that speaks both formats: the local model's."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from agentrun import Agent, ModelSettings, RunConfig, RunResult, UserMessage, open_run, run, tool
from agentrun.core.items import AssistantMessage, Item, SystemMessage, ToolCall, ToolOutput
from agentrun.core.model import Model, ModelEvent, ModelRequest, ResponseEnded, ToolSpec
from agentrun.events import TextDelta, ToolStarted
from agentrun.models import LocalModel, OpenAIChatModel, OpenAIResponsesModel
from agentrun.models.local import find_weights, shutdown_local_servers
from agentrun.testing import assert_valid_history

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.oldest_python("which requests the server of llama.cpp accepts, no Python has a say in"),
    pytest.mark.xdist_group("local model"),  # one server at a time: two would wait for each other's cores
    pytest.mark.skipif(
        not (importlib.util.find_spec("xllamacpp") and find_weights()),
        reason="the local model is not here: needs xllamacpp and its weights (see the README)",
    ),
]

ADAPTERS = pytest.mark.parametrize("adapter", [OpenAIResponsesModel, OpenAIChatModel])


@pytest.fixture(scope="module", autouse=True)
def give_memory_back() -> Iterator[None]:
    yield
    shutdown_local_servers()


@asynccontextmanager
async def adapter_for(adapter: type[Any]) -> AsyncIterator[Model]:
    """The adapter, talking to the local server over a client of the test's own."""
    local = LocalModel()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as client:
        yield adapter(
            "local", base_url=await local.server_url(), api_key=await local.api_key(), client=client, chunk_timeout=60
        )


async def idle(seconds: float) -> bool:
    model = LocalModel()
    with anyio.move_on_after(seconds):
        while await model.busy_slots():
            await anyio.sleep(0.01)
        return True
    return False


@ADAPTERS
async def test_the_adapter_streams_an_answer_with_usage(adapter: type[Any]) -> None:
    events: list[ModelEvent] = []
    async with adapter_for(adapter) as model:
        request = ModelRequest("Be brief.", [UserMessage("Say hello.")], settings=ModelSettings(max_tokens=20))
        async with model.stream(request) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    messages = [event for event in events if isinstance(event, AssistantMessage)]
    ended = events[-1]
    assert len([event for event in events if isinstance(event, TextDelta)]) > 1
    assert [message.text for message in messages] == [text]
    assert isinstance(ended, ResponseEnded)
    assert ended.usage is not None
    assert ended.usage.input_tokens > 0
    assert ended.usage.output_tokens > 0
    assert ended.finish_reason in ("stop", "length")


@ADAPTERS
async def test_an_interrupted_run_frees_the_slot_of_the_server(adapter: type[Any]) -> None:
    async with adapter_for(adapter) as model:
        agent = Agent("teller", model=model, model_settings=ModelSettings(max_tokens=1500, temperature=0))
        async with open_run(agent, "Tell me a very long story about the sea.") as live:
            async for event in live.events():
                if isinstance(event, TextDelta):
                    live.interrupt("enough")
            result = await live.wait()
        assert result.status == "interrupted"
        assert result.text
        assert await idle(8.0)  # the whole answer would take some 16 seconds on two idle cores


ODD_HISTORIES: dict[str, list[Item]] = {
    "a cancelled call": [
        UserMessage("Weather in Oslo?"),
        AssistantMessage("Let me look."),
        ToolCall("call_1", "get_weather", '{"city": "Oslo"}'),
        ToolOutput("call_1", "Cancelled before it finished: the user pressed stop.", "cancelled"),
    ],
    "two calls, one output failed, arguments that are no JSON": [
        UserMessage("Weather in Oslo?"),
        ToolCall("call_1", "get_weather", '{"city": '),
        ToolCall("call_2", "get_weather", '{"city": "Bergen"}'),
        ToolOutput("call_1", "Error: the arguments are not JSON", "failed"),
        ToolOutput("call_2", {"degrees": 11, "sky": "grå"}),
    ],
    "text that was cut, and an injected message": [
        SystemMessage("Answer in English."),
        UserMessage("Tell me a story."),
        AssistantMessage("Once upon a ti", "incomplete"),
        UserMessage("Shorter, please."),
    ],
    "nothing said at all before the interrupt": [UserMessage("Tell me a story."), UserMessage("No, a joke.")],
}


@ADAPTERS
@pytest.mark.parametrize("history", ODD_HISTORIES.values(), ids=ODD_HISTORIES)
async def test_the_server_accepts_what_interrupts_leave_behind(adapter: type[Any], history: list[Item]) -> None:
    assert_valid_history(history)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    async with adapter_for(adapter) as model:
        request = ModelRequest(
            "Be brief.",
            [*history, UserMessage("Thank you.")],
            [ToolSpec("get_weather", "Current weather.", parameters)],
            ModelSettings(max_tokens=8),
        )
        async with model.stream(request) as stream:
            events = [event async for event in stream]
    assert isinstance(events[-1], ResponseEnded)


async def test_runs_go_on_from_what_any_interrupt_left_behind() -> None:
    @tool
    async def slow(city: str) -> str:
        """Look something up, slowly."""
        await anyio.sleep_forever()
        return city

    async def interrupted(moment: type[Any], settings: ModelSettings) -> RunResult[str]:
        agent = Agent("a", tools=[slow], model="local", model_settings=settings)
        async with open_run(agent, "Tell me about Oslo.") as live:
            async for event in live.events():
                if isinstance(event, moment):
                    live.interrupt("stop")
            return await live.wait()

    results = [
        await interrupted(ToolStarted, ModelSettings(tool_choice="slow")),
        await interrupted(TextDelta, ModelSettings(tool_choice="none")),
    ]
    for result in results:
        assert result.status == "interrupted"
        assert_valid_history(result.history)
        again = Agent("a", tools=[slow], model="local", model_settings=ModelSettings(tool_choice="none", max_tokens=8))
        after = await run(again, [*result.history, UserMessage("Go on.")], config=RunConfig(max_turns=1))
        assert after.status == "completed"
        assert_valid_history(after.history)
