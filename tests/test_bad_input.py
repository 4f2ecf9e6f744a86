"""Bad input is refused at once, by name, and with what to do instead."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agentrun import (
    Agent,
    AssistantMessage,
    Handoff,
    RunConfig,
    RunSnapshot,
    ToolCall,
    ToolOutput,
    UserError,
    UserMessage,
    input_guardrail,
    open_run,
    output_guardrail,
    run,
    run_sync,
    tool,
)
from agentrun.core.model import ModelSettings
from agentrun.items import items_from_json
from agentrun.testing import Call, Hang, Say, ScriptedModel


def agent(**changes: Any) -> Agent[Any, Any]:
    return Agent("a", **{"model": ScriptedModel([Say("hi")]), **changes})


def no_tool(city: str) -> str:
    """Not used."""
    return city


# Agents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"name": ""}, "Agent.name"),
        ({"name": "  "}, "Agent.name"),
        ({"name": 5}, "Agent.name"),
        ({"instructions": 5}, "agent 'a': instructions must be text or a function, not int"),
        ({"tools": no_tool}, "tools must be a list"),
        ({"tools": "get_weather"}, "tools must be a list"),
        ({"tools": 5}, "tools must be a list"),
        ({"tools": ["get_weather"]}, "tool"),
        ({"tools": [5]}, "tool"),
        ({"tools": [no_tool, tool(lambda: 1, name="no_tool")]}, "two tools are named 'no_tool'"),
        ({"model": 5}, "agent .a.: model must be a string .*, not int"),
        ({"model_settings": {"temperature": 1}}, "model_settings must be a ModelSettings, not dict"),
        ({"output_type": socket.socket}, "output_type"),
        ({"input_guardrails": 5}, "agent 'a': input_guardrails must be a list, not int"),
        ({"input_guardrails": no_tool}, "input_guardrails must be a list"),
        ({"input_guardrails": [5]}, "a guardrail must be a function, not int"),
        ({"input_guardrails": [lambda: None]}, "guardrail '<lambda>' must take .*, but takes 0 positional parameters"),
        ({"input_guardrails": [output_guardrail(no_tool)]}, "output guardrail; pass it as output_guardrails"),
        ({"output_guardrails": [input_guardrail(no_tool)]}, "input guardrail; pass it as input_guardrails"),
        ({"output_guardrails": "x"}, "output_guardrails must be a list"),
        ({"handoffs": 5}, "handoffs must be a list"),
        ({"handoffs": ["other"]}, "a handoff needs an Agent"),
        ({"handoffs": [Agent("x"), Agent("x")]}, "two handoffs have the same tool name"),
        ({"handoffs": [Handoff(Agent("x"), "no_tool")], "tools": [no_tool]}, "both a tool and a handoff"),
        ({"description": 5}, "description must be text, not int"),
        ({"hooks": 5}, "hooks must be RunHooks, not int"),
    ],
)
def test_an_agent_says_what_is_wrong_with_it(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names):
        Agent(**{"name": "a", **arguments})


def test_a_tool_with_a_parameter_that_has_no_schema_is_refused_by_name() -> None:
    def connect(city: str, sock: socket.socket) -> None: ...

    with pytest.raises(UserError, match=r"tool 'connect', parameter 'sock'.*ctx\.deps"):
        Agent("a", tools=[connect])


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "soon", True])
def test_a_tool_takes_no_impossible_timeout(value: Any) -> None:
    with pytest.raises(UserError, match=r"tool 'no_tool': timeout must be"):
        tool(no_tool, timeout=value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "soon", True])
def test_a_guardrail_takes_no_impossible_timeout(value: Any) -> None:
    with pytest.raises(UserError, match="guardrail 'no_tool': timeout must be"):
        input_guardrail(timeout=value)(no_tool)


# Configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_turns", "max_tokens", "max_tool_calls", "max_parallel_tools"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_a_count_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig(**{name: value})
    bound = "a whole number of at least 1, or None for no bound"
    assert str(caught.value) == f"RunConfig.{name} must be {bound}; got {value!r}"


async def test_a_model_that_an_agent_was_given_later_is_looked_at_when_the_run_is_opened() -> None:
    changed = agent()
    changed.model = 5  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"agent 'a': model must be a string or have a stream\(\) method, not int"):
        open_run(changed, "hi")


def test_a_configuration_takes_a_model_object() -> None:
    model = ScriptedModel([])
    assert RunConfig(model=model).model is model


@pytest.mark.parametrize("name", ["max_seconds", "tool_timeout", "guardrail_timeout"])
@pytest.mark.parametrize("value", [0, -0.5, float("nan"), "soon", True])
def test_seconds_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"RunConfig\.{name} must be more than 0"):
        RunConfig(**{name: value})


@pytest.mark.parametrize("value", [-1, float("nan"), "long", None])
def test_a_grace_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"RunConfig\.cleanup_grace"):
        RunConfig(cleanup_grace=value)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"model": 5}, r"RunConfig\.model must be"),
        ({"model_settings": {}}, r"RunConfig\.model_settings"),
        ({"on_approval": "ask"}, r"RunConfig\.on_approval must be 'wait', 'end' or None"),
        ({"input_filter": 5}, r"RunConfig\.input_filter"),
        ({"max_pending_injections": 0}, r"RunConfig\.max_pending_injections"),
        ({"max_pending_injections": None}, r"RunConfig\.max_pending_injections"),
        ({"guardrail_timeout": None}, r"RunConfig\.guardrail_timeout"),
    ],
)
def test_a_configuration_says_what_is_wrong_with_it(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names):
        RunConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"max_tokens": 0}, "max_tokens")],
)
def test_model_settings_say_what_is_wrong_with_them(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=rf"ModelSettings\.{names}"):
        ModelSettings(**arguments)


# Opening a run ---------------------------------------------------------------------------------------------------


UNPAIRED: list[Any] = [UserMessage("hi"), ToolCall("c1", "no_tool", "{}")]
SNAPSHOT = RunSnapshot("r", "completed", "a", (UserMessage("hi"), AssistantMessage("ho")))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"agent": "a"}, "agent must be an Agent, not str"),
        ({"agent": None}, "agent must be an Agent"),
        ({"input": None}, r"^input is missing: pass text, or items, or resume_from=\.\.\.$"),
        ({"input": ""}, "input is empty"),
        ({"input": " \n"}, "input is empty"),
        ({"input": []}, "input is empty"),
        ({"input": 5}, "input must be a string or a list"),
        ({"input": b"hi"}, "input must be a string or a list"),
        ({"input": [5]}, r"input\[0\] is int"),
        ({"input": [UserMessage("hi"), "ho"]}, r"input\[1\] is str"),
        ({"input": [{}]}, r"input\[0\]"),
        ({"input": [{"role": "alien", "content": "x"}]}, r"input\[0\]: unknown role 'alien'"),
        ({"input": [{"role": "user"}]}, r"input\[0\]: a user message needs content"),
        ({"input": [{"content": "x"}]}, r"input\[0\]: a message needs a role"),
        ({"input": UNPAIRED}, r"input\[1\] is a tool call \('c1'\) that has no output"),
        ({"input": [ToolOutput("c1", "x")]}, r"input\[0\] is an output without a call"),
        ({"input": [*UNPAIRED, UserMessage("?"), ToolOutput("c1", "x")]}, "c1"),
        ({"input": [*UNPAIRED, ToolOutput("c1", "x"), ToolOutput("c1", "x")]}, "second output"),
        ({"config": {"max_turns": 3}}, "config must be a RunConfig, not dict"),
        ({"session": "thread-1"}, r"session must have async methods load\(\) and append\(items\); str has not"),
        ({"resume_from": "snapshot"}, "resume_from must be a RunSnapshot or a RunResult, not str"),
        ({"hooks": 5}, "hooks must be a RunHooks or a list of them, not int"),
        ({"hooks": ["x"]}, "hooks must be RunHooks, not str"),
        ({"agent": Agent("a")}, "agent 'a' has no model"),
        ({"agent": Agent("a")}, "such as 'openai:gpt-5.1-mini', 'local', or a model object"),
        ({"agent": Agent("a", model="openai")}, "openai"),
        ({"agent": Agent("a", model="")}, "model"),
        ({"agent": Agent("a", model="nobody:gpt-1")}, "nobody"),
        ({"agent": Agent("a", model=ScriptedModel([]), handoffs=[Agent("b")])}, "agent 'b' has no model"),
        (
            {"agent": Agent("b", model=ScriptedModel([])), "resume_from": SNAPSHOT},
            "resume_from was taken when agent 'a'",
        ),
    ],
)
async def test_opening_a_run_says_at_once_what_is_wrong(arguments: dict[str, Any], names: str) -> None:
    values: dict[str, Any] = {"agent": agent(), "input": "hi", **arguments}
    with pytest.raises(UserError, match=names):
        open_run(values.pop("agent"), values.pop("input"), **values)  # not even entered
    values = {"agent": agent(), "input": "hi", **arguments}
    with pytest.raises(UserError, match=names):
        await run(values.pop("agent"), values.pop("input"), **values)


@pytest.mark.parametrize(
    ("model", "variable"), [("openai:gpt-5.1-mini", "OPENAI_API_KEY"), ("openai-chat:gpt-5.1-mini", "OPENAI_API_KEY")]
)
async def test_a_missing_key_is_named_before_anything_is_sent(
    model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=variable):
        open_run(Agent("a", model=model), "hi")


def test_open_run_outside_an_event_loop_says_where_to_go() -> None:
    says = r"^open_run\(\) needs a running event loop; in a script, call agentrun\.run_sync\(\.\.\.\)$"
    with pytest.raises(UserError, match=says):
        open_run(agent(), "hi")


async def test_run_sync_inside_an_event_loop_says_where_to_go() -> None:
    says = r"^run_sync\(\) was called inside a running event loop; use `await agentrun\.run\(\.\.\.\)` there$"
    with pytest.raises(UserError, match=says):
        run_sync(agent(), "hi")


STARTED_AGAIN = (
    "a run was started while a tool's process imports the main script; start runs under "
    "`if __name__ == '__main__':`, so that the process of a tool does not start them again"
)


async def test_a_run_is_refused_while_the_process_of_a_tool_imports_the_main_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from agentrun.tools import worker

    open_run(agent(), "hi")
    monkeypatch.setattr(worker, "_importing_main", True)
    with pytest.raises(UserError) as caught:
        open_run(agent(), "hi")
    assert str(caught.value) == STARTED_AGAIN


def test_a_run_that_the_main_script_starts_again_in_the_process_of_a_tool_is_refused(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            from agentrun import Agent, run_sync, tool
            from agentrun.testing import Call, Say, ScriptedModel

            @tool(isolation="process")
            def double(n: int) -> int:
                return 2 * n

            model = ScriptedModel([Call("double", {{"n": 21}}), Say("done")])
            result = run_sync(Agent("a", tools=[double], model=model), "go", backend={anyio_backend_name!r})
            print(result.items[1].output)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"Error: UserError: {STARTED_AGAIN}", done.stderr


def test_run_sync_on_an_unknown_event_loop_is_refused() -> None:
    with pytest.raises(UserError, match="backend must be 'asyncio' or 'trio', not 'curio'"):
        run_sync(agent(), "hi", backend="curio")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_sync_checks_its_arguments_as_run_does(backend: Any) -> None:
    with pytest.raises(UserError, match="input is empty"):
        run_sync(agent(), "", backend=backend)
    assert run_sync(agent(), "hi", backend=backend).output == "hi"


def test_run_sync_runs_on_asyncio_unless_it_is_told_otherwise() -> None:
    async def where() -> str:
        assert asyncio.current_task() is not None
        return "here"

    model = ScriptedModel([Call("where"), Say("hi")])
    result = run_sync(Agent("a", tools=[tool(where, on_error="raise")], model=model), "hi")
    assert result.output == "hi"


def test_run_sync_on_trio_without_trio_says_what_to_install_and_asyncio_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(UserError, match="^backend='trio' needs trio: pip install trio$"):
        run_sync(agent(), "hi", backend="trio")
    assert run_sync(agent(), "hi", backend="asyncio").output == "hi"


async def test_a_run_can_be_entered_only_once() -> None:
    opening = open_run(agent(), "hi")
    async with opening as live:
        await live.wait()
    says = r"^an open_run\(\.\.\.\) can be entered only once; call open_run again for another run$"
    with pytest.raises(UserError, match=says):
        async with opening:
            pass


# Steering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "names"),
    [
        ("interrupt", (5,), {}, r"interrupt\(reason=\.\.\.\) must be text or None, not int"),
        ("interrupt", (), {"mode": "softly"}, "mode"),
        ("interrupt", (), {"mode": "after_turn", "escalate_after": -1}, "escalate_after"),
        ("interrupt", (), {"mode": "after_turn", "escalate_after": "soon"}, "escalate_after"),
        ("interrupt", (), {"mode": "after_turn", "escalate_after": float("nan")}, "escalate_after"),
        ("inject", ("x",), {"deliver": "later"}, "deliver"),
        ("inject", ("",), {}, "inject: input is empty"),
        ("inject", (5,), {}, "inject: input must be"),
        ("interrupt_tool", ("nobody",), {}, "no tool call with the id 'nobody'"),
        ("approve", ("nobody",), {}, "no tool call with the id 'nobody'"),
        ("reject", ("nobody",), {}, "no tool call with the id 'nobody'"),
        ("events", (0,), {}, "buffer"),
        ("events", (), {"overflow": "lose"}, "overflow"),
    ],
)
async def test_a_request_that_cannot_be_is_refused_and_changes_nothing(
    method: str, args: Any, kwargs: Any, names: str
) -> None:
    async with open_run(agent(model=ScriptedModel([Hang()])), "hi") as live:
        with pytest.raises(UserError, match=names):
            getattr(live, method)(*args, **kwargs)
        assert live.status == "running"
        live.interrupt()
        result = await live.wait()
    assert result.undelivered == ()


# Stored data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('"x"', "must be a JSON object"),
        ("{}", "version"),
        ('{"version": 99}', "version 99 is not supported"),
        ('{"version": 1}', "snapshot"),
        ('{"version": 1, "run_id": "r", "status": "completed", "agent": "a", "history": 5}', "history"),
        ('{"version": 1, "run_id": "r", "status": "completed", "agent": "a", "history": [5]}', r"history\[0\]"),
        (
            (
                '{"version": 1, "run_id": "r", "status": "completed", "agent": "a", "history": [], '
                '"pending_approvals": ["x"]}'
            ),
            "x",
        ),
    ],
)
def test_a_snapshot_that_is_none_is_refused(text: str, names: str) -> None:
    with pytest.raises(UserError, match=names):
        RunSnapshot.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "{}", "5", "[5]", '[{"type": "alien"}]'])
def test_items_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        items_from_json(text)


async def test_a_snapshot_whose_history_was_broken_by_hand_is_refused_when_resumed() -> None:
    snapshot = RunSnapshot("r", "interrupted", "a", tuple(UNPAIRED))
    with pytest.raises(UserError, match="'c1'"):
        open_run(agent(), "go on", resume_from=snapshot)
    snapshot.pending_approvals = (ToolCall("c1", "no_tool", "{}"),)
    with pytest.raises(UserError, match=r"^resume_from\.history\[1\] is a tool call \('c1'\)"):
        open_run(agent(), resume_from=snapshot)
    waiting = (ToolCall("c1", "no_tool", "{}"),)
    snapshot = RunSnapshot("r", "interrupted", "a", (UserMessage("hi"),), pending_approvals=waiting)
    with pytest.raises(UserError, match="^resume_from: the tool calls that wait for approval are not those of the"):
        open_run(agent(), resume_from=snapshot)
