"""Opening a run: ``open_run``, and what is made of it for those who only want the result."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar, cast

import anyio

from agentrun.core.config import RunConfig
from agentrun.core.errors import UserError
from agentrun.core.items import RunInput
from agentrun.core.results import RunResult
from agentrun.core.snapshot import RunSnapshot
from agentrun.runtime.agent import Agent
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.hooks import RunHooks
from agentrun.runtime.nursery import RunNursery
from agentrun.sessions.protocol import Session

__all__ = ["open_run", "run", "run_sync"]

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


def open_run(
    agent: Agent[DepsT, OutputT],
    input: RunInput | None = None,
    *,
    deps: DepsT | None = None,
    session: Session | None = None,
    resume_from: RunSnapshot | RunResult[Any] | None = None,
    config: RunConfig | None = None,
    hooks: RunHooks | Sequence[RunHooks] | None = None,
) -> AbstractAsyncContextManager[ActiveRun[OutputT]]:
    """Start a run and hold its handle: ``async with open_run(agent, "Hello") as live: ...``.

    Leaving the block while the run is alive interrupts it (reason "left the run block") and waits for the teardown.
    When the block has been left, nothing of the run is alive.

    Args:
        agent: Who is to work.
        input: Text, an item, or a list of items or plain dicts (a whole history, too, such as ``result.history``).
            May be left out with ``resume_from``.
        deps: Anything, for tools, guardrails and instructions: ``ctx.deps``.
        session: Where the conversation lives; its history comes first, and what this run adds is stored in it.
        resume_from: A snapshot (or the result) of an ended run to go on from: its history, its undelivered inputs, its
            agent, and its tool calls that wait for approval.
        config: Settings of the run.
        hooks: One or several `RunHooks`, besides the agent's own.

    Raises:
        UserError: At once, when an argument is not valid; the message names it.
        Exception: When the block is left: what made the run fail, unless ``wait()`` has raised it before.
    """
    nursery = RunNursery(agent, input, deps, session, resume_from, config, hooks, "wait")
    return cast("AbstractAsyncContextManager[ActiveRun[OutputT]]", nursery)


async def run(
    agent: Agent[DepsT, OutputT],
    input: RunInput | None = None,
    *,
    deps: DepsT | None = None,
    session: Session | None = None,
    resume_from: RunSnapshot | RunResult[Any] | None = None,
    config: RunConfig | None = None,
    hooks: RunHooks | Sequence[RunHooks] | None = None,
) -> RunResult[OutputT]:
    """Run an agent to its end and return the result. The arguments are those of `open_run`. A checkpoint.

    Since nobody can approve anything here, a run in which a tool call needs approval ends as interrupted, with
    ``result.pending_approvals``; go on with ``open_run(..., resume_from=result)``. ``RunConfig.on_approval`` changes
    that.

    Raises:
        UserError: An argument is not valid.
        Exception: What made the run fail.
    """
    nursery = RunNursery(agent, input, deps, session, resume_from, config, hooks, "end")
    async with nursery as live:
        return cast("RunResult[OutputT]", await live.wait())


def run_sync(
    agent: Agent[DepsT, OutputT],
    input: RunInput | None = None,
    *,
    deps: DepsT | None = None,
    session: Session | None = None,
    resume_from: RunSnapshot | RunResult[Any] | None = None,
    config: RunConfig | None = None,
    hooks: RunHooks | Sequence[RunHooks] | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> RunResult[OutputT]:
    """`run` for scripts: starts an event loop, runs the agent to its end, and returns the result.

    Args:
        agent: As for `open_run`, and so are the others.
        input: As for `open_run`.
        deps: As for `open_run`.
        session: As for `open_run`.
        resume_from: As for `open_run`.
        config: As for `open_run`.
        hooks: As for `open_run`.
        backend: The event loop: ``"asyncio"``, or ``"trio"`` if it is installed.

    Raises:
        UserError: An event loop is running in this thread already, or an argument is not valid.
        Exception: What made the run fail.
    """
    if _in_event_loop():
        raise UserError("run_sync() was called inside a running event loop; use `await agentrun.run(...)` there")
    if backend not in ("asyncio", "trio"):
        raise UserError(f"backend must be 'asyncio' or 'trio', not {backend!r}")
    if backend == "trio":
        try:
            importlib.import_module("trio")
        except ModuleNotFoundError as exc:
            raise UserError("backend='trio' needs trio: pip install trio") from exc

    async def main() -> RunResult[OutputT]:
        return await run(
            agent,
            input,
            deps=deps,
            session=session,
            resume_from=resume_from,
            config=config,
            hooks=hooks,
        )

    return anyio.run(main, backend=backend)


def _in_event_loop() -> bool:
    try:
        anyio.get_cancelled_exc_class()  # the cheapest question that needs a loop
    except anyio.NoEventLoopError:
        return False
    return True
