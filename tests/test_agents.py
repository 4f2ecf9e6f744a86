"""What an agent makes of what it was given: names, handoffs, outputs, and agents as tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator, ValuesView
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio.lowlevel
import pytest
from pydantic import ValidationError

from agentrun import (
    Agent,
    AssistantMessage,
    Handoff,
    InputGuardrail,
    ModelBehaviorError,
    OutputGuardrail,
    RunContext,
    ToolOutput,
    UserError,
    input_guardrail,
    output_guardrail,
    run,
    tool,
)
from agentrun.testing import Call, Say, ScriptedModel

# Names of handoffs and of agents as tools ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Billing Desk", "billing_desk"),
        ("  Billing -- desk!  ", "billing_desk"),
        ("(billing)", "billing"),
        ("_billing_", "billing"),
        ("Größe", "gr_e"),
        ("x2", "x2"),
    ],
)
def test_the_tool_that_reaches_an_agent_has_a_name_that_every_provider_takes(name: str, slug: str) -> None:
    assert Handoff(Agent(name)).tool_name == f"transfer_to_{slug}"
    assert Agent(name).as_tool().name == slug


def test_a_name_that_makes_no_tool_name_still_makes_a_handoff() -> None:
    assert Handoff(Agent("日本")).tool_name == "transfer_to_agent"
    assert Handoff(Agent("日本"), "to_japan").tool_name == "to_japan"


def test_long_names_are_cut_where_providers_end_them() -> None:
    agent = Agent("n" * 100)
    assert Handoff(agent).tool_name == "transfer_to_" + "n" * 52
    assert agent.as_tool().name == "n" * 64


def test_a_handoff_to_something_else_says_what_that_is() -> None:
    with pytest.raises(UserError, match=r"^a handoff needs an Agent, not str$"):
        Handoff("billing")  # type: ignore[arg-type]


# Finding an agent ---------------------------------------------------------------------------------------------------


class Counted(dict[str, Handoff]):
    """Handoffs that know how often they were followed."""

    followed = 0

    def values(self) -> ValuesView[Handoff]:  # type: ignore[override]
        self.followed += 1
        return super().values()


def test_an_agent_is_found_among_all_that_can_be_reached_and_each_is_looked_at_once() -> None:
    bottom = Agent("bottom")
    left, right = Agent("left", handoffs=[bottom]), Agent("right", handoffs=[bottom])
    far = Agent("far")
    top = Agent("top", handoffs=[far, Handoff(left, "again"), left, right])
    agents = [top, far, left, right, bottom]
    for agent in agents:
        assert top.find(agent.name) is agent
    for agent in agents:
        agent.handoff_map = Counted(agent.handoff_map)
    assert top.find("nobody") is None
    assert [agent.handoff_map.followed for agent in agents] == [1] * 5  # type: ignore[attr-defined]
    assert bottom.find("top") is None


# Outputs ------------------------------------------------------------------------------------------------------------


def test_an_output_is_parsed_as_what_the_agent_says_it_is() -> None:
    typed: Agent[Any, Any] = Agent("a", output_type=dict[str, int])
    assert typed.parse_output('{"total": 7}') == {"total": 7}
    with pytest.raises(ValidationError):
        typed.parse_output('{"total": "much"}')
    assert Agent("a").parse_output('{"total": 7}') == '{"total": 7}'


class Answering:
    """A model that gives one finished message."""

    def __init__(self, message: AssistantMessage) -> None:
        self.message = message

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncGenerator[AsyncGenerator[Any]]:
        async def play() -> AsyncGenerator[Any]:
            await anyio.lowlevel.checkpoint()
            yield self.message

        async with aclosing(play()) as events:
            yield events


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (AssistantMessage("", refusal="I may not"), r"^the model refused to give the output of agent 'a': I may not$"),
        (AssistantMessage("no JSON"), r"^the model's answer does not match the output_type of agent 'a': 1 validation"),
    ],
)
async def test_an_answer_that_is_no_output_fails_the_run_and_says_why(answer: AssistantMessage, told: str) -> None:
    agent: Agent[Any, Any] = Agent("a", model=Answering(answer), output_type=dict[str, int])
    with pytest.raises(ModelBehaviorError, match=told) as caught:
        await run(agent, "go")
    assert caught.value.result is not None
    assert caught.value.result.output is None


async def test_an_agent_as_a_tool_that_was_stopped_says_why() -> None:
    async def stop(ctx: RunContext[Any]) -> None:
        ctx.run.interrupt("that is enough")

    inner = Agent("inner", tools=[stop], model=ScriptedModel([Call("stop")]))
    model = ScriptedModel([Call("inner", {"input": "x"}, call_id="c"), Say("done")])
    result = await run(Agent("outer", tools=[inner.as_tool()], model=model), "go")
    assert result.output == "done"
    [output] = [item for item in result.items if isinstance(item, ToolOutput)]
    assert (output.status, output.output) == ("completed", "Stopped before it was done: that is enough")


# Guardrails ---------------------------------------------------------------------------------------------------------


class Checker:
    def __call__(self, value: Any) -> None: ...


def test_a_guardrail_keeps_its_function_and_its_options() -> None:
    def check(value: Any) -> None: ...

    assert input_guardrail(check) == InputGuardrail(check, "check")
    assert output_guardrail(check) == OutputGuardrail(check, "check")
    assert input_guardrail(name="i", blocking=True, timeout=3)(check) == InputGuardrail(check, "i", True, 3)
    assert output_guardrail(name="o", timeout=3)(check) == OutputGuardrail(check, "o", 3)


def test_a_guardrail_that_has_no_name_is_named_for_its_type() -> None:
    checker = Checker()
    assert input_guardrail(checker) == InputGuardrail(checker, "Checker")
    assert output_guardrail(checker) == OutputGuardrail(checker, "Checker")


def test_plain_functions_become_the_guardrails_of_an_agent() -> None:
    def check(value: Any) -> None: ...

    ready = output_guardrail(name="ready")(check)
    agent = Agent("a", input_guardrails=[check], output_guardrails=[check, ready])
    assert agent.input_guardrails == (InputGuardrail(check, "check"),)
    assert agent.output_guardrails == (OutputGuardrail(check, "check"), ready)


async def test_a_guardrail_whose_parameters_cannot_be_counted_is_given_the_context_and_the_value() -> None:
    seen: list[int] = []

    @input_guardrail
    async def takes_anything(*args: Any) -> None:
        assert isinstance(args[0], RunContext)
        seen.append(len(args))

    class Opaque:
        __signature__ = "none that can be read"

        async def __call__(self, ctx: Any, value: Any) -> None:
            assert isinstance(ctx, RunContext)
            seen.append(2)

    agent = Agent("a", model=ScriptedModel([Say("hi")]), input_guardrails=[takes_anything, input_guardrail(Opaque())])
    await run(agent, "go")
    assert seen == [2, 2]


# What the model is offered ------------------------------------------------------------------------------------------


def test_a_handoff_is_offered_as_a_tool_that_takes_no_arguments() -> None:
    [spec] = Agent("a", handoffs=[Agent("other")]).handoff_specs
    assert (spec.name, spec.parameters) == (
        "transfer_to_other",
        {"type": "object", "properties": {}, "additionalProperties": False},
    )


async def test_a_tool_that_is_never_enabled_is_not_offered_even_if_there_is_no_other() -> None:
    @tool(is_enabled=False)
    async def never() -> None: ...

    model = ScriptedModel([Say("hi")])
    await run(Agent("a", tools=[never], model=model), "go")
    assert list(model.requests[0].tools) == []
