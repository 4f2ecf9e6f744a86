"""isolation="process": a process per call, which is gone with all it started when the call has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agentrun.core.errors import UserError
from agentrun.tools.processes import KilledGroup, managed_process, run_in_process

from . import functions_for_processes as f

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")


def running(pid: int) -> bool:
    """Whether a process does still run; one that is dead but was not reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


async def until_exists(path: Path) -> None:
    with anyio.fail_after(20):
        while not path.exists():
            await anyio.sleep(0.01)


async def test_a_function_returns_its_value_from_another_process() -> None:
    started: list[int] = []
    killed: list[KilledGroup] = []
    assert await run_in_process(f.pid, on_started=started.append, on_killed=killed.append) == started[0]
    assert started[0] != os.getpid()
    assert not killed
    assert not running(started[0])


async def test_a_tool_stands_for_its_function_and_binds_its_arguments() -> None:
    args, kwargs = f.add.call_arguments(f.add.bind('{"a": 40}'))
    assert await run_in_process(f.add.function, args, kwargs) == 42
    assert await run_in_process(f.add, (1,), {"b": 1}) == 2


async def test_values_of_the_programs_own_types_travel_both_ways() -> None:
    assert await run_in_process(f.mirrored, (f.Point(1, 2),)) == f.Point(2, 1)


async def test_what_the_function_prints_does_not_disturb_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_in_process(f.chatty) == "said"
    out, err = capfd.readouterr()
    assert "on stdout" in out
    assert "raw" in out
    assert "on stderr" in err


async def test_standard_input_is_empty() -> None:
    assert await run_in_process(f.reads_stdin) == ""


async def test_big_arguments_and_results_get_through() -> None:
    assert await run_in_process(f.big, (3_000_000, b"y" * 3_000_000)) == b"x" * 3_000_000 + b"y" * 3_000_000


async def test_an_exception_is_raised_as_itself_with_the_other_process_traceback_as_a_note() -> None:
    with pytest.raises(ValueError, match="^no such city") as info:
        await run_in_process(f.raises, ("value",))
    assert 'raise ValueError("no such city")' in info.value.__notes__[-1]


@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        ("awkward", RuntimeError, "AwkwardError: a and b"),
        ("mute", RuntimeError, r"MuteError: \(it cannot say what is wrong: LookupError in its __str__\)"),
        ("exit", RuntimeError, r"called sys.exit\(3\)"),
        ("die", ChildProcessError, "exited with status 7 before it gave a result"),
        ("kill", ChildProcessError, "was killed by SIGKILL before it gave a result"),
    ],
)
async def test_a_process_that_ends_in_another_way_says_how(kind: str, expected: type[Exception], message: str) -> None:
    with pytest.raises(expected, match=message):
        await run_in_process(f.raises, (kind,))


async def test_the_end_of_the_process_is_noticed_though_its_child_holds_the_channel_open() -> None:
    killed: list[KilledGroup] = []
    with anyio.fail_after(10), pytest.raises(ChildProcessError, match="status 9"):
        await run_in_process(f.dies_with_its_channel_held, on_killed=killed.append)
    assert len(killed) == 1
    assert not any(running(pid) for pid in killed[0].pids)


async def test_a_value_that_cannot_be_pickled_comes_back_as_its_json() -> None:
    assert await run_in_process(f.unpicklable) == {"local": {"n": 4}}
    with pytest.raises(Exception, match="cannot be turned into JSON"):
        await run_in_process(f.hopeless)


async def test_arguments_that_cannot_be_pickled_are_refused_before_anything_is_started() -> None:
    started: list[int] = []
    with pytest.raises(UserError, match="cannot be sent to another process"):
        await run_in_process(f.mirrored, (lambda: 1,), on_started=started.append)
    assert not started


async def test_functions_that_cannot_be_found_by_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner() -> None: ...

    with pytest.raises(UserError, match="at the top level of a module"):
        await run_in_process(inner)
    original = f.pid
    monkeypatch.setattr(f, "pid", lambda: 1)
    with pytest.raises(UserError, match="that name stands for"):
        await run_in_process(original)


async def test_a_cancelled_call_lets_the_function_clean_up_and_reports_the_kill(tmp_path: Path) -> None:
    killed: list[KilledGroup] = []
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await run_in_process(f.waits_and_cleans_up, (str(tmp_path),), on_killed=killed.append)

        group.start_soon(call)
        await until_exists(tmp_path / "started")
        group.cancel_scope.cancel()
    assert (tmp_path / "cleaned").exists()
    assert [(k.signal, k.pids, k.survivors) for k in killed] == [("SIGTERM", (killed[0].pid,), ())]
    assert killed[0].name.endswith("functions_for_processes.waits_and_cleans_up")
    assert not running(killed[0].pid)
    assert str(killed[0]).endswith(f"waits_and_cleans_up: SIGTERM to process {killed[0].pid}")


async def test_a_function_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    killed: list[KilledGroup] = []
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await run_in_process(f.ignores_sigterm, (str(tmp_path),), on_killed=killed.append, grace=0.1)

        group.start_soon(call)
        await until_exists(tmp_path / "started")
        group.cancel_scope.cancel()
    assert [k.signal for k in killed] == ["SIGKILL"]
    assert not running(killed[0].pid)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_grandchildren_are_ended_too_when_the_call_is_cancelled(tmp_path: Path, stubborn: bool) -> None:
    killed: list[KilledGroup] = []
    async with anyio.create_task_group() as group:

        async def call() -> None:
            kwargs = {"stubborn": stubborn, "stay": True}
            grace = 0.3 if stubborn else 30.0  # those that obey need no hurry
            await run_in_process(f.has_a_grandchild, (str(tmp_path),), kwargs, on_killed=killed.append, grace=grace)

        group.start_soon(call)
        await until_exists(tmp_path / "started")
        group.cancel_scope.cancel()
    grandchild = int((tmp_path / "grandchild").read_text())
    assert not running(grandchild)
    assert not running(killed[0].pid)
    assert killed[0].signal == ("SIGKILL" if stubborn else "SIGTERM")
    assert grandchild in killed[0].pids


async def test_grandchildren_that_a_finished_function_left_behind_are_ended(tmp_path: Path) -> None:
    killed: list[KilledGroup] = []
    kwargs = {"stubborn": False, "stay": False}
    grandchild = await run_in_process(f.has_a_grandchild, (str(tmp_path),), kwargs, on_killed=killed.append)
    assert not running(grandchild)
    assert [(k.signal, k.pids) for k in killed] == [("SIGTERM", (grandchild,))]


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.03, 0.06, 0.1, 0.2])
async def test_cancelling_at_any_moment_leaves_no_process(tmp_path: Path, delay: float) -> None:
    started: list[int] = []
    with anyio.move_on_after(delay):
        await run_in_process(f.waits_and_cleans_up, (str(tmp_path),), on_started=started.append, grace=1)
    assert not any(running(pid) for pid in started)


async def test_a_native_cancel_kills_the_group_at_once(anyio_backend_name: str, tmp_path: Path) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no native cancel")
    import asyncio

    killed: list[KilledGroup] = []
    kwargs: dict[str, Any] = {"on_killed": killed.append, "grace": 30}
    task = asyncio.create_task(run_in_process(f.ignores_sigterm, (str(tmp_path),), **kwargs))
    await until_exists(tmp_path / "started")
    task.cancel()
    for _ in range(20):
        await checkpoint()
    await anyio.sleep(0.1)  # it is in its grace now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert killed[0].signal == "SIGKILL"
    assert not running(killed[0].pid)


async def test_a_managed_process_can_be_talked_to_and_ends_with_its_block() -> None:
    killed: list[KilledGroup] = []
    async with managed_process(["cat"], stdin=subprocess.PIPE, on_killed=killed.append) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(b"hello")
        assert await process.stdout.receive() == b"hello"
    assert [(k.name, k.signal) for k in killed] == [("cat", "SIGTERM")]
    assert process.returncode == -15


async def test_a_managed_process_that_has_ended_is_not_reported() -> None:
    killed: list[KilledGroup] = []
    async with managed_process("exit 3", on_killed=killed.append) as process:
        assert await process.wait() == 3
    assert not killed


async def test_a_program_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        async with managed_process(["/nonexistent/program"]):
            pytest.fail("unreachable")


async def test_a_stopped_process_ends_too() -> None:
    killed: list[KilledGroup] = []
    async with managed_process("kill -STOP $$; sleep 60", on_killed=killed.append, grace=5) as process:
        with anyio.fail_after(5):
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                await anyio.sleep(0.01)
    assert [k.signal for k in killed] == ["SIGTERM"]


SCRIPT = """
    import sys, anyio
    from dataclasses import dataclass
    from agentrun.tools import tool
    from agentrun.tools.processes import run_in_process

    @dataclass
    class Box:
        n: int

    @tool(isolation="process")
    def double(box: Box) -> Box:
        return Box(box.n * 2)

    {guard}
        print(anyio.run(run_in_process, double, (Box(21),), backend="{backend}"))
"""


def test_functions_of_the_main_script_work_if_it_is_guarded(tmp_path: Path, anyio_backend_name: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(guard='if __name__ == "__main__":', backend=anyio_backend_name))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "Box(n=42)", done.stderr


def test_functions_of_a_module_run_as_the_main_script_work(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    script = tmp_path / "package" / "job.py"
    script.write_text(textwrap.dedent(SCRIPT).format(guard='if __name__ == "__main__":', backend="asyncio"))
    command = [sys.executable, "-m", "package.job"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.strip() == "Box(n=42)", done.stderr


def test_types_of_the_main_script_can_be_arguments_of_functions_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text("def same(value): return value\n")
    script = tmp_path / "script.py"
    text = textwrap.dedent(SCRIPT).replace("double, (Box", "library.same, (Box").replace("import sys", "import library")
    script.write_text(text.format(guard='if __name__ == "__main__":', backend="asyncio"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "Box(n=21)", done.stderr


def test_an_interactive_session_is_told_to_use_a_module() -> None:
    text = textwrap.dedent(SCRIPT).format(guard="if True:", backend="asyncio")
    done = subprocess.run([sys.executable], input=text, capture_output=True, text=True, timeout=60)
    assert "typed into an interactive session" in done.stderr


def test_an_unguarded_main_script_is_told_to_guard_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(guard="if True:", backend="asyncio"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr
