"""How long the command line takes to start: `agentrun --help` as a whole process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from tempfile import TemporaryDirectory

from ..harness import AGENTRUN, Comparison, Settings

TITLE = "start of the command line, a whole process each time (wall clock)"

_COMMANDS = {
    AGENTRUN: ["-c", "import sys; sys.argv = ['agentrun', '--help']; from agentrun.cli import main; main()"],
    "python -c pass": ["-c", "pass"],
}
_SECONDS_AT_MOST = 0.3


def measure(settings: Settings) -> Iterable[Comparison]:
    """The process from its start to its end, as the shell waits for it; the same that the installed script does."""
    samples: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    with TemporaryDirectory() as cache:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        for number in range(settings.pick(5, 15) + 1):
            for name, arguments in _COMMANDS.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment)
                if number:
                    samples[name].append(time.perf_counter() - started)
    seconds = statistics.median(samples[AGENTRUN])
    text = f"{seconds:.3f} of less than {_SECONDS_AT_MOST} s"
    yield Comparison("agentrun --help", "", samples, findings=[(text, seconds < _SECONDS_AT_MOST)])
