"""Strategies for agents and whole programs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from agentrun.core.config import RunConfig
from agentrun.testing.programs.plans import (
    AgentPlan,
    Garbage,
    GuardPlan,
    ModelFails,
    Program,
    Steer,
    StreamPart,
)
from agentrun.testing.scripted import Call, Hang, Say, Wait
from agentrun.testing.strategies.around import configs, hooks, sessions, steers, watchers
from agentrun.testing.strategies.tools import cleanups, seconds, some, tools

__all__ = ["agents", "guards", "programs", "turns"]


def guards(*, tidy: bool = False) -> SearchStrategy[GuardPlan]:
    """A guardrail.

    Args:
        tidy: Only such that answer.
    """
    return _guards(tidy)


@functools.cache
def _guards(tidy: bool) -> SearchStrategy[GuardPlan]:
    verdicts = ["pass"] * 9 + (["trip"] if tidy else ["trip", "raise", "nonsense"])
    return st.builds(
        GuardPlan,
        st.sampled_from(["input", "output"]),
        # At other times than all else, too: only then must the backends agree on what a trip is in time for.
        seconds() | st.sampled_from([0.173, 1.019]),
        st.sampled_from(verdicts),
        st.sampled_from([False, False, True]),
        cleanups(tidy=tidy),
        sync=st.sampled_from([False, False, False, True]),
    )


@functools.lru_cache(256)
def _parts(calls: tuple[str, ...]) -> SearchStrategy[StreamPart]:
    speech: SearchStrategy[StreamPart] = st.builds(
        Say, st.just("words"), st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 0.1])
    ) | st.builds(Wait, seconds())
    if not calls:
        return speech
    usual: SearchStrategy[StreamPart] = st.builds(Call, st.sampled_from(calls), st.just({"input": "x"}))
    return usual | usual | speech


@st.composite
def turns(draw: st.DrawFn, calls: Sequence[str] = (), *, tidy: bool = False) -> list[StreamPart]:
    """What a model says in one call.

    Args:
        draw: Given by Hypothesis.
        calls: Names of the tools that it may call.
        tidy: Only what a model should say: it does not fail, hang, or call tools that are not there.
    """
    part = _parts(tuple(calls))
    parts: list[StreamPart] = []
    if calls and draw(st.sampled_from([False, True, True])):
        parts += [Call(name, {"input": "x"}) for name in calls]
    parts += draw(st.lists(part, min_size=0 if parts else 1, max_size=3))
    if not tidy and draw(st.sampled_from([False] * 7 + [True])):
        odd: list[StreamPart] = [Call("nobody"), ModelFails(), ModelFails(expected=False), Garbage(), Hang()]
        for name in calls:
            odd += [Call(name, "{no json"), Call(name, {"n": "no number"}), Call(name, call_id="same")]
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(odd)))
    return parts


@st.composite
def agents(
    draw: st.DrawFn,
    name: str = "a",
    *,
    depth: int = 1,
    native: bool = True,
    tidy: bool = False,
    requests: bool = True,
    max_tools: int = 3,
    max_turns: int = 3,
) -> AgentPlan:
    """An agent.

    Args:
        draw: Given by Hypothesis.
        name: Its name.
        depth: How deep agents may be nested in it, by handoffs or as tools.
        native: See `steps`.
        tidy: Nothing in it misbehaves.
        requests: See `steps`.
        max_tools: Most tools.
        max_turns: Most turns that its model has something to say in.
    """
    drawn = draw(some(tools(native=native, tidy=tidy, requests=requests), max_tools))
    prefix = "" if name == "a" else name
    own = [replace(each, name=f"{prefix}t{number}") for number, each in enumerate(drawn, 1)]
    options: dict[str, Any] = {}
    calls = [tool.name for tool in own]
    below: dict[str, Any] = {"depth": depth - 1, "native": native, "tidy": tidy, "requests": requests}
    below.update(max_tools=2, max_turns=1)
    if depth > 0 and draw(st.sampled_from([False, False, False, True])):
        options["experts"] = [draw(agents(f"{name}e", **below))]
        calls.append(f"{name}e")
    if depth > 0 and draw(st.sampled_from([False, False, False, True])):
        options["handoffs"] = [draw(agents(f"{name}h", **below))]
        calls.append(f"transfer_to_{name}h")
    spoken = draw(some(turns(calls, tidy=tidy), max_turns))
    if draw(st.sampled_from([False, False, True])):
        options["guards"] = draw(st.lists(guards(tidy=tidy), min_size=1, max_size=2))
    options["closing"] = draw(cleanups(tidy=tidy))
    if draw(st.sampled_from([False, False, False, True])):
        options["opening"] = 0.1
    return AgentPlan(name, spoken, own, **options)


@st.composite
def programs(
    draw: st.DrawFn,
    *,
    agent: SearchStrategy[AgentPlan] | None = None,
    steer: SearchStrategy[Steer] | None = None,
    max_steers: int = 3,
    config: SearchStrategy[RunConfig] | None = None,
    native: bool = True,
    tidy: bool = False,
    requests: bool = True,
) -> Program:
    """A whole program.

    Args:
        draw: Given by Hypothesis.
        agent: Who runs; by default `agents` of all kinds.
        steer: What is done to the run, each time; by default `steers` of all kinds.
        max_steers: How often something is done to the run, at most.
        config: The run's settings; by default `configs`.
        native: Also tools that use asyncio itself; see `steps`.
        tidy: Nothing in it misbehaves, so that each teardown must be clean.
        requests: Also tools that do something to their own run.
    """
    drawn = draw(agent if agent is not None else agents(native=native, tidy=tidy, requests=requests))
    options: dict[str, Any] = {}
    if draw(st.sampled_from([False, False, True])):
        options["hooks"] = draw(hooks(tidy=tidy))
    if draw(st.sampled_from([False, False, True])):
        options["session"] = draw(sessions(tidy=tidy))
    if draw(st.sampled_from([False, False, True])):
        options["watchers"] = draw(st.lists(watchers(), min_size=1, max_size=2))
    if draw(st.sampled_from([False, False, True])):
        options["approvals"] = draw(st.sampled_from([None, "reject"]))
    options["config"] = draw(config if config is not None else configs())
    done = draw(some(steer if steer is not None else steers(), max_steers))
    return Program(drawn, done, **options)
