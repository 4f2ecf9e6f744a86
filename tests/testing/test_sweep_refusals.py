"""What a sweep cannot do, it refuses by name."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from agentrun import Agent, UserError, tool
from agentrun.testing import (
    Call,
    Say,
    ScriptedModel,
    SweepRefused,
    cancel_everywhere,
    check_tool,
    interrupt_everywhere,
)

BACKENDS: list[Any] = ["asyncio", "trio"]
both = pytest.mark.parametrize("backend", BACKENDS)


async def work() -> str:
    await anyio.sleep(1)
    return "done"


@both
def test_a_scenario_that_is_not_deterministic_is_refused_with_the_first_point_that_differs(backend: Any) -> None:
    runs = itertools.count()

    async def other_each_time() -> None:
        await anyio.sleep(1)
        if next(runs) % 2:
            await anyio.sleep(2)
        else:
            await anyio.sleep(3)

    with pytest.raises(SweepRefused, match=r"not deterministic.*differ at point \d") as caught:
        cancel_everywhere(other_each_time, backends=[backend])
    assert "await anyio.sleep(2)" in str(caught.value)
    assert "await anyio.sleep(3)" in str(caught.value)


@both
def test_fewer_points_than_the_clean_run_are_refused_too(backend: Any) -> None:
    runs = itertools.count()

    async def shorter_each_time() -> None:
        for _ in range(5 - next(runs)):
            await anyio.sleep(1)

    with pytest.raises(SweepRefused, match="not deterministic"):
        cancel_everywhere(shorter_each_time, backends=[backend])


@both
def test_a_run_that_diverges_later_is_a_failure_that_names_the_point(backend: Any) -> None:
    runs = itertools.count()

    async def changes_from_the_fifth_run_on() -> None:
        number = next(runs)
        for _ in range(3 if number < 4 else 1 + number % 2):
            await anyio.sleep(1)

    report = cancel_everywhere(changes_from_the_fifth_run_on, backends=[backend], modes=["resuming"])
    assert report.diverged > 0
    assert "not the same steps as in the clean run, from point" in str(report)
    # It is another one each time, so no run has left that to the others.
    assert "aftermath" not in {violation.check for failure in report.failures for violation in failure.violations}


def test_a_thread_pool_of_the_scenario_is_refused_even_if_the_scenario_catches_the_error() -> None:
    async def has_a_pool() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                await asyncio.get_running_loop().run_in_executor(pool, threading.get_ident)
            except Exception:
                pass

    expected = r"a thread pool of its own \(loop.run_in_executor\(ThreadPoolExecutor, get_ident\)\)"
    with pytest.raises(SweepRefused, match=expected):
        cancel_everywhere(has_a_pool, backends=["asyncio"])


@both
def test_sockets_are_refused(backend: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        async def connects() -> None:
            stream = await anyio.connect_tcp("127.0.0.1", port)
            with anyio.move_on_after(1):
                await stream.receive()
            await stream.aclose()

        async def connects_itself() -> None:
            await anyio.lowlevel.checkpoint()
            with socket.socket() as client:
                client.connect(("127.0.0.1", port))

        async def connects_in_a_thread() -> None:
            await anyio.to_thread.run_sync(connect)

        def connect() -> None:
            with contextlib.suppress(UserError):
                socket.create_connection(("127.0.0.1", port)).close()

        for scenario in (connects, connects_itself, connects_in_a_thread):
            with pytest.raises(SweepRefused, match="a socket"):
                cancel_everywhere(scenario, backends=[backend])
        with socket.create_connection(("127.0.0.1", port)):
            pass  # behind the sweep it is as ever


@both
def test_unix_sockets_and_listeners_are_refused(backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def listens() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1"):
            await anyio.sleep(1)

    async def connects() -> None:
        async with await anyio.connect_unix(path):
            await anyio.sleep(1)

    async def listens_itself() -> None:
        await anyio.lowlevel.checkpoint()
        socket.create_server(("127.0.0.1", 0)).close()

    async def talks_to_itself() -> None:
        for end in socket.socketpair():
            end.close()
        await anyio.lowlevel.checkpoint()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        for scenario in (listens, connects, listens_itself):
            with pytest.raises(SweepRefused, match="a socket"):
                cancel_everywhere(scenario, backends=[backend])
    cancel_everywhere(talks_to_itself, backends=[backend]).raise_if_failed()
    assert not {"connect", "connect_ex", "listen"} & vars(socket.socket).keys()


@both
def test_a_thread_that_calls_back_into_the_event_loop_is_refused(backend: Any) -> None:
    async def is_called() -> None:
        done = anyio.Event()

        def call() -> None:
            with contextlib.suppress(UserError):
                wake(done.set)

        wake: Any = current_token()
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        await done.wait()

    def current_token() -> Any:
        if backend == "trio":
            return trio.lowlevel.current_trio_token().run_sync_soon
        return asyncio.get_running_loop().call_soon_threadsafe

    with pytest.raises(SweepRefused, match="a thread .which calls (run_sync_soon|loop.call_soon_threadsafe)"):
        cancel_everywhere(is_called, backends=[backend])


@both
def test_subprocesses_are_refused(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []  # on trio, a process, and the file by which trio waits for it

    class Process(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            begun.append(self)

    class File(io.FileIO):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            begun.append(self)

    async def starts_a_process() -> None:
        await anyio.run_process([sys.executable, "-c", "print(1)"])

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr("trio._subprocess.FileIO", File)
    with pytest.raises(SweepRefused, match="a subprocess|a socket or other file descriptor|a thread"):
        cancel_everywhere(starts_a_process, backends=[backend])
    for thing in begun:  # or they would warn in a test that comes later
        if isinstance(thing, File):
            thing.close()  # trio has closed it already if it saw the process end
        else:
            with thing:
                pass


def test_another_task_factory_is_refused() -> None:
    async def sets_a_factory() -> None:
        def factory(loop: Any, coro: Any, **options: Any) -> Any:
            return asyncio.Task(coro, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)

    with pytest.raises(SweepRefused, match="a task factory of its own"):
        cancel_everywhere(sets_a_factory, backends=["asyncio"])


async def test_a_sweep_inside_an_event_loop_is_refused() -> None:
    with pytest.raises(UserError, match="inside one of (asyncio|trio)'s"):
        cancel_everywhere(anyio.lowlevel.checkpoint)


@both
def test_a_sweep_inside_a_sweep_is_refused(backend: Any) -> None:
    async def nested() -> None:
        await anyio.lowlevel.checkpoint()
        cancel_everywhere(anyio.lowlevel.checkpoint)

    async def catches() -> None:
        try:
            await nested()
        except UserError:
            await anyio.lowlevel.checkpoint()

    def asks() -> None:
        cancel_everywhere(anyio.lowlevel.checkpoint)

    def asks_in_a_thread() -> str:
        check_tool(tool(work))
        return "done"

    agent = Agent("a", tools=[tool(nested, name="nested")], model=ScriptedModel([Call("nested"), Say("Done.")]))
    for sweep in (
        partial(cancel_everywhere, nested),
        partial(cancel_everywhere, catches),
        partial(cancel_everywhere, work, oracle=asks),
        partial(check_tool, tool(nested, name="nested")),
        partial(check_tool, tool(asks_in_a_thread)),
        partial(interrupt_everywhere, agent, "Go"),
    ):
        with pytest.raises(SweepRefused, match="sweeps cannot be nested"):
            sweep(backends=[backend])
    cancel_everywhere(anyio.lowlevel.checkpoint).raise_if_failed()


@both
def test_a_scenario_that_never_ends_is_refused_or_fails(backend: Any) -> None:
    async def spins() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    with pytest.raises(SweepRefused, match="has not ended after"):
        cancel_everywhere(spins, backends=[backend], max_points=500)
    report = cancel_everywhere(anyio.sleep_forever, backends=[backend])
    assert {v.check for f in report.failures for v in f.violations} == {"deadlock"}
    assert report.injections == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backends": ["curio"]}, "backends contains 'curio'"),
        ({"backends": []}, "backends is empty"),
        ({"modes": ["sometimes"]}, "modes contains 'sometimes'"),
        ({"modes": []}, "modes is empty"),
        ({"modes": ["native"], "backends": ["trio"]}, "modes has only what trio cannot do .native-1, native-2, nat"),
        ({"modes": ["suspended"]}, "nothing was injected: none of the 2 points"),
        ({"grace": 0}, "grace must be more than 0"),
        ({"grace": "long"}, "grace must be more than 0"),
        ({"second": -1}, "second must be a whole number of at least 0"),
        ({"limit": 0}, "limit must be a whole number of at least 1"),
        ({"only": "17"}, "only must be the id of a failure"),
        ({"only": "asyncio:sideways:1"}, "there is no mode 'sideways'"),
        ({"only": "trio:resuming:99"}, "only='trio:resuming:99': there is nothing to inject at that point any more"),
        ({"only": "trio:native-1:1"}, "only='trio:native-1:1': there is nothing to inject"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], match: str) -> None:
    async def nothing() -> None: ...

    with pytest.raises(UserError, match=match):
        cancel_everywhere(nothing, **options)


@both
def test_an_oracle_that_returns_a_verdict_instead_of_raising_it_is_refused(backend: Any) -> None:
    async def is_well() -> bool:
        return True

    scenario = anyio.lowlevel.checkpoint
    for oracle, shown in ((lambda: False, "False"), (is_well, "True"), (lambda: "fine", "'fine'")):
        with pytest.raises(SweepRefused, match=f"the oracle returned {shown}; it must raise if something is wrong"):
            cancel_everywhere(scenario, backends=[backend], oracle=oracle)
        with pytest.raises(SweepRefused, match=f"the oracle returned {shown}"):
            check_tool(tool(work), backends=[backend], oracle=oracle)
    agent = Agent("a", model=ScriptedModel([Say("Yes.")]))
    with pytest.raises(SweepRefused, match="the oracle returned 0"):
        interrupt_everywhere(agent, "Well?", backends=[backend], oracle=lambda record: len(record.errors))


def test_what_would_do_nothing_to_any_run_is_refused() -> None:
    agent = Agent("a", model=ScriptedModel([Say("Yes.")]))
    sweeps: list[Any] = [partial(check_tool, tool(work)), partial(interrupt_everywhere, agent, "Well?")]
    for sweep in sweeps:
        with pytest.raises(UserError, match="actions is empty"):
            sweep(actions=[])
        with pytest.raises(UserError, match="actions has only what trio cannot do"):
            sweep(actions="native", backends=["trio"])
        with pytest.raises(UserError, match="only='trio:cancel-suspended:99': there is nothing to inject"):
            sweep(only="trio:cancel-suspended:99")
    assert interrupt_everywhere(agent, "Well?", only="trio:baseline:0").injections == 0


def test_what_is_no_async_function_is_refused() -> None:
    scenario: Callable[[], Awaitable[None]] = print  # type: ignore[assignment]
    with pytest.raises(UserError, match="scenario must be an async function"):
        cancel_everywhere(scenario)
    with pytest.raises(UserError, match="scenario must be an async function"):
        cancel_everywhere(5)  # type: ignore[arg-type]


@both
def test_what_was_patched_is_as_before_afterwards(backend: Any) -> None:
    import gc
    import warnings

    from anyio._backends import _asyncio

    before = (
        _asyncio.CancelScope.__init__,
        "start" in vars(_asyncio.WorkerThread),
        gc.isenabled(),
        warnings.showwarning,
    )
    cancel_everywhere(anyio.lowlevel.checkpoint, backends=[backend])
    after = (
        _asyncio.CancelScope.__init__,
        "start" in vars(_asyncio.WorkerThread),
        gc.isenabled(),
        warnings.showwarning,
    )
    assert before == after
    assert gc.get_freeze_count() == 0
