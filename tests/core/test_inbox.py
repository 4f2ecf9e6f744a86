"""The inbox: each input goes one way, once (law 5)."""

from __future__ import annotations

import pytest

from agentrun.core.errors import InboxFull, RunEnded
from agentrun.core.inbox import Inbox
from agentrun.core.items import UserMessage

U = (UserMessage("u"),)


def test_law_5_entries_wait_in_the_order_of_injection() -> None:
    inbox = Inbox(9)
    entries = [inbox.add(U, deliver) for deliver in ("next", "idle", "now", "next")]
    assert inbox.pending == tuple(entries)
    assert len(inbox.pending) == 4
    assert [entry.id for entry in entries] == ["injection-1", "injection-2", "injection-3", "injection-4"]
    assert inbox.ready(finishing=False) == [entries[0], entries[2], entries[3]]
    assert inbox.ready(finishing=True) == [entries[0], entries[2], entries[3]]
    assert inbox.pending == tuple(entries)  # looking takes nothing


def test_law_5_idle_entries_are_due_when_nothing_else_is_left() -> None:
    inbox = Inbox(9)
    idle = [inbox.add(U, "idle"), inbox.add(U, "idle")]
    assert inbox.ready(finishing=False) == []
    assert inbox.ready(finishing=True) == idle


def test_law_5_a_taken_entry_is_delivered_and_cannot_be_taken_or_withdrawn_again() -> None:
    inbox = Inbox(9)
    settled: list[str] = []
    first, second = inbox.add(U, "next"), inbox.add(U, "next")
    first.on_settled.append(lambda: settled.append(first.status))
    inbox.take([first], 3)
    assert (first.status, first.turn, settled) == ("delivered", 3, ["delivered"])
    assert not inbox.withdraw(first)
    for again in ([first], [second, second], [second, first]):
        with pytest.raises(AssertionError, match="only pending entries can be taken, and each only once"):
            inbox.take(again, 4)
    assert (first.turn, second.status, inbox.pending) == (3, "pending", (second,))


def test_law_5_a_withdrawn_entry_is_undelivered() -> None:
    inbox = Inbox(9)
    settled: list[str] = []
    entry = inbox.add(U, "next")
    entry.on_settled.append(lambda: settled.append(entry.status))
    assert inbox.withdraw(entry)
    assert not inbox.withdraw(entry)
    assert (entry.status, entry.turn, settled, len(inbox.pending)) == ("undelivered", None, ["undelivered"], 0)


def test_law_5_closing_gives_back_what_waits_and_refuses_the_rest_by_name() -> None:
    inbox = Inbox(9)
    taken, left = inbox.add(U, "next"), inbox.add(U, "idle")
    inbox.take([taken], 1)
    assert inbox.close() == (left,)
    assert (taken.status, left.status) == ("delivered", "undelivered")
    assert inbox.close() == ()
    with pytest.raises(RunEnded, match=r"^the run has ended: input .* start a new run from result\.history$"):
        inbox.add(U, "next")


def test_a_full_inbox_refuses_and_loses_nothing() -> None:
    inbox = Inbox(2)
    entries = (inbox.add(U, "idle"), inbox.add(U, "next"))
    with pytest.raises(
        InboxFull, match=r"^2 injected .* waiting; wait .*, or raise RunConfig\.max_pending_injections$"
    ):
        inbox.add(U, "next")
    assert inbox.pending == entries
    inbox.withdraw(entries[0])
    assert inbox.add(U, "next").id == "injection-3"


def test_what_wants_in_now_is_seen() -> None:
    inbox = Inbox(9)
    inbox.add(U, "next")
    assert not inbox.wants_now
    now = inbox.add(U, "now")
    assert inbox.wants_now
    inbox.take([now], 1)
    assert not inbox.wants_now
