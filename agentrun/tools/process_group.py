"""A subprocess that ends with the block it belongs to, and takes everything it started with it.

The process leads a session and process group of its own, so one signal reaches its children and theirs. What leaves
the group on purpose (a daemon that calls ``setsid`` itself) is out of reach: POSIX has no handle on it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import AsyncResource, Process

from agentrun.core.errors import UserError

__all__ = ["KilledGroup", "managed_process"]

_REAP_SECONDS: Final = 2.0
"""How long to wait for what was killed to be gone. Only a process stuck in the kernel takes that long."""

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class KilledGroup:
    """What was still running when its block was left.

    Attributes:
        name: The command, or what its starter called it.
        pid: Process id of the one that was started, which is also the id of its group.
        signal: The strongest signal that was needed.
        pids: The processes that were alive when that signal was sent, children included (only ``pid`` on systems
            without ``/proc``).
        survivors: Those of them that even ``SIGKILL`` did not end in time; nearly always empty.
    """

    name: str
    pid: int
    signal: Literal["SIGTERM", "SIGKILL"]
    pids: tuple[int, ...]
    survivors: tuple[int, ...] = ()

    def __str__(self) -> str:
        which = ", ".join(map(str, self.pids))
        text = f"{self.name}: {self.signal} to process{'es' if len(self.pids) > 1 else ''} {which}"
        return f"{text}; still there: {', '.join(map(str, self.survivors))}" if self.survivors else text


@asynccontextmanager
async def managed_process(
    command: str | Sequence[str | Path],
    *,
    grace: float = 5.0,
    on_killed: Callable[[KilledGroup], object] | None = None,
    name: str | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = subprocess.PIPE,
    stderr: int | IO[Any] | None = subprocess.PIPE,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> AsyncGenerator[Process, None]:
    """Run ``command`` (text: through the shell) for as long as the block lasts.

    When the block is left, in whatever way, what still runs of the process's group gets SIGTERM, then ``grace``
    seconds, then SIGKILL; its pipes are closed and it is reaped. Cancellation waits for that, and cannot interrupt it.

    Args:
        command: Program and arguments, or a shell command.
        grace: Seconds between SIGTERM and SIGKILL.
        on_killed: Told of what had to be killed; not called if everything had ended by itself. Must not raise.
        name: What to call the process in that report; default: the command.
        stdin: As in `subprocess.Popen`; unlike there nothing is read from the terminal by default.
        stdout: As in `subprocess.Popen`.
        stderr: As in `subprocess.Popen`.
        cwd: Where to run.
        env: The environment; default: this process's.
        pass_fds: File descriptors to hand down.

    Raises:
        OSError: The program cannot be started.
        UserError: On Windows, which has no process groups of this kind.
    """
    if sys.platform == "win32":
        raise UserError("processes that can be killed as a group need a POSIX system; this one is Windows")
    await anyio.lowlevel.checkpoint()
    # Shielded: cancelled half-way, a process could have been started that nobody knows of. No deadline, for the same
    # reason; starting a process does not wait for anything outside this machine.
    process: Process | None = None
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            command if isinstance(command, str) else [os.fspath(part) for part in command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    assert process is not None  # nobody cancels that scope
    label = name or (command if isinstance(command, str) else shlex.join(str(part) for part in command))
    try:
        yield process
    finally:
        killed: KilledGroup | None = KilledGroup(label, process.pid, "SIGKILL", (process.pid,))
        ended = False
        try:
            with anyio.CancelScope(shield=True):
                killed = await _end_group(process, grace, label)
            ended = True
        finally:
            if not ended:  # a native asyncio cancel goes through shields; this needs no await
                _signal_group(process.pid, signal.SIGKILL)
            with anyio.move_on_after(_REAP_SECONDS, shield=True):
                await _close(process)
            if killed is not None and on_killed is not None:
                on_killed(killed)


async def _end_group(process: Process, grace: float, label: str) -> KilledGroup | None:
    pid = process.pid
    if process.returncode is not None and not _signal_group(pid, 0):
        return None
    alive = await _members(pid)
    if not alive:
        await _gone(process, _REAP_SECONDS)  # it has ended by itself, and is only waiting to be reaped
        return None
    _signal_group(pid, signal.SIGTERM)
    _signal_group(pid, signal.SIGCONT)  # a stopped process would not notice
    stubborn = await _gone(process, grace)
    if not stubborn:
        return KilledGroup(label, pid, "SIGTERM", alive)
    _signal_group(pid, signal.SIGKILL)
    return KilledGroup(label, pid, "SIGKILL", stubborn, await _gone(process, _REAP_SECONDS))


async def _gone(process: Process, seconds: float) -> tuple[int, ...]:
    """Wait until the whole group has ended, at most ``seconds``. Returns who is left."""
    deadline = anyio.current_time() + seconds
    with anyio.move_on_after(seconds):
        await process.wait()
    while True:
        left: tuple[int, ...] = ()
        if process.returncode is None or _signal_group(process.pid, 0):
            left = await _members(process.pid)
            if process.returncode is None and process.pid not in left:
                left = (process.pid, *left)  # ended but not reaped yet
        if not left or anyio.current_time() >= deadline:
            return left
        await anyio.sleep(_POLL_SECONDS)


async def _close(process: Process) -> None:
    streams: tuple[AsyncResource | None, ...] = (process.stdin, process.stdout, process.stderr)
    for stream in streams:
        if stream is not None:
            await stream.aclose()
    await process.wait()
    # All it has left to do is to release what the event loop keeps; it would wait for ever for a process that is
    # stuck, hence the wait before, which has a deadline.
    await process.aclose()


def _signal_group(group: int, number: int) -> bool:
    """Send a signal (0: none, only look). Returns whether there was anybody to send it to."""
    if sys.platform == "win32":
        return False
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # there is somebody, who has become another user; or, on macOS, only the dead
    return True


async def _members(group: int) -> tuple[int, ...]:
    # In a thread of its own, as reading /proc takes milliseconds when there are many processes; and with a limiter
    # of its own, as the common one may be full of tools.
    return await anyio.to_thread.run_sync(_read_members, group, limiter=anyio.CapacityLimiter(1))


def _read_members(group: int) -> tuple[int, ...]:
    """The living processes of a group. Without ``/proc`` the group's id stands for them all.

    The dead that nobody reaps (as in a container without an init) do not count: they run no more.
    See https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html.
    """
    root = Path("/proc")
    if not (root / "self" / "stat").exists():
        return (group,) if _signal_group(group, 0) else ()
    members: list[int] = []
    for entry in os.scandir(root):
        if not entry.name.isdecimal():
            continue
        try:
            text = (root / entry.name / "stat").read_text(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        # pid (command) state parent group ...; the command may contain anything, parentheses too
        state, _parent, its_group = text.rpartition(")")[2].split()[:3]
        if int(its_group) == group and state not in "ZX":
            members.append(int(entry.name))
    return tuple(sorted(members))
