"""Law 11: the same scripted run gives the same history and the same structural events on both backends.

Programs are drawn at random from a seed of their own and run on asyncio once, and on trio under several schedules.
What a program does at one moment is several scheduler steps away from what it does at the next: two things that happen
in the same step have no order on any backend.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import agentrun
from agentrun import (
    Agent,
    RunConfig,
    RunContext,
    RunHooks,
    Trip,
    input_guardrail,
    open_run,
    output_guardrail,
    tool,
)
from agentrun.core.inbox import Delivery
from agentrun.events import Event, event_to_dict
from agentrun.items import dump_items
from agentrun.sessions import MemorySession
from agentrun.testing import Call, Fail, Say, ScriptedModel, assert_valid_history
from agentrun.testing.sweeping.virtual_time import run_virtual

from .support import check_ended, checkpoints, structural, watch

SCHEDULES = (1, 2, 3, 4)
PACE = 12  # steps of the scheduler between two moments; more than the starts of all calls of a turn can take together
MOMENTS = (1, 2, 4, 8, 16)  # no two sums of these are the same, so calls that wait for others end apart, too


class Broken(Exception):
    pass


class Program:
    """One scripted run, made anew for each backend from the same seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.session = MemorySession() if rng.random() < 0.5 else None
        self.config = RunConfig(
            max_turns=rng.choice([3, None, None]),
            max_parallel_tools=rng.choice([None, None, 1, 2]),
            max_tool_calls=rng.choice([None, None, 6]),
            cleanup_grace=5.0,
            on_approval="end",  # for those that no hook approves
        )
        self.model = ScriptedModel(
            [*(self._turn(rng, n) for n in range(rng.randint(1, 4))), *[Say("the end", chunks=6)] * 12]
        )
        self.hooks = Actions(rng)
        inner = Agent(
            "inner",
            model=ScriptedModel([[Say("hm"), Call("plain", {"at": 1})], *[Say("inner end")] * 20]),
            tools=[plain],
        )
        other = Agent("other", tools=self._tools(), model=ScriptedModel([Say("this is other")] * 12))
        self.agent: Agent[Any, Any] = Agent(
            "main",
            tools=[*self._tools(), inner.as_tool(name="nested")],
            model=self.model,
            handoffs=[other],
            input_guardrails=self._input_guardrails(rng),
            output_guardrails=[output_guardrail(name="out")(_early)] if rng.random() < 0.4 else [],
            hooks=self.hooks,
        )

    def _turn(self, rng: random.Random, number: int) -> list[Any]:
        parts: list[Any] = [Say(f"thinking {number}", chunks=6)]
        kind = rng.random()
        if kind < 0.05:
            return [*parts, Fail(Broken(f"line cut {number}"))]
        if kind < 0.2:
            return [*parts, Call("nested", {"input": "x"}, call_id=f"n{number}")]
        moments = rng.sample(MOMENTS, rng.randint(1, 4))
        kinds: tuple[str, ...] = ("plain", "fails", "handled", "raises", "stubborn", "clumsy", "waits", "asks", "alone")
        kinds += ("injects", "interrupts", "stops_sibling", "unknown", "transfer_to_other")
        weights = (6, 2, 2, 1, 2, 2, 4, 2, 1, 4, 2, 3, 1, 1)
        for index, (name, at) in enumerate(zip(rng.choices(kinds, weights, k=len(moments)), moments, strict=True)):
            arguments: dict[str, Any] = {"at": at}
            if name == "injects":
                arguments["deliver"] = rng.choice(["next", "now", "idle"])
            elif name == "interrupts":
                arguments["mode"] = rng.choice(["immediate", "after_turn"])
            elif name == "stops_sibling":
                arguments["call_id"] = f"c{number}-{rng.randrange(len(moments))}"
            elif name == "transfer_to_other":
                arguments = {}
            raw = "{broken" if rng.random() < 0.03 else arguments
            parts.append(Call(name, raw, call_id=f"c{number}-{index}"))
        return parts

    def _tools(self) -> list[Any]:
        return [
            plain,
            fails,
            tool(fails, name="handled", on_error=lambda ctx, error: f"handled {error}"),
            tool(fails, name="raises", on_error="raise"),
            stubborn,
            clumsy,
            waits,
            tool(plain, name="asks", needs_approval=lambda ctx, arguments: arguments["at"] > 2),
            tool(plain, name="alone", parallel=False),
            injects,
            interrupts,
            stops_sibling,
        ]

    def _input_guardrails(self, rng: random.Random) -> list[Any]:
        guards: list[Any] = []
        if rng.random() < 0.4:
            guards.append(input_guardrail(name="early")(_early))
        if rng.random() < 0.3:
            guards.append(input_guardrail(name="first", blocking=True)(_early))
        if rng.random() < 0.15:
            guards.append(input_guardrail(name="trips")(self.hooks.trip_late))
        return guards

    async def play(self) -> dict[str, Any]:
        """Run it, and return all of it that must not depend on the backend or the schedule."""
        seen: list[Event] = []
        error: BaseExceptionGroup[Any] | None = None
        live: Any = None
        with anyio.fail_after(30):
            try:
                async with (
                    anyio.create_task_group() as group,
                    open_run(self.agent, "begin", session=self.session, config=self.config) as live,
                ):
                    group.start_soon(watch, live, seen)
                    await live.wait()
            except* Exception as caught:
                error = caught
        result = check_ended(live, self.model, seen)
        if self.session is not None:
            assert_valid_history(self.session.items, what="session")
        report = result.teardown
        return {
            "status": result.status,
            "history": dump_items(result.history),
            "items": len(result.items),
            "events": _normal(structural(seen)),
            "output": result.output,
            "agent": result.agent,
            "usage": result.usage,
            "turns": result.turns,
            "interrupt": result.interrupt,
            "undelivered": result.undelivered,
            "approvals": result.pending_approvals,
            "guardrails": result.guardrail_results,
            "error": repr(result.error),
            "raised": repr(error.exceptions) if error is not None else None,  # what the group says differs
            "errors": sorted(map(repr, result.errors)),
            "cancelled": report.cancelled_tools,
            "swallowed": sorted(report.swallowed_cancellations),
            "cleanup errors": sorted(report.cleanup_errors),
            "stored": dump_items(self.session.items) if self.session is not None else None,
        }


def _normal(seen: Sequence[Event]) -> list[dict[str, Any]]:
    dicts = [event_to_dict(event) for event in seen]
    for event in dicts:
        event.pop("run_id", None)
    return dicts


class Actions(RunHooks):
    """Approves or rejects what waits, and injects between the calls."""

    def __init__(self, rng: random.Random) -> None:
        self._decisions = [rng.choice(["approve", "reject", "leave"]) for _ in range(30)]
        deliveries: list[Delivery | None] = [None, None, None, "next", "now", "idle"]
        self._injections = [rng.choice(deliveries) for _ in range(30)]

        self._answered = anyio.Event()

    async def trip_late(self, items: Any) -> Trip:
        """A guardrail that trips when the model has answered, before its tools may start."""
        await self._answered.wait()
        return Trip("no")

    async def on_tool_end(self, ctx: RunContext[Any], call: Any, output: Any) -> None:
        for scope in ctx.run.state().scope.children:
            if scope.status == "waiting for approval":
                decision = self._decisions.pop()
                if decision == "approve":
                    ctx.run.approve(scope.id)
                elif decision == "reject":
                    ctx.run.reject(scope.id)

    async def on_model_end(self, ctx: RunContext[Any], status: str) -> None:
        self._answered.set()
        deliver = self._injections.pop() if self._injections else None
        if deliver is not None and ctx.agent.name != "inner":
            ctx.run.inject(f"from the hook {len(self._injections)}", deliver=deliver)
        await checkpoints(PACE)


async def _early(value: Any) -> None:
    await anyio.lowlevel.checkpoint()


async def plain(at: int) -> dict[str, int]:
    await checkpoints(PACE * at)
    return {"at": at}


async def fails(at: int) -> str:
    await checkpoints(PACE * at)
    raise ValueError(f"at {at}")


async def stubborn(at: int) -> str:
    try:
        await checkpoints(PACE * at)
    except BaseException:
        return "swallowed"
    return "by itself"


async def clumsy(at: int) -> str:
    try:
        await checkpoints(PACE * at)
        return "in time"
    except BaseException:
        await anyio.lowlevel.checkpoint()
        raise OSError(f"cleanup at {at}") from None


async def waits(ctx: RunContext[Any], at: int) -> str:
    """Ends long after all others, and cleans up in several steps."""
    ctx.on_cleanup(lambda: checkpoints(2))
    try:
        await checkpoints(PACE * (at + 32))
        return "waited"
    finally:
        await checkpoints(3)


async def injects(ctx: RunContext[Any], at: int, deliver: str) -> str:
    await checkpoints(PACE * at)
    ctx.run.inject(f"more at {at}", deliver=deliver)  # type: ignore[arg-type]
    return "injected"


async def interrupts(ctx: RunContext[Any], at: int, mode: str) -> str:
    await checkpoints(PACE * at)
    ctx.run.interrupt(f"at {at}", mode=mode)  # type: ignore[arg-type]
    return "interrupted"


async def stops_sibling(ctx: RunContext[Any], at: int, call_id: str) -> str:
    await checkpoints(PACE * at)
    return "stopped" if ctx.run.interrupt_tool(call_id, "by a sibling") else "too late"


async def _play(seed: int) -> dict[str, Any]:
    return await Program(seed).play()


STATUSES: dict[str, int] = {}


@pytest.mark.parametrize("seed", range(80))
def test_both_backends_agree_on_any_program_whatever_the_schedule(seed: int) -> None:
    expected = run_virtual(_play, seed)
    STATUSES[expected["status"]] = STATUSES.get(expected["status"], 0) + 1
    for schedule in SCHEDULES:
        got = run_virtual(_play, seed, backend="trio", seed=schedule)
        for key, value in expected.items():
            assert got[key] == value, f"{key} differs on trio (schedule {schedule})"


def test_the_programs_above_ended_in_every_way_that_a_program_can() -> None:
    if sum(STATUSES.values()) == 80:
        assert min(STATUSES.get(status, 0) for status in ("completed", "interrupted", "failed")) >= 5


def test_the_same_schedule_gives_the_same_run_twice() -> None:
    for seed in range(5):
        once, again = (run_virtual(_play, seed, backend="trio", seed=1) for _ in range(2))
        assert once == again


async def test_the_model_is_told_of_the_errors_in_a_group_and_not_what_each_backend_calls_it() -> None:
    @tool
    async def several() -> None:
        async def fails(text: str) -> None:
            raise ValueError(text)

        async with anyio.create_task_group() as group:
            group.start_soon(fails, "one")
            await fails("two")

    model = ScriptedModel([Call("several"), Say("Oh.")])
    result = await agentrun.run(Agent("a", tools=[several], model=model), "Go.")
    [output] = [item for item in result.items if isinstance(item, agentrun.ToolOutput)]
    assert "ValueError: two" in output.text
    assert "ask" not in output.text  # neither "unhandled errors in a TaskGroup" nor another name for it
