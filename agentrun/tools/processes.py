"""Calling a function in a process of its own, which can be stopped whatever the function does."""

from __future__ import annotations

import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any, Final, cast

import anyio
from anyio.abc import Process, UNIXSocketStream

from agentrun.core.errors import UserError
from agentrun.tools.process_group import KilledGroup, managed_process
from agentrun.tools.worker import BOOTSTRAP, HEADER_SIZE, Location, Main, Reply, importing_main

__all__ = ["KilledGroup", "managed_process", "run_in_process"]

_POLL_SECONDS: Final = 0.25
_CLOSE_SECONDS: Final = 1.0
_CHUNK: Final = 1 << 18
_MAIN_NAMES: Final = ("__main__", "__mp_main__")
"""What the main script is called in its own process, and in those of tools."""


async def run_in_process(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    grace: float = 5.0,
    on_started: Callable[[int], object] | None = None,
    on_killed: Callable[[KilledGroup], object] | None = None,
) -> Any:
    """Call ``function(*args, **kwargs)`` in a new Python process and return its value.

    The function is imported there by module and name; arguments, value and exception travel as pickles. A value that
    cannot be pickled comes back as the JSON that it stands for. The function's standard input is empty; what it prints
    goes where this process's output goes.

    When the call is cancelled, and also when it has returned but left something running, the process and all it
    started get SIGTERM (an exception in Python code, so ``finally`` blocks run), then ``grace`` seconds, then SIGKILL.
    That is waited for, shielded from cancellation.

    Args:
        function: A function at the top level of a module, or the tool made from it. In the main script it is found
            too, if that script has a file and does its work under ``if __name__ == "__main__":``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        grace: Seconds between SIGTERM and SIGKILL, and for a process that has returned its value to exit.
        on_started: Told the process id once the process runs.
        on_killed: Told of what had to be killed.

    Raises:
        UserError: The function cannot be found by name, or the arguments cannot be pickled.
        ChildProcessError: The process ended before it gave a result, killed by the system perhaps.
        Exception: What the function raised, with the traceback from its process as a note. If that exception cannot
            be pickled, a `RuntimeError` that names it.
    """
    call = _pickled_call(function, args, kwargs or {})
    location = _locate(function, call)
    where = f"{location[0]}.{location[1]}"
    request = pickle.dumps(sys.path) + pickle.dumps(location) + call
    if not sys.executable:
        raise UserError(f"{where} cannot run in a process of its own: this Python does not know its executable")
    ours, theirs = socket.socketpair()
    try:
        async with managed_process(
            [sys.executable, "-P", "-c", BOOTSTRAP, str(theirs.fileno())],
            grace=grace,
            on_killed=on_killed,
            name=where,
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
            pass_fds=[theirs.fileno()],
        ) as process:
            theirs.close()
            if on_started is not None:
                on_started(process.pid)
            stream = await UNIXSocketStream.from_socket(ours)
            try:
                frame = await _exchange(stream, process, request)
                # Let it exit in its own way; what it still does then is its own cleanup.
                with anyio.move_on_after(grace if frame is not None else _CLOSE_SECONDS):
                    await process.wait()
            finally:
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await stream.aclose()
            status = process.returncode
    finally:
        theirs.close()
        ours.close()
    if frame is None:
        raise ChildProcessError(f"the process of {where} {_ending(status)} before it gave a result")
    return _result(frame, where)


def _locate(function: Any, call: bytes) -> Location:
    function = getattr(function, "function", function)  # of a tool
    module_name, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(function, FunctionType) or not module_name or "." in str(qualname):
        raise UserError(
            f"{function!r} cannot run in a process of its own: it must be a function at the top level of a module, "
            "because the other process imports it by name"
        )
    where = f"{module_name}.{qualname}"
    found = getattr(sys.modules.get(str(module_name)), str(qualname), None)
    if getattr(found, "function", found) is not function:
        raise UserError(
            f"{where} cannot run in a process of its own: that name stands for {found!r:.100} now, not for the "
            "function. Put @tool(isolation='process') above all other decorators"
        )
    if importing_main():
        raise UserError(
            f"{where} was called while the main script was being imported by a tool's process: put what the script "
            'does under `if __name__ == "__main__":`'
        )
    # Imported only if needed, since importing it runs it; and pickles name the modules of the types in them.
    script: Main | None = None
    if module_name in _MAIN_NAMES or b"__main__" in call:
        script = _main_script(where)
    return "__main__" if module_name in _MAIN_NAMES else str(module_name), str(qualname), script


def _main_script(where: str) -> Main:
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m
        return "module", spec.name
    if file is None or not Path(file).is_file():
        raise UserError(
            f"{where} cannot run in a process of its own: it, or the type of an argument, was typed into an "
            "interactive session, so nobody else can import it. Put it into a module"
        )
    return "path", str(Path(file).absolute())


def _pickled_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    try:
        return pickle.dumps((tuple(args), dict(kwargs)))
    except Exception as exc:
        raise UserError(
            f"the arguments of {getattr(function, '__qualname__', function)} cannot be sent to another process "
            f"({exc}); use types defined at the top level of a module, or isolation='thread'"
        ) from exc


async def _exchange(stream: UNIXSocketStream, process: Process, request: bytes) -> bytes | None:
    """Send the request and read the reply; ``None`` if the process ends without one."""
    buffer = bytearray()
    try:
        await stream.send(request)
        while True:
            if len(buffer) >= HEADER_SIZE:
                size = HEADER_SIZE + int.from_bytes(buffer[:HEADER_SIZE], "big")
                if len(buffer) >= size:
                    return bytes(buffer[HEADER_SIZE:size])
            # The end of the process shows as the end of the stream, unless it has forked and its child has the
            # stream too; so look after the process as well. What it had sent before it ended is there to be read.
            ended = process.returncode is not None
            chunk = b""
            with anyio.move_on_after(_POLL_SECONDS):
                chunk = await stream.receive(_CHUNK)
            if ended and not chunk:
                return None
            buffer += chunk
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return None


def _ending(status: int | None) -> str:
    if status is None:
        return "closed its channel"
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def _result(frame: bytes, where: str) -> Any:
    reply = cast("Reply", pickle.loads(frame))
    if reply[0] == "value":
        try:
            return _Unpickler(BytesIO(reply[1])).load()
        except Exception as exc:
            raise RuntimeError(f"the value that {where} returned cannot be read in this process: {exc}") from exc
    _, pickled, text, trace = reply
    error: Exception = RuntimeError(f"{where} failed: {text}")
    if pickled is not None:
        try:
            error = _Unpickler(BytesIO(pickled)).load()
        except Exception as exc:  # noqa: BLE001
            error.add_note(f"(its exception cannot be read in this process: {exc})")
    error.add_note(f"In the process of {where}:\n{trace.rstrip()}")
    raise error


class _Unpickler(pickle.Unpickler):
    """Reads pickles in which the main script goes by the name it has in the tool's process."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return super().find_class("__main__" if module_name == "__mp_main__" else module_name, global_name)
