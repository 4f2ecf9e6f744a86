"""The turn machine under any legal order of reports, requests and withdrawals.

Hypothesis plays the driver and everybody who steers a run. A second, simpler account of what should have happened is
kept beside the machine, and compared after every step.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentrun.core.errors import InboxFull, LimitExceeded, RunEnded
from agentrun.core.events import ReasoningDelta, TextDelta, ToolCallDelta
from agentrun.core.inbox import Inbox, InboxEntry
from agentrun.core.interrupts import Interrupt
from agentrun.core.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.limits import Limits
from agentrun.core.model import ResponseEnded
from agentrun.core.response import ResponseBuilder
from agentrun.core.transcript import ItemsView, Transcript
from agentrun.core.turns import CallModel, CheckOutput, Finish, RunTools, TurnMachine
from agentrun.core.usage import Usage

from .strategies import problems_of

CAPACITY = 6

bounds = st.none() | st.integers(1, 4)
call_ids = st.sampled_from(("a", "b", "a_2", "call", ""))
model_events: st.SearchStrategy[Any] = st.one_of(
    st.builds(TextDelta, st.sampled_from(("", "x", "y"))),
    st.builds(ToolCall, call_ids, st.just("f")),
    st.builds(AssistantMessage, st.sampled_from(("", "m"))),
    st.builds(Reasoning, st.just("r"), st.none() | st.just({"id": "r"})),
    st.just(ReasoningDelta("r")),
    st.just(ToolCallDelta("a", "f", "{")),
    st.builds(
        ResponseEnded,
        st.none() | st.builds(Usage, input_tokens=st.integers(0, 2), requests=st.integers(0, 1)),
        st.sampled_from((None, "stop", "length")),
    ),
)
errors = st.sampled_from((None, None, None, None, ValueError("x")))
deliveries = st.sampled_from(("next", "now", "idle"))
modes = st.sampled_from(("immediate", "after_turn"))


class TurnMachineRules(RuleBasedStateMachine):
    @initialize(
        bounds=st.tuples(bounds, bounds, bounds),
        history=st.booleans(),
        reopened=st.none() | st.lists(st.booleans(), min_size=1, max_size=3),
        patience=st.integers(0, 30),
    )
    def start(self, bounds: tuple[int | None, ...], history: bool, reopened: list[bool] | None, patience: int) -> None:
        first: list[Item] = [UserMessage("first")]
        if history:
            first = [ToolCall("a", "f"), ToolOutput("a", "old"), AssistantMessage("old"), *first]
        self.limits = Limits(*bounds)
        self.machine = TurnMachine(Transcript(first), limits=self.limits, inbox=Inbox(CAPACITY))
        if reopened is not None and not all(reopened):
            calls = [ToolCall(f"re{n}", "f") for n in range(len(reopened))]
            ended = [ToolOutput(c.call_id, "old") for c, done in zip(calls, reopened, strict=True) if done]
            self.machine.reopen(calls, ended)
        self.builder: ResponseBuilder | None = None
        self.doing: Any = None  # the action that the driver is at
        self.running: tuple[ToolCall, ...] = ()
        self.accepted = False
        self.answered = False  # the last model call gave an answer without tool calls
        # The other account:
        self.injected: list[InboxEntry] = []
        self.withdrawn: list[InboxEntry] = []
        self.deliveries: list[list[InboxEntry]] = []
        self.reason: str | None = None
        self.mode: str | None = None
        self.decided: str | None = None  # "failed", "cancelled" or "immediate": what stopped the run first
        self.error: BaseException | None = None
        self.ended_as: str | None = None
        self.views: list[tuple[ItemsView, tuple[Item, ...]]] = []
        self.numbers = iter(range(1_000_000))
        self.patience = patience  # steps before anything may stop the run, so that runs get long, too

    # The driver ------------------------------------------------------------------------------------------------

    def decide(self) -> Any:
        """Ask what comes next, twice: that changes nothing."""
        before = self.fingerprint()
        action = self.machine.next_action()
        assert self.machine.next_action() == action
        assert self.fingerprint() == before
        return action

    def note_failure(self, error: BaseException) -> None:
        if self.decided is None:
            self.decided, self.error = "failed", error

    @property
    def idle(self) -> bool:
        return self.doing is None and self.ended_as is None

    # Hypothesis leaves some rules out of each run, to get deep elsewhere; so there is more than one that moves on.

    @precondition(lambda self: self.ended_as is None)
    @rule(data=st.data())
    def drive(self, data: st.DataObject) -> None:
        """The next report of the driver, whatever it is at."""
        if self.doing is None:
            self.go_on()
        elif self.builder is not None:
            self.report_of_the_stream(data)
        elif isinstance(self.doing, RunTools):
            self.report_of_a_tool(data)
        else:
            self.report_of_the_output(data)

    @precondition(lambda self: self.ended_as is None)
    @rule(data=st.data(), steps=st.integers(2, 8))
    def drive_far(self, data: st.DataObject, steps: int) -> None:
        for _ in range(steps):
            self.meanwhile(data)
            if self.ended_as is None:
                self.drive(data)

    @precondition(lambda self: self.ended_as is None)
    @rule(data=st.data())
    def drive_a_turn(self, data: st.DataObject) -> None:
        turn = self.machine.turn
        while self.ended_as is None and self.machine.turn <= turn + 1 and not (self.idle and self.machine.turn > turn):
            self.meanwhile(data)
            self.drive(data)

    def go_on(self) -> None:
        machine, action = self.machine, self.decide()
        stopping = self.decided is not None or self.mode is not None
        if isinstance(action, CallModel):
            assert not stopping
            assert action.turn == machine.turn + 1
            assert self.limits.max_turns is None or machine.turn < self.limits.max_turns
            assert self.limits.max_tokens is None or machine.usage.total_tokens < self.limits.max_tokens
            due, before = machine.due_input(), len(machine.transcript)
            pending = machine.inbox.pending
            hurried = [entry for entry in pending if entry.deliver != "idle"]
            assert due == (hurried or (list(pending) if self.answered else []))
            self.builder = machine.begin_model_call(due)
            self.accepted = self.answered = False
            self.deliveries.append(due)
            assert machine.transcript.since(before) == tuple(item for entry in due for item in entry.items)
            self.doing = action
        elif isinstance(action, RunTools):
            assert action.calls
            over = self.limits.max_tool_calls is not None and machine.usage.tool_calls > self.limits.max_tool_calls
            assert not over or machine.ending  # the driver starts no tool of a run that is ending
            self.running = action.calls
            self.doing = action
        elif isinstance(action, CheckOutput):
            assert not stopping
            assert self.answered
            self.doing = action
        else:
            self.end(action)

    def end(self, action: Any) -> None:
        machine = self.machine
        assert isinstance(action, Finish)
        expected = self.decided if self.decided in ("failed", "cancelled") else None
        if expected is None and self.accepted and not machine.inbox.pending:
            expected = "completed"
        if expected is None and self.mode is not None:
            expected = "interrupted"
        if expected is None:
            over_turns = self.limits.max_turns is not None and machine.turn >= self.limits.max_turns
            over_tokens = self.limits.max_tokens is not None and machine.usage.total_tokens >= self.limits.max_tokens
            assert over_turns or over_tokens
            expected = "failed"
        assert action.status == expected
        assert machine.finish() == expected
        if expected == "failed" and self.decided is None:
            assert isinstance(machine.failure, LimitExceeded)
            self.note_failure(machine.failure)
        self.ended_as = expected

    def report_of_the_stream(self, data: st.DataObject) -> None:
        assert self.builder is not None
        machine, error = self.machine, None
        match data.draw(st.sampled_from(("event", "event", "event", "end", "end", "cut", "break"))):
            case "event":
                self.builder.feed(data.draw(model_events))
                return
            case "end":
                calls = machine.end_model_call()
                assert calls == machine.open_calls
                assert len({call.call_id for call in calls}) == len(calls)
                self.answered = not calls
                limit = self.limits.max_tool_calls
                if calls and limit is not None and machine.usage.tool_calls > limit and self.decided is None:
                    assert isinstance(machine.failure, LimitExceeded)
                    self.note_failure(machine.failure)
            case "cut":
                machine.cut_model_call()
            case _:
                machine.cut_model_call()
                error = ValueError("the stream broke")
        self.builder = self.doing = None
        self.fail_if(error)

    def report_of_a_tool(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.machine.open_calls))
        status = data.draw(st.sampled_from(("completed", "failed", "cancelled", "rejected", "timed_out")))
        self.machine.tool_ended(ToolOutput(call.call_id, "out", status))  # type: ignore[arg-type]
        if not self.machine.open_calls:
            self.doing = None
        self.fail_if(data.draw(errors))

    def report_of_the_output(self, data: st.DataObject) -> None:
        self.doing = None
        error = data.draw(errors)
        self.fail_if(error)
        if error is None and not self.machine.ending:
            self.machine.accept_output()
            self.accepted = True

    def fail_if(self, error: BaseException | None) -> None:
        if error is not None and self.patience < 0:
            self.fail(error)

    # Everybody else --------------------------------------------------------------------------------------------

    @rule(deliver=deliveries, size=st.integers(1, 2))
    def inject(self, deliver: Any, size: int) -> None:
        items = tuple((UserMessage, SystemMessage)[n](f"injected {next(self.numbers)}") for n in range(size))
        stopping = self.decided is not None or self.mode is not None or self.ended_as is not None
        try:
            entry, effect = self.machine.inject(items, deliver)
        except InboxFull:
            assert len(self.machine.inbox.pending) == CAPACITY
            return
        assert effect == ("cut" if deliver == "now" and not stopping else "none")
        self.injected.append(entry)

    @precondition(lambda self: self.injected)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.injected))
        pending = entry in self.machine.inbox.pending
        assert self.machine.inbox.withdraw(entry) is pending
        if pending:
            self.withdrawn.append(entry)

    def meanwhile(self, data: st.DataObject) -> None:
        """What other tasks do between two reports of the driver."""
        match data.draw(st.sampled_from((None, None, None, None, "inject", "inject", "withdraw", "interrupt"))):
            case "inject":
                self.inject(data.draw(deliveries), 1)
            case "withdraw" if self.injected:
                self.withdraw(data)
            case "interrupt" if self.patience < 0:
                self.interrupt(data.draw(st.none() | st.just("x")), data.draw(modes))
            case _:
                pass

    @precondition(lambda self: self.patience < 0)
    @rule(reason=st.none() | st.sampled_from(("x", "y")), mode=modes)
    def interrupt(self, reason: str | None, mode: Any) -> None:
        changed, effect = self.machine.interrupt(reason, mode)
        if self.ended_as is not None or self.decided in ("failed", "cancelled"):
            assert (changed, effect) == (False, "none")
        elif self.mode is None:
            assert changed
            self.reason, self.mode = reason, mode
        elif self.mode == "after_turn" and mode == "immediate":
            assert changed
            self.reason, self.mode = self.reason if self.reason is not None else reason, mode
        else:
            assert not changed
        if changed:
            assert effect == ("stop" if mode == "immediate" else "none")
            if mode == "immediate" and self.decided is None:
                self.decided = "immediate"

    @precondition(lambda self: self.patience < 0)
    @rule(error=st.builds(ValueError))
    def fail(self, error: BaseException) -> None:
        assert self.machine.fail(error) is (self.decided is None and self.ended_as is None)
        if self.ended_as is None:
            self.note_failure(error)

    @precondition(lambda self: self.patience < 0)
    @rule()
    def cancel(self) -> None:
        first = self.decided in (None, "immediate") and self.ended_as is None
        assert self.machine.cancel() is first
        if first:
            self.decided = "cancelled"

    @precondition(lambda self: self.ended_as is None and self.patience < -10)
    @rule()
    def break_off(self) -> None:
        accepted = self.accepted and not self.machine.inbox.pending and self.decided == "immediate"
        status = self.machine.break_off("broken off")
        if accepted and not self.deliveries_are_open:
            assert status == "completed"
        else:
            assert status == {"failed": "failed", "immediate": "interrupted"}.get(self.decided or "", "cancelled")
        self.decided = self.decided or "cancelled"
        self.ended_as, self.builder, self.doing = status, None, None

    @property
    def deliveries_are_open(self) -> bool:
        return self.builder is not None or bool(self.machine.open_calls)

    @precondition(lambda self: not self.idle)
    @rule(n=st.integers(0, 5))
    def report_what_nobody_asked_for(self, n: int) -> None:
        machine, before = self.machine, self.fingerprint()
        with pytest.raises(AssertionError):
            at_output = isinstance(self.doing, CheckOutput)  # from there other ways may be open by now
            if n == 0 and not at_output:
                machine.finish()
            elif n == 1 and not at_output:
                machine.begin_model_call(machine.due_input())
            elif n == 2:
                ended = [call for call in self.running if call not in machine.open_calls]
                machine.tool_ended(ToolOutput(ended[0].call_id if ended else "nobody", "x"))
            elif n == 3 and self.builder is None:
                machine.end_model_call()
            elif n == 4 and self.builder is None:
                machine.cut_model_call()
            else:
                machine.reopen([], [])
        assert self.fingerprint() == before

    # What is always true ---------------------------------------------------------------------------------------

    def fingerprint(self) -> Any:
        machine = self.machine
        return (
            machine.transcript.since(0),
            machine.turn,
            machine.usage.copy(),
            machine.open_calls,
            machine.inbox.pending,
            machine.interrupts.current,
            machine.failure,
            machine.cancelled,
            machine.status,
            machine.final,
        )

    @invariant()
    def time_passes(self) -> None:
        self.patience -= 1

    @invariant()
    def looking_changes_nothing(self) -> None:
        if self.builder is None:
            action = self.decide()
            assert not isinstance(action, RunTools) or action.calls == self.machine.open_calls != ()

    @invariant()
    def law_4_the_history_is_valid_and_only_grows(self) -> None:
        view = self.machine.transcript.view()
        assert problems_of(view) == []
        for old, copy in self.views[-3:]:
            assert tuple(old) == copy == tuple(view[: len(copy)])
        self.views.append((view, tuple(view)))

    @invariant()
    def law_5_no_input_is_lost_doubled_or_out_of_order(self) -> None:
        pending = self.machine.inbox.pending
        delivered = [entry for batch in self.deliveries for entry in batch]
        for entry in self.injected:
            ways = [entry in delivered, entry in pending, entry in self.withdrawn]
            assert ways.count(True) == 1
            assert delivered.count(entry) == ways[0]
            assert entry.status == ("delivered", "pending", "undelivered")[ways.index(True)]
        in_history = [i for i in self.machine.transcript.view() if isinstance(i, (UserMessage, SystemMessage))]
        mine = [item for item in in_history if item.text.startswith("injected")]
        assert mine == [item for entry in delivered for item in entry.items]
        for turn, batch in enumerate(self.deliveries, start=1):
            assert all(entry.turn == turn for entry in batch)
            assert batch == sorted(batch, key=self.injected.index)
        for kinds in (("next", "now"), ("idle",)):
            some = [entry for entry in delivered if entry.deliver in kinds]
            assert some == sorted(some, key=self.injected.index)
        assert list(pending) == sorted(pending, key=self.injected.index)

    @invariant()
    def law_2_the_first_reason_wins_and_an_ending_stays(self) -> None:
        machine = self.machine
        assert machine.status == self.ended_as
        if self.ended_as is not None:
            assert machine.next_action() == Finish(machine.status)  # type: ignore[arg-type]
        current = machine.interrupts.current
        assert current == (None if self.mode is None else Interrupt(self.reason, self.mode))  # type: ignore[arg-type]
        if self.decided != "failed":
            assert machine.failure is None or self.decided is None
        else:
            assert machine.failure is self.error
        assert machine.cancelled is (self.decided == "cancelled")
        assert machine.ending is (self.decided is not None or machine.failure is not None)

    @invariant()
    def limits_hold_and_everything_is_counted(self) -> None:
        machine = self.machine
        assert machine.turn == machine.usage.requests == len(self.deliveries)
        assert self.limits.max_turns is None or machine.turn <= self.limits.max_turns

    # The end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From any state: stop the run, let everything be cancelled, and do what `next_action` says."""
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        if self.ended_as is None:
            (machine.cancel, lambda: machine.interrupt("end", "immediate"))[len(self.injected) % 2]()
            steps = 0
            if self.builder is not None:
                machine.cut_model_call()
            for call in machine.open_calls:
                assert isinstance(machine.next_action(), RunTools)
                machine.tool_ended(ToolOutput(call.call_id, "cancelled", "cancelled"))
                steps += 1
            assert steps <= 20
            assert isinstance(machine.next_action(), Finish)
            machine.finish()
        assert problems_of(machine.transcript.view()) == []
        left = machine.inbox.close()
        delivered = [entry for batch in self.deliveries for entry in batch]
        for entry in self.injected:  # each went exactly one way
            assert [entry in delivered, entry in left, entry in self.withdrawn].count(True) == 1
            assert entry.status == ("delivered" if entry in delivered else "undelivered")
        with pytest.raises(RunEnded):
            machine.inject((UserMessage("late"),), "next")


TurnMachineRules.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, report_multiple_bugs=False
)
TestTurnMachine = TurnMachineRules.TestCase


@given(
    turns=st.integers(1, 4),
    responses=st.lists(st.lists(model_events, max_size=4), max_size=5),
    injections=st.lists(st.sampled_from(("next", "now", "idle")), max_size=4),
)
def test_a_driver_that_does_what_it_is_told_comes_to_an_end(
    turns: int, responses: list[list[Any]], injections: list[Any]
) -> None:
    machine = TurnMachine(Transcript([UserMessage("u")]), limits=Limits(turns), inbox=Inbox(9))
    steps = 0
    while not isinstance(action := machine.next_action(), Finish):
        steps += 1
        assert steps <= 3 * turns
        if injections:
            machine.inject((UserMessage("injected"),), injections.pop())
            action = machine.next_action()
        if isinstance(action, CallModel):
            builder = machine.begin_model_call(machine.due_input())
            for event in responses.pop() if responses else [TextDelta("done")]:
                builder.feed(event)
            machine.end_model_call()
        elif isinstance(action, RunTools):
            for call in action.calls:
                machine.tool_ended(ToolOutput(call.call_id, "out"))
        elif isinstance(action, CheckOutput):
            machine.accept_output()
    assert machine.finish() in ("completed", "failed")
    assert problems_of(machine.transcript.view()) == []
