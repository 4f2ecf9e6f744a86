"""What a model would say if it tried everything that an agent has: a script made from the agent's tools."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from agentrun.core.errors import ToolArgumentsError, UserError
from agentrun.core.items import ToolCall
from agentrun.core.model import ModelEvent, ModelRequest
from agentrun.runtime.agent import Agent
from agentrun.testing.scripted import Call, Say, ScriptedModel, Turn
from agentrun.testing.smallest_values import NoValueError, smallest_value
from agentrun.tools.function import FunctionTool

__all__ = ["DerivedModel", "SkippedTool", "agents_of", "derived_turns", "paths_to_agents", "use_scripts"]

_ANSWER: Final = "Done."


@dataclass(frozen=True, slots=True)
class SkippedTool:
    """A tool that a sweep cannot call, and why."""

    agent: str
    tool: str
    reason: str


@dataclass(slots=True)
class DerivedModel:
    """A model that plays turns to each run it is in, whatever runs there are at the same time.

    How far a run has come it sees in the calls that the run's history has. A turn that was cut short, so that none of
    its calls got into the history, is played again.

    Attributes:
        name: Begins the ids of its calls.
        turns: Calls, in turns.
        answer: What it says when all of them were played.
        requests: What it was asked.
        open_streams: How many streams are open.
    """

    name: str
    turns: Sequence[Sequence[Call]]
    answer: str
    requests: list[ModelRequest] = field(default_factory=list[ModelRequest])
    open_streams: int = 0

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncGenerator[AsyncGenerator[ModelEvent]]:
        """Play the turn that is next in this run. See `agentrun.models.Model`."""
        self.requests.append(request)
        self.open_streams += 1
        try:
            async with ScriptedModel([self._next(request)]).stream(request) as events:
                yield events
        finally:
            self.open_streams -= 1

    def _next(self, request: ModelRequest) -> Turn:
        own = re.compile(rf"{re.escape(self.name)}-(\d+)-\d+")
        calls = [
            match for item in request.items if isinstance(item, ToolCall) and (match := own.fullmatch(item.call_id))
        ]
        played = max((int(match[1]) for match in calls), default=0)
        if played >= len(self.turns):
            return [Say(self.answer)]
        return [
            Call(call.name, call.arguments, f"{self.name}-{played + 1}-{number}")
            for number, call in enumerate(self.turns[played], 1)
        ]


def agents_of(agent: Agent[Any, Any]) -> list[Agent[Any, Any]]:
    """The agent, all that it may hand over to, and those that its tools run."""
    found: dict[int, Agent[Any, Any]] = {}
    waiting = [agent]
    while waiting:
        current = waiting.pop(0)
        if id(current) not in found:
            found[id(current)] = current
            # What can be handed over to comes first: it is reached in runs of this agent.
            waiting[:0] = [handoff.agent for handoff in current.handoff_map.values()]
            waiting += [each for tool in current.tool_map.values() for each in _agents_in(tool)]
    return list(found.values())


def paths_to_agents(agent: Agent[Any, Any]) -> list[tuple[Agent[Any, Any], ...]]:
    """The shortest way of handoffs to each agent: from the agent itself on, or from one that a tool runs."""
    paths: list[tuple[Agent[Any, Any], ...]] = []
    seen: set[int] = set()
    for start in agents_of(agent):
        waiting: list[tuple[Agent[Any, Any], ...]] = [(start,)] if id(start) not in seen else []
        for path in waiting:
            if id(path[-1]) not in seen:
                seen.add(id(path[-1]))
                paths.append(path)
                waiting += [(*path, handoff.agent) for handoff in path[-1].handoff_map.values()]
    return paths


def use_scripts(
    path: Sequence[Agent[Any, Any]],
    *,
    arguments: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> list[SkippedTool]:
    """Give the first agent of a path, and all that can be reached from it, models that try everything they have.

    Those on the path hand over at once; the last one, and those that are not on it, call each of their tools, then all
    together, then answer.

    Args:
        path: Agents, each of which hands over to the next one.
        arguments: Tool name to its arguments, instead of the smallest that fit.
        only: Names of the tools to call; by default all.

    Returns:
        What is not called, and why.

    Raises:
        UserError: The arguments of a tool can not be derived, or those that are given do not fit.
    """
    skipped: list[SkippedTool] = []
    nexts = {id(one): other for one, other in itertools.pairwise(path)}
    for number, agent in enumerate(agents_of(path[0]), 1):
        if id(agent) in nexts:
            following = nexts[id(agent)]
            transfer = next(name for name, handoff in agent.handoff_map.items() if handoff.agent is following)
            turns: list[list[Call]] = [[Call(transfer)]]
        else:
            turns, left_out = derived_turns(agent, arguments=arguments, only=only)
            skipped += left_out
        agent.model = DerivedModel(f"agent{number}", turns, _answer(agent))
    return skipped


def derived_turns(
    agent: Agent[Any, Any], *, arguments: Mapping[str, Any] | None = None, only: Sequence[str] = ()
) -> tuple[list[list[Call]], list[SkippedTool]]:
    """A turn for each tool of an agent, then one with all of them if there are several; and the tools left out."""
    calls: list[Call] = []
    skipped: list[SkippedTool] = []
    for tool in agent.tool_map.values():
        reason = _cannot(tool) if not only or tool.name in only else "not chosen"
        if reason:
            skipped.append(SkippedTool(agent.name, tool.name, reason))
        else:
            calls.append(Call(tool.name, _arguments(tool, (arguments or {}).get(tool.name))))
    turns = [[call] for call in calls]
    return (turns if len(calls) < 2 else [*turns, calls]), skipped


def _cannot(tool: FunctionTool[..., Any]) -> str:
    """Why a tool cannot be swept, if so."""
    if tool.is_enabled is False:
        return "it is not enabled"
    if tool.is_async or tool.isolation == "thread":
        return ""
    return "it runs in a process, whose steps no event loop sees"


def _arguments(tool: FunctionTool[..., Any], given: Any) -> dict[str, Any]:
    hint = f"pass them: --arguments '{tool.name}={{...}}'"
    try:
        made: Any = smallest_value(tool.parameters) if given is None else given
        tool.bind(json.dumps(made))
    except NoValueError as exc:
        raise UserError(f"the arguments of tool {tool.name!r} cannot be derived ({exc}); {hint}") from exc
    except ToolArgumentsError as exc:
        if given is not None:
            raise UserError(f"--arguments for tool {tool.name!r}: {exc}") from exc
        raise UserError(f"the arguments derived for tool {tool.name!r} do not fit; {hint}. {exc}") from exc
    return dict(made)


def _answer(agent: Agent[Any, Any]) -> str:
    if agent.output_schema is None:
        return _ANSWER
    try:
        text = json.dumps(smallest_value(agent.output_schema.schema))
        agent.parse_output(text)
    except ValueError as exc:  # pydantic's, too
        raise UserError(f"agent {agent.name!r}: no answer of its output_type can be derived: {exc}") from exc
    return text


def _agents_in(tool: FunctionTool[..., Any]) -> Iterator[Agent[Any, Any]]:
    """The agents that a tool's function refers to."""
    function: Any = getattr(tool.function, "__func__", tool.function)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            value: Any = cell.cell_contents
        except ValueError:  # it is empty
            continue
        if isinstance(value, Agent):
            yield value
    names: Any = getattr(getattr(function, "__code__", None), "co_names", ())
    for name in names:
        value = getattr(function, "__globals__", {}).get(name)
        if isinstance(value, Agent):
            yield value
