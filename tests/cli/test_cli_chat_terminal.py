"""`agentrun chat` in a terminal: an open prompt while the answer streams."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from .sessions import TerminalSession

CTRL_C, CTRL_D, CTRL_W, CTRL_Z = "\x03", "\x04", "\x17", "\x1a"
AGENT = ("chat", "--agent", "scripted_agents:parrot")


def test_a_line_is_answered_and_ctrl_d_leaves(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("parrot (parrot). Ctrl-C interrupts")
        assert chat.raw_mode
        chat.type("hellö 你好\r")
        chat.wait_for("> hellö 你好\nheard: hellö 你好.\n1 turn, 7 tokens in, 3 out")
        chat.type("again\r")
        chat.wait_for("heard: hellö 你好 | again.")
        chat.wait_for_line(">")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
        assert chat.restored
        assert chat.screen.lines[-1] == ""
        assert ">" not in chat.screen.lines


def test_a_line_typed_during_a_run_joins_it(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("until_injected\r")
        chat.wait_for("→ until_injected()")
        chat.type("and Bergen\r")
        chat.wait_for("✓ until_injected: the user has spoken")
        chat.wait_for('· delivered in turn 2: "and Bergen"')
        chat.wait_for("heard: until_injected | and Bergen.\n2 turns, 1 tool call")
        chat.type("/quit\r")
        assert chat.wait_exit() == 0


def test_now_cuts_in(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("hang\r")
        chat.wait_for("hanging")
        chat.type("/now something else\r")
        chat.wait_for("heard: hang | something else.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_later_waits_until_the_agent_would_be_done(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("until_injected\r")
        chat.wait_for("→ until_injected()")
        chat.type("/later bye\r")
        chat.wait_for("heard: until_injected | bye.")
        text = chat.screen.text
        assert text.index("heard: until_injected.") < text.index("heard: until_injected | bye.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_the_status_line_shows_turn_tools_and_tokens_and_then_goes_away(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("until_injected\r")
        chat.wait_for("turn 1 · until_injected")
        chat.wait_for("· 10 tokens ·")
        chat.type("go on\r")
        chat.wait_for("2 turns, 1 tool call, 14 tokens in, 6 out")
        chat.wait_for_line(">")
        assert "turn 1 ·" not in chat.screen.text
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_one_ctrl_c_interrupts_the_run_and_keeps_the_conversation(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    with TerminalSession(*AGENT, "--history", str(file), backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("forever\r")
        chat.wait_for("→ forever()")
        chat.type(CTRL_C)
        chat.wait_for("interrupted (Ctrl-C): torn down in")
        assert "cancelled: forever (call-1-of-1)" in chat.screen.text
        assert "tool cleaned up" in chat.screen.text
        chat.wait_for_line(">")
        chat.type("still there\r")
        chat.wait_for("heard: forever | still there.")
        chat.type("hang\r")
        chat.wait_for("hanging")
        chat.type(CTRL_C)
        chat.wait_for("nothing left over")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
        assert chat.restored
    kinds = [(item["type"], item.get("status")) for item in json.loads(file.read_text())]
    assert kinds == [
        ("user_message", None),
        ("tool_call", None),
        ("tool_output", "cancelled"),
        ("user_message", None),
        ("assistant_message", "completed"),
        ("user_message", None),
        ("assistant_message", "incomplete"),
    ]


def test_a_second_ctrl_c_leaves_after_the_teardown(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    with TerminalSession(*AGENT, "--history", str(file), backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("forever\r")
        chat.wait_for("→ forever()")
        chat.type(CTRL_C)
        chat.wait_for("torn down in")
        chat.type(CTRL_C)
        assert chat.wait_exit() == 130
        assert chat.restored
    assert [item["type"] for item in json.loads(file.read_text())] == ["user_message", "tool_call", "tool_output"]


def test_ctrl_c_at_the_prompt_empties_the_line_and_says_how_to_leave(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("half a line")
        chat.wait_for_line("> half a line")
        chat.type(CTRL_C)
        chat.wait_for("Ctrl-C again leaves")
        chat.wait_for_line(">")
        chat.type("x")  # a key in between: it is the first one again
        chat.wait_for_line("> x")
        chat.type(CTRL_C)
        chat.wait_for("Ctrl-C again leaves", count=2)
        chat.type(CTRL_C)
        assert chat.wait_exit() == 130
        assert chat.restored


def test_ctrl_c_pressed_again_and_again_ends_even_a_program_that_hangs(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("blocking\r")
        chat.wait_for("the loop is blocked")
        chat.hammer(CTRL_C)
        assert chat.wait_exit() == -signal.SIGINT
        assert chat.restored


def test_sigterm_tears_down_and_gives_the_terminal_back(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("forever\r")
        chat.wait_for("→ forever()")
        chat.send_signal(signal.SIGTERM)
        assert chat.wait_exit() == 143
        assert chat.restored
        assert "interrupted (received SIGTERM)" in chat.screen.text
        assert "tool cleaned up" in chat.screen.text


def test_ctrl_z_gives_the_terminal_back_until_the_program_goes_on(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend, job_control=True) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("some words")
        chat.wait_for_line("> some words")
        chat.type(CTRL_Z)
        chat.wait_for("stopped")
        assert chat.restored
        chat.type("\r")
        chat.wait_for("> some words", count=2)
        assert chat.raw_mode
        chat.type(f"{CTRL_W}more\r")
        chat.wait_for("heard: some more.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
        assert chat.restored


def test_a_failed_run_is_told_in_a_line_and_the_conversation_goes_on(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend, columns=120) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("fail\r")
        chat.wait_for("half a\nfailed: ValueError: the wires are cut; torn down in")
        chat.type("hello\r")
        chat.wait_for("heard: fail | hello.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_a_tool_call_is_approved_or_rejected_at_the_prompt(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("/approve\r")
        chat.wait_for("no tool call waits for approval")
        chat.type("danger\r")
        chat.wait_for('? danger(target="the moon") needs approval (call-1-of-1)')
        chat.type("/state\r")
        chat.wait_for("tool danger call-1-of-1 [waiting for approval")
        chat.type("/approve call-9\r")
        chat.wait_for("no call call-9 waits for approval; these do: call-1-of-1")
        chat.type("/approve\r")
        chat.wait_for('approved: danger(target="the moon")')
        chat.wait_for("✓ danger: hit the moon")
        chat.wait_for("2 turns, 1 tool call")
        chat.type("danger\r")
        chat.wait_for("needs approval (call-2-of-2)")
        chat.type("/reject leave the moon alone\r")
        chat.wait_for("✗ danger rejected: leave the moon alone")
        chat.wait_for("2 turns, 1 tool call", count=2)
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_what_is_pasted_is_one_message(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        assert "2004" in chat.screen.modes
        chat.type("\x1b[200~one\rtwo\x1b[201~")
        chat.wait_for_line("> one⏎two")
        chat.type("\r")
        chat.wait_for("heard: one\ntwo.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_what_a_tool_prints_does_not_disturb_the_prompt(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("printing\r")
        chat.wait_for("heard: printing.")
        chat.wait_for_line(">")
        assert "printed by a tool" in chat.screen.lines
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_a_model_cannot_send_escape_sequences_to_the_terminal(backend: str) -> None:
    with TerminalSession("chat", "--agent", "scripted_agents:escapes", backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("hi\r")
        chat.wait_for("[2Jwiped1m")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
        assert b"\x1b[2J" not in chat.raw
        assert b"\x07" not in chat.raw


def test_a_thread_that_is_left_behind_does_not_keep_the_program(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend, columns=200) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("stubborn_thread\r")
        chat.wait_for("→ stubborn_thread()")
        chat.wait_for("asleep")  # the thread is there, and not only about to be
        chat.type(CTRL_C)
        chat.wait_for("abandoned threads: tool stubborn_thread")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
        assert chat.restored


def test_input_that_no_model_call_has_seen_goes_with_the_next_message(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("forever\r")
        chat.wait_for("→ forever()")
        chat.type("do not lose this\r")
        chat.wait_for("1 input waiting")
        chat.type("/stop enough\r")
        chat.wait_for("interrupted (enough)")
        chat.wait_for('not delivered, goes with your next message: "do not lose this"')
        chat.type("hello\r")
        chat.wait_for("heard: forever | do not lose this | hello.")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0


def test_a_narrower_terminal_is_drawn_anew(backend: str) -> None:
    with TerminalSession(*AGENT, backend=backend) as chat:
        chat.wait_for("Ctrl-C interrupts")
        chat.type("until_injected\r")
        chat.wait_for("turn 1 · until_injected")
        chat.resize(30)
        chat.type("x" * 40)
        chat.wait_for_line("> " + "x" * 27)
        chat.type("\r")
        chat.wait_for("2 turns, 1 tool call")
        chat.type(CTRL_D)
        assert chat.wait_exit() == 0
