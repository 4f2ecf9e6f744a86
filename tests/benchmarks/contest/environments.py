"""An environment for each contestant, made when it is first needed and kept."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["CannotInstall", "python_with"]

_SECONDS: Final = 600.0
_ROOT: Final = pathlib.Path(__file__).resolve().parents[3] / ".nox" / "peers"


class CannotInstall(Exception):
    """The packages cannot be had here."""


def python_with(name: str, requirements: Sequence[str]) -> str:
    """The interpreter of an environment that has the packages; this one, if there are none to have.

    The environments are in ``.nox/peers`` of the checkout, or where ``AGENTRUN_BENCH_ENVIRONMENTS`` says.

    Raises:
        CannotInstall: With the reason.
    """
    if not requirements:
        return sys.executable
    wanted = "\n".join([sys.version, *requirements])
    root = pathlib.Path(os.environ.get("AGENTRUN_BENCH_ENVIRONMENTS", _ROOT))
    place = root / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python, done = place / "bin" / "python", place / "installed"
    if os.name == "nt":
        python = place / "Scripts" / "python.exe"
    if done.exists():
        return str(python)
    shutil.rmtree(place, ignore_errors=True)  # half made, if at all
    place.parent.mkdir(parents=True, exist_ok=True)
    if uv := shutil.which("uv"):
        _do([uv, "venv", "--quiet", "--python", sys.executable, str(place)])
        _do([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *requirements])
    else:
        _do([sys.executable, "-m", "venv", str(place)])
        _do([str(python), "-m", "pip", "install", "--quiet", *requirements])
    done.write_text(wanted)
    return str(python)


def _do(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        raise CannotInstall((error.stderr or error.stdout or str(error)).strip()[-300:]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(str(error)[:300]) from error
