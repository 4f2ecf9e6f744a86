"""What is asked of a run in a sweep, and whether the run has heeded it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from agentrun.core.events import AgentChanged, GuardrailEnded, ModelCallStarted, ToolStarted
from agentrun.core.items import UserMessage
from agentrun.runtime.agent import Agent
from agentrun.runtime.guardrails import InputGuardrail
from agentrun.runtime.handle import ActiveRun
from agentrun.testing.laws import RunRecord
from agentrun.testing.stopping import all_of, what_is_cancelled
from agentrun.testing.sweeping.points import Stopping
from agentrun.testing.sweeping.verdicts import BrokenLaw, Check
from agentrun.testing.validation import assert_valid_history

__all__ = ["Steering"]


class Steering:
    """The actions of a sweep on one run, and what follows from them and from the run's agent.

    Unlike the laws on records, this knows how the agent was made: which tools need approval, which guardrails race.
    """

    def __init__(self, agent: Agent[Any, Any], record: RunRecord, *, alone: bool) -> None:
        """Args:
        agent: The agent that the run starts with.
        record: The record of the run.
        alone: Nobody but this approves calls.
        """
        self._record = record
        self._alone = alone
        self._refused: list[str] = []  # the phases of the run in which an immediate interrupt changed nothing
        self._permitted: set[str] = set()  # ids of the calls that were approved
        self._needing = {name for name, tool in agent.tool_map.items() if tool.needs_approval is True}
        guardrails = [guard for guard in agent.input_guardrails if isinstance(guard, InputGuardrail)]
        self._racing = {guard.name for guard in guardrails if not guard.blocking}
        self._racing -= {guard.name for guard in guardrails if guard.blocking}
        self._stored = 0
        self._unpaired: str | None = None

    def approve(self, call_id: str) -> bool:
        """Approve a call of the run."""
        approved = self._record.live is not None and self._record.live.approve(call_id)
        if approved:
            self._permitted.add(call_id)
        return approved

    def look(self) -> None:
        """Something has happened: look whether what is stored is valid at this moment."""
        items = getattr(self._record.session, "items", None)
        if items is None or len(items) == self._stored or self._unpaired is not None:
            return
        self._stored = len(items)
        try:
            assert_valid_history(tuple(items), what="session.items")
        except AssertionError as exc:
            self._unpaired = f"for a moment at least, {exc}"

    def why_stuck(self, check: Check) -> int | None:
        """The law that the run breaks if it does not go on; ``None`` if it, or a part of it, is being torn down."""
        live = self._record.live
        if live is not None and live.state().blocked_on_watchers:
            return 10
        if check == "grace" or live is None or live.status != "running":
            return None
        return 2  # it has no ending at all

    def broken_laws(self) -> Iterator[BrokenLaw]:
        """What was not heeded, when the run has ended."""
        live = self._record.live
        result = live.result if live is not None else None
        if result is not None and self._refused and result.status in ("completed", "interrupted"):
            phase = self._refused[0]
            yield BrokenLaw(2, f"an immediate interrupt did not escalate a weaker one in the phase {phase!r}")
        if self._unpaired is not None:
            yield BrokenLaw(4, self._unpaired)
        yield from self._acted_too_early()

    def _acted_too_early(self) -> Iterator[BrokenLaw]:
        started: list[str] = []  # since the last model call
        for event in self._record.events:
            if event.path:
                continue
            if isinstance(event, AgentChanged):
                return  # another agent has other tools and guardrails
            if isinstance(event, ModelCallStarted):
                started.clear()
            elif isinstance(event, ToolStarted):
                started.append(event.call_id)
                if self._alone and event.name in self._needing and event.call_id not in self._permitted:
                    yield BrokenLaw(13, f"{event.call_id} needs approval, and ran without it")
            elif isinstance(event, GuardrailEnded) and event.kind == "input" and event.name in self._racing and started:
                yield BrokenLaw(13, f"{started} started before the input guardrail {event.name} had answered")

    def actions(self, live: ActiveRun[Any], leaving: Callable[[], bool]) -> dict[str, Callable[[], Stopping | None]]:
        """What can be done to the run, by name; each tells what it has stopped, if anything.

        Args:
            live: The run.
            leaving: Whether its block is being left.
        """
        record = self._record

        def interrupt() -> Stopping | None:
            before, phase = live.state().interrupt, live.state().phase
            accepted = live.interrupt("swept away")
            record.interrupted = accepted or record.interrupted
            weak = before is not None and before.mode == "after_turn" and phase not in ("ending", "ended")
            if weak and live.state().interrupt == before and live.result is None:
                self._refused.append(phase)
            return all_of(live, leaving) if accepted else None

        def inject(deliver: Literal["next", "now", "idle"]) -> Stopping | None:
            if live.result is None:
                item = UserMessage(f"injected ({deliver}, {len(record.injections) + 1})")
                record.injections.append((live.inject(item, deliver=deliver), item))
            return what_is_cancelled(live)

        def on_first_tool(call: Callable[[str], object], status: str | None = None) -> Stopping | None:
            for child in live.state().scope.children:
                if child.kind == "tool" and (status is None or child.status == status):
                    call(child.id)
                    break
            return what_is_cancelled(live)

        def interrupt_after_turn() -> None:
            live.interrupt("swept away", mode="after_turn")

        waiting = "waiting for approval"
        return {
            "interrupt": interrupt,
            "interrupt_after_turn": interrupt_after_turn,
            "interrupt_tool": lambda: on_first_tool(lambda call_id: live.interrupt_tool(call_id, "swept away")),
            "inject_next": lambda: inject("next"),
            "inject_now": lambda: inject("now"),
            "inject_idle": lambda: inject("idle"),
            "approve": lambda: on_first_tool(self.approve, waiting),
            "reject": lambda: on_first_tool(lambda call_id: live.reject(call_id, "swept away"), waiting),
        }
