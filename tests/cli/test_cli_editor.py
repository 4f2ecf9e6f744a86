"""The line editor and the screen, which do no I/O: every way to cut what is typed, every width."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun.cli.chat_lines import Command, Say, read_line
from agentrun.cli.editor import EndOfInput, Interrupt, LineEditor, Redraw, Submitted
from agentrun.cli.screen import Screen
from agentrun.cli.text import cells, clean, one_line, shorten

from .emulator import Emulator


@pytest.mark.parametrize(
    ("typed", "text", "cursor"),
    [
        ("hello", "hello", 5),
        ("hello\x7f\x7f", "hel", 3),
        ("hello\x08", "hell", 4),
        ("hello\x02\x02X", "helXlo", 4),
        ("hello\x01X\x05Y", "XhelloY", 7),
        ("hello\x1b[D\x1b[D\x1b[CX", "hellXo", 5),
        ("hello\x1b[H\x1b[3~\x1b[F!", "ello!", 5),
        ("one two\x17", "one ", 4),
        ("one two  \x17", "one ", 4),
        ("one two\x02\x02\x15", "wo", 0),
        ("one two\x02\x02\x0b", "one t", 5),
        ("one two\x1b[1;5D\x1b[1;5DX", "Xone two", 1),
        ("one two\x01\x1bfX", "oneX two", 4),
        ("one\x1b\rtwo", "one\ntwo", 7),
        ("e\u0301x\x7f\x7f", "", 0),
        ("你好\x7f", "你", 1),
        ("\x7f\x17\x15\x0b\x1b[3~\x1b[C\x1b[D", "", 0),
        ("a\x1b[99;99xb\x1bOPc\x1bqd", "abcd", 4),
        ("a\x00\x10\x11b", "ab", 2),
        ("\x1b[200~pasted\rlines\r\n\x1b[A\x03\x1b[201~!", "pasted\nlines\n[A!", 16),
    ],
)
def test_keys_edit_the_line_however_their_bytes_are_cut(typed: str, text: str, cursor: int) -> None:
    data = typed.encode()
    whole, single = LineEditor(), LineEditor()
    assert whole.feed(data) == []
    assert (whole.text, whole.cursor) == (text, cursor)
    if "\x1bf" not in typed and "\x1bq" not in typed and "\x1b\r" not in typed:  # Alt-x, and Escape followed by x
        for byte in data:
            assert single.feed(bytes([byte])) == []
        assert (single.text, single.cursor) == (text, cursor)


def test_enter_sends_the_line_and_a_newline_after_it_sends_nothing() -> None:
    editor = LineEditor()
    assert editor.feed(b"one\r\ntwo\nthr") == [Submitted("one"), Submitted("two")]
    assert editor.text == "thr"
    assert editor.feed(b"\r") == [Submitted("thr")]
    assert editor.feed(b"\n") == []
    assert editor.feed(b"\n") == [Submitted("")]


def test_ctrl_d_ends_the_input_only_on_an_empty_line() -> None:
    editor = LineEditor()
    assert editor.feed(b"ab\x01\x04") == []
    assert editor.text == "b"
    assert editor.feed(b"\x04\x04") == [EndOfInput()]


def test_ctrl_c_and_ctrl_l_are_told() -> None:
    assert LineEditor().feed(b"a\x03\x0c") == [Interrupt(), Redraw()]


def test_up_and_down_go_through_what_was_sent_and_keep_the_draft() -> None:
    editor = LineEditor()
    editor.feed(b"one\rtwo\rtwo\rdraft")
    for key, text in ((b"A", "two"), (b"A", "one"), (b"A", "one"), (b"B", "two"), (b"B", "draft"), (b"B", "draft")):
        editor.feed(b"\x1b[" + key)
        assert editor.text == text


def test_a_lone_escape_key_swallows_nothing_that_is_typed_later() -> None:
    editor = LineEditor()
    editor.feed(b"\x1b")
    editor.feed(b"hello")
    assert editor.text == "hello"


@given(st.binary(max_size=80))
def test_any_bytes_leave_the_cursor_in_the_line(data: bytes) -> None:
    editor = LineEditor()
    editor.feed(data)
    assert 0 <= editor.cursor <= len(editor.text)
    assert clean(editor.text) == editor.text


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello", Say("hello")),
        ("/now  this ", Say("this", "now")),
        ("/later that", Say("that", "idle")),
        ("//now", Say("/now")),
        ("  ", None),
        ("/stop too slow", Command("stop", "too slow")),
        ("/quit", Command("quit")),
    ],
)
def test_what_a_line_means(line: str, meaning: object) -> None:
    assert read_line(line) == meaning


def test_a_line_that_means_nothing_is_explained() -> None:
    assert read_line("/now") == "/now needs a text: /now TEXT"
    assert str(read_line("/nwo x")).startswith("there is no command /nwo")
    assert str(read_line("/")).startswith("there is no command /;")


def test_text_for_a_terminal_is_harmless_and_fits() -> None:
    assert clean("a\x1b[31mb\x9b1m\x07\r\nc\td\u202ee") == "a[31mb1m\nc\tde"
    assert one_line("  a\n\n b\tc ") == "a b c"
    assert cells("a你e\u0301") == 4
    assert shorten("hello", 5) == "hello"
    assert shorten("hello there", 6) == "hello…"
    assert shorten("你好你好", 5) == "你好…"


# The screen ---------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.sampled_from("ab 你é\u0301\n\t"), max_size=30)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), _TEXT),
        st.tuples(st.just("line"), st.text(st.sampled_from("xy 好"), min_size=1, max_size=25)),
        st.tuples(st.just("status"), st.text(st.sampled_from("st好"), max_size=25)),
        st.tuples(st.just("typed"), st.text(st.sampled_from("pq你"), max_size=30)),
    ),
    max_size=12,
)


def _expected(text: str, width: int) -> list[str]:
    """The lines of a text without the prompt, as the same terminal shows it."""
    plain = Emulator(width)
    screen = Screen(lambda: width)
    screen.text(text)
    plain.feed(screen.render(live=False).encode())
    return plain.lines


@settings(max_examples=300, deadline=None)
@given(_STEPS, st.integers(10, 24))
def test_the_screen_is_the_text_and_below_it_the_prompt(steps: list[tuple[str, str]], width: int) -> None:
    emulator = Emulator(width)
    screen = Screen(lambda: width)
    written = ""
    for kind, value in steps:
        if kind == "text":
            screen.text(value)
            written += clean(value)
        elif kind == "line":
            screen.write_line(value)
            written += ("\n" if written and not written.endswith("\n") else "") + value + "\n"
        elif kind == "status":
            screen.status = value
        else:
            screen.line, screen.cursor = value, len(value) // 2
        emulator.feed(screen.render().encode())
        text = _expected(written, width)
        assert text[-1] == ""
        below = emulator.lines[len(text) - 1 :]
        assert emulator.lines[: len(text) - 1] == text[:-1]
        if screen.status:
            assert below.pop(0) == shorten(screen.status, width - 1).rstrip()
        (prompt,) = below
        assert prompt.startswith(">")
        assert prompt[2:] in screen.line.rstrip() or prompt == ">"
        before = "".join(emulator.rows[-1][2 : emulator.column])
        assert screen.line[: screen.cursor].endswith(before)
    emulator.feed(screen.render(live=False).encode())
    assert emulator.lines == _expected(written, width)
    assert emulator.column == 0
