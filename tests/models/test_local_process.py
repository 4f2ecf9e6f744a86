"""The server process as its parent sees it, with a small script in the place of the real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agentrun.core.errors import ModelError, UserError
from agentrun.models import local_process
from agentrun.models.local_process import LocalServer, ServerOptions, get_server, shutdown_local_servers

OPTIONS = ServerOptions(Path("/models/tiny.gguf"), context=512, slots=2, threads=1)

READY = """
import json, os, sys
options = json.loads(sys.stdin.readline())
print("some complaint of the library", flush=True)
print('{"level": "warning"}', flush=True)
with open(os.environ["STARTS"], "a") as file:
    file.write(f"{os.getpid()} {options['slots']} {options['weights']}\\n")
print(json.dumps({"url": "http://127.0.0.1:1"}), flush=True)
sys.stdin.read()
"""
SLOW = READY.replace("print(json", "import time; time.sleep(0.4)\nprint(json")
DEAF = READY.replace("sys.stdin.read()", "import time; time.sleep(600)")


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(local_process, "_servers", {})
    monkeypatch.setattr(local_process, "check_installed", lambda: None)
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    yield
    shutdown_local_servers()


def use_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> LocalServer:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(code))
    monkeypatch.setattr(local_process, "_SCRIPT", script)
    return get_server(OPTIONS)


def starts(tmp_path: Path) -> list[str]:
    return (tmp_path / "starts").read_text().splitlines()


async def test_many_waiters_share_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = use_script(tmp_path, monkeypatch, SLOW)
    urls: list[str] = []

    async def wait() -> None:
        urls.append(await server.ready())

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait)
    assert urls == ["http://127.0.0.1:1"] * 5
    assert starts(tmp_path) == [f"{server.pid} 2 /models/tiny.gguf"]
    assert get_server(OPTIONS) is server


async def test_a_cancelled_wait_leaves_the_process_for_the_next_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = use_script(tmp_path, monkeypatch, SLOW)
    with anyio.move_on_after(0.05) as scope:
        await server.ready()
    assert scope.cancelled_caught
    before = server.pid
    assert before is not None
    await server.ready()
    assert server.pid == before
    assert len(starts(tmp_path)) == 1


def test_loops_one_after_the_other_and_in_two_threads_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = use_script(tmp_path, monkeypatch, SLOW)
    threads = [
        threading.Thread(target=anyio.run, args=(server.ready,), kwargs={"backend": b}) for b in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    anyio.run(server.ready)
    assert len(starts(tmp_path)) == 1


async def test_a_process_that_died_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = use_script(tmp_path, monkeypatch, READY)
    await server.ready()
    first, key = server.pid, server.api_key
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with anyio.fail_after(10):
        while server.pid is not None:
            await anyio.sleep(0.01)
    await server.ready()
    assert server.pid not in (None, first)
    assert server.api_key != key


async def test_a_process_that_ends_while_loading_is_reported_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = use_script(tmp_path, monkeypatch, "import sys; sys.exit('out of memory')")
    with pytest.raises(ModelError, match=r"tiny\.gguf: it ended with exit code 1 while loading\n.*\nout of memory"):
        await server.ready()
    assert server.pid is None


async def test_an_error_that_the_process_reports_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """import sys; print('{"error": "RuntimeError: Failed to load model"}', flush=True); sys.stdin.read()"""
    server = use_script(tmp_path, monkeypatch, code)
    with pytest.raises(ModelError, match=r"did not start with .*: RuntimeError: Failed to load model$"):
        await server.ready()
    assert server.pid is None


async def test_a_process_that_is_never_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_process, "_STARTUP_SECONDS", 0.1)
    server = use_script(tmp_path, monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(ModelError, match="it was not ready after"):
        await server.ready()
    assert server.pid is None


async def test_a_process_that_does_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_process, "_EXIT_SECONDS", 0.1)
    server = use_script(tmp_path, monkeypatch, DEAF)
    await server.ready()
    pid = server.pid
    assert pid is not None
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()  # again: nothing happens


async def test_without_xllamacpp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install xllamacpp"):
        await LocalServer(OPTIONS).ready()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_parents_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "server.py"
    script.write_text(READY)
    program = f"""
    import anyio, os, sys
    from pathlib import Path
    from agentrun.models import local_process
    local_process._SCRIPT = Path({str(script)!r})
    local_process.check_installed = lambda: None
    server = local_process.get_server(local_process.ServerOptions(Path("x.gguf"), 512, 2, 1))
    anyio.run(server.ready)
    child = os.fork()
    if child == 0:
        sys.exit(0)  # runs the exit handlers
    os.waitpid(child, 0)
    print(server.pid is not None)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
