"""Everything that can be done to a run, at every scheduling point of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.core.events import Event
from agentrun.core.items import RunInput
from agentrun.core.results import RunResult
from agentrun.core.snapshot import RunSnapshot
from agentrun.runtime.agent import Agent
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.hooks import RunHooks
from agentrun.runtime.opening import open_run
from agentrun.sessions.protocol import Session
from agentrun.testing.laws import LAWS_OF_CHECKS
from agentrun.testing.scripted import Say, ScriptedModel
from agentrun.testing.sweep import sweep
from agentrun.testing.sweep_arguments import Mode, check_injected, check_modes, choose_checks
from agentrun.testing.sweeping.engine import BackendName, Conditions, check_backends
from agentrun.testing.sweeping.places import first_line
from agentrun.testing.sweeping.report import SweepReport
from agentrun.testing.sweeping.verdicts import Check, hidden_in_pytest
from agentrun.testing.watched_runs import Program, RunPlan, WatchedRuns

__all__ = ["ActionName", "action_modes", "interrupt_everywhere"]

__tracebackhide__ = hidden_in_pytest

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

_SPARE_TURNS: Final = [Say("Very well.")] * 4  # an injection makes the model speak once more
_KNOWN: Final = cast("tuple[str, ...]", get_args(ActionName))


def interrupt_everywhere(
    agent: Agent[Any, Any] | Callable[[], Agent[Any, Any]],
    input: RunInput | None = None,
    *,
    deps: Callable[[], Any] | None = None,
    session: Callable[[], Session] | None = None,
    hooks: Callable[[], RunHooks | Sequence[RunHooks] | None] | None = None,
    resume_from: RunSnapshot | RunResult[Any] | None = None,
    config: RunConfig | None = None,
    actions: Iterable[ActionName] | None = None,
    on_approval: Literal["approve", "reject"] | None = "approve",
    on_event: Callable[[ActiveRun[Any], Event], object] | None = None,
    program: Program | None = None,
    oracle: Callable[..., Any] | None = None,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    tidy: bool = True,
    same_on_both: bool | None = None,
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
    start has its end; nothing is left alive; and the clean run's history and events are the same on both backends (see
    ``same_on_both``).

    Args:
        agent: The agent, or a function that makes it, with all its state, afresh. An agent that is given as such must
            have a `ScriptedModel`, whose script is then played from its beginning each time; agents inside of it
            (handoffs, agents as tools) need the function. In both cases the scripts get some spare turns for what is
            injected. Its tools and guardrails may be sync; see `check_tool`.
        input: What the run starts with; may be left out with ``resume_from``.
        deps: Makes the run's ``deps`` afresh.
        session: Makes the run's session afresh.
        hooks: Makes the run's hooks afresh.
        resume_from: What each run goes on from, as in `open_run`.
        config: The run's settings.
        actions: What to do: ``"interrupt"`` and ``"interrupt_after_turn"``, ``"interrupt_tool"`` (the first one at
            work), ``"inject_next"``, ``"inject_now"``, ``"inject_idle"``, ``"approve"`` and ``"reject"`` (the first
            call that waits), ``"cancel"`` (the scope around the run) and ``"native"`` (``Task.cancel()`` on the task
            that holds the run, once to three times, on asyncio). By default all.
        on_approval: What the watcher of the run does when a call asks for approval; ``None`` leaves it waiting.
        on_event: Called by the watcher with the handle and each event: to sweep a run that is interrupted, steered
            or injected into anyway, such as at its first `ToolStarted`.
        program: What is done with the run, instead of watching it to its end: an async function that is given the run,
            not opened yet, as ``open_run`` gives it, and may put anything around and inside of its block: ``async def
            program(opening): async with opening as live: await live.wait()``. It decides about approvals itself. Its
            first ``events()`` begin after `RunStarted`, because the sweep watches, too.
        oracle: As in `cancel_everywhere`; if it has a parameter, it gets the `RunRecord` of the run. Its ``live`` is
            ``None`` when the run was cancelled before it was opened.
        raises: Exceptions that the run may end with.
        tidy: Whether every teardown must be clean: no cleanup that fails or takes too long, no swallowed cancellation.
        same_on_both: Whether the clean run must be the same on both backends (law 11). By default it must, unless
            ``on_event``, ``program`` or a tool interrupts it or injects something: in which step of its tools that
            comes is the event loop's decision.
        backends: As in `cancel_everywhere`, and so are the others.
        seed: See there.
        grace: Seconds of virtual time that what an action stops may take to end: the run, a tool, a stream.
            What stops nothing, such as an approval, has no such limit.
        ignore: See there.
        second: So many of the points after each injection get a cancellation from outside, in a run of their own.
        limit: See there; for each action.
        only: See there.
        max_points: See there.
        progress: See there.

    Raises:
        SweepRefused: The run is not deterministic, uses sockets or processes, or a thread waits for something real.
        UserError: An argument is not valid, or such that nothing would be done to any run.
    """
    make = _maker(agent)
    for name, function in (
        ("deps", deps), ("session", session), ("hooks", hooks), ("on_event", on_event), ("program", program),
        ("oracle", oracle),
    ):  # fmt: skip
        if function is not None and not callable(function):
            raise UserError(f"{name} must be a function, not {type(function).__name__}")
    if on_approval not in ("approve", "reject", None):
        raise UserError(f"on_approval must be 'approve', 'reject' or None, not {on_approval!r}")
    if program is not None and on_event is not None:
        raise UserError("on_event belongs to the watcher that program replaces; let program watch events() itself")
    plan = RunPlan(
        make=make,
        input=input,
        deps=deps,
        session=session,
        hooks=hooks,
        resume_from=resume_from,
        config=config,
        on_approval=on_approval,
        on_event=on_event,
        program=program,
        tidy=tidy,
        same_on_both=same_on_both,
        oracle=oracle,
    )
    runs = WatchedRuns(plan)
    conditions = Conditions(
        runs.scenario,
        runs.oracle,
        seed,
        grace,
        raises if isinstance(raises, tuple) else (raises,),
        choose_checks(ignore),
        max_points,
        laws=LAWS_OF_CHECKS,
        begins_at=first_line(program if program is not None else open_run),
    )
    backends = check_backends(backends)
    modes = action_modes(_KNOWN if actions is None else actions, _KNOWN)
    check_modes("actions", modes, backends)
    report = sweep(
        conditions,
        backends,
        modes,
        second=second,
        limit=limit,
        only=only,
        progress=progress,
        title=f"interrupt everywhere in {make().name!r}",
    )
    check_injected(report, only)
    return report


def _maker(agent: Agent[Any, Any] | Callable[[], Agent[Any, Any]]) -> Callable[[], Agent[Any, Any]]:
    if not isinstance(agent, Agent):
        if not callable(agent):
            raise UserError(f"agent must be an Agent or a function that makes one, not {type(agent).__name__}")
        return lambda: _with_spare_turns(agent())
    model = agent.model
    if not isinstance(model, ScriptedModel):
        raise UserError(
            f"agent {agent.name!r} must have a ScriptedModel here, so that it says the same in each run; or pass a "
            "function that makes the agent with a fresh model"
        )
    clone: Callable[..., Agent[Any, Any]] = agent.clone
    return lambda: clone(model=model.rewound(_SPARE_TURNS))


def _with_spare_turns(agent: Any) -> Agent[Any, Any]:
    """The agent; it, and those that it may hand over to, have something to say about what is injected."""
    if not issubclass(type(agent), Agent):  # leaves `Any` what it is
        raise UserError(f"agent must be an Agent or a function that makes one; this one made {type(agent).__name__}")
    first: Agent[Any, Any] = agent
    agents = [first]
    for each in agents:
        model = each.model
        if isinstance(model, ScriptedModel) and not model.requests:
            model.add_spare_turns(_SPARE_TURNS)
        agents += [handoff.agent for handoff in each.handoff_map.values() if handoff.agent not in agents]
    return first


def action_modes(actions: Iterable[str], known: Sequence[str]) -> list[Mode]:
    """The ways to do each of the actions at a point, and to cancel from outside in a second injection.

    Raises:
        UserError: An action is not among the known ones.
    """
    modes: list[Mode] = []
    for action in (actions,) if isinstance(actions, str) else tuple(actions):
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
