"""`check_tool` finds the classic bugs of tools, points at the line, and says which law it is; a good tool passes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from agentrun import Agent, RunConfig, RunContext, ToolError, UserError, tool
from agentrun.testing import BrokenLaw, SweepRefused, SweepReport, ToolCheckFailed, check_tool, replay

from .faulty import line_of

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)


class Pool:
    """Connections to count."""

    def __init__(self) -> None:
        self.free = 1

    async def acquire(self) -> None:
        await anyio.sleep(0.1)
        assert self.free, "the pool is empty"
        self.free -= 1

    def release(self) -> None:
        self.free += 1


pool = Pool()


def fresh(body: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """The tool, with a fresh pool each time."""

    def make() -> Callable[..., Any]:
        pool.__init__()  # type: ignore[misc]
        return body

    return make


def pool_is_whole() -> None:
    assert pool.free == 1, "a connection is lost"


async def good(rows: int = 1) -> int:
    """Query, and cope with being stopped."""
    await pool.acquire()
    try:
        await anyio.sleep(1)
    finally:
        pool.release()
    return rows


async def acquire_before_try() -> str:
    await pool.acquire()
    await anyio.sleep(0.5)  # BUG
    try:
        await anyio.sleep(1)
    finally:
        pool.release()
    return "rows"


async def await_in_finally_of_a_task() -> str:
    async def session() -> None:
        await pool.acquire()
        try:
            await anyio.sleep(1)
        finally:
            await anyio.sleep(0.1)  # BUG
            pool.release()

    async with anyio.create_task_group() as group:
        group.start_soon(session)
    return "done"


async def shield_orphan() -> str:
    async def save() -> None:
        await asyncio.sleep(5)  # BUG

    await asyncio.shield(save())
    return "saved"


async def swallowing_retry_loop() -> str:
    for _ in range(3):
        try:
            await anyio.sleep(1)  # BUG
            return "fetched"
        except BaseException:
            continue
    return "gave up"


async def swallowing_retry_of_a_group() -> str:
    for _ in range(2):
        try:
            async with anyio.create_task_group() as group:  # BUG
                group.start_soon(anyio.sleep, 1)
                group.start_soon(anyio.sleep, 2)
            return "fetched"
        except BaseException:
            continue
    return "gave up"


async def endless_retry_loop() -> str:
    while True:
        try:
            await anyio.sleep(1)  # BUG
            return "fetched"
        except BaseException:
            pass


async def slow_cleanup() -> str:
    try:
        await anyio.sleep(1)  # BUG
    finally:
        await anyio.sleep(7)
    return ""


async def failing_cleanup() -> str:
    try:
        await anyio.sleep(1)  # BUG
    except BaseException:
        raise KeyError("gone") from None
    return ""


async def open_stream() -> str:
    send, receive = anyio.create_memory_object_stream[int](1)
    await anyio.sleep(1)  # BUG
    send.close()
    receive.close()
    return ""


def place_of(function: Callable[..., Any]) -> str:
    return f"test_check_tool.py:{line_of(function)} "


def failed(*arguments: Any, **options: Any) -> ToolCheckFailed:
    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(*arguments, **options)
    return caught.value


CASES: list[tuple[Callable[..., Any], str, str, list[Any]]] = [
    (acquire_before_try, "law 1 (nothing outlives its run): the oracle says: a connection is lost", "`try`", BACKENDS),
    (await_in_finally_of_a_task, "law 1 (nothing outlives its run): the oracle says: a conn", "shield=True", BACKENDS),
    (shield_orphan, "law 1 (nothing outlives its run): a task was left behind: task", "asyncio.shield", ["asyncio"]),
    (swallowing_retry_loop, "law 8 (no piece of user code can take another down by accident): tool", "`rai", BACKENDS),
    (swallowing_retry_of_a_group, "law 8 (no piece of user code can take another down by accid", "`rai", BACKENDS),
    (endless_retry_loop, "law 8 (no piece of user code can take another down by accident): tool", "`rai", BACKENDS),
    (slow_cleanup, "law 6 (teardown is ordered and bounded): tool slow_cleanup: its cleanup", "cleanup_gr", BACKENDS),
    (failing_cleanup, "law 7 (ordinary cleanup works): tool failing_cleanup: its cleanup raised K", "Catch", BACKENDS),
    (open_stream, "law 1 (nothing outlives its run): something was left open", "`async with`", BACKENDS),
]


@pytest.mark.parametrize(
    ("body", "law", "advice", "backend"),
    [
        pytest.param(body, law, advice, backend, id=f"{body.__name__}-{backend}")
        for body, law, advice, backends in CASES
        for backend in backends
    ],
)
def test_a_classic_bug_is_told_with_its_law_its_line_and_what_to_do(
    body: Any, law: str, advice: str, backend: Any
) -> None:
    error = failed(fresh(body), oracle=pool_is_whole, backends=[backend], second=0)
    message = str(error)
    assert message.startswith(f"tool '{body.__name__}' does not cope with being stopped: ")
    assert f"\n{law}" in message
    assert place_of(body) in message
    assert "interrupt" in message
    assert advice in " ".join(message.partition("What to do: ")[2].split())
    assert "agentrun run" not in message  # it speaks of the tool
    assert not re.search(r"\bagentrun/", message)
    assert error.report.diverged == 0


@both
def test_a_good_tool_passes_also_with_cancellations_during_the_teardown(backend: Any) -> None:
    report = check_tool(fresh(good), {"rows": 3}, oracle=pool_is_whole, backends=[backend], second=3)
    assert isinstance(report, SweepReport)
    assert not report.failures
    assert report.injections > 150
    assert report.diverged == 0


def test_a_small_tool_takes_a_fraction_of_two_seconds_on_both_backends() -> None:
    report = check_tool(fresh(good), oracle=pool_is_whole)
    # Time is for the benchmarks; what it is made of is known: some five hundred runs of some two milliseconds.
    assert report.injections < 700


def test_each_action_is_done_and_can_be_chosen() -> None:
    seen: list[str] = []

    @tool
    async def work() -> str:
        """Work."""
        try:
            await anyio.sleep(1)
        except BaseException:
            seen.append("cancelled")
            raise
        return ""

    for action in ("interrupt", "interrupt_tool", "time_out", "inject_now", "cancel", "native"):
        seen.clear()
        check_tool(work, actions=[action], second=0, backends=["asyncio"])
        assert seen, action
    with pytest.raises(UserError, match="actions contains 'dance'; expected interrupt, interrupt_tool, time_out"):
        check_tool(work, actions=["dance"])  # type: ignore[list-item]


@both
def test_a_failure_is_replayed_by_its_id_and_by_itself(backend: Any) -> None:
    error = failed(fresh(swallowing_retry_loop), backends=[backend])
    failure = error.report.failures[0]
    again = failed(fresh(swallowing_retry_loop), only=failure.id)
    assert [each.id for each in again.report.failures] == [failure.id]
    assert again.report.injections == 1
    assert "the run in full:" in str(again)
    replayed = replay(failure)
    assert replayed is not None
    assert replayed.violations == failure.violations
    assert not check_tool(fresh(good), only=failure.id).failures


@both
def test_a_tool_that_fails_by_itself_is_told_once_and_is_swept_if_that_is_expected(backend: Any) -> None:
    async def refuses() -> str:
        try:
            await anyio.sleep(1)
            raise LookupError("no such row")
        finally:
            await anyio.sleep(0.1)

    error = failed(refuses, backends=[backend], limit=2)
    told = str(error)
    assert told.startswith("tool 'refuses' was not stopped anywhere: what it does by itself on ")
    assert "\nthe tool raised in the undisturbed run: LookupError: no such row, at " in told
    assert "check_tool(..., raises=...)" in told
    assert error.report.injections == 0
    assert replay(error.report.failures[0]) is not None
    report = check_tool(refuses, raises=LookupError, backends=[backend])
    assert report.injections > 50


@both
def test_a_tool_that_makes_the_run_fail_may_do_so_if_that_is_expected(backend: Any) -> None:
    async def fatal() -> str:
        await anyio.sleep(1)
        raise ToolError("out of order")

    check_tool(fatal, raises=(ToolError, KeyError), backends=[backend], limit=3)
    told = str(failed(fatal, backends=[backend], limit=3))
    assert "the tool raised in the undisturbed run: ToolError: out of order, at " in told
    assert "law " not in told


def test_a_tool_that_never_ends_by_itself_is_told() -> None:
    async def serve() -> None:
        await anyio.sleep_forever()

    assert "the tool did not end by itself" in str(failed(serve, backends=["asyncio"], limit=1))
    check_tool(tool(serve, timeout=10), backends=["asyncio"])


def test_context_and_deps_are_given_and_made_afresh() -> None:
    @dataclass
    class Deps:
        leases: list[str] = field(default_factory=list)

    made: list[Deps] = []

    def deps() -> Deps:
        made.append(Deps())
        return made[-1]

    async def lease(ctx: RunContext[Deps], name: str) -> str:
        ctx.deps.leases.append(name)
        ctx.on_cleanup(ctx.deps.leases.clear)
        await anyio.sleep(1)
        return ctx.deps.leases[0]

    def none_is_left() -> None:
        assert not made[-1].leases

    report = check_tool(lease, {"name": "a"}, deps=deps, oracle=none_is_left, limit=5)
    assert len(made) > report.injections


def test_verdicts_that_differ_only_in_addresses_and_in_what_pytest_adds_are_one() -> None:
    def oracle() -> None:
        seen = object()
        assert not seen, f"{seen} is there"

    message = str(failed(fresh(good), oracle=oracle, limit=3))
    assert message.count("the oracle says: ") == 1
    assert "the oracle says: <object object> is there\n" in message


def test_an_oracle_may_be_async_and_name_a_law_itself() -> None:
    async def oracle() -> None:
        await anyio.sleep(0)
        raise BrokenLaw(5, "the input is gone")

    message = str(failed(fresh(good), oracle=oracle, limit=1))
    assert "law 5 (no input is lost, none is doubled): the input is gone" in message


def test_methods_tools_and_functions_that_make_tools_are_all_taken() -> None:
    class Kit:
        async def method(self) -> str:
            """One."""
            await anyio.sleep(1)
            return ""

        @tool
        async def decorated(self) -> str:
            """Two."""
            return ""

        @classmethod
        @tool
        async def of_class(cls) -> str:
            """Three."""
            return ""

    for each in (Kit().method, Kit().decorated, Kit.of_class, tool(good), lambda: Kit().decorated):
        assert check_tool(each, backends=["asyncio"], limit=1).injections


def apart(words: str) -> str:
    """Run in a process, which imports it."""
    return words


def test_tools_that_run_in_processes_are_refused_with_what_to_do_instead() -> None:
    def nothing() -> str:
        return "not a tool"

    with pytest.raises(SweepRefused, match=r"tool 'apart' runs in a process of its own.*isolation='thread'"):
        check_tool(tool(apart, isolation="process"), {"words": "x"})
    with pytest.raises(UserError, match=r"nothing\(\) must return a tool or a function, not str.*tool\(nothing\)\)"):
        check_tool(nothing)


def test_a_tool_that_is_never_called_is_told() -> None:
    with pytest.raises(UserError, match=r"tool 'good' was never called: Error: there is no tool named 'good'"):
        check_tool(tool(good, is_enabled=False))


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ({"rows": "many"}, {}, r"(?s)arguments do not fit. The arguments for good are not valid:\n- rows: "),
        ({"row": 1}, {}, r"(?s)arguments do not fit.*did you mean rows"),
        ([1], {}, "arguments must be a mapping of names to values, not list"),
        ({"rows": object()}, {}, "arguments must be JSON values"),
        ({}, {"deps": 3}, "deps must be a function without parameters, not int; for what is the same"),
        ({}, {"oracle": "x"}, "oracle must be a function without parameters, not str"),
        ({}, {"config": {}}, "config must be a RunConfig, not dict"),
        ({}, {"config": RunConfig(model="local")}, "config.model must be None"),
        ({}, {"raises": ["x"]}, "raises must be an exception type, or a tuple of them"),
        ({}, {"raises": (ValueError, 3)}, "raises must be an exception type, or a tuple of them, not 3"),
        ({}, {"backends": ["curio"]}, "backends contains 'curio'"),
        ({}, {"second": -1}, "second must be a whole number of at least 0"),
        ({}, {"limit": 0}, "limit must be a whole number of at least 1"),
        ({}, {"grace": 0}, "grace must be more than 0"),
        ({}, {"ignore": ["x"]}, "ignore contains 'x'"),
        ({}, {"only": "x"}, "only must be the id of a failure, such as 'asyncio:interrupt-suspended:17'"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_tool(good, arguments, **options)


@pytest.mark.parametrize("thing", [5, "search", str, Agent("a")])
def test_what_is_no_tool_is_named(thing: Any) -> None:
    with pytest.raises(UserError, match="tool must be a tool, a function, or a function that makes one"):
        check_tool(thing)


async def test_it_is_called_from_an_ordinary_function() -> None:
    with pytest.raises(UserError, match="call it from an ordinary function"), contextlib.suppress(RuntimeWarning):
        check_tool(good)


@both
def test_a_tool_may_take_hours_when_what_is_done_does_not_stop_it(backend: Any) -> None:
    @tool(timeout=90)
    async def timed_out() -> None:
        """Wait until the time is over."""
        await anyio.sleep_forever()

    async def hours(number: int) -> str:
        await anyio.sleep(3600 * number)
        return "done"

    check_tool(hours, {"number": 3}, backends=[backend], grace=5)
    check_tool(timed_out, backends=[backend], grace=5)


@both
@pytest.mark.parametrize("action", ["interrupt", "interrupt_tool", "time_out", "inject_now", "cancel"])
def test_a_tool_that_is_stopped_must_end_within_the_grace(action: Any, backend: Any) -> None:
    async def hides() -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(7200)  # BUG
        return "done"

    with pytest.raises(ToolCheckFailed) as caught:
        check_tool(hides, backends=[backend], actions=[action], second=0)
    told = str(caught.value)
    assert "law 6 (teardown is ordered and bounded): the teardown took too long" in told
    assert place_of(hides) in told
    assert {v.check for f in caught.value.report.failures for v in f.violations} == {"grace"}
