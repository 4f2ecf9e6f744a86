"""``python -m tests.benchmarks.contest.worker NAME``: does what it is asked on standard input, with one contestant.

A request is a line of JSON, ``{"row": ..., "size": ..., "url": ...}``; so is the answer, ``{"value": ..., "remark":
...}`` or ``{"error": ...}``. Standard library only: it runs in the environment of the contestant.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback
import warnings
from importlib.metadata import version
from typing import Any

from .driver import Driver
from .rows import ROWS

_DRIVERS = f"{__package__}".rpartition(".")[0] + ".peers"


def driver_of(name: str) -> Driver:
    """The contestant in the file of this name."""
    driver: Driver = importlib.import_module(f"{_DRIVERS}.{name}").DRIVER()
    return driver


async def _serve(driver: Driver, answers: int) -> None:
    # One event loop for all that is asked, so that clients and what is warm stay.
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            value, remark = await ROWS[request["row"]](driver, request["size"], request["url"])
            answer = {"value": value, "remark": remark}
        except Exception as error:
            traceback.print_exc()
            last = traceback.format_exception_only(error)[-1].strip()
            answer = {"error": f"{last:.300}"}
        os.write(answers, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Serve until standard input ends."""
    # What a framework prints must not come between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    driver = driver_of(sys.argv[1])
    os.write(answers, json.dumps({"version": version(driver.package)}).encode() + b"\n")
    asyncio.run(_serve(driver, answers))


if __name__ == "__main__":
    main()
