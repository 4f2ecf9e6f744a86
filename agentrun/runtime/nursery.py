"""The nursery of a run: the host, the driver as its child, and what the block raises when it is left.

The host task (the one that executes the ``async with`` block) is the only one that outside cancellations reach. The
driver is its child, behind a shield; when the block is left, the host tells it why and waits until it is done. So two,
three or ten cancellations, native or scoped, hit a host that does nothing but wait, and waits on.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from agentrun.core.config import RunConfig
from agentrun.core.error_text import describe_error
from agentrun.core.errors import UserError
from agentrun.core.events import RunStarted
from agentrun.core.inbox import Inbox
from agentrun.core.item_json import parse_input
from agentrun.core.items import Item, RunInput, ToolOutput
from agentrun.core.results import RunResult
from agentrun.core.snapshot import RunSnapshot
from agentrun.core.transcript import Transcript
from agentrun.core.turns import TurnMachine
from agentrun.runtime.agent import Agent
from agentrun.runtime.backend import running_backend
from agentrun.runtime.cancellations import is_scoped_cancellation, split_cancelled
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.driver import drive, end_undriven
from agentrun.runtime.event_loop import running_loop
from agentrun.runtime.guard_race import GuardRace
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.hooks import RunHooks
from agentrun.runtime.resolving import Response, list_hooks, reopen, resolve_models, resume_agents
from agentrun.runtime.run import UNBORN_AFTER, Run
from agentrun.runtime.tool_run import current_tool_run
from agentrun.sessions.protocol import Session

__all__ = ["RunNursery"]

_DEFAULT_CONFIG = RunConfig()


class RunNursery:
    """The async context manager behind `open_run`.

    A class, not a generator: the way in and the way out are then plain code, and a traceback does not pass through
    contextlib on its way.
    """

    __slots__ = (
        "_agent",
        "_backend",
        "_config",
        "_deps",
        "_end_on_approval",
        "_entered",
        "_hooks",
        "_input",
        "_live",
        "_machine",
        "_models",
        "_next_agent",
        "_run",
        "_session",
        "_snapshot",
        "_task_group",
    )

    def __init__(
        self,
        agent: Agent[Any, Any],
        input: RunInput | None,
        deps: Any,
        session: Session | None,
        resume_from: RunSnapshot | RunResult[Any] | None,
        config: RunConfig | None,
        hooks: RunHooks | Sequence[RunHooks] | None,
        default_on_approval: Literal["wait", "end"],
    ) -> None:
        if not isinstance(agent, Agent):
            raise UserError(f"agent must be an Agent, not {type(agent).__name__}")
        if config is not None and not isinstance(config, RunConfig):
            raise UserError(f"config must be a RunConfig, not {type(config).__name__}")
        if session is not None and not isinstance(session, Session):
            raise UserError(
                f"session must have async methods load() and append(items); {type(session).__name__} has not"
            )
        worker = sys.modules.get("agentrun.tools.worker")
        if worker is not None and worker.importing_main():
            raise UserError(
                "a run was started while a tool's process imports the main script; start runs under "
                "`if __name__ == '__main__':`, so that the process of a tool does not start them again"
            )
        try:
            self._backend = running_backend()
        except anyio.NoEventLoopError:
            raise UserError("open_run() needs a running event loop; in a script, call agentrun.run_sync(...)") from None
        self._config = config = config if config is not None else _DEFAULT_CONFIG
        snapshot = resume_from.snapshot() if isinstance(resume_from, RunResult) else resume_from
        if snapshot is not None and not isinstance(snapshot, RunSnapshot):
            raise UserError(f"resume_from must be a RunSnapshot or a RunResult, not {type(snapshot).__name__}")
        if input is None and snapshot is None:
            raise UserError("input is missing: pass text, or items, or resume_from=...")
        self._input = tuple(parse_input(input)) if input is not None else ()
        self._snapshot = snapshot
        self._agent, self._next_agent = resume_agents(agent, snapshot)
        self._models = resolve_models(self._agent, config)
        self._deps = deps
        self._session = session
        self._hooks = list_hooks(hooks, agent)
        self._end_on_approval = (config.on_approval or default_on_approval) == "end"
        self._machine = self._make_machine()
        self._entered = False
        self._run: Run
        self._live: ActiveRun[Any]

    def _make_machine(self) -> TurnMachine:
        snapshot, config = self._snapshot, self._config
        history: tuple[Item, ...] = ()
        reopened: tuple[Response, tuple[ToolOutput, ...]] | None = None
        if snapshot is not None:
            history, reopened = reopen(snapshot)
            if self._session is not None:
                history = ()  # the session has it
                if reopened is not None:
                    raise UserError(
                        "resume_from has tool calls that wait for approval, and a session stores them as cancelled; "
                        "resume without the session, or without the approvals"
                    )
        transcript = Transcript((*history, *self._input))
        machine = TurnMachine(transcript, config.limits, Inbox(config.max_pending_injections))
        if snapshot is not None:
            for entry in snapshot.undelivered:
                machine.inject(entry.items, "next")  # nothing runs that could be cut, or waited for
            if reopened is not None:
                if self._input:
                    raise UserError(
                        "resume_from has tool calls that wait for approval, so input must wait until they are decided: "
                        "leave input out, and inject it"
                    )
                machine.reopen(*reopened)
        return machine

    @uninterruptible
    async def __aenter__(self) -> ActiveRun[Any]:
        if self._entered:
            raise UserError("an open_run(...) can be entered only once; call open_run again for another run")
        self._entered = True
        # A caller that is cancelled already shall not start anything.
        await self._backend.checkpoint_if_cancelled()
        parent = current_tool_run.get()
        loop = running_loop(self._backend)
        if parent is not None and (parent.ended or not parent.run.loop.is_same(loop)):
            parent = None  # a run of another event loop, or one that outlived the call it was started in
        # By position, as all that is made for each run or call: Python makes a dict of keywords for a class.
        self._run = run = Run(
            f"run_{os.urandom(6).hex()}",
            self._agent,
            self._models,
            self._machine,
            self._config,
            self._deps,
            self._session,
            self._hooks,
            self._end_on_approval,
            self._next_agent,
            parent,
            self._backend,
            loop,
        )
        run.handle = self._live = ActiveRun(run)
        run.guards = GuardRace(run)
        if parent is not None:
            parent.nested += (run,)
        self._task_group = run.task_group = self._backend.task_group()
        await self._task_group.__aenter__()
        run.publish(RunStarted(run.id, run.agent.name))  # here, so that no request of the caller's comes before it
        self._task_group.create_task(drive(run, self._input), name=f"agentrun {run.id}")
        return self._live

    @uninterruptible
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> Literal[False]:
        run = self._run
        if run.result is None:
            self._tell_why(exc)
        interruption = await self._wait_for_driver()
        # The group is not told of the body's exception: its children are done and never raise, so it has nothing to
        # cancel and nothing to add, and the caller shall see the exception itself, not a group of one.
        try:
            await self._task_group.__aexit__(None, None, None)
        except BaseException as caught:  # noqa: BLE001 - a cancellation that reached the host in the last moment
            # That user code has left scopes open in a task is known, and the group says so once more.
            expected = run.reports.left_open is not None and _strength(caught) == _ERROR
            if not expected and (exc is None or not is_scoped_cancellation(caught)):
                interruption = interruption or _alone(caught)
        parent = run.parent
        if parent is not None:
            parent.nested = tuple(other for other in parent.nested if other is not run)
            parent.run.machine.usage.add(run.machine.usage)
            parent.run.reports.note_nested(run.reports.teardown, parent.what)
        run.release()
        return self._leave(exc, interruption)

    def _tell_why(self, exc: BaseException | None) -> None:
        run = self._run
        if _strength(exc) >= _STOP or anyio.current_effective_deadline() == -math.inf:
            run.cancel()  # the body may have kept the cancellation to itself, or mixed it with errors of its own
        elif exc is None:
            run.interrupt("left the run block", "immediate", None)
        else:
            run.interrupt(f"the run block raised {type(exc).__name__}", "immediate", None)

    async def _wait_for_driver(self) -> BaseException | None:
        """Wait until the driver is done, whatever happens meanwhile; returns what happened.

        The shield keeps scoped cancellations off. A native ``Task.cancel()`` goes through shields, and so does Ctrl-C
        on trio: they are remembered, and raised when everything has been torn down.
        """
        run = self._run
        if run.result is not None:
            return None
        interruption: BaseException | None = None
        with anyio.CancelScope(shield=True):
            steps = 0
            while run.result is None:
                try:
                    while not run.driving and steps < UNBORN_AFTER:
                        steps += 1
                        await anyio.lowlevel.cancel_shielded_checkpoint()
                    if not run.driving:
                        end_undriven(run)
                    await run.wait_done()
                except BaseException as caught:  # noqa: BLE001 - kept and raised later
                    if interruption is None or not isinstance(caught, Exception):
                        interruption = caught
                    run.cancel()
        return interruption

    def _leave(self, exc: BaseException | None, interruption: BaseException | None) -> Literal[False]:
        """Decide what the block raises: of several, the one that matters."""
        run = self._run
        result = run.result
        assert result is not None
        failure = result.error if result.status == "failed" and not self._live._failure_told else None
        broken = run.reports.left_open if exc is not None and is_scoped_cancellation(exc) else None
        if broken is not None and anyio.current_effective_deadline() != -math.inf:
            raise broken from None  # nobody outside has cancelled the block: its group has, when a task broke it
        exit_request = run.reports.exit_request
        if exit_request is not None and _strength(exit_request) > _strength(interruption):
            interruption = exit_request
        if interruption is not None and _strength(interruption) > _strength(exc):
            # A cancellation always goes on. An error of the body stays visible as its context, as it does in any
            # ``try: ... finally: await ...`` that is cancelled in its ``finally``.
            interruption.__context__ = exc
            raise interruption
        if exc is not None:
            if interruption is not None and _strength(interruption) == _ERROR:
                # A task of the runtime's own has raised, which none ever should.
                exc.add_note(f"An error inside of agentrun, too: {describe_error(interruption)}")
            if failure is not None and failure is not exc:
                exc.add_note(f"The run had failed as well: {describe_error(failure)}")
            return False
        if failure is not None:
            self._live._failure_told = True
            raise failure
        return False


def _alone(exc: BaseException) -> BaseException:
    """What a nursery of trio's has put into a group of one, if it ends the program."""
    if _strength(exc) == _EXIT and isinstance(exc, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", exc).exceptions
        return _alone(inner[0]) if len(inner) == 1 else cast("BaseException", exc)
    return exc


_ERROR, _STOP, _EXIT = 1, 2, 3


def _strength(exc: BaseException | None) -> int:
    """Which exception prevails: one that ends the program, before a cancellation, before an error, before none."""
    if exc is None:
        return 0
    cancelled, _ = split_cancelled(exc, anyio.get_cancelled_exc_class())
    exit_kinds = (KeyboardInterrupt, SystemExit, GeneratorExit)
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        if group.subgroup(exit_kinds) is not None:
            return _EXIT
    elif isinstance(exc, exit_kinds):
        return _EXIT
    return _ERROR if cancelled is None else _STOP
