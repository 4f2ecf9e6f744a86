"""The server processes of the local model, as their parent sees them.

There is one process for each combination of weights and options, shared by all runs, event loops and threads. It
belongs to the program and not to the run that happened to need it first: starting it takes a second or two, and a run
that is cancelled meanwhile just stops waiting; the process goes on loading and serves the next run. It ends when
`shutdown_local_servers` is called, when the program exits, and when the program is killed.

Nothing here needs a thread or a task. The process says on its stdout when it is ready; whoever waits for that looks
there every few milliseconds, so a cancelled waiter leaves nothing behind and the others do not depend on it.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel

from agentrun.core.errors import ModelError, UserError

__all__ = ["LocalServer", "ServerOptions", "check_installed", "get_server", "shutdown_local_servers"]

_POLL_SECONDS: Final = 0.01
_STARTUP_SECONDS: Final = 120.0
_EXIT_SECONDS: Final = 2.0
_MAX_OUTPUT: Final = 20_000
_SCRIPT: Final = Path(__file__).with_name("local_server.py")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What distinguishes one server process from another.

    Attributes:
        weights: The model, a ``.gguf`` file.
        context: Tokens that one conversation may have, prompt and answer together.
        slots: Answers generated at the same time; further requests wait for a free slot.
        threads: Threads that compute.
    """

    weights: Path
    context: int
    slots: int
    threads: int


@dataclass(eq=False)
class LocalServer:
    """One server process: started by the first `ready`, and started again if it has died since.

    Attributes:
        options: What it was started with.
        api_key: What requests must carry; made anew for each process, so that nobody else on the machine gets in.
    """

    options: ServerOptions
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    _process: subprocess.Popen[bytes] | None = None
    _url: str | None = None
    _output: bytearray = field(default_factory=bytearray, repr=False)
    _started_at: float = 0.0
    # Loops in several threads may share the server. Held only around code that does not wait.
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def pid(self) -> int | None:
        """The id of the running process, or ``None``."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def ready(self) -> str:
        """Start the process if need be, wait until the model is loaded, and return the server's URL.

        Always a checkpoint. A cancelled wait leaves the process loading, for the next use.

        Raises:
            UserError: xllamacpp is not installed.
            ModelError: The process ended, or did not load the model within two minutes.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            with self._lock:
                url = self._advance()
            if url is not None:
                return url
            await anyio.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End the process, if there is one, and wait for that; takes milliseconds, two seconds at the very most."""
        with self._lock:
            process, self._process, self._url = self._process, None, None
        if process is not None:
            _end(process)

    def _advance(self) -> str | None:
        """Do what can be done without waiting; the URL once the server is ready."""
        if self._process is not None and self._url is not None:
            if self._process.poll() is None:
                return self._url
            _end(self._process)  # it served and then died (out of memory, killed by someone): start a new one
            self._process = self._url = None
        if self._process is None:
            self._start()
            return None
        process = self._process
        exit_code = process.poll()  # before reading, so that an exit seen here has all its output readable
        self._read_output(process)
        message = self._message()
        if "url" in message:
            assert process.stdout is not None
            process.stdout.close()  # the server writes nothing more
            self._url = message["url"]
            return self._url
        problem = message.get("error")
        if problem is None and exit_code is not None:
            problem = f"it ended with exit code {exit_code} while loading"
        if problem is None and time.monotonic() - self._started_at > _STARTUP_SECONDS:
            problem = f"it was not ready after {_STARTUP_SECONDS:.0f} seconds"
        if problem is not None:
            self._process = None
            _end(process, patience=0.0)
            log = self._output.decode(errors="replace").strip()
            raise ModelError(
                f"the local model's server did not start with {self.options.weights}: {problem}"
                + (f"\nIts last output:\n{log[-2000:]}" if log and "error" not in message else "")
            )
        return None

    def _start(self) -> None:
        check_installed()
        self.api_key = secrets.token_urlsafe(24)
        self._output = bytearray()
        self._started_at = time.monotonic()
        options: dict[str, Any] = {
            "weights": str(self.options.weights),
            "alias": self.options.weights.stem,
            "context": self.options.context,
            "slots": self.options.slots,
            "threads": self.options.threads,
            "api_key": self.api_key,
            "parent": os.getpid(),
        }
        # -P and a path instead of -m: neither this directory (whose modules have names like the standard library's)
        # nor a changed sys.path of ours can then break the child's imports. A session of its own keeps Ctrl-C away.
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        try:
            os.set_blocking(process.stdout.fileno(), False)
            os.write(process.stdin.fileno(), json.dumps(options).encode() + b"\n")  # fits the pipe: does not block
        except OSError:
            pass  # it ended at once; the next look at it says so

    def _read_output(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while True:
            try:
                data = os.read(process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            if not data:
                return
            self._output += data
            del self._output[:-_MAX_OUTPUT]

    def _message(self) -> dict[str, str]:
        # llama.cpp's complaints arrive through the same pipe, in lines of their own.
        for line in bytes(self._output).splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                try:
                    loaded = json.loads(line)
                except ValueError:
                    continue
                if isinstance(loaded, dict) and loaded.keys() & {"url", "error"}:  # pyright: ignore
                    return loaded  # pyright: ignore[reportUnknownVariableType]
        return {}


_servers: dict[ServerOptions, LocalServer] = {}
_servers_lock = threading.Lock()


def get_server(options: ServerOptions) -> LocalServer:
    """The server for these options, the same one for all who ask; not started yet if nobody has used it."""
    with _servers_lock:
        server = _servers.get(options)
        if server is None:
            server = _servers[options] = LocalServer(options)
        return server


def shutdown_local_servers() -> None:
    """End all server processes of the local model that this program started, and give their memory back.

    Happens by itself when the program exits. Blocks for a few milliseconds. Streams that are still open break off with
    a `ModelError`; the next use of the model starts a new process.
    """
    with _servers_lock:
        servers = list(_servers.values())
    for server in servers:
        server.stop()


def _forget_after_fork() -> None:
    # The servers are the parent's: a forked child must not end them when it exits. It may start its own.
    global _servers, _servers_lock
    for server in _servers.values():
        process = server._process
        if process is not None:
            process.returncode = 0  # else the Popen object complains, when it is collected, of a process still running
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()  # held open here, stdin would keep the server from seeing that the parent has ended
    _servers = {}
    _servers_lock = threading.Lock()


def check_installed() -> None:
    """Raise `UserError` if the server cannot run here, and say what is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(
            "the local model needs the package xllamacpp, which is not installed: run `pip install "
            "xllamacpp==2026.10.11549` (or install agentrun with its extra 'local')"
        )
    if not hasattr(os, "set_blocking"):
        raise UserError("the local model needs Python 3.12 or newer on this platform")
    if not sys.executable:
        raise UserError("the local model runs in a process of its own, but sys.executable does not name a Python")


def _end(process: subprocess.Popen[bytes], *, patience: float = _EXIT_SECONDS) -> None:
    if process.stdin is not None:
        try:
            process.stdin.close()  # the polite request
        except OSError:
            pass
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


atexit.register(shutdown_local_servers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
