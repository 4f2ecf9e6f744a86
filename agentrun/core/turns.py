"""The turn machine: what a run does next. Synchronous, without I/O, and the only place where that is decided.

The driver asks ``next_action`` in a loop, does what it says, and reports what came of it. In between, any task may
interrupt or inject. Each method is one atomic step, so the state is consistent whenever the driver is suspended:

    CallModel   -> begin_model_call, feed..., then one of end_model_call / cut_model_call
    RunTools    -> tool_ended for each call (the last one commits the response with all outputs)
    CheckOutput -> accept_output (or fail)
    Finish      -> finish

``fail``, ``cancel``, ``interrupt``, ``inject`` and ``break_off`` may come at any time. A report that was not asked for
is a bug of the driver: it raises `AssertionError` and changes nothing.

A response that calls tools is *open* until all its calls have outputs; it enters the transcript whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from agentrun.core.errors import UserError
from agentrun.core.events import RunStatus
from agentrun.core.inbox import Delivery, Inbox, InboxEntry
from agentrun.core.interrupts import InterruptLatch, InterruptMode
from agentrun.core.items import AssistantMessage, Item, Reasoning, SystemMessage, ToolCall, ToolOutput, UserMessage
from agentrun.core.limits import Limits
from agentrun.core.plain import Plain
from agentrun.core.response import ResponseBuilder
from agentrun.core.transcript import Transcript
from agentrun.core.usage import Usage

__all__ = ["Action", "CallModel", "CheckOutput", "Effect", "Finish", "RunTools", "TurnMachine"]


# Never changed once made, like events; frozen ones take three times as long to make.


@dataclass(slots=True, repr=False, eq=False)
class CallModel(Plain):
    """Start a new turn: call the model with the transcript and what the inbox holds."""

    turn: int


@dataclass(slots=True, repr=False, eq=False)
class RunTools(Plain):
    """Run these calls, and report each one's output."""

    calls: tuple[ToolCall, ...]


@dataclass(slots=True, repr=False, eq=False)
class CheckOutput(Plain):
    """The model's answer is final unless an output guardrail objects."""

    message: AssistantMessage


@dataclass(slots=True, repr=False, eq=False)
class Finish(Plain):
    """The run is over; tear down what is left and report."""

    status: RunStatus


Action: TypeAlias = CallModel | RunTools | CheckOutput | Finish

Effect: TypeAlias = Literal["none", "cut", "stop"]
"""What a request asks of the driver: nothing, to cut what runs and go on, or to cut what runs and end."""


class TurnMachine:
    """The state of a run, and the rules by which it moves.

    Attributes:
        transcript: The history; valid at any time.
        inbox: Injected input that waits.
        interrupts: What was asked for.
        limits: What may be used.
        usage: What was used.
        turn: The current turn, from 1; 0 before the first.
        final: The model's final answer, unless there is more to do.
        failure: The exception that makes the run fail, once there is one.
        cancelled: Whether a cancellation from outside ends the run.
        ending: Whether the run must stop at once: it failed, was cancelled, or was interrupted for good.
        status: How the run ended; ``None`` while it lasts.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_builder",
        "_calls",
        "_outputs",
        "_response",
        "cancelled",
        "ending",
        "failure",
        "final",
        "inbox",
        "interrupts",
        "limits",
        "status",
        "transcript",
        "turn",
        "usage",
    )

    def __init__(self, transcript: Transcript, limits: Limits, inbox: Inbox) -> None:
        self.transcript: Transcript = transcript
        self.inbox: Inbox = inbox
        self.interrupts: InterruptLatch = InterruptLatch()
        self.limits: Limits = limits
        self.usage: Usage = Usage()
        self.turn: int = 0
        self.final: AssistantMessage | None = None
        self.failure: BaseException | None = None
        self.cancelled: bool = False
        self.ending: bool = False
        self.status: RunStatus | None = None
        self._accepted = False
        self._builder: ResponseBuilder | None = None  # of the model call under way
        self._response: Sequence[AssistantMessage | Reasoning | ToolCall] = ()  # the open one
        self._calls: dict[str, ToolCall] = {}  # its calls, in order
        self._outputs: dict[str, ToolOutput] = {}  # of those calls that have ended

    # What happens next ---------------------------------------------------------------------------------------

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """Calls of the open response that have no output yet."""
        if not self._outputs:
            return tuple(self._calls.values())
        return tuple(call for call_id, call in self._calls.items() if call_id not in self._outputs)

    def has_called(self, call_id: str) -> bool:
        """Whether the model has asked for this call since the run began."""
        return call_id in self._calls or any(
            isinstance(item, ToolCall) and item.call_id == call_id for item in self.transcript.new_items()
        )

    def next_action(self) -> Action:
        """Decide. This only looks: calling it again without reporting anything gives the same answer."""
        if self.status is not None:
            return Finish(self.status)
        if self._builder is not None:
            raise AssertionError("a model call is under way: end or cut it first")
        if self._calls:
            return RunTools(self.open_calls)
        if self.failure is not None:
            return Finish("failed")
        if self.cancelled:
            return Finish("cancelled")
        if self._accepted and not self.inbox.pending:
            return Finish("completed")
        if self.interrupts.current is not None:
            return Finish("interrupted")
        if self.final is not None and not self.inbox.pending:
            return CheckOutput(self.final)
        if self.limits.before_model_call(self.turn, self.usage) is not None:
            return Finish("failed")
        return CallModel(self.turn + 1)

    # The model call ------------------------------------------------------------------------------------------

    def due_input(self) -> list[InboxEntry]:
        """The injected inputs that the model call about to begin will take."""
        if not self.inbox.pending:
            return []  # nearly always
        return self.inbox.ready(finishing=self.final is not None)

    def begin_model_call(self, entries: Sequence[InboxEntry]) -> ResponseBuilder:
        """Start the turn and move ``entries`` from the inbox to the transcript, in one step.

        The request must be built from the transcript after this, and be sent.

        Args:
            entries: What ``due_input`` gives at this moment.
        """
        if not isinstance(action := self.next_action(), CallModel):
            raise AssertionError(f"no model call is due: the next action is {action}")
        if (entries or self.inbox.pending) and list(entries) != self.due_input():
            raise AssertionError("the inputs of a model call must be those that are due")
        self.turn += 1
        self.usage.requests += 1
        self.final = None
        self._accepted = False
        if entries:
            for entry in entries:
                self.transcript.append_input(entry.items)
            self.inbox.take(entries, self.turn)
        self._builder = ResponseBuilder()
        return self._builder

    def end_model_call(self) -> tuple[ToolCall, ...]:
        """The stream came to its end. Returns the tool calls that were asked for.

        They are open from now on, also when there are more than the limit allows: the run fails then, and none of them
        may start.
        """
        items = self._close_model_call().finished()
        calls: dict[str, ToolCall] = {}
        message: AssistantMessage | None = None
        for index, item in enumerate(items):
            if isinstance(item, ToolCall):
                call_id = self.transcript.unique_call_id(item.call_id, calls)
                if call_id != item.call_id:
                    items[index] = item = replace(item, call_id=call_id)
                calls[call_id] = item
            elif isinstance(item, AssistantMessage):
                message = item
        if calls:
            self._response, self._calls = items, calls
            self.usage.tool_calls += len(calls)
            if error := self.limits.before_tools(len(calls), self.usage):
                self.fail(error)
            return tuple(calls.values())
        self.transcript.commit_response(items, {})
        self.final = message if message is not None else AssistantMessage("")
        return ()

    def cut_model_call(self) -> None:
        """The stream was cut, by an interrupt, an injection or an error: keep what was said."""
        self.transcript.commit_response(self._close_model_call().cut(), {})

    def _close_model_call(self) -> ResponseBuilder:
        builder, self._builder = self._builder, None
        if builder is None:
            raise AssertionError("no model call is under way")
        if builder.usage is not None:
            self.usage.add_tokens(builder.usage)
        return builder

    # The tools -----------------------------------------------------------------------------------------------

    def tool_ended(self, output: ToolOutput) -> None:
        """Report the output of one open call. The last one commits the response."""
        if output.call_id not in self._calls or output.call_id in self._outputs:
            raise AssertionError(f"no open tool call has the id {output.call_id!r}")
        self._outputs[output.call_id] = output
        if len(self._outputs) == len(self._calls):
            self.transcript.commit_response(self._response, self._outputs)
            self._response, self._calls, self._outputs = (), {}, {}

    def reopen(
        self, response: Sequence[AssistantMessage | Reasoning | ToolCall], outputs: Sequence[ToolOutput]
    ) -> None:
        """Before the first turn: open a response again of which some calls waited for approval.

        Args:
            response: All its items, in order.
            outputs: Outputs of those calls that had ended.
        """
        calls = {item.call_id for item in response if isinstance(item, ToolCall)}
        ended = {output.call_id for output in outputs}
        if self.turn or self._calls or self.status is not None:
            raise AssertionError("a response can be opened again only before the first turn")
        if not ended < calls:
            raise AssertionError(f"of the calls {sorted(calls)} with outputs {sorted(ended)} none is left open")
        self._response = tuple(response)
        self._calls = {item.call_id: item for item in response if isinstance(item, ToolCall)}
        self._outputs = {output.call_id: output for output in outputs}

    # The end -------------------------------------------------------------------------------------------------

    def accept_output(self) -> None:
        """No output guardrail objects to the final answer."""
        if self.final is None or self.status is not None:
            raise AssertionError("there is no final answer to accept")
        self._accepted = True

    def fail(self, error: BaseException) -> bool:
        """Let the run fail. Returns ``False`` if its ending was decided before: the first reason wins.

        An error that comes while an immediate interrupt or a cancellation is torn down does not decide the ending.
        """
        if self.status is not None or self.ending:
            return False
        self.failure = error
        self.ending = True
        return True

    def cancel(self) -> bool:
        """The run was cancelled from outside, which is stronger than any interrupt.

        Returns ``False`` if it had failed or been cancelled before.
        """
        if self.status is not None or self.failure is not None or self.cancelled:
            return False
        self.cancelled = self.ending = True
        return True

    def finish(self) -> RunStatus:
        """Do what `Finish` says: settle the ending, once. From here on nothing can change it."""
        if self.status is not None:
            raise AssertionError(f"the run has ended as {self.status} already")
        if not isinstance(action := self.next_action(), Finish):
            raise AssertionError(f"the run is not over: the next action is {action}")
        if action.status == "failed" and self.failure is None:
            self.failure = self.limits.before_model_call(self.turn, self.usage)
            self.ending = True
        self.status = action.status
        return action.status

    def break_off(self, output: str) -> RunStatus:
        """End the run wherever it is, because its driver cannot go on. Cannot fail, and may be repeated.

        Unless something else has decided the ending, it counts as cancelled.

        Args:
            output: The output of the calls that are open.
        """
        if self.status is not None:
            return self.status
        if self._builder is not None:
            self.cut_model_call()
        for call in self.open_calls:
            self.tool_ended(ToolOutput(call.call_id, output, "cancelled"))
        if not self.ending:
            self.cancelled = self.ending = True
        return self.finish()

    # Requests from other tasks -------------------------------------------------------------------------------

    def interrupt(self, reason: str | None, mode: InterruptMode) -> tuple[bool, Effect]:
        """Ask for an interrupt. Returns whether it changed anything and what the driver has to do.

        A run that has failed, was cancelled or has ended cannot be interrupted any more.
        """
        if self.status is not None or self.failure is not None or self.cancelled:
            return False, "none"
        if not self.interrupts.request(reason, mode):
            return False, "none"
        self.ending = self.interrupts.immediate
        return True, "stop" if self.interrupts.immediate else "none"

    def inject(self, items: tuple[Item, ...], deliver: Delivery) -> tuple[InboxEntry, Effect]:
        """Take input in. Returns its entry and what the driver has to do.

        Raises:
            RunEnded: The inbox is closed.
            InboxFull: Too much input is waiting.
            UserError: An item is not a message of the user or the system.
        """
        for item in items:
            if not isinstance(item, (UserMessage, SystemMessage)):
                raise UserError(
                    f"inject: input contains a {type(item).__name__}; only user and system messages can be injected"
                )
        entry = self.inbox.add(items, deliver)
        goes_on = self.status is None and not self.ending and self.interrupts.current is None
        return entry, "cut" if deliver == "now" and goes_on else "none"
