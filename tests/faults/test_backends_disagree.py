"""Faults that leave an order to the scheduler: sweeps on both backends find that they disagree, which is law 11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentrun import Agent, Trip, input_guardrail, tool
from agentrun.errors import InputGuardrailTripped
from agentrun.testing import Call, Say, ScriptedModel, SweepReport, interrupt_everywhere

from .planting import Edit, plant

pytestmark = pytest.mark.oldest_python("a planted fault is a proof about the sweeps, not about the Python")

SEEDS = range(4)
"""Schedules of trio's; in some of them the order is not that of asyncio."""


@tool
async def one() -> str:
    """End in the same instant as the other."""
    await anyio.sleep(1)
    return "one"


@tool
async def other() -> str:
    """End in the same instant as the one."""
    await anyio.sleep(1)
    return "other"


@input_guardrail
async def polite(items: Any) -> Trip:
    """Refuse in the same instant as the other."""
    await anyio.sleep(1)
    return Trip("not polite")


@input_guardrail
async def honest(items: Any) -> Trip:
    """Refuse in the same instant as the one."""
    await anyio.sleep(1)
    return Trip("not honest")


def side_by_side() -> Agent[Any, Any]:
    return Agent("a", tools=[one, other], model=ScriptedModel([[Call("one"), Call("other")], *[Say("Done.")] * 5]))


def two_trips() -> Agent[Any, Any]:
    return Agent("a", model=ScriptedModel([Say("Never.", delay=3)]), input_guardrails=[polite, honest])


FAULTS: dict[str, tuple[Callable[[], Agent[Any, Any]], Edit]] = {
    "ends are told in the order of the scheduler": (
        side_by_side,
        Edit(
            "agentrun.runtime.tool_run:ToolRun._task_over",
            "self.batch.wake()",
            "self.batch.calls.sort(key=lambda tool: tool is self)\n            self.batch.wake()",
        ),
    ),
    "the guardrail that is quicker counts": (
        two_trips,
        Edit(
            "agentrun.runtime.guard_race:GuardRace._answer",
            "self._tell()",
            "self.collect()\n        self._tell()",
        ),
    ),
}


def sweep(make: Callable[[], Agent[Any, Any]], seed: int) -> SweepReport:
    return interrupt_everywhere(
        make,
        "Go",
        actions=["interrupt"],
        seed=seed,
        limit=3,
        raises=InputGuardrailTripped,
        backends=["asyncio", "trio"],
    )


@pytest.mark.parametrize("name", FAULTS)
def test_an_order_that_is_left_to_the_scheduler_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, edit = FAULTS[name]
    plant(monkeypatch, [edit])
    reports = [sweep(make, seed) for seed in SEEDS]
    found = [violation for report in reports for failure in report.failures for violation in failure.violations]
    assert 11 in {violation.law for violation in found}, reports
    assert any("the runs on asyncio and trio differ" in violation.message for violation in found)


@pytest.mark.parametrize("name", FAULTS)
def test_without_the_fault_the_backends_agree_in_every_schedule(name: str) -> None:
    for seed in SEEDS:
        sweep(FAULTS[name][0], seed).raise_if_failed()
