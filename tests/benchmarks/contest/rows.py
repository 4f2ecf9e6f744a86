"""The work: one function for each row. It runs in the process of the contestant. Standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeAlias

from .driver import Driver, Handle, Script, Seen

__all__ = ["ROWS", "Row"]

Row: TypeAlias = Callable[[Driver, int, str], Awaitable[tuple[float, str]]]
"""Does the work in a size, with the address of the model server; gives the figure for one unit, and a remark."""

_CALLS: Final = 33
_DELTAS: Final = 100
_CLEANUP_STEPS: Final = 5  # passes of the event loop
_PATIENCE: Final = 60.0

_agents: dict[tuple[object, ...], Any] = {}


async def echo(text: str) -> str:
    """Say the same."""
    return text


def _agent(driver: Driver, model: Script | str) -> Any:
    """An agent is made once, as in most programs, and is not part of what is measured."""
    key = (driver.name, model)
    if key not in _agents:
        _agents[key] = driver.agent(model, echo)
    return _agents[key]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check(seen: Seen, expected: Seen) -> None:
    if seen.texts != expected.texts:
        wrong = f"{len(seen.texts)} deltas, {''.join(seen.texts)!r:.100}"
        raise AssertionError(f"not the same work: {wrong} against {len(expected.texts)}, {expected.texts!r:.100}")
    if Counter(seen.outputs) != Counter(expected.outputs):
        wrong = f"{len(seen.outputs)} outputs, {seen.outputs!r:.100}"
        raise AssertionError(f"not the same work: {wrong} against {len(expected.outputs)}, {expected.outputs!r:.100}")


async def _cpu(driver: Driver, model: Script | str, expected: Seen) -> float:
    agent = _agent(driver, model)
    Script.begin()
    with _quiet():
        started = time.process_time()
        seen = await driver.run(agent)
        seconds = time.process_time() - started
    _check(seen, expected)
    return seconds


async def delta(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Streamed delta, in process, from a source that never waits."""
    script = Script(deltas=size)
    return await _cpu(driver, script, script.expected()) / size, ""


async def delta_http(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Streamed delta over HTTP. The server was started for answers of this size."""
    return await _cpu(driver, f"{url}/v1", Script(deltas=size).expected()) / size, ""


async def turn(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Turn with one tool call, in process."""
    script = Script(turns=size)
    return await _cpu(driver, script, script.expected()) / size, ""


async def run_of(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """A whole run of so many turns."""
    script = Script(turns=size)
    return await _cpu(driver, script, script.expected()), ""


async def further(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Each further parallel call in a turn."""
    one, many = Script(turns=size), Script(turns=size, calls=_CALLS)
    more = await _cpu(driver, many, many.expected()) - await _cpu(driver, one, one.expected())
    return more / size / (_CALLS - 1), ""


async def turn_http(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Turn with one tool call over HTTP."""
    return await _cpu(driver, f"{url}/turns/{size}/v1", Script(turns=size).expected()) / size, ""


async def _together(driver: Driver, runs: int) -> int:
    """All runs meet in their tools; returns the bytes in use then, if they are traced."""
    everybody, missing, memory = asyncio.Event(), runs, 0

    async def echo(text: str) -> str:
        """Say the same, once all have come."""
        nonlocal missing, memory
        missing -= 1
        if not missing:
            memory = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
            everybody.set()
        await everybody.wait()
        return text

    script = Script(turns=1, deltas=_DELTAS, waits=True)
    agent = driver.agent(script, echo)

    async def one() -> Seen:
        Script.begin()
        return await driver.run(agent)

    for seen in await asyncio.gather(*(asyncio.create_task(one()) for _ in range(runs))):
        _check(seen, script.expected())
    return memory


async def concurrent(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """CPU time of each of so many runs at once: a tool call in which all meet, then 100 deltas that come one by one."""
    with _quiet():
        started = time.process_time()
        await _together(driver, size)
        return (time.process_time() - started) / size, ""


async def memory(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Bytes in use for each of so many runs while all are in their tools."""
    with _quiet():
        tracemalloc.start()
        try:
            return await _together(driver, size) / size, ""
        finally:
            tracemalloc.stop()


class _Hanging:
    def __init__(self) -> None:
        self.begun = 0
        self.cleaned = 0

    async def hang(self, text: str) -> str:
        """Wait for ever, and clean up when cancelled."""
        import anyio  # each contestant has it

        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(_CLEANUP_STEPS):
                    await asyncio.sleep(0)
            self.cleaned += 1
        return text


async def _hanging(driver: Driver, size: int) -> tuple[_Hanging, list[Handle]]:
    tool = _Hanging()
    agent = driver.agent(Script(turns=1, tool="hang"), tool.hang)
    handles = []
    for _ in range(size):
        Script.begin()
        handles.append(driver.start(agent))
    deadline = time.monotonic() + _PATIENCE
    while tool.begun < size:
        await asyncio.sleep(0)
        assert time.monotonic() < deadline, f"{tool.begun} of {size} tools were called"
    for _ in range(10):
        await asyncio.sleep(0)
    return tool, handles


async def stop(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Seconds from the order to stop so many runs, which are in their tools, until every cleanup is finished.

    If the framework says that all have stopped and cleanup is still under way, that is remarked.
    """
    tool, handles = await _hanging(driver, size)
    with _quiet():
        started = time.perf_counter()
        for handle in handles:
            handle.stop()
        for handle in handles:
            await handle.ended()
        cleaned = tool.cleaned
        while tool.cleaned < size and time.perf_counter() < started + _PATIENCE:
            await asyncio.sleep(0)
        seconds = time.perf_counter() - started
    if tool.cleaned < size:
        raise AssertionError(f"{size - tool.cleaned} of {size} cleanups were never finished")
    remark = (
        "" if cleaned == size else f"{size - cleaned} of {size} cleanups went on after it said that all had stopped"
    )
    return seconds, remark


async def stop_one(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """Seconds that it takes to stop one run: the median of so many, one after the other."""
    stopped = [await stop(driver, 1, url) for _ in range(size)]
    return statistics.median(seconds for seconds, _ in stopped), next((remark for _, remark in stopped if remark), "")


async def stop_twice(driver: Driver, size: int, url: str) -> tuple[float, str]:
    """The share of cleanups that are lost when the order to stop comes again while they are under way: 0 to 1.

    The second order comes one, two and more passes of the event loop after the first; the worst of these counts.
    """
    worst, early = 0.0, 0
    for passes in range(1, 2 * _CLEANUP_STEPS):
        tool, handles = await _hanging(driver, size)
        for handle in handles:
            handle.stop()
        for _ in range(passes):
            await asyncio.sleep(0)
        for handle in handles:
            handle.stop()
        for handle in handles:
            await handle.ended()
        early = max(early, size - tool.cleaned)
        for _ in range(100):
            await asyncio.sleep(0)
        worst = max(worst, (size - tool.cleaned) / size)
    went_on = f"{early} of {size} cleanups went on after it said that all had stopped"
    return worst, went_on if early and not worst else ""


ROWS: Final[dict[str, Row]] = {
    row.__name__: row
    for row in (
        delta,
        delta_http,
        turn,
        further,
        run_of,
        turn_http,
        concurrent,
        memory,
        stop,
        stop_one,
        stop_twice,
    )
}
