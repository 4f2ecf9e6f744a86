"""What is left of a run: its result, what its teardown had to do, and how it looks while it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, cast

from typing_extensions import TypeVar

from agentrun.core.events import RunStatus
from agentrun.core.interrupts import Interrupt
from agentrun.core.items import AssistantMessage, Item, ToolCall
from agentrun.core.plain import Plain, PlainValue
from agentrun.core.snapshot import RunSnapshot, UndeliveredInput
from agentrun.core.usage import Usage

__all__ = [
    "GuardrailResult",
    "RunResult",
    "RunState",
    "ScopeState",
    "TeardownReport",
]

OutputT_co = TypeVar("OutputT_co", covariant=True, default=Any)


# `list[str]()` says the same, and costs five times as much; each run has a report.
_no_entries = cast("Callable[[], list[str]]", list)


@dataclass(slots=True, repr=False, eq=False)
class TeardownReport(Plain):
    """What it took to end the run. Empty lists mean that everything ended by itself.

    What the reports of nested runs have is in this one, too, but for ``cancelled_tools``. It says which call it was in.

    Attributes:
        cancelled_tools: Tool calls that were cancelled, as ``"name (call_id)"``, in the order of the calls.
        swallowed_cancellations: User code that was cancelled and returned as if it had not been.
        abandoned_threads: Threads that did not look at ``check_cancelled`` within the grace and still run.
        killed_processes: Process groups that had to be ended by a signal.
        expired_graces: User code whose cleanup took longer than ``cleanup_grace``.
        cleanup_errors: What cleanup code raised, as ``"where: error"``; the exceptions are in ``RunResult.errors``, in
            that of the nested run if it was in one.
        seconds: How long the teardown took, from the interrupt, cancellation or failure to the end of the run; 0 for
            a run that ended by itself.
    """

    cancelled_tools: list[str] = field(default_factory=_no_entries)
    swallowed_cancellations: list[str] = field(default_factory=_no_entries)
    abandoned_threads: list[str] = field(default_factory=_no_entries)
    killed_processes: list[str] = field(default_factory=_no_entries)
    expired_graces: list[str] = field(default_factory=_no_entries)
    cleanup_errors: list[str] = field(default_factory=_no_entries)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing misbehaved: cancelled tools are in order, all else is not."""
        return not (
            self.swallowed_cancellations
            or self.abandoned_threads
            or self.killed_processes
            or self.expired_graces
            or self.cleanup_errors
        )

    def __str__(self) -> str:
        parts = [
            f"{title}: {', '.join(values)}"
            for title, values in (
                ("cancelled", self.cancelled_tools),
                ("swallowed their cancellation", self.swallowed_cancellations),
                ("abandoned threads", self.abandoned_threads),
                ("killed processes", self.killed_processes),
                ("cleanup beyond its grace", self.expired_graces),
                ("errors in cleanup", self.cleanup_errors),
            )
            if values
        ]
        return f"torn down in {self.seconds * 1000:.0f} ms" + (
            "; " + "; ".join(parts) if parts else "; nothing left over"
        )


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GuardrailResult(PlainValue):
    """How one guardrail answered, once."""

    name: str
    kind: Literal["input", "output"]
    outcome: Literal["passed", "tripped", "failed", "cancelled"]
    message: str | None = None
    data: Any = None


@dataclass(slots=True)
class RunResult(Generic[OutputT_co]):
    """What came of a run.

    Attributes:
        run_id: Id of the run.
        status: ``"completed"``, ``"interrupted"``, ``"failed"`` or ``"cancelled"``.
        output: The final output, of the agent's ``output_type``; ``None`` unless the run completed.
        items: The items this run added to the history, its input not included.
        history: All items: valid input for the next run, whatever the status.
        agent: Name of the agent that was at work last.
        usage: What was used.
        turns: Turns taken.
        interrupt: Reason and mode of the interrupt, or ``None``.
        undelivered: Injected inputs that no model call has seen.
        pending_approvals: Tool calls that were waiting for a decision.
        asked_by: Name of the agent whose tools those are, if it has handed over in the same response; else ``None``.
        guardrail_results: How the guardrails answered.
        error: The exception that made the run fail, or ``None``.
        errors: Other exceptions, from cleanup and siblings, that did not decide the ending.
        teardown: What it took to end the run.
    """

    run_id: str
    status: RunStatus
    output: OutputT_co | None
    items: tuple[Item, ...]
    history: tuple[Item, ...]
    agent: str
    usage: Usage
    turns: int
    interrupt: Interrupt | None = None
    undelivered: tuple[UndeliveredInput, ...] = ()
    pending_approvals: tuple[ToolCall, ...] = ()
    guardrail_results: tuple[GuardrailResult, ...] = ()
    error: BaseException | None = None
    errors: tuple[BaseException, ...] = ()
    teardown: TeardownReport = field(default_factory=TeardownReport)
    asked_by: str | None = None

    @property
    def text(self) -> str:
        """The last thing the model said in this run, partial or not; empty if it said nothing."""
        for item in reversed(self.items):
            if isinstance(item, AssistantMessage):
                return item.text
        return ""

    def snapshot(self) -> RunSnapshot:
        """The result as plain data to store, and to resume from."""
        return RunSnapshot(
            run_id=self.run_id,
            status=self.status,
            agent=self.agent,
            history=self.history,
            pending_approvals=self.pending_approvals,
            asked_by=self.asked_by,
            undelivered=self.undelivered,
            usage=self.usage.copy(),
            turns=self.turns,
        )


ScopeKind: TypeAlias = Literal["run", "model", "tool", "guardrail", "hook", "session"]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ScopeState(PlainValue):
    """Something that is alive in a run right now.

    Attributes:
        kind: What it is.
        name: Its name: the model, the tool, the guardrail.
        id: The call id or run id, if it has one.
        status: Such as ``"running"``, ``"cancelling"``, ``"waiting for approval"`` or ``"queued"``.
        seconds: How long it has been alive.
        children: What is alive inside it.
    """

    kind: ScopeKind
    name: str
    id: str = ""
    status: str = "running"
    seconds: float = 0.0
    children: tuple[ScopeState, ...] = ()


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class RunState(PlainValue):
    """A picture of a run, taken at one moment.

    Attributes:
        run_id: Id of the run.
        status: ``"running"``, ``"interrupting"``, or how it ended.
        phase: What it is doing: ``"starting"``, ``"model"``, ``"tools"``, ``"guardrails"``, ``"ending"``, ``"ended"``.
        agent: Name of the agent at work.
        turn: The current turn, from 1; 0 before the first.
        inbox: Pending injected inputs, oldest first.
        usage: What was used so far.
        interrupt: The interrupt in force, or ``None``.
        blocked_on_watchers: Whether the model stream waits for a subscriber of ``events()`` that lags.
        scope: The tree of what is alive; its root is the run.
    """

    run_id: str
    status: str
    phase: str
    agent: str
    turn: int
    inbox: tuple[UndeliveredInput, ...]
    usage: Usage
    interrupt: Interrupt | None
    blocked_on_watchers: bool
    scope: ScopeState

    def tree(self) -> str:
        """The scopes as an indented text, one per line."""
        lines: list[str] = []

        def add(scope: ScopeState, depth: int) -> None:
            ident = f" {scope.id}" if scope.id else ""
            lines.append(f"{'  ' * depth}{scope.kind} {scope.name}{ident} [{scope.status}, {scope.seconds:.1f} s]")
            for child in scope.children:
                add(child, depth + 1)

        add(self.scope, 0)
        return "\n".join(lines)
