"""The types that users see: the public API passes strict type checkers, and none of it is left to inference."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
needs_pyright = pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # `pyright --verifytypes` looks for the package with the first python of the PATH, whatever --pythonpath says.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_mypy
def test_use_of_the_public_api_passes_mypy_strict() -> None:
    done = _run("mypy", "--strict", "tests/typing")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_pyright
def test_use_of_the_public_api_passes_pyright_strict() -> None:
    done = _run("pyright", "--pythonpath", sys.executable, "tests/typing")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_pyright
def test_every_public_type_is_known_without_inference() -> None:
    done = _run(
        "pyright", "--pythonpath", sys.executable, "--ignoreexternal", "--verifytypes", "agentrun", "--outputjson"
    )
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert unknown == []
    assert len(report["symbols"]) > 500
    assert report["completenessScore"] == 1
