"""The worker process of one contestant, as the runner sees it."""

from __future__ import annotations

import json
import os
import pathlib
import select
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Final, Self

from .driver import Driver
from .environments import python_with
from .worker import driver_of

__all__ = ["Broken", "Contestant"]

_CHECKOUT: Final = pathlib.Path(__file__).resolve().parents[3]
_WORKER: Final = "tests.benchmarks.contest.worker"  # from the checkout, whatever this package is called here
_SECONDS_TO_START: Final = 60.0


class Broken(Exception):
    """It could not do what it was asked, or took too long."""


class Contestant:
    """A worker that is started when it is first asked, and once more after it had to be ended.

    Raises:
        CannotInstall: Its packages cannot be had.
    """

    def __init__(self, file: str) -> None:
        self.driver: Driver = driver_of(file)
        self.version = ""
        self.python = python_with(file, self.driver.requirements)
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker lives

    @property
    def name(self) -> str:
        """In the tables."""
        return self.driver.name

    def ask(self, row: str, size: int, url: str, seconds: float) -> tuple[float, str]:
        """The figure for one round of a row, and a remark.

        Raises:
            Broken: With the reason.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"row": row, "size": size, "url": url}).encode() + b"\n")
        process.stdin.flush()
        answer = self._answer(process, seconds)
        if "error" in answer:
            raise Broken(answer["error"])
        return answer["value"], answer["remark"]

    def seconds_to_import(self) -> float:
        """CPU time of its import in a new process.

        Raises:
            Broken: The import failed.
        """
        code = f"import time; s = time.process_time()\n{self.driver.imports}\nprint(time.process_time() - s)"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [self.python, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            cwd=_CHECKOUT,
            env=environment,
            timeout=_SECONDS_TO_START,
        )
        if done.returncode:
            raise Broken(done.stderr.strip().splitlines()[-1][:300])
        return float(done.stdout.splitlines()[-1])

    def end(self) -> None:
        """End the worker, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._errors.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # Nothing of a framework may look for its maker in the network.
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "LANGSMITH_TRACING": "false", "AGNO_TELEMETRY": "false"}
        self._process = subprocess.Popen(
            [self.python, "-m", _WORKER, self._file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=_CHECKOUT,
            env=environment,
        )
        self.version = self._answer(self._process, _SECONDS_TO_START)["version"]
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> Any:
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.end()
                raise Broken(f"took longer than {seconds:.0f} s")
            more = os.read(process.stdout.fileno(), 65536)
            if not more:
                self.end()
                self._errors.seek(0)
                last = self._errors.read()[-300:].decode(errors="replace").strip()
                raise Broken(f"its process ended: {last}")
            line += more
        return json.loads(line)
