"""`agentrun run`: for scripts and pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from agentrun.cli.loading import load_agent
from agentrun.errors import UserError
from agentrun.events import ModelCallEnded, RunEnded, RunStarted, TextDelta, ToolEnded, event_from_dict
from agentrun.items import items_from_json

from .sessions import HERE, TIMEOUT, TerminalSession, command, environment, read_until, run_program, start_program

PARROT = ("--agent", "scripted_agents:parrot")


def test_the_answer_goes_to_stdout_and_everything_else_to_stderr(backend: str) -> None:
    done = run_program("run", "go", "--agent", "scripted_agents:two_turns", "-v", backend=backend)
    assert done.returncode == 0
    assert done.stdout == "First.\nSecond.\n"
    assert sorted(done.stderr.splitlines()) == [
        "2 turns, 1 tool call, 0 tokens in, 4 out",
        "printed by a tool",
        "→ printing()",
        "✓ printing: done",
    ]


def test_without_verbose_usage_is_not_told() -> None:
    done = run_program("run", "hello", *PARROT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard: hello.\n", "")


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_prompt_may_come_from_stdin(arguments: tuple[str, ...], backend: str) -> None:
    done = run_program("run", *arguments, *PARROT, backend=backend, input="what is\nthis\n")
    assert (done.returncode, done.stdout) == (0, "heard: what is\nthis\n.\n")


def test_the_prompt_may_come_from_a_file(backend: str, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("from a file")
    with (tmp_path / "prompt").open() as prompt, (tmp_path / "answer").open("w") as answer:
        process = start_program("run", *PARROT, backend=backend, stdin=prompt, stdout=answer)
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stderr) == (0, b"")
    assert (tmp_path / "answer").read_text() == "heard: from a file.\n"


def test_json_prints_one_event_a_line_and_the_ending_last(backend: str) -> None:
    done = run_program("run", "printing", *PARROT, "--json", backend=backend)
    assert done.returncode == 0
    events = [event_from_dict(json.loads(line)) for line in done.stdout.splitlines()]
    assert isinstance(events[0], RunStarted)
    assert events[-1] == RunEnded("completed")
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "heard: printing."
    assert [event.output for event in events if isinstance(event, ToolEnded)] == ["done"]
    assert sum(isinstance(event, ModelCallEnded) for event in events) == 2
    assert done.stderr == "printed by a tool\n"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_ctrl_c_interrupts_and_exits_with_130_after_the_teardown(
    backend: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "history.json"
    process = start_program("run", "forever", *PARROT, "--history", str(file), *more, backend=backend)
    if more:
        assert process.stdout is not None
        out = read_until(process.stdout, b"ToolStarted")
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=TIMEOUT)
        assert json.loads((out + rest).splitlines()[-1]) == {
            "type": "RunEnded",
            "status": "interrupted",
            "reason": "Ctrl-C",
        }
    else:
        assert process.stderr is not None
        read_until(process.stderr, "→ forever".encode())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    text = err.decode()
    assert "tool cleaned up" in text
    assert "interrupted (Ctrl-C): torn down in" in text
    assert "cancelled: forever (call-1-of-1)" in text
    kinds = [(item.type, getattr(item, "status", "")) for item in items_from_json(file.read_text())]
    assert kinds == [("user_message", ""), ("tool_call", ""), ("tool_output", "cancelled")]


def test_sigterm_interrupts_and_exits_with_143(backend: str) -> None:
    process = start_program("run", "hang", *PARROT, backend=backend)
    assert process.stdout is not None
    read_until(process.stdout, b"hanging")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert out == b"\n"
    assert b"interrupted (received SIGTERM)" in err


def test_ctrl_c_while_the_prompt_is_being_read_exits_with_130(backend: str) -> None:
    process = start_program("run", "-", *PARROT, backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    # The program waits for more when it has taken what there is.
    os.set_blocking(process.stdin.fileno(), False)
    written = 0
    deadline = time.monotonic() + TIMEOUT
    while written < 1_000_000:  # far more than the pipe holds
        assert time.monotonic() < deadline
        try:
            written += os.write(process.stdin.fileno(), b"x" * 65536)
        except BlockingIOError:
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130
    out, err = process.communicate()
    assert (out, err) == (b"", b"")


def test_a_second_ctrl_c_gives_up_an_output_that_nobody_reads(backend: str) -> None:
    process = start_program("run", "talk", *PARROT, backend=backend)
    assert process.stdout is not None
    assert process.stderr is not None
    read_until(process.stdout, b"and on")  # and then no more: the pipe fills, and the model waits
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            pass
    assert process.returncode in (130, -signal.SIGINT)


def test_a_closed_pipe_ends_the_run_without_a_word(backend: str) -> None:
    process = start_program("run", "talk", *PARROT, backend=backend)
    assert process.stdout is not None
    assert process.stderr is not None
    read_until(process.stdout, b"and on")
    process.stdout.close()
    assert process.wait(TIMEOUT) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def test_a_failed_run_is_one_line_on_stderr_and_exit_code_1(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    done = run_program("run", "fail", *PARROT, "--history", str(file), backend=backend)
    assert done.returncode == 1
    assert done.stdout == "half a\n"
    assert done.stderr == "agentrun: the run failed: ValueError: the wires are cut\n"
    assert [item.type for item in items_from_json(file.read_text())] == ["user_message", "assistant_message"]


def test_verbose_shows_the_traceback_of_a_failure() -> None:
    done = run_program("run", "fail", *PARROT, "-v")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert 'raise ValueError("the wires\\nare cut")' in done.stderr


def test_a_tool_that_needs_approval_ends_the_run(backend: str) -> None:
    done = run_program("run", "danger", *PARROT, backend=backend)
    assert done.returncode == 1
    assert done.stdout == ""
    assert '? danger(target="the moon") needs approval' in done.stderr
    assert "danger needs approval, which `agentrun chat` can give" in done.stderr


def test_a_conversation_goes_on_from_its_history(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    for prompt, answer in (("one", "heard: one."), ("two", "heard: one | two.")):
        done = run_program("run", prompt, *PARROT, "--history", str(file), backend=backend)
        assert (done.returncode, done.stdout) == (0, f"{answer}\n")
    assert len(items_from_json(file.read_text())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run",), "agentrun: the prompt is empty"),
        (("run", "  "), "agentrun: the prompt is empty"),
        (("run", "two", "words"), "agentrun: unrecognized arguments: words (see agentrun --help)"),
        (("run", "x", "--agent", "parrot"), "agentrun: --agent must be MODULE:NAME, such as my_agents:support"),
        (("run", "x", "--agent", "nowhere:a"), "agentrun: --agent nowhere:a: there is no module 'nowhere'"),
        (("run", "x", "--agent", "scripted_agents:polly"), "agentrun: --agent scripted_agents:polly: scripted_agents"),
        (("run", "x", "--agent", "scripted_agents:breaks"), "agentrun: --agent scripted_agents:breaks: breaks() fa"),
        (("chat", "--agent", "scripted_agents:not_an_agent"), "agentrun: --agent scripted_agents:not_an_agent: this"),
        (("run", "x", *PARROT, "--deps", "shop"), "agentrun: --deps must be MODULE:NAME, such as my_agents:make_deps"),
        (("run", "x", *PARROT, "--deps", "nowhere:a"), "agentrun: --deps nowhere:a: there is no module 'nowhere'"),
        (("run", "x", *PARROT, "--deps", "scripted_agents:opened"), "agentrun: --deps scripted_agents:opened: opened"),
        (("chat", *PARROT, "--deps", "scripted_agents:opened"), "agentrun: --deps scripted_agents:opened: opened"),
        (("chat", "--model", "nobody:x"), "agentrun: model 'nobody:x' names no provider"),
        (("run", "x", "--history", "."), "agentrun: --history . must be a regular file"),
        (("run", "x", "--history", "no/such/dir"), "agentrun: --history no/such/dir: there is no directory"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_code_2(arguments: tuple[str, ...], complaint: str) -> None:
    done = run_program(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_deps_that_cannot_be_made_are_told_on_stderr() -> None:
    done = run_program("run", "visit", *PARROT, "--deps", "scripted_agents:closed")
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == [
        "agentrun: --deps scripted_agents:closed: closed() failed: RuntimeError: out of shops",
        "nobody at the counter",
    ]


def test_deps_are_made_only_when_all_else_is_right() -> None:
    done = run_program("run", "visit", "--model", "nobody:x", "--deps", "scripted_agents:closed")
    assert done.returncode == 2
    assert done.stderr.startswith("agentrun: model 'nobody:x' names no provider")


def test_a_file_that_is_no_history_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    for text in ("{}", "not json", '[{"type": "tool_call", "call_id": "1", "name": "x"}]'):
        file.write_text(text)
        done = run_program("run", "x", *PARROT, "--history", str(file))
        assert done.returncode == 2
        assert "is not a valid history, and is left as it is" in done.stderr
        assert done.stderr.count("\n") == 1
        assert file.read_text() == text


def test_a_missing_prompt_at_a_terminal_is_not_waited_for(backend: str) -> None:
    with TerminalSession("run", *PARROT, backend=backend) as terminal:
        terminal.wait_for("agentrun: there is no prompt: pass it as an argument, or pipe it in")
        assert terminal.wait_exit() == 2


def test_in_a_terminal_tools_have_lines_of_their_own_and_escapes_are_harmless(backend: str) -> None:
    with TerminalSession("run", "go", "--agent", "scripted_agents:two_turns", backend=backend) as terminal:
        assert terminal.wait_exit() == 0
        lines = terminal.screen.lines
        assert lines[lines.index("→ printing()") :] == ["→ printing()", "✓ printing: done", "Second.", ""]
    with TerminalSession("run", "go", "--agent", "scripted_agents:escapes", backend=backend) as terminal:
        assert terminal.wait_exit() == 0
        assert terminal.screen.lines[0] == "[2Jwiped1m"


def test_ctrl_c_in_a_terminal_leaves_a_clean_screen(backend: str) -> None:
    with TerminalSession("run", "hang", *PARROT, backend=backend) as terminal:
        terminal.wait_for("hanging")
        terminal.type("\x03")
        assert terminal.wait_exit() == 130
        assert terminal.restored


def test_an_agent_without_a_model_gets_the_one_of_the_environment() -> None:
    done = run_program("run", "x", "--agent", "scripted_agents:no_model", env=environment(AGENTRUN_MODEL="nobody:x"))
    assert done.returncode == 2
    assert "model 'nobody:x' names no provider" in done.stderr


def test_an_agent_may_be_made_by_a_function() -> None:
    assert run_program("run", "x", "--agent", "scripted_agents:made").stdout == "made to order\n"


@pytest.mark.parametrize(
    ("deps", "seen"),
    [
        ((), "no shop but None"),
        (("--deps", "scripted_agents:corner_shop"), "visit 1 of shop 1"),
        (("--deps", "scripted_agents:Shop"), "visit 1 of shop 2"),
    ],
)
def test_tools_get_the_deps_that_were_named(deps: tuple[str, ...], seen: str, backend: str) -> None:
    done = run_program("run", "visit", *PARROT, *deps, backend=backend)
    assert (done.returncode, done.stdout) == (0, "heard: visit.\n")
    assert done.stderr.splitlines() == ["→ visit()", f"✓ visit: {seen}"]


def test_a_closed_stdin_is_like_none() -> None:
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, *command("run", *PARROT, backend="asyncio")],
        capture_output=True,
        timeout=TIMEOUT,
        cwd=HERE,
        env=environment(),
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr == b"agentrun: there is no prompt: pass it as an argument, or pipe it in\n"


def test_help_and_version_cost_no_run() -> None:
    for arguments, expected in (
        (["--version"], f"agentrun {version('agentrun')}\n"),
        (["--help"], "usage: agentrun"),
        (["run", "--help"], "usage: agentrun run"),
        (["chat", "--help"], "usage: agentrun chat"),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "agentrun.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=HERE,
            check=False,
        )
        assert done.returncode == 0
        assert done.stdout.startswith(expected)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom agentrun.cli import main\n"
        "code = main(['run', 'hi', '--agent', 'scripted_agents:parrot'])\n"
        "heavy = {'rich', 'httpx', 'trio', 'mcp', 'opentelemetry'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, cwd=HERE, check=True
    )
    assert done.stdout == "heard: hi.\n0 []\n"


def test_user_errors_are_the_same_ones_as_in_python() -> None:
    with pytest.raises(UserError, match="MODULE:NAME"):
        load_agent("./path.py:agent")


def test_it_is_also_a_module_to_run() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "agentrun", "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (process.returncode, process.stdout) == (0, f"agentrun {version('agentrun')}\n")
    process = subprocess.run(
        [sys.executable, "-m", "agentrun", "run"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        input="",
    )
    assert process.returncode != 0
    assert process.stderr.startswith("agentrun: ")
