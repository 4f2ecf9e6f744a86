"""The history file, how events are told in a line, and where what tools print goes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from agentrun import Interrupt, RunResult, TeardownReport, Usage
from agentrun.cli.history import HistoryFile
from agentrun.cli.rendering import Note, describe, describe_call, describe_ending, describe_usage, paint
from agentrun.cli.views import TerminalView
from agentrun.errors import UserError
from agentrun.events import AgentChanged, ApprovalRequested, Event, GuardrailEnded, TextDelta, ToolEnded, ToolStarted
from agentrun.items import AssistantMessage, Item, UserMessage

from .emulator import Emulator

ITEMS: list[Item] = [UserMessage("hi"), AssistantMessage("hello 你")]


def test_a_history_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / "h.json")
    assert file.read() == []
    file.write(ITEMS)
    assert file.read() == ITEMS
    assert stat.S_IMODE((tmp_path / "h.json").stat().st_mode) == 0o600


def test_an_empty_file_is_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "h.json").touch()
    assert HistoryFile(tmp_path / "h.json").read() == []


def test_writing_keeps_permissions_and_links(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("[]")
    real.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(real)
    HistoryFile(link).write(ITEMS)
    assert link.is_symlink()
    assert HistoryFile(real).read() == ITEMS
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HistoryFile(tmp_path / "h.json")
    file.write(ITEMS[:1])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(ITEMS)
    assert file.read() == ITEMS[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["h.json"]


def test_a_history_of_chat_completions_messages_is_taken(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text('[{"role": "user", "content": "hi"}]')
    assert HistoryFile(tmp_path / "h.json").read() == [UserMessage("hi")]


def test_deeply_nested_json_is_refused_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "h.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a valid history"):
        HistoryFile(tmp_path / "h.json").read()


@pytest.mark.parametrize(
    ("event", "note"),
    [
        (TextDelta("x"), None),
        (ToolStarted("1", "f", '{"a": 1, "b": "x\\ny"}'), Note('→ f(a=1, b="x\\ny")', "tool")),
        (ToolStarted("1", "f", "not json"), Note("→ f(not json)", "tool")),
        (ToolStarted("1", "f", "", ("outer",)), Note("  → f()", "tool")),
        (ToolEnded("1", "f", "completed", {"a": "ä"}), Note('✓ f: {"a": "ä"}', "good")),
        (ToolEnded("1", "f", "timed_out", "too\nslow"), Note("✗ f timed out: too slow", "bad")),
        (ToolEnded("1", "f", "cancelled", None), Note("■ f cancelled", "note")),
        (
            ApprovalRequested("id", "f", '{"a": "\\u202e\\u001b[2J"}'),
            Note('? f(a="\\u001b[2J") needs approval (id)', "ask"),
        ),
        (AgentChanged("a", "b"), Note("⇒ a hands over to b", "tool")),
        (GuardrailEnded("g", "input", "tripped", "no"), Note("✗ guardrail g tripped: no", "bad")),
        (GuardrailEnded("g", "input", "passed"), None),
    ],
)
def test_events_in_a_line(event: Event, note: Note | None) -> None:
    assert describe(event) == note


def test_a_call_that_is_to_be_approved_is_shown_in_full() -> None:
    arguments = '{"path": "' + "x" * 500 + '"}'
    note = describe(ApprovalRequested("1", "delete", arguments))
    assert note is not None
    assert "x" * 500 in note.text
    assert len(describe_call("delete", arguments)) < 100


def _result(**values: Any) -> RunResult[Any]:
    given: dict[str, Any] = {
        "run_id": "r",
        "status": "completed",
        "output": None,
        "items": (),
        "history": (),
        "agent": "a",
        "usage": Usage(),
        "turns": 1,
    }
    return RunResult(**{**given, **values})


def test_endings_in_a_line() -> None:
    report = TeardownReport(cancelled_tools=["f (1)"], seconds=0.25)
    assert describe_ending(_result()) is None
    assert describe_ending(
        _result(status="interrupted", interrupt=Interrupt("stop", "immediate"), teardown=report)
    ) == Note("interrupted (stop): torn down in 250 ms; cancelled: f (1)", "ask")
    assert describe_ending(_result(status="failed", error=ValueError("a\nb"))) == Note(
        "failed: ValueError: a b; torn down in 0 ms; nothing left over", "bad"
    )
    several = describe_ending(_result(status="failed", error=ExceptionGroup("g", [ValueError("a\nb"), KeyError()])))
    assert several is not None
    assert several.text.startswith("failed: ValueError: a b; KeyError; torn down")
    odd = describe_ending(_result(teardown=TeardownReport(cleanup_errors=["tool f: ValueError: x"])))
    assert odd is not None
    assert "errors in cleanup: tool f: ValueError: x" in odd.text


def test_usage_in_a_line() -> None:
    assert describe_usage(Usage(1, 10, 0, 5, 0, 0), 1) == "1 turn, 10 tokens in, 5 out"
    assert describe_usage(Usage(2, 10, 0, 5, 0, 2), 2) == "2 turns, 2 tool calls, 10 tokens in, 5 out"


def test_colours_can_be_left_out() -> None:
    assert paint("x", "bad", colors=True) == "\x1b[31mx\x1b[0m"
    assert paint("x", "bad", colors=False) == "x"
    assert paint("x", "plain", colors=True) == "x"


def _shown(view: TerminalView) -> list[str]:
    screen = Emulator(columns=60)
    screen.feed(view._take().encode())
    return [line for line in screen.lines if line.strip() and not line.startswith(">")]


@pytest.fixture
def view(anyio_backend: Any) -> TerminalView:
    class Narrow:
        def columns(self) -> int:
            return 60

    return TerminalView(cast("Any", Narrow()))


async def test_what_was_printed_comes_before_what_was_said_after_it(view: TerminalView) -> None:
    view.line("→ printing()")
    print("printed", file=cast("Any", view.prints))
    view.text("said after it")
    assert _shown(view) == ["→ printing()", "printed", "said after it"]


async def test_a_print_in_the_middle_of_a_line_that_streams_gets_a_line_of_its_own(view: TerminalView) -> None:
    view.text("said before it")
    for piece in ("in ", "pieces"):
        print(piece, end="", file=cast("Any", view.prints))
    view.text("said after it")
    assert _shown(view) == ["said before it", "in pieces", "said after it"]
