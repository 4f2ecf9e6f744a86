"""`agentrun chat` between pipes: lines in, text out."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from agentrun.items import items_from_json

from .sessions import TIMEOUT, read_until, run_program, start_program

AGENT = ("chat", "--agent", "scripted_agents:parrot")


def test_lines_are_answered_until_the_input_ends(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    done = run_program(*AGENT, "--history", str(file), backend=backend, input="hello")
    assert done.returncode == 0
    assert done.stdout == "heard: hello.\n1 turn, 7 tokens in, 3 out\n"
    assert done.stderr == ""
    assert [item.type for item in items_from_json(file.read_text())] == ["user_message", "assistant_message"]


def test_lines_that_come_at_once_join_the_run_in_their_order(backend: str) -> None:
    done = run_program(*AGENT, backend=backend, input="one\ntwo\n/later three\n\nfour\n")
    assert done.returncode == 0
    assert "heard: one | two | four.\n" in done.stdout
    assert "heard: one | two | four | three.\n" in done.stdout


def test_a_conversation_of_several_runs(backend: str) -> None:
    process = start_program(*AGENT, backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for line, answer in (("one", "heard: one."), ("two", "heard: one | two."), ("//slash", "| two | /slash.")):
        os.write(process.stdin.fileno(), f"{line}\n".encode())
        assert answer.encode() in read_until(process.stdout, b"tokens in, 3 out\n")
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, b"")


def test_all_runs_of_a_conversation_have_the_same_deps(backend: str) -> None:
    process = start_program(*AGENT, "--deps", "scripted_agents:Shop", backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (1, 2):
        os.write(process.stdin.fileno(), b"visit\n")
        assert f"✓ visit: visit {number} of shop 2\n".encode() in read_until(process.stdout, b"tokens in, 6 out\n")
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, b"")


def test_commands_and_their_mistakes(backend: str) -> None:
    done = run_program(*AGENT, backend=backend, input="/state\n/stop\n/now\n/what\n/reject\n/help\n/quit\nnot this\n")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "nothing is running",
        "nothing is running",
        "/now needs a text: /now TEXT",
        "there is no command /what; /help shows them, and //what says '/what' to the agent",
        "no tool call waits for approval",
    ]
    assert lines[5] == "While the agent works:"
    assert "heard" not in done.stdout


def test_a_signal_interrupts_the_run_and_a_second_one_leaves(backend: str) -> None:
    process = start_program(*AGENT, backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    os.write(process.stdin.fileno(), b"hang\n")
    read_until(process.stdout, b"hanging")
    process.send_signal(signal.SIGINT)
    read_until(process.stdout, b"interrupted (Ctrl-C): torn down in")
    os.write(process.stdin.fileno(), b"still there\n")
    read_until(process.stdout, b"heard: hang | still there.")
    os.write(process.stdin.fileno(), b"hang\n")
    read_until(process.stdout, b"hanging")
    process.send_signal(signal.SIGINT)
    read_until(process.stdout, b"torn down in")
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130


def test_nobody_can_approve_when_the_input_has_ended(backend: str) -> None:
    done = run_program(*AGENT, backend=backend, input="danger\n")
    assert done.returncode == 0
    assert "interrupted (a tool call needs approval, and the input has ended)" in done.stdout


def test_an_output_that_was_closed_ends_the_conversation(backend: str) -> None:
    process = start_program(*AGENT, backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    os.write(process.stdin.fileno(), b"talk\n")
    read_until(process.stdout, b"and on")
    process.stdout.close()
    assert process.wait(TIMEOUT) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def test_a_history_that_can_no_longer_be_written_is_told(backend: str, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    process = start_program(*AGENT, "--history", str(directory / "h.json"), backend=backend, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    os.write(process.stdin.fileno(), b"one\n")
    read_until(process.stdout, b"tokens in")
    os.write(process.stdin.fileno(), b"until_injected\n")
    read_until(process.stdout, "→ until_injected".encode())
    (directory / "h.json").unlink()
    directory.rmdir()
    out, _ = process.communicate(b"go on\n", timeout=TIMEOUT)
    assert b"cannot be written" in out
    assert process.returncode == 1
