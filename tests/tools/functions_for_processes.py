"""Functions that the tests call in processes of their own. They must be importable by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrun.tools import tool


@dataclass
class Point:
    x: int
    y: int


@tool(isolation="process")
def add(a: int, b: int = 2) -> int:
    return a + b


def mirrored(point: Point) -> Point:
    return Point(point.y, point.x)


def chatty() -> str:
    print("on stdout")
    print("on stderr", file=sys.stderr)
    os.write(1, b"raw\n")
    sys.stdout.flush()
    return "said"


def pid() -> int:
    return os.getpid()


def reads_stdin() -> str:
    return sys.stdin.read()


def big(size: int, data: bytes = b"") -> bytes:
    return b"x" * size + data


class MuteError(Exception):
    """It cannot be printed, and of a class that the other process cannot find."""

    __qualname__ = "NoSuchError"

    def __str__(self) -> str:
        raise LookupError("no words")


class AwkwardError(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


def raises(kind: str) -> None:
    if kind == "value":
        raise ValueError("no such city")
    if kind == "awkward":
        raise AwkwardError("a", "b")
    if kind == "mute":
        raise MuteError
    if kind == "exit":
        sys.exit(3)
    if kind == "die":
        os._exit(7)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(kind)


def unpicklable() -> Any:
    @dataclass
    class Local:
        n: int

    return {"local": Local(4)}


def hopeless() -> Any:
    return lambda: 1


def dies_with_its_channel_held() -> None:
    """A forked child keeps every file descriptor open while the process itself dies."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(9)


def waits_and_cleans_up(folder: str) -> None:
    (Path(folder) / "started").touch()
    try:
        time.sleep(60)
    finally:
        (Path(folder) / "cleaned").touch()


def ignores_sigterm(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (Path(folder) / "started").touch()
    time.sleep(60)


def has_a_grandchild(folder: str, *, stubborn: bool, stay: bool) -> int:
    code = "import time; " + ("import signal; signal.signal(15, signal.SIG_IGN); " if stubborn else "")
    code += f"open({str(Path(folder) / 'started')!r}, 'w').close(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    (Path(folder) / "grandchild").write_text(str(child.pid))
    while not (Path(folder) / "started").exists():
        time.sleep(0.005)
    if stay:
        time.sleep(60)
    child.returncode = 0  # we do not mean to wait for it; say so, or Python warns
    return child.pid
