"""The program in a pseudo-terminal, or between pipes, as a user or a script would use it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .emulator import Emulator

HERE = Path(__file__).parent
TIMEOUT = 60.0  # of a machine that is busy with other things

# Opening a terminal makes it the controlling one of a new session, so that Ctrl-C becomes a signal.
_LAUNCHER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for number in range(3):
    os.dup2(fd, number)
if fd > 2:
    os.close(fd)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

# A shell's job control, as far as Ctrl-Z needs it: a parent in the same session that sees that its child has stopped,
# and lets it go on after a line was typed.
_SHELL = """
import os, signal, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for number in range(3):
    os.dup2(fd, number)
child = subprocess.Popen([sys.executable, *sys.argv[2:]], process_group=0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(0, child.pid)
_, status = os.waitpid(child.pid, os.WUNTRACED)
assert os.WIFSTOPPED(status), status
os.tcsetpgrp(0, os.getpgrp())
print("stopped", flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, child.pid)
os.killpg(child.pid, signal.SIGCONT)
_, status = os.waitpid(child.pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def command(*arguments: str, backend: str) -> list[str]:
    """The arguments of Python for ``agentrun ARGUMENTS``. As with an installed program, this directory is not on the
    path by itself (``-P``), and every warning is an error."""
    return ["-P", "-W", "error", "-m", "agentrun.cli", *arguments, "--backend", backend]


def environment(**changes: str) -> dict[str, str]:
    """The environment of the program."""
    result = {**os.environ, "TERM": "xterm", **changes}
    result.pop("AGENTRUN_MODEL", None)
    result.update(changes)
    return result


def run_program(
    *arguments: str, backend: str = "asyncio", input: str | None = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, *command(*arguments, backend=backend)],
        cwd=HERE,
        input=input,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=env or environment(),
    )


started: list[subprocess.Popen[bytes]] = []


def start_program(*arguments: str, backend: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the program between pipes. The test need not end it."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(
        [sys.executable, *command(*arguments, backend=backend)], cwd=HERE, env=environment(), **options
    )
    started.append(process)
    return process


def end_programs() -> None:
    """End what a test has started and not ended, and close the pipes."""
    while started:
        process = started.pop()
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def read_until(stream: Any, text: bytes) -> bytes:
    """Read from a pipe until ``text`` has come."""
    data = b""
    deadline = time.monotonic() + TIMEOUT
    while text not in data:
        ready, _, _ = select.select([stream], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"no {text!r} in {data!r}"
        chunk = os.read(stream.fileno(), 65536)
        assert chunk, f"ended without {text!r}: {data!r}"
        data += chunk
    return data


class TerminalSession:
    """The program in a pseudo-terminal, as a context manager; what is left of it at the end is killed."""

    def __init__(self, *arguments: str, backend: str, columns: int = 80, job_control: bool = False) -> None:
        self.master, self.slave = os.openpty()
        self.resize(columns, signal_it=False)
        self.before = termios.tcgetattr(self.slave)
        self.screen = Emulator(columns)
        self.raw = b""
        launcher = _SHELL if job_control else _LAUNCHER
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", launcher, os.ttyname(self.slave), *command(*arguments, backend=backend)],
            cwd=HERE,
            env=environment(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)
        if exc is not None:
            exc.add_note(f"the screen:\n{self.screen.text}")

    def resize(self, columns: int, *, signal_it: bool = True) -> None:
        """Give the terminal another width."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        if signal_it:
            self.screen.columns = columns

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def hammer(self, key: str) -> None:
        """Press a key again and again until the program has ended."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "the program does not end"
            self.type(key)
            time.sleep(0.05)  # presses that come at once make one signal

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until ``text`` has been on the screen, that many times if it is shown several times."""
        self._wait(lambda: self.screen.text.count(text) >= count, f"{text!r} on the screen")

    def wait_for_line(self, line: str) -> None:
        """Wait until the last line is this one."""
        self._wait(lambda: self.screen.lines[-1] == line, f"{line!r} as the last line")

    def wait_exit(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        self._wait(lambda: self.process.poll() is not None, "the end of the program")
        while self._pump(0.0):
            pass
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Whether the terminal is in the mode it was in before."""
        return termios.tcgetattr(self.slave) == self.before and "2004" not in self.screen.modes

    @property
    def raw_mode(self) -> bool:
        """Whether the terminal gives single keys."""
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            if not self._pump(0.05) and self.process.poll() is not None and not self._pump(0.0) and not condition():
                raise AssertionError(f"the program ended ({self.process.returncode}) without {what}")

    def _pump(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        data = os.read(self.master, 65536)
        self.raw += data
        self.screen.feed(data)
        return bool(data)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self.process.send_signal(number)
