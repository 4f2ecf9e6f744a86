"""`agentrun fuzz`: a user's agent, stopped at every point."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from . import fuzzed_agents
from .sessions import HERE, TIMEOUT, TerminalSession, environment, run_program


def bug_line(mark: str = "# BUG") -> str:
    lines = (HERE / "fuzzed_agents.py").read_text().splitlines()
    return f"fuzzed_agents.py:{next(number for number, line in enumerate(lines, 1) if mark in line)} "


def fuzz(*arguments: str, backend: str = "asyncio") -> subprocess.CompletedProcess[str]:
    return run_program("fuzz", *arguments, backend=backend)


def test_a_good_agent_passes_and_nothing_of_its_prints_is_seen(backend: str) -> None:
    done = fuzz("fuzzed_agents:good", "--points", "4", backend=backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"agent good: \d+ runs at \d+ points in \d+\.\d s: nothing broke\n", done.stdout)


def test_a_broken_tool_is_told_with_law_and_line_and_the_command_that_replays_it(backend: str) -> None:
    done = fuzz("fuzzed_agents:broken", "--input", "Try it.", "--points", "8", backend=backend)
    assert done.returncode == 1
    assert "law 8 (no piece of user code can take another down by accident): tool stubborn was cancelled" in done.stdout
    assert bug_line() in done.stdout
    assert "SKIPPED: tool apart of agent broken: it runs in a process" in done.stderr
    command = re.findall(r"to see it again: (.*)", done.stdout)[0]
    words = shlex.split(command)
    assert words[:5] == ["agentrun", "fuzz", "fuzzed_agents:broken", "--input", "Try it."]
    again = fuzz(*words[2:], backend=backend)
    assert again.returncode == 1
    (points,) = re.findall(r" runs at (\d+) points", done.stdout)
    assert f": 1 runs at {points} points" in again.stdout
    assert "the run in full:" in again.stdout
    assert bug_line() in again.stdout


def test_a_sync_tool_that_does_not_look_is_told_to(backend: str) -> None:
    done = fuzz("fuzzed_agents:deafened", "--actions", "interrupt", "--points", "20", backend=backend)
    assert (done.returncode, done.stderr) == (1, "")
    assert "law 1 (nothing outlives its run): tool deaf did not end within its grace" in done.stdout
    assert "in deaf: `time.sleep(20)`" in done.stdout
    assert "Call `ctx.check_cancelled()` at every turn" in done.stdout
    assert "tool in_thread" not in done.stdout


def test_agents_to_hand_over_to_get_scripts_of_their_own(backend: str) -> None:
    done = fuzz("fuzzed_agents:desk", "--actions", "interrupt", backend=backend)
    assert done.returncode == 1
    heads = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("agent ")]
    assert heads == ["agent desk", "agent billing by way of desk", "agent refunds by way of desk, billing"]
    only = re.findall(r"--only (\S+)", done.stdout)[0]
    assert only.startswith(f"3@{backend}:interrupt-")
    again = fuzz("fuzzed_agents:desk", "--only", only, backend=backend)
    assert again.returncode == 1
    assert "agent refunds by way of desk, billing: 1 runs" in again.stdout


def test_a_replay_has_the_same_deps(backend: str) -> None:
    arguments = ("fuzzed_agents:retrying", "--deps", "fuzzed_agents:Retries")
    done = fuzz(*arguments, "--actions", "interrupt", backend=backend)
    assert (done.returncode, done.stderr) == (1, "")
    assert bug_line("# FLAW") in done.stdout
    command = re.findall(r"to see it again: (.*)", done.stdout)[0]
    words = shlex.split(command)
    assert words[:6] == ["agentrun", "fuzz", *arguments, "--only"]
    again = fuzz(*words[2:], backend=backend)
    assert (again.returncode, again.stderr) == (1, "")
    assert "agent retrying: 1 runs at " in again.stdout
    assert bug_line("# FLAW") in again.stdout


@pytest.mark.parametrize("name", ["counting", "asking"])
@pytest.mark.parametrize("deps", ["Counter", "Counter.fresh"])
def test_deps_are_made_afresh_for_each_run(name: str, deps: str, backend: str) -> None:
    done = fuzz(f"fuzzed_agents:{name}", "--deps", f"fuzzed_agents:{deps}", "--points", "4", backend=backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("nothing broke") == (2 if name == "asking" else 1)


def test_a_plain_object_is_the_deps_of_all_runs(backend: str) -> None:
    done = fuzz("fuzzed_agents:counting", "--deps", "fuzzed_agents:counter", "--points", "4", backend=backend)
    assert done.returncode == 2
    assert f"the scenario is not deterministic: two clean runs on {backend} " in done.stderr


def test_a_tool_that_fails_with_nothing_done_to_it_is_no_success(backend: str) -> None:
    done = fuzz("fuzzed_agents:retrying", "--points", "2", backend=backend)
    assert (done.returncode, done.stderr) == (1, "")
    assert ": nothing broke, but fetch did not work\n" in done.stdout
    told = "tool fetch failed in the undisturbed run: AttributeError: 'NoneType' object has no attribute 'left'"
    assert f'{told} (it was called with {{"url": ' in done.stdout
    assert "--deps MODULE:NAME" in done.stdout
    assert "--arguments 'fetch={...}'" in done.stdout


def test_a_tool_may_fail_if_that_is_said(backend: str) -> None:
    for agent, tool in (("picky", "code"), ("strict", "code_or_nothing")):
        done = fuzz(f"fuzzed_agents:{agent}", "--points", "2", backend=backend)
        assert done.returncode == 1
        assert f"tool {tool} failed in the undisturbed run: ValueError: not 42" in done.stdout
        done = fuzz(f"fuzzed_agents:{agent}", "--points", "2", "--may-fail", tool, backend=backend)
        assert (done.returncode, done.stderr) == (0, "")
    good = fuzz(
        "fuzzed_agents:strict", "--points", "2", "--arguments", 'code_or_nothing={"number": 42}', backend=backend
    )
    assert (good.returncode, good.stderr) == (0, "")


@pytest.mark.parametrize("name", ["boss", "consulting"])
def test_agents_that_tools_run_are_swept_too(name: str) -> None:
    done = fuzz(f"fuzzed_agents:{name}", "--points", "6", "--actions", "interrupt")
    assert done.returncode == 1
    assert f"agent {name}: " in done.stdout
    assert "agent helper: " in done.stdout
    assert bug_line() in done.stdout


def test_only_the_chosen_tools_are_called_with_the_given_arguments() -> None:
    chosen = ("fuzzed_agents:broken", "--tool", "look_up", "--points", "3", "--arguments", 'look_up={"words": "x"}')
    done = fuzz(*chosen)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_backends_are_tried_by_default() -> None:
    arguments = ["-m", "agentrun.cli", "fuzz", "fuzzed_agents:made", "--points", "2", "--actions", "cancel"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=HERE, capture_output=True, text=True, timeout=TIMEOUT, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "agent made: 8 runs" in done.stdout


def test_an_answer_fits_the_output_type() -> None:
    from agentrun.testing.derived_script import use_scripts

    assert use_scripts([fuzzed_agents.good]) == []
    assert fuzzed_agents.good.parse_output(fuzzed_agents.good.model.answer)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "agentrun fuzz: the following arguments are required: MODULE:NAME"),
        (("nonsense",), "agentrun: --agent must be MODULE:NAME"),
        (("fuzzed_agents:nobody",), "agentrun: --agent fuzzed_agents:nobody: fuzzed_agents has no 'nobody'"),
        (("fuzzed_agents:not_an_agent",), "agentrun: --agent fuzzed_agents:not_an_agent: this is not an Agent but int"),
        (("fuzzed_agents:broken", "--tool", "x"), "agentrun: --tool: the agent has no tool 'x'; it has apart, l"),
        (("fuzzed_agents:broken", "--may-fail", "x"), "agentrun: --may-fail: the agent has no tool 'x'; it has apart"),
        (("fuzzed_agents:broken", "--arguments", "x"), "agentrun: --arguments must be TOOL=JSON"),
        (("fuzzed_agents:broken", "--arguments", "x={"), "agentrun: --arguments for tool 'x' are not JSON"),
        (("fuzzed_agents:broken", "--arguments", "stubborn={}"), "agentrun: --arguments for tool 'stubborn': The arg"),
        (("fuzzed_agents:broken", "--actions", "x"), "agentrun: --actions: there is no 'x'; expected interrupt, "),
        (("fuzzed_agents:made", "--only", "3"), "agentrun: only must be the id of a failure"),
        (("fuzzed_agents:made", "--only", "2@asyncio:cancel-suspended:1"), "agentrun: --only 2@asyncio:cancel-suspend"),
        (("fuzzed_agents:made", "--deps", "x"), "agentrun: --deps must be MODULE:NAME, such as my_agents:make_deps"),
        (("fuzzed_agents:made", "--deps", "fuzzed_agents:count_er"), "agentrun: --deps fuzzed_agents:count_er: fuzze"),
        (("fuzzed_agents:made", "--deps", "fuzzed_agents:no_counter"), "agentrun: --deps fuzzed_agents:no_counter: no"),
        (("fuzzed_agents:made", "--points", "0"), "agentrun: --points must be at least 1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], complaint: str) -> None:
    done = fuzz(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_on_a_terminal_a_long_sweep_shows_how_far_it_is() -> None:
    with TerminalSession("fuzz", "fuzzed_agents:broken", "--second", "3", backend="asyncio", columns=200) as terminal:
        assert terminal.wait_exit() == 1
        assert b"interrupt everywhere in 'broken' [#" in terminal.raw


def test_help_imports_nothing_of_the_testing_package() -> None:
    code = (
        "import sys\nfrom agentrun.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as exc:\n"
        "    print(exc.code, [name for name in sys.modules if name.startswith('agentrun.testing')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, cwd=HERE, check=True
    )
    assert done.stdout.endswith("\n0 []\n")
