"""The turn machine, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentrun.core.errors import (
    InboxFull,
    MaxTurnsExceeded,
    RunEnded,
    TokenLimitExceeded,
    ToolCallLimitExceeded,
    UserError,
)
from agentrun.core.events import TextDelta
from agentrun.core.inbox import Inbox
from agentrun.core.interrupts import Interrupt
from agentrun.core.items import AssistantMessage, Item, Reasoning, ToolCall, ToolOutput, UserMessage
from agentrun.core.limits import Limits
from agentrun.core.model import ModelEvent, ResponseEnded
from agentrun.core.transcript import Transcript
from agentrun.core.turns import CallModel, CheckOutput, Finish, RunTools, TurnMachine
from agentrun.core.usage import Usage

USER = UserMessage("Hi")
CALL_A, CALL_B = ToolCall("a", "f"), ToolCall("b", "g")
NEXT = (UserMessage("next"),)


def machine_for(*items: Item, limits: Limits | None = None) -> TurnMachine:
    return TurnMachine(Transcript(items or (USER,)), limits=limits or Limits(), inbox=Inbox(9))


def call(machine: TurnMachine, *events: ModelEvent) -> None:
    """A whole model call."""
    begin(machine, *events)
    machine.end_model_call()


def begin(machine: TurnMachine, *events: ModelEvent) -> None:
    builder = machine.begin_model_call(machine.due_input())
    for event in events:
        builder.feed(event)


def tool(machine: TurnMachine, call_id: str, output: Any = "out") -> None:
    machine.tool_ended(ToolOutput(call_id, output))


# The plain course --------------------------------------------------------------------------------------------------


def test_an_answer_completes_the_run_once_it_is_accepted() -> None:
    machine = machine_for()
    assert machine.next_action() == CallModel(1)
    call(machine, TextDelta("He"), TextDelta("llo"))
    assert machine.next_action() == CheckOutput(AssistantMessage("Hello"))
    machine.accept_output()
    assert machine.next_action() == Finish("completed")
    assert machine.finish() == "completed"
    assert machine.transcript.view() == [USER, AssistantMessage("Hello")]
    assert (machine.turn, machine.usage) == (1, Usage(requests=1))


def test_an_answer_of_nothing_is_an_empty_answer() -> None:
    machine = machine_for()
    call(machine)
    assert machine.next_action() == CheckOutput(AssistantMessage(""))
    assert machine.transcript.view() == [USER]


def test_law_4_a_response_with_calls_enters_the_history_with_all_its_outputs_in_the_order_of_the_calls() -> None:
    machine = machine_for()
    call(machine, Reasoning("r"), CALL_A, CALL_B)
    assert machine.next_action() == RunTools((CALL_A, CALL_B))
    tool(machine, "b", 2)
    assert machine.next_action() == RunTools((CALL_A,))
    assert machine.transcript.view() == [USER]
    tool(machine, "a", 1)
    assert machine.transcript.new_items() == (Reasoning("r"), CALL_A, CALL_B, ToolOutput("a", 1), ToolOutput("b", 2))
    assert machine.next_action() == CallModel(2)
    assert machine.usage.tool_calls == 2


def test_call_ids_that_a_server_uses_again_are_made_unique() -> None:
    machine = machine_for()
    call(machine, CALL_A, ToolCall("a", "g"), ToolCall("", "h"))
    assert [c.call_id for c in machine.open_calls] == ["a", "a_2", "call"]
    for open_call in machine.open_calls:
        tool(machine, open_call.call_id)
    call(machine, CALL_A)
    assert machine.open_calls == (ToolCall("a_3", "f"),)


def test_usage_is_counted_whole_or_cut() -> None:
    machine = machine_for()
    begin(machine, ResponseEnded(Usage(requests=7, input_tokens=5, output_tokens=2, tool_calls=9)))
    machine.cut_model_call()
    call(machine, ResponseEnded(Usage(input_tokens=6, output_tokens=3)))
    assert machine.usage == Usage(requests=2, input_tokens=11, output_tokens=5)


# Injected input ----------------------------------------------------------------------------------------------------


def test_law_5_injected_input_joins_the_next_call_in_order() -> None:
    machine = machine_for()
    entries = [machine.inject((UserMessage(text),), "next")[0] for text in "xyz"]
    call(machine, TextDelta("A"))
    assert machine.transcript.view() == [USER, *map(UserMessage, "xyz"), AssistantMessage("A")]
    assert [(entry.status, entry.turn) for entry in entries] == [("delivered", 1)] * 3


def test_law_5_input_keeps_a_run_going_that_was_about_to_finish() -> None:
    machine = machine_for()
    call(machine, TextDelta("A"))
    machine.inject(NEXT, "next")
    assert machine.next_action() == CallModel(2)
    call(machine, TextDelta("B"))
    machine.accept_output()
    machine.inject(NEXT, "next")
    assert machine.next_action() == CallModel(3)
    call(machine, TextDelta("C"))
    assert machine.next_action() == CheckOutput(AssistantMessage("C"))  # the acceptance was of another answer


def test_after_tools_the_model_is_called_whatever_it_had_answered_before() -> None:
    machine = machine_for()
    call(machine, TextDelta("A"))
    machine.inject(NEXT, "next")
    call(machine, CALL_A)
    tool(machine, "a")
    assert machine.next_action() == CallModel(3)


def test_law_5_idle_input_waits_until_the_run_would_finish() -> None:
    machine = machine_for()
    idle, _ = machine.inject(NEXT, "idle")
    call(machine, CALL_A)
    tool(machine, "a")
    assert machine.next_action() == CallModel(2)
    call(machine, TextDelta("A"))
    assert idle.status == "pending"
    assert machine.next_action() == CallModel(3)
    call(machine)
    assert idle.turn == 3


def test_input_that_is_withdrawn_asks_for_nothing_any_more() -> None:
    machine = machine_for()
    call(machine, TextDelta("A"))
    entry, _ = machine.inject(NEXT, "next")
    assert machine.next_action() == CallModel(2)
    assert machine.inbox.withdraw(entry)
    assert machine.next_action() == CheckOutput(AssistantMessage("A"))
    with pytest.raises(AssertionError, match="no model call is due"):
        machine.begin_model_call([])


def test_now_cuts_and_goes_on_with_what_was_said() -> None:
    machine = machine_for()
    begin(machine, TextDelta("Let me"), CALL_A)
    assert machine.inject(NEXT, "now")[1] == "cut"
    machine.cut_model_call()
    assert machine.transcript.view() == [USER, AssistantMessage("Let me", "incomplete")]
    assert machine.next_action() == CallModel(2)
    begin(machine)
    assert machine.transcript.view()[-1] == NEXT[0]


@pytest.mark.parametrize("deliver", ["next", "idle"])
def test_only_now_cuts(deliver: Any) -> None:
    assert machine_for().inject(NEXT, deliver)[1] == "none"


@pytest.mark.parametrize(
    "stop",
    [
        lambda m: m.interrupt(None, "after_turn"),
        lambda m: m.interrupt(None, "immediate"),
        lambda m: m.cancel(),
        lambda m: m.fail(ValueError()),
        lambda m: m.break_off("x"),
    ],
)
def test_law_5_what_comes_while_a_run_stops_cuts_nothing_and_comes_back(stop: Callable[[TurnMachine], Any]) -> None:
    machine = machine_for()
    stop(machine)
    entry, effect = machine.inject(NEXT, "now")
    assert effect == "none"
    if machine.status is None:
        machine.finish()
    assert machine.inbox.close() == (entry,)
    with pytest.raises(RunEnded):
        machine.inject(NEXT, "next")


@pytest.mark.parametrize("item", [CALL_A, ToolOutput("a", 1), AssistantMessage("x"), Reasoning("x")])
def test_law_4_only_messages_to_the_model_can_be_injected(item: Item) -> None:
    machine = machine_for()
    with pytest.raises(UserError, match=f"contains a {type(item).__name__}; only user and system messages"):
        machine.inject((USER, item), "next")
    assert machine.inbox.pending == ()


def test_a_full_inbox_is_told_of() -> None:
    machine = TurnMachine(Transcript([USER]), limits=Limits(), inbox=Inbox(1))
    machine.inject(NEXT, "next")
    with pytest.raises(InboxFull):
        machine.inject(NEXT, "next")


# Interrupts, failures and cancellations ----------------------------------------------------------------------------


def test_an_interrupt_after_the_turn_lets_the_response_and_its_tools_finish() -> None:
    machine = machine_for()
    begin(machine, CALL_A)
    assert machine.interrupt("enough", "after_turn") == (True, "none")
    machine.end_model_call()
    assert machine.next_action() == RunTools((CALL_A,))
    assert not machine.ending
    tool(machine, "a")
    assert machine.next_action() == Finish("interrupted")
    assert machine.interrupts.current == Interrupt("enough", "after_turn")


def test_law_2_an_interrupt_escalates_and_keeps_its_first_reason() -> None:
    machine = machine_for()
    assert machine.interrupt("enough", "after_turn") == (True, "none")
    assert machine.interrupt("again", "after_turn") == (False, "none")
    assert machine.interrupt("now!", "immediate") == (True, "stop")
    assert machine.interrupt("later", "after_turn") == (False, "none")
    assert machine.interrupts.current == Interrupt("enough", "immediate")


def test_law_4_an_interrupt_keeps_what_was_said_and_answers_every_call() -> None:
    machine = machine_for()
    begin(machine, Reasoning("r"), TextDelta("I was"), CALL_A)
    machine.interrupt(None, "immediate")
    machine.cut_model_call()
    assert machine.next_action() == Finish("interrupted")
    assert machine.transcript.new_items() == (AssistantMessage("I was", "incomplete"),)


def test_an_interrupt_after_the_answer_was_accepted_comes_too_late_to_change_the_ending() -> None:
    machine = machine_for()
    call(machine, TextDelta("A"))
    machine.accept_output()
    machine.interrupt("late", "immediate")
    assert machine.finish() == "completed"


_first_wins = [
    (["fail", "cancel", "interrupt"], "failed"),
    (["cancel", "fail", "interrupt"], "cancelled"),
    (["interrupt", "fail"], "interrupted"),
    (["interrupt", "cancel"], "cancelled"),  # a cancellation is stronger than any interrupt
    (["after_turn", "fail"], "failed"),
    (["after_turn", "cancel"], "cancelled"),
    (["after_turn"], "interrupted"),
    (["accept", "fail"], "failed"),
    (["accept", "cancel"], "cancelled"),
]


@pytest.mark.parametrize(("requests", "status"), _first_wins, ids=lambda value: "-".join(value))
def test_law_2_the_first_reason_wins(requests: list[str], status: str) -> None:
    machine, error = machine_for(), ValueError("first")
    call(machine, TextDelta("A"))
    for request in requests:
        if request == "fail":
            machine.fail(error)
        elif request == "cancel":
            machine.cancel()
        elif request == "accept":
            machine.accept_output()
        else:
            machine.interrupt("stop", "immediate" if request == "interrupt" else "after_turn")
    assert machine.finish() == status
    assert machine.failure is (error if status == "failed" else None)
    assert machine.cancelled is (status == "cancelled")
    if status in ("failed", "cancelled") and requests[0] in ("fail", "cancel"):
        assert machine.interrupts.current is None  # it was refused


def test_law_2_nothing_changes_an_ending() -> None:
    machine = machine_for()
    machine.interrupt("stop", "immediate")
    machine.finish()
    assert machine.fail(ValueError()) is False
    assert machine.cancel() is False
    assert machine.interrupt("x", "immediate") == (False, "none")
    assert machine.next_action() == Finish("interrupted")
    assert machine.break_off("x") == "interrupted"
    assert machine.status == "interrupted"
    with pytest.raises(AssertionError, match="the run has ended as interrupted already"):
        machine.finish()


def test_a_failure_lets_open_calls_be_answered_first() -> None:
    machine, error = machine_for(), ValueError()
    call(machine, CALL_A, CALL_B)
    tool(machine, "a")
    assert machine.fail(error)
    assert not machine.fail(ValueError("second"))
    assert machine.ending
    assert machine.next_action() == RunTools((CALL_B,))
    tool(machine, "b")
    assert machine.next_action() == Finish("failed")
    assert machine.failure is error


# Breaking off ------------------------------------------------------------------------------------------------------


def _streaming(machine: TurnMachine) -> None:
    begin(machine, TextDelta("I was"), CALL_A)


def _running(machine: TurnMachine) -> None:
    call(machine, CALL_A, CALL_B)
    tool(machine, "a")


def _done(machine: TurnMachine) -> None:
    call(machine, TextDelta("A"))


@pytest.mark.parametrize(
    ("bring_there", "added"),
    [
        (lambda m: None, ()),
        (_streaming, (AssistantMessage("I was", "incomplete"),)),
        (_running, (CALL_A, CALL_B, ToolOutput("a", "out"), ToolOutput("b", "broken off", "cancelled"))),
        (_done, (AssistantMessage("A"),)),
    ],
)
@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (lambda m: None, "cancelled"),
        (lambda m: m.cancel(), "cancelled"),
        (lambda m: m.fail(ValueError()), "failed"),
        (lambda m: m.interrupt(None, "immediate"), "interrupted"),
        (lambda m: m.interrupt(None, "after_turn"), "cancelled"),
    ],
)
def test_law_4_a_run_that_is_broken_off_anywhere_ends_with_a_valid_history(
    bring_there: Callable[[TurnMachine], Any],
    added: tuple[Item, ...],
    reason: Callable[[TurnMachine], Any],
    status: str,
) -> None:
    machine = machine_for()
    bring_there(machine)
    reason(machine)
    assert machine.break_off("broken off") == status
    assert machine.status == status
    assert machine.transcript.new_items() == added
    assert machine.open_calls == ()
    assert machine.break_off("again") == status


# Limits ------------------------------------------------------------------------------------------------------------


def test_the_turn_beyond_the_limit_fails_the_run() -> None:
    machine = machine_for(limits=Limits(max_turns=1))
    call(machine, CALL_A)
    tool(machine, "a")
    assert machine.next_action() == machine.next_action() == Finish("failed")
    assert machine.failure is None  # looking decides nothing
    assert machine.finish() == "failed"
    assert isinstance(machine.failure, MaxTurnsExceeded)
    assert not machine.interrupt("late", "immediate")[0]


def test_input_that_is_withdrawn_no_longer_asks_for_a_turn_beyond_the_limit() -> None:
    machine = machine_for(limits=Limits(max_turns=1))
    call(machine, TextDelta("A"))
    entry, _ = machine.inject(NEXT, "next")
    assert machine.next_action() == Finish("failed")
    machine.inbox.withdraw(entry)
    assert machine.next_action() == CheckOutput(AssistantMessage("A"))


def test_a_limit_that_is_reached_does_not_fail_a_run_that_is_done() -> None:
    machine = machine_for(limits=Limits(max_turns=1, max_tokens=5))
    call(machine, TextDelta("A"), ResponseEnded(Usage(input_tokens=9)))
    assert machine.next_action() == CheckOutput(AssistantMessage("A"))


def test_tokens_beyond_the_limit_fail_the_run_before_the_next_call() -> None:
    machine = machine_for(limits=Limits(max_tokens=5))
    call(machine, CALL_A, ResponseEnded(Usage(input_tokens=4, output_tokens=1)))
    tool(machine, "a")
    assert machine.finish() == "failed"
    assert isinstance(machine.failure, TokenLimitExceeded)


def test_too_many_tool_calls_fail_the_run_before_one_of_them_starts() -> None:
    machine = machine_for(limits=Limits(max_tool_calls=1))
    call(machine, CALL_A, CALL_B)
    assert machine.ending
    assert isinstance(machine.failure, ToolCallLimitExceeded)
    assert machine.next_action() == RunTools((CALL_A, CALL_B))  # to be answered as cancelled
    tool(machine, "a")
    tool(machine, "b")
    assert machine.finish() == "failed"


# Opening a response again ------------------------------------------------------------------------------------------


def test_calls_that_waited_for_approval_are_run_first() -> None:
    machine = machine_for()
    machine.reopen([AssistantMessage("t"), CALL_A, CALL_B], [ToolOutput("b", 2)])
    assert machine.next_action() == RunTools((CALL_A,))
    tool(machine, "a", 1)
    assert machine.transcript.new_items() == (
        AssistantMessage("t"),
        CALL_A,
        CALL_B,
        ToolOutput("a", 1),
        ToolOutput("b", 2),
    )
    assert machine.next_action() == CallModel(1)


@pytest.mark.parametrize(
    ("response", "outputs"),
    [([CALL_A], [ToolOutput("a", 1)]), ([], []), ([CALL_A], [ToolOutput("b", 1)]), ([AssistantMessage("t")], [])],
)
def test_a_response_without_an_open_call_cannot_be_opened_again(response: Any, outputs: Any) -> None:
    machine = machine_for()
    with pytest.raises(AssertionError, match="none is left open"):
        machine.reopen(response, outputs)
    assert machine.next_action() == CallModel(1)


# Reports that nobody asked for -------------------------------------------------------------------------------------

_illegal: list[tuple[str, Callable[[TurnMachine], Any], Callable[[TurnMachine], Any], str]] = [
    ("decide in a call", begin, lambda m: m.next_action(), "a model call is under way: end or cut it first"),
    ("begin in a call", begin, lambda m: m.begin_model_call([]), "a model call is under way"),
    ("begin with calls open", _running, lambda m: m.begin_model_call([]), "no model call is due: the next action is R"),
    (
        "begin when done",
        _done,
        lambda m: m.begin_model_call([]),
        "no model call is due: the next action is C",
    ),
    ("end without call", _done, lambda m: m.end_model_call(), "no model call is under way"),
    ("cut without call", _done, lambda m: m.cut_model_call(), "no model call is under way"),
    ("unknown output", _running, lambda m: tool(m, "x"), "no open tool call has the id 'x'"),
    ("second output", _running, lambda m: tool(m, "a"), "no open tool call has the id 'a'"),
    ("output without calls", _done, lambda m: tool(m, "a"), "no open tool call has the id 'a'"),
    ("accept too early", _running, lambda m: m.accept_output(), "there is no final answer to accept"),
    ("finish too early", _running, lambda m: m.finish(), "the run is not over: the next action is RunTools"),
    ("reopen in mid-run", _running, lambda m: m.reopen([CALL_A], []), "a response can be opened again only before"),
    ("reopen when done", _done, lambda m: m.reopen([CALL_A], []), "a response can be opened again only before"),
    (
        "reopen twice",
        lambda m: m.reopen([CALL_A], []),
        lambda m: m.reopen([CALL_B], []),
        "a response can be opened again only before the first turn",
    ),
]


@pytest.mark.parametrize(
    ("bring_there", "report", "message"), [row[1:] for row in _illegal], ids=[row[0] for row in _illegal]
)
def test_a_report_that_was_not_asked_for_is_refused_and_changes_nothing(
    bring_there: Callable[[TurnMachine], Any], report: Callable[[TurnMachine], Any], message: str
) -> None:
    machine = machine_for()
    bring_there(machine)
    before = (machine.turn, machine.usage.copy(), machine.open_calls, machine.transcript.since(0), machine.final)
    with pytest.raises(AssertionError) as caught:
        report(machine)
    assert str(caught.value).startswith(message)
    assert before == (machine.turn, machine.usage, machine.open_calls, machine.transcript.since(0), machine.final)
    assert (machine.failure, machine.cancelled, machine.status) == (None, False, None)


def test_law_5_a_call_takes_the_input_that_is_due_and_no_other() -> None:
    machine = machine_for()
    first, _ = machine.inject(NEXT, "next")
    second, _ = machine.inject(NEXT, "next")
    idle, _ = machine.inject(NEXT, "idle")
    for wrong in ([], [first], [second, first], [first, first], [first, second, idle]):
        with pytest.raises(AssertionError, match="the inputs of a model call must be those that are due"):
            machine.begin_model_call(wrong)
    assert (machine.turn, len(machine.transcript), len(machine.inbox.pending)) == (0, 1, 3)
