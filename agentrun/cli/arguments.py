"""What can be said on the command line, and what a command says when it has ended."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, cast

__all__ = ["Ending", "FuzzOptions", "Options", "parse"]

_MODEL_VARIABLE: Final = "AGENTRUN_MODEL"
_FALLBACK_MODEL: Final = "local"


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, parsed.

    Attributes:
        command: Which command.
        prompt: The prompt of ``run``: text, ``"-"`` for stdin, or ``None`` when it is missing.
        model: ``--model``: replaces the models of all agents.
        default_model: For an agent that has none: the environment variable ``AGENTRUN_MODEL``, or ``"local"``.
        agent: ``--agent``: ``"module:name"``, or ``None`` for a plain assistant.
        deps: ``--deps``: ``"module:name"`` of what tools get as ``ctx.deps``, or ``None``.
        backend: The event loop.
        history: ``--history``: where the conversation is read from and written to.
        json: ``run --json``: one event a line.
        verbose: ``--verbose``: usage after a run, tracebacks of errors.
    """

    command: Literal["run", "chat"]
    prompt: str | None
    model: str | None
    default_model: str
    agent: str | None
    deps: str | None
    backend: Literal["asyncio", "trio"]
    history: Path | None
    json: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class FuzzOptions:
    """The arguments of ``fuzz``, parsed.

    Attributes:
        agent: ``"module:name"``.
        deps: ``--deps``: ``"module:name"`` of what tools get as ``ctx.deps``, made for each run; or ``None``.
        input: ``--input``: what the run starts with.
        arguments: ``--arguments``, each as ``"TOOL=JSON"``.
        tools: ``--tool``: only these.
        may_fail: ``--may-fail``: these tools may raise by themselves.
        backend: ``--backend``; ``"both"`` by default.
        actions: ``--actions``: what to do at each point; empty for all.
        seed: ``--seed``: the order in which trio runs what is ready together.
        points: ``--points``: at most so many for each backend and action.
        second: ``--second``: so many second injections after each first one.
        only: ``--only``: the id of a failure to see again.
        verbose: ``--verbose``: all that was seen of each failure; tracebacks of errors.
    """

    agent: str
    deps: str | None
    input: str
    arguments: tuple[str, ...]
    tools: tuple[str, ...]
    may_fail: tuple[str, ...]
    backend: Literal["asyncio", "trio", "both"]
    actions: tuple[str, ...]
    seed: int
    points: int | None
    second: int
    only: str | None
    verbose: bool


class Ending(NamedTuple):
    """How a command ended.

    Attributes:
        exit_code: Of the program.
        threads_left: Whether a run had to leave a thread behind, which the interpreter would wait for.
    """

    exit_code: int
    threads_left: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Looks the version up when it is asked for, since `importlib.metadata` takes its time to import."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"agentrun {version('agentrun')}")
        except PackageNotFoundError:
            print("agentrun (from a checkout that is not installed)")
        parser.exit()


def parse(argv: Sequence[str] | None = None) -> Options | FuzzOptions:
    """Parse the arguments; by default those of the process.

    Raises:
        SystemExit: For ``--help`` and ``--version`` (0) and wrong arguments (2, with a line on stderr).
    """
    values = _parser().parse_args(argv)
    if values.command == "fuzz":
        return FuzzOptions(
            agent=values.agent,
            deps=values.deps,
            input=values.input,
            arguments=tuple(values.arguments),
            tools=tuple(values.tool),
            may_fail=tuple(values.may_fail),
            backend=values.backend,
            actions=tuple(name for name in values.actions.split(",") if name),
            seed=values.seed,
            points=values.points,
            second=values.second,
            only=values.only,
            verbose=values.verbose,
        )
    return Options(
        command=values.command,
        prompt=getattr(values, "prompt", None),
        model=values.model,
        default_model=os.environ.get(_MODEL_VARIABLE) or _FALLBACK_MODEL,
        agent=values.agent,
        deps=values.deps,
        backend=values.backend,
        history=values.history,
        json=getattr(values, "json", False),
        verbose=values.verbose,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="agentrun", description="Run LLM agents that can be stopped, steered and trusted.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser(
        "run",
        help="run an agent once, for scripts and pipes",
        description="Run an agent once. Its answer goes to stdout as it streams, everything else to stderr. Ctrl-C "
        "interrupts the run and exits with 130 once everything is torn down; a second one stops waiting for the "
        "output, a third one kills.",
        epilog="Exit codes: 0 completed, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C.",
    )
    run.add_argument("prompt", nargs="?", help="what to ask; '-', or nothing and a pipe, reads it from stdin")
    run.add_argument("--json", action="store_true", help="print one event a line, as JSON, the last one RunEnded")
    _add_common(run, deps_made="before the run")

    chat = commands.add_parser(
        "chat",
        help="a conversation that can be steered while the answer streams",
        description="A conversation. What is typed while the agent works is put into the run: a plain line joins the "
        "next model call, '/now ...' cuts in, '/later ...' waits until the agent would be done. One Ctrl-C interrupts "
        "the run and keeps the conversation, a second one leaves. '/help' shows the commands.",
    )
    _add_common(chat, deps_made="once: all runs of the conversation have the same object")
    _add_fuzz(commands)
    return parser


def _add_fuzz(commands: Any) -> None:
    fuzz = commands.add_parser(
        "fuzz",
        help="stop an agent at every point, and see what it breaks",
        description="Run an agent, with a scripted model that calls each of its tools, once for each scheduling point "
        "and each way in which a run can be stopped or steered there. No model is called; time is virtual. What broke "
        "is printed with the law, the place, and the command that shows it again.",
        epilog="Exit codes: 0 nothing broke, 1 something did, or a tool failed to which nothing was done, 2 wrong "
        "usage.",
    )
    fuzz.add_argument("agent", metavar="MODULE:NAME", help="the agent, or a function that makes it afresh for each run")
    _add_deps(fuzz, made="afresh for each run (a plain object is the same in all of them)")
    fuzz.add_argument("--input", default="Go on.", metavar="TEXT", help="what the run starts with")
    fuzz.add_argument(
        "--arguments",
        action="append",
        default=[],
        metavar="TOOL=JSON",
        help="what a tool is called with, instead of the smallest arguments that fit; may be given several times",
    )
    fuzz.add_argument(
        "--tool", action="append", default=[], metavar="NAME", help="call only this tool; may be given several times"
    )
    fuzz.add_argument(
        "--may-fail",
        action="append",
        default=[],
        metavar="NAME",
        help="this tool may fail by itself with what it is given; may be given several times",
    )
    fuzz.add_argument("--backend", choices=("both", "asyncio", "trio"), default="both", help="the event loops")
    fuzz.add_argument(
        "--actions", default="", metavar="NAME,...", help="what to do at each point, such as interrupt,cancel; or all"
    )
    fuzz.add_argument("--seed", type=int, default=0, help="another order of what trio runs together")
    fuzz.add_argument(
        "--points", type=int, metavar="N", help="at most so many points for each backend and action, evenly spread"
    )
    fuzz.add_argument(
        "--second", type=int, default=0, metavar="N", help="so many cancellations during the teardown of each injection"
    )
    fuzz.add_argument("--only", metavar="ID", help="see the failure of this id again")
    fuzz.add_argument(
        "-v", "--verbose", action="store_true", help="all that was seen of each failure, and tracebacks of errors"
    )


def _add_deps(parser: argparse.ArgumentParser, *, made: str) -> None:
    parser.add_argument(
        "--deps",
        metavar="MODULE:NAME",
        help="what tools get as ctx.deps: an object, or a function or class without parameters that makes one, called "
        f"{made}; nothing of it is awaited, entered or closed",
    )


def _add_common(parser: argparse.ArgumentParser, *, deps_made: str) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"the model, such as openai:gpt-5.1-mini; without it the agent's own, then ${_MODEL_VARIABLE}, then "
        f"'{_FALLBACK_MODEL}'",
    )
    parser.add_argument(
        "--agent", metavar="MODULE:NAME", help="the agent, from a module that Python finds or that is in this directory"
    )
    _add_deps(parser, made=deps_made)
    parser.add_argument(
        "--backend", choices=cast("tuple[str, ...]", ("asyncio", "trio")), default="asyncio", help="the event loop"
    )
    parser.add_argument(
        "--history",
        metavar="FILE",
        type=Path,
        help="keep the conversation in this file (JSON): read at the start, written after each run",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say what was used, and show the tracebacks of errors"
    )
