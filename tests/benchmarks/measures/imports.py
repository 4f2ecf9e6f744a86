"""How long ``import agentrun`` takes, and how long until a first run has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from tempfile import TemporaryDirectory

from ..harness import AGENTRUN, Aim, Comparison, Settings

TITLE = "imports, each in a new process"

_BASE = "anyio+httpx+pydantic"
_IMPORTS = {AGENTRUN: "import agentrun", _BASE: "import anyio, httpx, pydantic"}
# What programs use of a package that imports most things when they are first asked for, what speaks HTTP included.
_USED = {
    AGENTRUN: """
from agentrun import Agent, RunConfig, open_run, run, tool
from agentrun.models import OpenAIResponsesModel
import agentrun.runtime.run, agentrun.models.openai_responses, agentrun.models.http_pool, agentrun.runtime.handle
import agentrun.models.http_connection
""",
    _BASE: _IMPORTS[_BASE],
}
# Nothing that is put off until it is needed can hide here: a tool's schema, a whole run, a request over HTTP (which
# nobody answers).
_FIRST_RUN = {
    AGENTRUN: """
import agentrun
from agentrun.models import OpenAIResponsesModel
from agentrun.testing import Call, Say, ScriptedModel
async def echo(text: str) -> str: return text
model = ScriptedModel([Call("echo", {"text": "x"}), Say("y")])
agentrun.run_sync(agentrun.Agent("a", tools=[echo], model=model), "Go.")
http = OpenAIResponsesModel("m", api_key="k", base_url="http://127.0.0.1:9", max_retries=0)
try:
    agentrun.run_sync(agentrun.Agent("a", model=http), "Go.")
except agentrun.ModelError:
    pass
else:
    raise AssertionError("somebody has answered")
""",
    _BASE: """
import anyio, httpx, pydantic
async def echo(text: str) -> str: return text
adapter = pydantic.TypeAdapter(pydantic.create_model("Arguments", text=(str, ...)))
adapter.json_schema()
async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(echo, adapter.validate_json('{"text": "x"}').text)
    async with httpx.AsyncClient(verify=False) as client:
        try:
            await client.post("http://127.0.0.1:9")
        except httpx.ConnectError:
            pass
        else:
            raise AssertionError("somebody has answered")
anyio.run(main)
""",
}


def measure(settings: Settings) -> Iterable[Comparison]:
    """Import times, measured inside the new processes."""
    rounds = settings.pick(5, 15)
    samples = _measure(_IMPORTS, rounds)
    yield Comparison("import agentrun", "", samples, aims=[Aim(_BASE, 1.0)])
    yield Comparison("import of all that a run needs", "", _measure(_USED, rounds), aims=[Aim(_BASE, 1.25)])
    yield Comparison("import, one tool, one run, one request over HTTP", "", _measure(_FIRST_RUN, rounds), aims=[])


def _measure(programs: dict[str, str], rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in programs}
    with TemporaryDirectory() as cache:
        # Compiled once, as installed packages are, whatever this process was told about bytecode.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        _fill(samples, programs, environment, rounds)
    return samples


def _fill(samples: dict[str, list[float]], programs: dict[str, str], environment: dict[str, str], rounds: int) -> None:
    for number in range(rounds + 1):
        for name, code in programs.items():
            # CPU time of the process from here on: other processes on the machine do not count.
            timed = f"import time; s = time.process_time()\n{code}\nprint(time.process_time() - s)"
            command = [sys.executable, "-c", timed]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            if number:
                samples[name].append(float(done.stdout))
