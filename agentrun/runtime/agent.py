"""What an agent is: instructions, a model, tools, guardrails, and agents to hand over to."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, cast

from typing_extensions import TypeVar

from agentrun.core.errors import UserError
from agentrun.core.model import Model, ModelSettings, OutputSchema, ToolSpec, is_model
from agentrun.runtime.guardrails import InputGuardrail, OutputGuardrail, as_input_guardrail, as_output_guardrail
from agentrun.runtime.hooks import RunHooks
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool, as_tool, check_tool_names

__all__ = ["Agent", "Handoff", "Instructions"]

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

DepsT = TypeVar("DepsT", default=Any)
OutputT = TypeVar("OutputT", default=str)

Instructions: TypeAlias = str | Callable[[RunContext[Any]], str | Awaitable[str]] | None
"""A system prompt, or a function of the run's context that gives one; it may be async."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """An agent that another may hand the conversation over to, by calling a tool.

    Attributes:
        agent: Who takes over.
        tool_name: Name of the tool; by default ``transfer_to_`` and the agent's name.
        description: For the model: when to hand over.
    """

    agent: Agent[Any, Any]
    tool_name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.agent, Agent):
            raise UserError(f"a handoff needs an Agent, not {type(self.agent).__name__}")
        if not self.tool_name:
            slug = re.sub(r"\W+", "_", self.agent.name.strip().lower(), flags=re.ASCII).strip("_") or "agent"
            object.__setattr__(self, "tool_name", f"transfer_to_{slug}"[:64])
        if not self.description:
            text = f"Hand the conversation over to {self.agent.name}."
            if self.agent.description:
                text += f" {self.agent.description}"
            object.__setattr__(self, "description", text)


@dataclass(slots=True, eq=False)
class Agent(Generic[DepsT, OutputT]):
    """What a run runs. An agent holds no state: one object may serve any number of runs at once.

    Attributes:
        name: Its name.
        instructions: The system prompt: text, or a function of the `RunContext` (may be async).
        tools: Functions, `FunctionTool`s, or callable objects.
        model: A model object or a string such as ``"openai:gpt-5.1-mini"``; ``RunConfig.model`` wins over it.
        model_settings: Knobs of its model calls.
        output_type: Type of the final output, validated by pydantic; ``str`` means free text.
        input_guardrails: Check user input, racing the model call or before it.
        output_guardrails: Check the final output.
        handoffs: Agents (or `Handoff`s) it may hand over to.
        description: For other agents: what it is good for.
        hooks: Told of what its runs do.
        reset_tool_choice: Whether a ``tool_choice`` that forces a call stands only until a tool was called in the run:
            a model that must call a tool each time never answers.

    Raises:
        UserError: A name is empty or used twice, a tool has no schema, the output type has none.
    """

    name: str
    instructions: Instructions = None
    tools: Sequence[Callable[..., Any] | FunctionTool] = ()
    model: Model | str | None = None
    model_settings: ModelSettings | None = field(default=None, kw_only=True)
    output_type: type[OutputT] | Any = field(default=str, kw_only=True)
    input_guardrails: Sequence[InputGuardrail | Callable[..., Any]] = field(default=(), kw_only=True)
    output_guardrails: Sequence[OutputGuardrail | Callable[..., Any]] = field(default=(), kw_only=True)
    handoffs: Sequence[Agent[Any, Any] | Handoff] = field(default=(), kw_only=True)
    description: str = field(default="", kw_only=True)
    hooks: RunHooks | None = field(default=None, kw_only=True)
    reset_tool_choice: bool = field(default=True, kw_only=True)
    tool_map: Mapping[str, FunctionTool] = field(init=False, repr=False)
    handoff_map: Mapping[str, Handoff] = field(init=False, repr=False)
    handoff_specs: tuple[ToolSpec, ...] = field(init=False, repr=False)
    _tool_specs: tuple[ToolSpec, ...] | None = field(init=False, repr=False)
    tools_always_enabled: bool = field(init=False, repr=False)
    output_schema: OutputSchema | None = field(init=False, repr=False)
    _output_adapter: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UserError(f"Agent.name must be a non-empty string, not {self.name!r}")
        where = f"agent {self.name!r}"
        if self.instructions is not None and not isinstance(self.instructions, str) and not callable(self.instructions):
            raise UserError(f"{where}: instructions must be text or a function, not {type(self.instructions).__name__}")
        if not isinstance(self.description, str):
            raise UserError(f"{where}: description must be text, not {type(self.description).__name__}")
        for attribute in ("tools", "input_guardrails", "output_guardrails", "handoffs"):
            value: object = getattr(self, attribute)
            if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
                raise UserError(f"{where}: {attribute} must be a list, not {type(value).__name__}")
        if self.model is not None and not isinstance(self.model, str) and not is_model(self.model):
            raise UserError(
                f"{where}: model must be a string such as 'openai:gpt-5.1-mini', or a model object (with a stream() "
                f"method), not {type(self.model).__name__}"
            )
        if self.hooks is not None and not isinstance(cast("object", self.hooks), RunHooks):
            raise UserError(f"{where}: hooks must be RunHooks, not {type(self.hooks).__name__}")
        if self.model_settings is not None and not isinstance(self.model_settings, ModelSettings):
            raise UserError(
                f"{where}: model_settings must be a ModelSettings, not {type(self.model_settings).__name__}"
            )
        tools = [as_tool(tool) for tool in self.tools]
        check_tool_names(tools)
        self.tools = tuple(tools)
        self.tool_map = {tool.name: tool for tool in tools}
        handoffs = tuple(h if isinstance(h, Handoff) else Handoff(h) for h in self.handoffs)
        self.handoffs = handoffs
        self.handoff_map = {handoff.tool_name: handoff for handoff in handoffs}
        if len(self.handoff_map) != len(handoffs):
            raise UserError(f"{where}: two handoffs have the same tool name; give one a Handoff(..., tool_name=...)")
        if both := self.handoff_map.keys() & self.tool_map.keys():
            raise UserError(f"{where}: {min(both)!r} is both a tool and a handoff; rename one of them")
        self.handoff_specs = tuple(ToolSpec(h.tool_name, h.description, _NO_PARAMETERS) for h in handoffs)
        self._tool_specs = None
        self.tools_always_enabled = all(tool.is_enabled is True for tool in tools)
        self.input_guardrails = tuple(as_input_guardrail(g) for g in self.input_guardrails)
        self.output_guardrails = tuple(as_output_guardrail(g) for g in self.output_guardrails)
        self._output_adapter = None
        self.output_schema = None
        if self.output_type is not str and self.output_type is not None:
            from pydantic import TypeAdapter
            from pydantic.errors import PydanticUserError

            try:
                self._output_adapter = TypeAdapter(self.output_type)
                schema = self._output_adapter.json_schema()
            except PydanticUserError as exc:
                raise UserError(f"{where}: output_type {self.output_type!r} has no JSON schema: {exc.message}") from exc
            name = re.sub(r"\W+", "_", getattr(self.output_type, "__name__", "output"), flags=re.ASCII)[:64] or "output"
            self.output_schema = OutputSchema(name, schema, strict=False)

    @property
    def tool_specs(self) -> tuple[ToolSpec, ...]:
        """All tools and handoffs as the model sees them. Made when first asked for, since reading docstrings costs."""
        if self._tool_specs is None:
            self._tool_specs = (*(tool.spec for tool in self.tool_map.values()), *self.handoff_specs)
        return self._tool_specs

    def parse_output(self, text: str) -> OutputT:
        """The final answer as the output type.

        Raises:
            pydantic.ValidationError: It does not match.
        """
        if self._output_adapter is None:
            return text  # type: ignore[return-value]
        return cast("OutputT", self._output_adapter.validate_json(text))

    def clone(self, **changes: Any) -> Agent[DepsT, OutputT]:
        """A copy with other values for some attributes: ``agent.clone(model="local")``."""
        return replace(self, **changes)

    def as_tool(self, *, name: str | None = None, description: str | None = None, **options: Any) -> FunctionTool:
        """This agent as a tool of another: a nested run whose final output is the tool's output.

        The nested run is part of the tool call: it is cancelled with it, its events reach the outer run's watchers
        with the call's id in their path, and its usage counts.

        It takes over the settings of the outer run's `RunConfig`: the model and its settings (but not ``tool_choice``),
        ``input_filter``, ``cleanup_grace``, the timeouts, ``max_parallel_tools``; of ``max_tokens`` and
        ``max_tool_calls`` it has what the outer run has left, 1 at least. It has the default ``max_turns``, of its own.
        A tool call in it that needs approval ends it, since nobody holds a handle to approve with. For other settings,
        write a tool that calls ``run(agent, input, deps=ctx.deps, config=...)``.

        Args:
            name: Name of the tool; by default the agent's name, made a valid one.
            description: For the model; by default the agent's description.
            **options: Further options of ``tool(...)``, such as ``timeout``.
        """
        from agentrun.runtime.nested import agent_tool  # the nested run needs open_run, which needs this module

        return agent_tool(self, name=name, description=description, **options)

    def find(self, name: str) -> Agent[Any, Any] | None:
        """The agent of this name among this one and all that can be reached by handoffs."""
        seen: set[int] = set()
        waiting: list[Agent[Any, Any]] = [self]
        while waiting:
            agent = waiting.pop()
            if id(agent) in seen:
                continue
            seen.add(id(agent))
            if agent.name == name:
                return agent
            waiting.extend(handoff.agent for handoff in agent.handoff_map.values())
        return None
