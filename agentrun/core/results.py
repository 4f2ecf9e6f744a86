"""What is left of a run: its result, what its teardown had to do, and a snapshot to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Generic, Literal, TypeAlias, cast

from typing_extensions import TypeVar

from agentrun.core.errors import UserError
from agentrun.core.events import RunStatus
from agentrun.core.inbox import Delivery
from agentrun.core.interrupts import Interrupt
from agentrun.core.items import AssistantMessage, Item, ToolCall, dump_items, parse_items
from agentrun.core.usage import Usage

__all__ = [
    "GuardrailResult",
    "RunResult",
    "RunSnapshot",
    "RunState",
    "ScopeState",
    "TeardownReport",
    "UndeliveredInput",
]

OutputT_co = TypeVar("OutputT_co", covariant=True, default=Any)

SNAPSHOT_VERSION: Final = 1


@dataclass(slots=True)
class TeardownReport:
    """What it took to end the run. Empty lists mean that everything ended by itself.

    Attributes:
        cancelled_tools: Tool calls that were cancelled, as ``"name (call_id)"``, in the order of the calls.
        swallowed_cancellations: User code that was cancelled and returned as if it had not been.
        abandoned_threads: Threads that did not look at ``check_cancelled`` within the grace and still run.
        killed_processes: Process groups that had to be ended by a signal.
        expired_graces: User code whose cleanup took longer than ``cleanup_grace``.
        cleanup_errors: What cleanup code raised, as ``"where: error"``; the exceptions are in ``RunResult.errors``.
        seconds: How long the teardown took, from the interrupt, cancellation or failure to the end of the run; 0 for
            a run that ended by itself.
    """

    cancelled_tools: list[str] = field(default_factory=list[str])
    swallowed_cancellations: list[str] = field(default_factory=list[str])
    abandoned_threads: list[str] = field(default_factory=list[str])
    killed_processes: list[str] = field(default_factory=list[str])
    expired_graces: list[str] = field(default_factory=list[str])
    cleanup_errors: list[str] = field(default_factory=list[str])
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


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """How one guardrail answered, once."""

    name: str
    kind: Literal["input", "output"]
    outcome: Literal["passed", "tripped", "failed", "cancelled"]
    message: str | None = None
    data: Any = None


@dataclass(frozen=True, slots=True)
class UndeliveredInput:
    """An injected input that no model call has seen."""

    injection_id: str
    items: tuple[Item, ...]
    deliver: Delivery


@dataclass(slots=True)
class RunSnapshot:
    """A run that has ended, as plain data, to be stored and gone on from with ``open_run(..., resume_from=...)``.

    Attributes:
        run_id: Id of the run it was taken of.
        status: How that run ended.
        agent: Name of the agent that was at work.
        history: All items.
        pending_approvals: Tool calls that wait for a decision. In ``history`` they are answered as cancelled; a run
            that resumes from the snapshot opens them again.
        undelivered: Injected inputs that no model call has seen; a run that resumes delivers them first.
        usage: What had been used.
        turns: Turns taken.
        version: Version of this format.
    """

    run_id: str
    status: RunStatus
    agent: str
    history: tuple[Item, ...]
    pending_approvals: tuple[ToolCall, ...] = ()
    undelivered: tuple[UndeliveredInput, ...] = ()
    usage: Usage = field(default_factory=Usage)
    turns: int = 0
    version: int = SNAPSHOT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able form."""
        return {
            "version": self.version,
            "run_id": self.run_id,
            "status": self.status,
            "agent": self.agent,
            "history": dump_items(self.history),
            "pending_approvals": [call.call_id for call in self.pending_approvals],
            "undelivered": [
                {"injection_id": entry.injection_id, "items": dump_items(entry.items), "deliver": entry.deliver}
                for entry in self.undelivered
            ],
            "usage": asdict(self.usage),
            "turns": self.turns,
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """The snapshot as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSnapshot:
        """Read what `to_dict` gave.

        Raises:
            UserError: It is not a snapshot, or of a version this agentrun does not know.
        """
        version = data.get("version")
        if version != SNAPSHOT_VERSION:
            raise UserError(
                f"snapshot version {version!r} is not supported; this agentrun reads version {SNAPSHOT_VERSION}"
            )
        try:
            history = tuple(parse_items(data["history"], what="history"))
            calls = {item.call_id: item for item in history if isinstance(item, ToolCall)}
            return cls(
                run_id=data["run_id"],
                status=data["status"],
                agent=data["agent"],
                history=history,
                pending_approvals=tuple(calls[call_id] for call_id in data.get("pending_approvals", ())),
                undelivered=tuple(
                    UndeliveredInput(entry["injection_id"], tuple(parse_items(entry["items"])), entry["deliver"])
                    for entry in data.get("undelivered", ())
                ),
                usage=Usage(**data.get("usage", {})),
                turns=data.get("turns", 0),
            )
        except (KeyError, TypeError) as exc:
            raise UserError(f"not a valid run snapshot: {exc!r}") from exc

    @classmethod
    def from_json(cls, text: str | bytes) -> RunSnapshot:
        """Read what `to_json` wrote.

        Raises:
            UserError: It is not JSON or not a snapshot.
        """
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise UserError(f"the snapshot is not valid JSON: {exc}") from exc
        if not isinstance(data, dict):
            raise UserError("the snapshot must be a JSON object")
        return cls.from_dict(cast("dict[str, Any]", data))


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
            undelivered=self.undelivered,
            usage=self.usage.copy(),
            turns=self.turns,
        )


ScopeKind: TypeAlias = Literal["run", "model", "tool", "guardrail", "hook", "session"]


@dataclass(frozen=True, slots=True)
class ScopeState:
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


@dataclass(frozen=True, slots=True)
class RunState:
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
