"""Tools that run in processes of their own. They must be importable by name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from agentrun import tool


@tool(isolation="process")
def family(folder: str, deaf: bool) -> None:
    """Start a child, tell both ids, and stay."""
    code = "import time; time.sleep(60)"
    if deaf:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    if deaf:
        time.sleep(0.3)  # until the child is deaf, too
    file = Path(folder) / "ids.tmp"
    file.write_text(f"{os.getpid()} {child.pid}")
    file.rename(Path(folder) / "ids")
    try:
        time.sleep(60)
    finally:
        (Path(folder) / "cleaned up").touch()
