"""Everything that can be done to a run, at every scheduling point of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

import anyio

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.core.events import ApprovalRequested, Event, RunStarted
from agentrun.core.items import RunInput, UserMessage
from agentrun.runtime.agent import Agent
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.opening import open_run
from agentrun.sessions.protocol import Session
from agentrun.testing.laws import LAWS_OF_CHECKS, RunRecord, broken_laws, structure
from agentrun.testing.scripted import Say, ScriptedModel
from agentrun.testing.sweep import Mode, choose_checks, sweep
from agentrun.testing.sweeping.engine import BackendName, Conditions, check_backends
from agentrun.testing.sweeping.points import Trial
from agentrun.testing.sweeping.report import SweepReport
from agentrun.testing.sweeping.verdicts import Check

__all__ = ["ActionName", "interrupt_everywhere"]

ActionName: TypeAlias = Literal[
    "interrupt",
    "interrupt_after_turn",
    "interrupt_tool",
    "inject_next",
    "inject_now",
    "inject_idle",
    "approve",
    "reject",
    "cancel",
    "native",
]

_SPARE_TURNS: Final = 4  # an injection makes the model speak once more
_ON_HANDLE: Final = (
    "interrupt",
    "interrupt_after_turn",
    "interrupt_tool",
    "inject_next",
    "inject_now",
    "inject_idle",
    "approve",
    "reject",
)


def interrupt_everywhere(
    agent: Agent[Any, Any] | Callable[[], Agent[Any, Any]],
    input: RunInput,
    *,
    deps: Callable[[], Any] | None = None,
    session: Callable[[], Session] | None = None,
    config: RunConfig | None = None,
    actions: Iterable[ActionName] | None = None,
    on_approval: Literal["approve", "reject"] | None = "approve",
    oracle: Callable[[], Any] | None = None,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    tidy: bool = True,
    backends: Sequence[BackendName] = ("asyncio", "trio"),
    seed: int = 0,
    grace: float = 60.0,
    ignore: Iterable[Check] = (),
    second: int = 0,
    limit: int | None = None,
    only: str | None = None,
    max_points: int = 20_000,
    progress: bool | None = None,
) -> SweepReport:
    """Run an agent once for each scheduling point of its run and each thing that can be done to it there, and check the
    laws of a run after each.

    Besides what `cancel_everywhere` checks: the run has one ending, which fits what was done to it; its history, its
    session and all its requests are valid; each injected input is in the history once or comes back undelivered; each
    start has its end; nothing is left alive; and the clean run's history and events are the same on both backends.

    Args:
        agent: The agent, or a function that makes it, with all its state, afresh. An agent that is given as such must
            have a `ScriptedModel`, whose script is then played from its beginning each time, with some spare turns for
            what is injected; agents inside of it (handoffs, agents as tools) need the function. Its tools and
            guardrails must be async: sync ones run in threads.
        input: What the run starts with.
        deps: Makes the run's ``deps`` afresh.
        session: Makes the run's session afresh.
        config: The run's settings.
        actions: What to do: ``"interrupt"`` and ``"interrupt_after_turn"``, ``"interrupt_tool"`` (the first one at
            work), ``"inject_next"``, ``"inject_now"``, ``"inject_idle"``, ``"approve"`` and ``"reject"`` (the first
            call that waits), ``"cancel"`` (the scope around the run) and ``"native"`` (``Task.cancel()`` on the task
            that holds the run, once to three times, on asyncio). By default all.
        on_approval: What the watcher of the run does when a call asks for approval; ``None`` leaves it waiting.
        oracle: As in `cancel_everywhere`.
        raises: Exceptions that the run may end with.
        tidy: Whether every teardown must be clean: no cleanup that fails or takes too long, no swallowed cancellation.
        backends: As in `cancel_everywhere`, and so are the others.
        seed: See there.
        grace: See there.
        ignore: See there.
        second: So many of the points after each injection get a cancellation from outside, in a run of their own.
        limit: See there; for each action.
        only: See there.
        max_points: See there.
        progress: See there.

    Raises:
        SweepRefused: The run is not deterministic, or uses threads, sockets or processes.
        UserError: An argument is not valid.
    """
    make = _maker(agent)
    runs = _Runs(make, input, deps, session, config, on_approval, tidy, oracle)
    conditions = Conditions(
        runs.scenario,
        runs.oracle,
        seed,
        grace,
        raises if isinstance(raises, tuple) else (raises,),
        choose_checks(ignore),
        max_points,
        laws=LAWS_OF_CHECKS,
    )
    return sweep(
        conditions,
        check_backends(backends),
        _modes(actions),
        second=second,
        limit=limit,
        only=only,
        progress=progress,
        title=f"interrupt everywhere in {make().name!r}",
    )


def _maker(agent: Agent[Any, Any] | Callable[[], Agent[Any, Any]]) -> Callable[[], Agent[Any, Any]]:
    if not isinstance(agent, Agent):
        if not callable(agent):
            raise UserError(f"agent must be an Agent or a function that makes one, not {type(agent).__name__}")
        return agent
    model = agent.model
    if not isinstance(model, ScriptedModel):
        raise UserError(
            f"agent {agent.name!r} must have a ScriptedModel here, so that it says the same in each run; or pass a "
            "function that makes the agent with a fresh model"
        )
    clone: Callable[..., Agent[Any, Any]] = agent.clone
    return lambda: clone(model=model.rewound([Say("Very well.")] * _SPARE_TURNS))


def _modes(actions: Iterable[str] | None) -> list[Mode]:
    known = (*_ON_HANDLE, "cancel", "native")
    wanted = known if actions is None else ((actions,) if isinstance(actions, str) else tuple(actions))
    modes: list[Mode] = []
    for action in wanted:
        if action not in known:
            raise UserError(f"actions contains {action!r}; expected {', '.join(known)}")
        if action == "native":
            modes += [
                Mode(f"native-{times}", "after", "native", times, ("cancel", "cancel"), ("asyncio",))
                for times in (1, 2, 3)
            ]
            continue
        second = ("native", "cancel_outer" if action == "cancel" else "cancel")
        modes.append(Mode(f"{action}-suspended", "after", action, 1, second))
        modes.append(Mode(f"{action}-resuming", "before", action, 1, second))
    return modes


class _Runs:
    """The scenario of a sweep over runs, and its oracle."""

    def __init__(
        self,
        make: Callable[[], Agent[Any, Any]],
        input: RunInput,
        deps: Callable[[], Any] | None,
        session: Callable[[], Session] | None,
        config: RunConfig | None,
        on_approval: Literal["approve", "reject"] | None,
        tidy: bool,
        oracle: Callable[[], Any] | None,
    ) -> None:
        self._make = make
        self._input: RunInput = input
        self._deps = deps
        self._session = session
        self._config = config
        self._on_approval = on_approval
        self._tidy = tidy
        self._oracle = oracle
        self._trial: Trial
        self._record: RunRecord
        self._stream: Any = None
        self._clean: tuple[str, Any] | None = None

    async def scenario(self, trial: Trial) -> None:
        """One run: watched to its end."""
        self._trial, self._stream = trial, None
        agent = self._make()
        self._record = record = RunRecord(model=agent.model, tidy=self._tidy)
        record.session = self._session() if self._session is not None else None
        deps = self._deps() if self._deps is not None else None
        cancelled = anyio.get_cancelled_exc_class()
        async with open_run(agent, self._input, deps=deps, session=record.session, config=self._config) as live:
            record.live = live
            trial.actions.update(_actions(live, record))
            try:
                self._stream = live.events(buffer=100_000)
                async for event in self._stream:
                    self._see(live, event)
                await live.wait()
                record.returned = True
            except cancelled:
                record.cancelled = True
                raise

    def _see(self, live: ActiveRun[Any], event: Event) -> None:
        self._record.events.append(event)
        if isinstance(event, ApprovalRequested) and not event.path:
            if self._on_approval == "approve":
                live.approve(event.call_id)
            elif self._on_approval == "reject":
                live.reject(event.call_id, "no")

    async def oracle(self) -> None:
        """The laws of the run that has ended, and the user's own oracle."""
        record, trial = self._record, self._trial
        if record.live is not None and record.live.result is not None:
            if self._stream is None:
                self._stream = record.live.events()
            async for event in self._stream:
                record.events.append(event)
            # It may have been cancelled while the block was being left.
            record.cancelled = record.cancelled or not trial.returned
        for broken in broken_laws(record):
            trial.violate("law", broken.evidence, law=broken.law)
        if trial.fired == 0 and not trial.violations:
            self._compare(record)
        if self._oracle is not None:
            value = self._oracle()
            if hasattr(value, "__await__"):
                await value

    def _compare(self, record: RunRecord) -> None:
        """Law 11: the clean run is the same on both backends."""
        assert record.live is not None
        assert record.live.result is not None
        told = [
            replace(event, run_id="") if isinstance(event, RunStarted) else event for event in structure(record.events)
        ]
        clean = (record.live.result.history, [repr(event) for event in told])
        backend = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
        if self._clean is None:
            self._clean = backend, clean
        elif self._clean[1] != clean:
            other, (history, events) = self._clean
            if history != clean[0]:
                difference = f"{history!r}\n    {clean[0]!r}"
            else:
                pairs = zip(events, clean[1], strict=False)
                difference = next(
                    (f"{one}\n    {two}" for one, two in pairs if one != two),
                    f"{len(events)} and {len(clean[1])} events",
                )
            self._trial.violate("law", f"the runs on {other} and {backend} differ:\n    {difference}", law=11)


def _actions(live: ActiveRun[Any], record: RunRecord) -> dict[str, Callable[[], object]]:
    """What can be done to a run, by name."""

    def interrupt() -> None:
        record.interrupted = live.interrupt("swept away") or record.interrupted

    def inject(deliver: Literal["next", "now", "idle"]) -> None:
        if live.result is None:
            item = UserMessage(f"injected ({deliver}, {len(record.injections) + 1})")
            record.injections.append((live.inject(item, deliver=deliver), item))

    def first_tool(status: str | None) -> str | None:
        for child in live.state().scope.children:
            if child.kind == "tool" and (status is None or child.status == status):
                return child.id
        return None

    def on_tool(call: Callable[[str], object], status: str | None = None) -> None:
        call_id = first_tool(status)
        if call_id is not None:
            call(call_id)

    waiting = "waiting for approval"
    return {
        "interrupt": interrupt,
        "interrupt_after_turn": lambda: live.interrupt("swept away", mode="after_turn"),
        "interrupt_tool": lambda: on_tool(lambda call_id: live.interrupt_tool(call_id, "swept away")),
        "inject_next": lambda: inject("next"),
        "inject_now": lambda: inject("now"),
        "inject_idle": lambda: inject("idle"),
        "approve": lambda: on_tool(live.approve, waiting),
        "reject": lambda: on_tool(lambda call_id: live.reject(call_id, "swept away"), waiting),
    }
