"""``agentrun fuzz``: a user's agent, stopped and steered at every scheduling point."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast, get_args

from agentrun.cli.arguments import Ending, FuzzOptions
from agentrun.cli.loading import agent_maker, deps_maker
from agentrun.core.events import ToolCallDelta, ToolEnded
from agentrun.errors import UserError
from agentrun.runtime.agent import Agent
from agentrun.testing.derived_script import SkippedTool, agents_of, paths_to_agents, use_scripts
from agentrun.testing.interrupt_sweep import ActionName, interrupt_everywhere
from agentrun.testing.laws import RunRecord
from agentrun.testing.sweeping.report import Failure, SweepReport
from agentrun.testing.sweeping.verdicts import SweepRefused
from agentrun.testing.tool_findings import describe_groups, teardown_findings

__all__ = ["fuzz_command"]


def fuzz_command(options: FuzzOptions) -> Ending:
    """Run the command and return how it ended.

    Raises:
        UserError: Something that was asked for cannot be had, or the agent cannot be swept.
    """
    return Ending(_Command(options).main(), threads_left=False)


class _Command:
    def __init__(self, options: FuzzOptions) -> None:
        self._options = options
        with _silenced():
            self._make = agent_maker(options.agent)
            agent = self._make()
            self._deps = _refusing(deps_maker(options.deps)) if options.deps is not None else None
        self._arguments = dict(_parse_arguments(options.arguments))
        self._check_names(agent)
        for option, number, least in (("--points", options.points, 1), ("--second", options.second, 0)):
            if number is not None and number < least:
                raise UserError(f"{option} must be at least {least}, not {number}")
        self._backends = _backends(options.backend)
        # One script for the agent, and one for each agent that it may hand over to, since a run takes one way.
        self._paths = [[each.name for each in path] for path in paths_to_agents(agent)]
        self._names = [path[-1] for path in self._paths]
        self._failing: dict[str, str] = {}  # tools that failed in a run to which nothing was done, and with what

    def _check_names(self, agent: Agent[Any, Any]) -> None:
        known = sorted({name for each in agents_of(agent) for name in each.tool_map})
        for option, names in (
            ("--tool", self._options.tools),
            ("--arguments", tuple(self._arguments)),
            ("--may-fail", self._options.may_fail),
        ):
            for name in names:
                if name not in known:
                    has = f"it has {', '.join(known)}" if known else "it has none"
                    raise UserError(f"{option}: the agent has no tool {name!r}; {has}")
        for action in self._options.actions:
            if action not in get_args(ActionName):
                raise UserError(f"--actions: there is no {action!r}; expected {', '.join(get_args(ActionName))}")

    def main(self) -> int:
        chosen, only = self._chosen()
        failed = False
        skipped: list[SkippedTool] = []
        for number in chosen:
            self._tell_skipped(number, skipped)
            with _silenced():
                self._failing.clear()
                report = self._sweep(number, only)
            failed = failed or bool(report.failures or self._failing)
            self._tell(number, report)
        return 1 if failed else 0

    def _chosen(self) -> tuple[Sequence[int], str | None]:
        """The scripts to play, and the id of the failure in it."""
        only = self._options.only
        if only is None:
            return range(len(self._paths)), None
        script, at, failure_id = only.rpartition("@")
        if not at:
            return [0], failure_id
        if not script.isdecimal() or not 1 <= int(script) <= len(self._paths):
            raise UserError(f"--only {only}: there is no script {script!r}; expected 1 to {len(self._paths)}")
        return [int(script) - 1], failure_id

    def _scripted(self, number: int) -> tuple[Agent[Any, Any], list[SkippedTool]]:
        path = paths_to_agents(self._make())[number]
        return path[0], use_scripts(path, arguments=self._arguments, only=self._options.tools)

    def _tell_skipped(self, number: int, told: list[SkippedTool]) -> None:
        with _silenced():
            _, skipped = self._scripted(number)
        for each in skipped:
            if each not in told and each.reason != "not chosen":
                told.append(each)
                _say(f"SKIPPED: tool {each.tool} of agent {each.agent}: {each.reason}")

    def _sweep(self, number: int, only: str | None) -> SweepReport:
        options = self._options
        return interrupt_everywhere(
            lambda: self._scripted(number)[0],
            options.input,
            deps=self._deps,
            actions=cast("tuple[ActionName, ...]", options.actions) or None,
            oracle=self._look,
            raises=Exception if options.may_fail else (),
            tidy=False,
            backends=self._backends,
            seed=options.seed,
            second=options.second if only is None else 0,
            limit=options.points,
            only=only,
        )

    def _tell(self, number: int, report: SweepReport) -> None:
        name = self._names[number]
        by = " by way of " + ", ".join(self._paths[number][:-1]) if len(self._paths[number]) > 1 else ""
        done = f"{report.injections} runs at {report.points} points in {report.seconds:.1f} s"
        if not report.failures:
            tools = ", ".join(self._failing)
            print(
                f"agent {name}{by}: {done}: {f'nothing broke, but {tools} did not work' if tools else 'nothing broke'}"
            )
            print("".join(self._failed(tool) for tool in self._failing), end="")
            return
        print(f"agent {name}{by}: {done}: {len(report.failures)} went wrong")
        print("".join(self._failed(tool) for tool in self._failing), end="")
        print("\n".join(describe_groups(report.failures, lambda failure: self._replay(number, failure))))
        if self._options.verbose or self._options.only is not None:
            for failure in report.failures:
                print("\nthe run in full:", *str(failure).splitlines()[:-1], sep="\n  ")
        print()

    def _failed(self, tool: str) -> str:
        """What to say of a tool that failed in a run to which nothing was done."""
        needs = "" if self._options.deps is not None else "--deps MODULE:NAME for its ctx.deps, "
        return (
            f"\ntool {tool} failed in the undisturbed run: {self._failing[tool]}\n"
            f"  What it does after that was not tried. Give it what it needs: {needs}--arguments '{tool}={{...}}';\n"
            f"  or, if it is meant to fail with what it was given: --may-fail {tool}\n"
        )

    async def _look(self, record: RunRecord) -> None:
        for event in record.events if not record.disturbed else ():
            if isinstance(event, ToolEnded) and event.status == "failed" and event.name not in self._options.may_fail:
                sent = [each for each in record.events if isinstance(each, ToolCallDelta) and _same_call(each, event)]
                given = f" (it was called with {sent[0].arguments})" if sent else ""
                self._failing.setdefault(event.name, str(event.output).removeprefix("Error: ") + given)
        result = record.live.result if record.live is not None else None
        findings = list(teardown_findings(result.teardown)) if result is not None else []
        if findings:
            raise ExceptionGroup("what is wrong with the teardown", findings)

    def _replay(self, number: int, failure: Failure) -> str:
        """The command that shows a failure again."""
        options = self._options
        words = ["agentrun", "fuzz", options.agent]
        if options.deps is not None:
            words += ["--deps", options.deps]
        if options.input != "Go on.":
            words += ["--input", options.input]
        for given in options.arguments:
            words += ["--arguments", given]
        for tool in options.tools:
            words += ["--tool", tool]
        for tool in options.may_fail:
            words += ["--may-fail", tool]
        if options.seed:
            words += ["--seed", str(options.seed)]
        words += ["--only", f"{number + 1}@{failure.id}" if number else failure.id]
        return shlex.join(words)


def _same_call(delta: ToolCallDelta, ended: ToolEnded) -> bool:
    return (delta.call_id, delta.path) == (ended.call_id, ended.path)


def _refusing(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same, for inside of a sweep's runs: what cannot be made ends the sweep, instead of being what broke in it."""

    def make_or_refuse() -> Any:
        try:
            return make()
        except UserError as exc:
            raise SweepRefused(str(exc)) from exc

    return make_or_refuse


def _backends(backend: str) -> tuple[Any, ...]:
    if backend == "both" and importlib.util.find_spec("trio") is None:
        _say("trio is not installed, so only asyncio is tried: pip install trio (or agentrun's extra 'trio')")
        return ("asyncio",)
    return ("asyncio", "trio") if backend == "both" else (backend,)


def _parse_arguments(given: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UserError(f'--arguments must be TOOL=JSON, such as \'search={{"words": "x"}}\', not {text!r}')
        try:
            yield name, json.loads(value)
        except ValueError as exc:
            raise UserError(f"--arguments for tool {name!r} are not JSON: {exc}") from exc


def _say(text: str) -> None:
    print(f"agentrun: {text}", file=sys.stderr, flush=True)


@contextmanager
def _silenced() -> Generator[None]:
    """Without what the agent's module and its tools print: it would come once for each of some thousand runs."""
    with open(os.devnull, "w") as devnull, redirect_stdout(devnull):  # noqa: PTH123 - a device
        yield
