"""`check_tool` on sync tools, which run in threads: those that look pass, those that do not are told what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from agentrun import RunConfig, RunContext, ToolError, tool
from agentrun.testing import SweepReport, ToolCheckFailed, check_tool, replay

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)

leases: list[str] = []


def fresh(body: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """The tool, with no lease taken."""

    def make() -> Callable[..., Any]:
        leases.clear()
        return body

    return make


def no_lease_is_left() -> None:
    assert not leases, "a lease is left"


def failed(make: Any, arguments: Any = None, **options: Any) -> tuple[str, SweepReport]:
    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(make, arguments, **options)
    return str(caught.value), caught.value.report


def good(ctx: RunContext[None], turns: int) -> int:
    """Look often, and clean up."""
    leases.append("mine")
    try:
        for turn in range(turns):
            ctx.check_cancelled()
            time.sleep(1)
            ctx.progress(turn)
        return turns
    finally:
        leases.remove("mine")


def registers(ctx: RunContext[None]) -> str:
    """Have the runtime clean up."""

    async def give_back() -> None:
        await anyio.sleep(0.1)
        leases.remove("mine")

    leases.append("mine")
    ctx.on_cleanup(give_back)
    ctx.check_cancelled()
    time.sleep(1)
    ctx.check_cancelled()
    return "done"


def asks_the_loop(ctx: RunContext[None]) -> str:
    """Wait for the event loop."""
    anyio.from_thread.run(anyio.sleep, 1)
    ctx.check_cancelled()
    return "asked"


def never_looks() -> str:
    """Sleep for longer than anybody waits."""
    time.sleep(50)
    return "slept"


def forgets(ctx: RunContext[None]) -> str:
    """Look, and forget what it has taken."""
    leases.append("mine")
    time.sleep(1)
    ctx.check_cancelled()
    leases.remove("mine")
    return "done"


def breaks_in_cleanup(ctx: RunContext[None]) -> str:
    """Fail when it is stopped."""
    try:
        for _ in range(2):
            time.sleep(1)
            ctx.check_cancelled()
    except BaseException as exc:
        raise ValueError("cannot undo it") from exc
    return "done"


@pytest.mark.parametrize(
    ("body", "arguments"),
    [(good, {"turns": 2}), (registers, {}), (asks_the_loop, {})],
    ids=lambda value: str(value)[:20],
)
def test_a_sync_tool_that_looks_and_cleans_up_passes(body: Callable[..., Any], arguments: Any) -> None:
    report = check_tool(fresh(body), arguments, oracle=no_lease_is_left)
    assert report.delivered > 50
    assert report.diverged == 0


def test_a_sync_function_with_parameters_is_taken_for_the_tool_itself() -> None:
    assert check_tool(good, {"turns": 1}, limit=2).injections


@both
def test_one_that_does_not_look_has_broken_law_1_and_is_told_to_look(backend: Any) -> None:
    text, report = failed(tool(never_looks), backends=[backend])
    assert (
        "law 1 (nothing outlives its run): tool never_looks did not end within its grace when it was cancelled" in text
    )
    assert "its thread was left behind" in text
    assert "the tool's thread was at " in text
    assert "in never_looks: `time.sleep(50)`" in text
    assert "Call `ctx.check_cancelled()` at every turn" in text
    assert "isolation='process'" in text
    assert {violation.law for failure in report.failures for violation in failure.violations} == {1}
    again = replay(report.failures[-1])
    assert again is not None
    assert again.violations == report.failures[-1].violations
    patient = RunConfig(cleanup_grace=55)
    check_tool(tool(never_looks), backends=[backend], config=patient, limit=3)


@both
def test_one_that_forgets_what_it_has_taken_is_found_with_the_place_of_its_thread(backend: Any) -> None:
    text, _ = failed(fresh(forgets), backends=[backend], oracle=no_lease_is_left)
    assert "law 1 (nothing outlives its run): the oracle says: a lease is left" in text
    assert "the tool's thread was at " in text
    assert "in forgets: `time.sleep(1)`" in text
    assert "`ctx.on_cleanup(release)`" in text


@both
def test_one_whose_cleanup_raises_has_broken_law_7(backend: Any) -> None:
    text, _ = failed(fresh(breaks_in_cleanup), backends=[backend])
    assert (
        "law 7 (ordinary cleanup works): tool breaks_in_cleanup: its cleanup raised ValueError: cannot undo it" in text
    )


@both
def test_one_that_fails_by_itself_is_told_with_the_line(backend: Any) -> None:
    def fails() -> str:
        time.sleep(1)
        raise ToolError("out of paper")

    def make() -> Any:
        return tool(fails)

    text, _ = failed(make, backends=[backend], limit=4)
    assert "\nthe tool raised in the undisturbed run: ToolError: out of paper, at " in text
    assert "fails: `raise ToolError" in text
    check_tool(make, backends=[backend], raises=ToolError, limit=4)


@both
def test_one_that_leaves_a_thread_of_its_own_behind_is_found(backend: Any) -> None:
    stop = threading.Event()

    def starts_another(ctx: RunContext[None]) -> str:
        thread = threading.Thread(target=stop.wait, name="the stray")
        thread.start()
        time.sleep(1)
        ctx.check_cancelled()
        stop.set()
        thread.join()
        stop.clear()
        return "done"

    try:
        text, _ = failed(lambda: starts_another, backends=[backend], limit=6, actions=["interrupt"])
        assert "law 1 (nothing outlives its run): a thread was left behind: 'the stray' is still alive" in text
    finally:
        stop.set()


@both
def test_an_async_tool_with_threads_of_its_own_is_checked_too(backend: Any) -> None:
    async def hands_over() -> str:
        return await anyio.to_thread.run_sync(slowly)

    async def lets_go() -> str:
        return await anyio.to_thread.run_sync(slowly, abandon_on_cancel=True)

    def slowly() -> str:
        time.sleep(2)
        return "done"

    modes: list[Any] = ["interrupt", "interrupt_tool", "time_out", "cancel"]
    check_tool(hands_over, backends=[backend], actions=modes)
    text, _ = failed(lets_go, backends=[backend], actions=modes)
    assert "law 1 (nothing outlives its run): a thread was left behind: thread " in text
    assert "slowly) is still alive after the run has ended; it waits at " in text
    assert "Use anyio.to_thread.run_sync, which waits for its thread" in text
