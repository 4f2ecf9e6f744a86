"""The same seed, on another machine: what it gave where it was recorded, to be compared with what it gives here.

``python -m tests.fuzz.elsewhere`` writes the record anew. It holds for the very code and the very versions that it was
made with, since another line of code is another scheduling point: with others there is nothing to compare.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from agentrun.testing import cancel_everywhere

from .campaign import run_campaign

__all__ = ["RECORD", "conditions", "measured"]

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "elsewhere.json"
_SEED, _PROGRAMS = 11, 30


def conditions() -> dict[str, str]:
    """What must be the same for the comparison: the code, and the versions of what it stands on."""
    code = hashlib.sha256()
    for path in sorted([*ROOT.glob("agentrun/**/*.py"), *ROOT.glob("tests/fuzz/*.py")]):
        code.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    packages = {name: version(name) for name in ("anyio", "hypothesis", "pydantic", "trio")}
    return {"code": code.hexdigest(), "python": platform.python_version(), **packages}


def measured() -> dict[str, Any]:
    """What the seed gives here: a campaign's table, and the whole report of a sweep that finds something."""
    tally = run_campaign(_SEED, most=_PROGRAMS)
    report = cancel_everywhere(_leaky)
    failures = [str(failure).replace(str(ROOT), "") for failure in report.failures]
    return {"programs": str(tally).splitlines(), "points": report.points, "failures": failures}


async def _leaky() -> None:
    """A scenario with the most common mistake: what is acquired before the ``try`` is not given back."""
    limiter = anyio.CapacityLimiter(1)

    async def work() -> None:
        await limiter.acquire()
        await anyio.lowlevel.checkpoint()
        try:
            await anyio.sleep(1)
        finally:
            limiter.release()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            tasks.start_soon(work)
    finally:
        assert limiter.borrowed_tokens == 0, "a token was not given back"


if __name__ == "__main__":
    RECORD.write_text(json.dumps({"conditions": conditions(), "measured": measured()}, indent=1) + "\n")
    print(f"recorded in {RECORD}", file=sys.stderr)
