"""The runs of `check_tool`: a minimal agent that calls one tool once, and what is seen of the tool."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentrun.core.config import RunConfig
from agentrun.core.items import ToolOutput
from agentrun.core.results import RunResult
from agentrun.runtime.agent import Agent
from agentrun.runtime.tool_run import ToolRun, current_tool_run
from agentrun.testing.laws import BrokenLaw, RunRecord
from agentrun.testing.scripted import Call, Say, ScriptedModel
from agentrun.testing.sweeping.judging import ask, raised_at
from agentrun.testing.sweeping.places import Place
from agentrun.testing.sweeping.points import Point, Stopping, Trial
from agentrun.testing.sweeping.relay import TaskRecord
from agentrun.testing.sweeping.verdicts import SweepRefused
from agentrun.testing.tool_findings import UNDISTURBED, in_user_code, teardown_findings
from agentrun.testing.watched_runs import RunPlan, WatchedRuns
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool

__all__ = ["A_DAY", "CheckedTool"]

A_DAY: Final = 86_400.0
"""Seconds of virtual time that a tool without a timeout gets, so that it can be timed out at all."""

_TASKS_OF_A_RUN: Final = ("(the scenario)", "(agentrun run)")  # a tool may run in the latter
_ABOUT_A_THREAD: Final = re.compile(r"task \d+ \(agentrun thread\)")
_MARGIN: Final = 2  # points that a cancellation from outside takes to get to the tool
_SPARE_TURNS: Final = 4  # an injection makes the model speak once more


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception that a tool let out. Not the exception itself, which would keep alive what the tool left open."""

    type: type[BaseException]
    text: str
    place: Place


class CheckedTool:
    """The scenario of a sweep over one tool, and its oracle.

    Attributes:
        has_run: Whether the tool was called in any run.
        fails_undisturbed: Whether it has failed in a run to which nothing was done.
        told: What the model was told of the latest call that did not run.
    """

    def __init__(
        self,
        make: Callable[[], FunctionTool[..., Any]],
        arguments: Mapping[str, Any],
        *,
        deps: Callable[[], Any] | None,
        config: RunConfig,
        oracle: Callable[[], Any] | None,
        raises: tuple[type[BaseException], ...],
    ) -> None:
        self.has_run: bool = False
        self.fails_undisturbed: bool = False
        self.told: str = ""
        self._make = make
        self._arguments = arguments
        self._oracle = oracle
        self._raises = raises
        self._name = ""
        self._tool_has_timeout = False
        self._call: ToolRun | None = None
        self._raised: _Raised | None = None
        self._returned: TaskRecord | None = None
        self._trial: Trial
        plan = RunPlan(make=self._agent, input="Go on.", deps=deps, config=config, tidy=False, oracle=self._judge)
        self._runs = WatchedRuns(plan)

    async def scenario(self, trial: Trial) -> None:
        """One run."""
        self._trial, self._call, self._raised, self._returned = trial, None, None, None
        trial.actions["time_out"] = self._time_out
        await self._runs.scenario(trial)

    async def oracle(self) -> None:
        """The laws of the run that has ended, what the tool did, and the user's own oracle."""
        await self._runs.oracle()

    @staticmethod
    def points(points: Sequence[Point]) -> Sequence[Point]:
        """Those at which the tool, or a task that it has started, is alive, and some around."""
        alive = [
            index
            for index, point in enumerate(points)
            if not point.task.endswith(_TASKS_OF_A_RUN) or in_user_code(point.before) or in_user_code(point.after)
        ]
        if not alive:
            return points
        chosen = points[max(alive[0] - _MARGIN, 0) : alive[-1] + _MARGIN + 1]
        # Of the steps that it takes agentrun to get a thread, only the last one makes a difference to the tool.
        return [
            point
            for point, following in zip(chosen, [*chosen[1:], None], strict=True)
            if not _ABOUT_A_THREAD.fullmatch(point.task)
            or (following is not None and following.task.startswith("thread"))
        ]

    def _agent(self) -> Agent[Any, Any]:
        tool = self._make()
        self._name, self._tool_has_timeout = tool.name, tool.timeout is not None
        model = ScriptedModel([Call(tool.name, self._arguments), *[Say("Very well.")] * (1 + _SPARE_TURNS)])
        return Agent("minimal", tools=[_WatchedTool.of(tool, self)], model=model)

    def begins(self) -> None:
        """The tool is being called. In its task, or its thread."""
        self.has_run = True
        self._call = current_tool_run.get()

    async def see(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Await what the tool awaits."""
        task = self._trial.backend.begin_watching()
        try:
            value = await coro
        except Exception as exc:
            self.raised(exc)
            raise
        self._returned = task
        return value

    def raised(self, exc: BaseException) -> None:
        """The tool has raised."""
        self._raised = _Raised(type(exc), str(exc), raised_at(exc))

    def _time_out(self) -> Stopping | None:
        call = self._call
        if call is None:
            return None
        call.expire()
        return lambda: not call.ended

    async def _judge(self, record: RunRecord) -> None:
        result = record.live.result if record.live is not None else None
        errors: list[Exception] = list(self._findings(result)) if result is not None else []
        # Before its call the tool has taken nothing: what the oracle sees then is what another run has left.
        if self._oracle is not None and self._call is not None:
            try:
                await ask(self._oracle)
            except SweepRefused:
                raise
            except Exception as exc:  # noqa: BLE001 - its verdict, said together with the others
                errors.append(exc)
        if errors:
            raise ExceptionGroup("what is wrong with the tool", errors)

    def _findings(self, result: RunResult[Any]) -> Iterator[BrokenLaw]:
        meant = self._raised if self._raised is not None and issubclass(self._raised.type, self._raises) else None
        for found in teardown_findings(result.teardown):
            # A thread may raise what it is meant to raise when it has been cancelled, and has not looked.
            if meant is None or found.law != 7 or not found.evidence.endswith(f"{meant.type.__name__}: {meant.text}"):
                yield found
        if (
            self._returned is not None
            and self._returned.told_of_outside
            and not result.teardown.swallowed_cancellations
        ):
            yield BrokenLaw(8, f"tool {self._name} was cancelled, and returned as if it had not been")
        output = next((item for item in result.items if isinstance(item, ToolOutput)), None)
        if output is None:
            return
        if self._call is None:
            self.told = output.text
        elif output.status == "failed" and (self._raised is None or not issubclass(self._raised.type, self._raises)):
            seen = self._raised
            what = f"{seen.type.__name__}: {seen.text}, at {seen.place}" if seen is not None else output.text
            self.fails_undisturbed |= self._trial.fired == 0
            when = UNDISTURBED if self._trial.fired == 0 else "by itself"
            yield BrokenLaw(9, f"the tool {'raised' if seen is not None else 'failed'} {when}: {what}")
        elif output.status == "timed_out" and not self._tool_has_timeout and self._trial.fired == 0:
            yield BrokenLaw(6, "the tool did not end by itself, not in a day of virtual time")


class _WatchedTool(FunctionTool[..., Any]):
    """A tool, with all its options, whose calls are seen."""

    _watcher: CheckedTool

    @classmethod
    def of(cls, tool: FunctionTool[..., Any], watcher: CheckedTool) -> _WatchedTool:
        """Like ``tool``, and ``watcher`` is told."""
        watched = object.__new__(cls)
        watched.__dict__.update(tool.__dict__)
        watched._watcher = watcher
        return watched

    def call(self, ctx: RunContext[Any] | None, bound: Mapping[str, Any]) -> Any:
        """See `FunctionTool.call`."""
        self._watcher.begins()
        try:
            value = super().call(ctx, bound)
        except Exception as exc:  # of a sync tool; this is its thread
            self._watcher.raised(exc)
            raise
        return self._watcher.see(value) if inspect.iscoroutine(value) else value
