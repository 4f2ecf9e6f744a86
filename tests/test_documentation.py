"""What the README and the docs show, runs."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import agentrun
from agentrun.events import ToolStarted
from agentrun.testing import Call, Say, ScriptedModel
from agentrun.tools import FunctionTool

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_python_block_is_valid_and_imports_what_exists(page: Path) -> None:
    for block in blocks(str(page.relative_to(ROOT)), "python"):
        tree = ast.parse(block)
        imports: list[ast.stmt] = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_first_two_sh_blocks_of_the_readme_are_the_demonstration_and_the_tests() -> None:
    first, second, *_ = blocks("README.md", "sh")
    assert first.strip().endswith("nox -s demo")
    assert second.strip().endswith("nox -s tests")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "command_of_readme 1" in ci
    assert "command_of_readme 2" in ci


def test_the_runs_of_the_readme_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from agentrun.models import providers

    model = ScriptedModel([Call("get_weather", {"city": "Oslo"}), Say("Take an umbrella.", chunks=3)])
    monkeypatch.setattr(providers, "model_from_string", lambda name: model)
    run_block, steering, checked, scripted = blocks("README.md", "python")
    names: dict[str, Any] = {"__name__": "readme"}
    exec(run_block, names)
    shown = capsys.readouterr().out
    assert shown.startswith("Take an umbrella.completed")
    assert "requests=2" in shown
    exec(scripted, names)

    async def steer() -> agentrun.RunResult[Any]:
        model = ScriptedModel([Call("get_weather", {"city": "Oslo"}, call_id="c1"), Say("Walk.")])
        agent = agentrun.Agent("a", tools=[names["get_weather"]], model=model)
        async with agentrun.open_run(agent, "Plan a day.") as live:
            async for event in live.events():
                if isinstance(event, ToolStarted):
                    exec(steering, {"live": live, "call_id": event.call_id})
            return await live.wait()

    result = anyio.run(steer)
    exec(checked, names)
    names["test_the_weather_can_be_stopped_anywhere"]()
    assert result.status == "interrupted"
    assert result.interrupt is not None
    assert result.interrupt.reason == "user pressed stop"


def test_the_tools_of_the_docs_are_tools() -> None:
    names: dict[str, Any] = {"Deps": object, "expensive": lambda row: row}
    module = type(sys)("docs_tools")
    sys.modules["docs_tools"] = module
    module.__dict__.update(names)
    try:
        for block in blocks("docs/tools.md", "python"):
            exec(block, module.__dict__)
    finally:
        del sys.modules["docs_tools"]
    tools = {name: value for name, value in vars(module).items() if isinstance(value, FunctionTool)}
    assert set(tools) == {"find_trains", "query", "crunch"}
    assert tools["find_trains"].parameters["properties"]["seats"]["maximum"] == 8
    assert tools["find_trains"].parameters["properties"]["to"]["description"] == "Where it ends."


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_test_of_the_testing_page_passes(backend: str) -> None:
    names: dict[str, Any] = {"__name__": "testing_page"}
    exec(blocks("docs/testing.md", "python")[0], names)
    anyio.run(names["test_an_interrupt_reaches_the_tool"], backend=backend)


def test_the_drawn_programs_of_the_testing_page_keep_the_laws() -> None:
    names: dict[str, Any] = {"__name__": "testing_page"}
    exec(blocks("docs/testing.md", "python")[2], names)
    names["test_every_program_keeps_the_laws_on_both_backends"]()


def test_the_sweep_of_the_testing_page_passes() -> None:
    names: dict[str, Any] = {"__name__": "testing_page"}
    exec(blocks("docs/testing.md", "python")[1], names)
    names["test_the_session_is_closed_wherever_it_is_cancelled"]()
