"""A run on a real language model, from its first token to what is left of it: run it with ``nox -s demo``.

It needs no key and no network: the model is the local one. Everything it claims it also checks, and it ends with exit
status 1 if something does not hold.

    python docs/examples/demonstration.py [asyncio|trio ...]      # both, if none is named
"""

from __future__ import annotations

import sys
import time
from typing import Any

import anyio

from agentrun import (
    ActiveRun,
    Agent,
    ModelSettings,
    RunConfig,
    RunContext,
    RunHooks,
    RunResult,
    UserMessage,
    open_run,
    run,
    tool,
)
from agentrun.events import InputDelivered, InterruptRequested, TextDelta, ToolEnded, ToolStarted
from agentrun.models import LocalModel, ModelRequest

INJECTED = "Please mention that I need an umbrella."


@tool
async def get_weather(ctx: RunContext[None], city: str) -> str:
    """Current weather in a city.

    Args:
        city: Name of the city.
    """
    # A user who thinks of something while the tool is at work: the next model call will see it.
    ctx.run.inject(INJECTED)
    await anyio.sleep(0.05)
    return f"It is raining in {city}, 11 degrees."


class RequestLog(RunHooks):
    """Keeps what each model call was asked."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def on_model_start(self, ctx: RunContext[Any], request: ModelRequest) -> None:
        self.requests.append(request)


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def check(holds: bool, claim: str) -> None:
    print(f"  [{'ok' if holds else 'FAILED'}] {claim}", flush=True)
    if not holds:
        raise SystemExit(1)


async def show(live: ActiveRun[Any], *, stop_after: int | None = None) -> int:
    """Print a run's events as they come, and interrupt it after so many pieces of text."""
    pieces = 0
    in_text = False
    async for event in live.events():
        if isinstance(event, TextDelta):
            pieces += 1
            in_text = True
            print(event.text, end="", flush=True)
            if pieces == stop_after:
                live.interrupt("the user pressed stop")
            continue
        if in_text:
            print(flush=True)
            in_text = False
        if isinstance(event, ToolStarted):
            print(f"  -> tool {event.name}{event.arguments}", flush=True)
        elif isinstance(event, ToolEnded):
            print(f"  <- {event.status}: {event.output}", flush=True)
        elif isinstance(event, InputDelivered):
            print(f"  ++ the injected input is part of the model call of turn {event.turn}", flush=True)
        elif isinstance(event, InterruptRequested):
            print(f"  !! interrupt: {event.reason}", flush=True)
    return pieces


async def wait_until_idle(model: LocalModel, seconds: float) -> float | None:
    """How long it takes until the model server reports no busy slot; ``None`` if longer than ``seconds``."""
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        if await model.busy_slots() == 0:
            return passed
        await anyio.sleep(0.01)
    return None


async def tool_and_injection(model: LocalModel) -> None:
    heading("1. An agent calls a tool; while the tool works, the user adds something")
    agent = Agent(
        "weather",
        instructions="You are a helpful assistant. Answer in one or two short sentences.",
        tools=[get_weather],
        model=model,
        model_settings=ModelSettings(tool_choice="get_weather", max_tokens=60),
    )
    log = RequestLog()
    async with open_run(agent, "What is the weather like in Bergen?", hooks=log) as live:
        pieces = await show(live)
        result = await live.wait()
    check(result.status == "completed", "the run completed")
    check(pieces > 3, f"the answer came as it was generated, in {pieces} pieces")
    check([item.type for item in result.items][:2] == ["tool_call", "tool_output"], "the tool was called and answered")
    seen = [UserMessage(INJECTED) in request.items for request in log.requests]
    check(seen == [False, True], "the injected input was seen by the second model call, not by the first")


async def interrupt(model: LocalModel) -> RunResult[str]:
    heading("2. The user stops an answer in mid-stream")
    agent = Agent("teller", instructions="You tell stories.", model=model, model_settings=ModelSettings(max_tokens=600))
    async with open_run(agent, "Tell me a long story about a ship in a storm.") as live:
        await show(live, stop_after=25)
        result = await live.wait()
    idle_after = await wait_until_idle(model, 1.0)
    check(result.status == "interrupted", f"the run ended as interrupted: {result.interrupt}")
    check(idle_after is not None, f"the model server was idle {(idle_after or 0) * 1000:.0f} ms after the run")
    message = result.items[-1]
    check(getattr(message, "status", "") == "incomplete", "what was said is kept, marked incomplete")
    print(f"  teardown report: {result.teardown}", flush=True)
    check(result.teardown.clean, "nothing misbehaved while it was torn down")
    return result


async def go_on(model: LocalModel, stopped: RunResult[str]) -> None:
    heading("3. The conversation goes on from the interrupted history")
    agent = Agent("teller", instructions="You tell stories.", model=model, model_settings=ModelSettings(max_tokens=60))
    async with open_run(agent, [*stopped.history, UserMessage("End the story in one sentence.")]) as live:
        await show(live)
        result = await live.wait()
    check(result.status == "completed", f"the run completed; its history has {len(result.history)} items")
    again = await run(agent, [*result.history, UserMessage("Thank you!")], config=RunConfig(max_turns=1))
    check(again.status == "completed", "and so did one that followed, from that history")


async def main() -> None:
    started = time.perf_counter()
    model = LocalModel()
    print(f"model: {model.name}, loading ...", end=" ", flush=True)
    await model.server_url()
    print(f"ready after {time.perf_counter() - started:.1f} s", flush=True)
    await tool_and_injection(model)
    await go_on(model, await interrupt(model))


if __name__ == "__main__":
    for backend in sys.argv[1:] or ["asyncio", "trio"]:
        heading(f"=== {backend} ===")
        anyio.run(main, backend=backend)
    heading("Everything held.")
