"""Which test reaches which line, how long it takes, and whether it can be asked in virtual time: recorded once.

A record is good as long as the package and the test's file are as they were; what is new is recorded when it is needed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import coverage
import pytest

from .forks import Fork
from .running import file_of, run_test, set_clock

__all__ = ["Reach", "record"]


@dataclass(slots=True)
class Reach:
    """What was seen of one test.

    Attributes:
        file: A hash of its file.
        seconds: How long it took.
        virtual: Whether that was in virtual time.
        passed: Whether it passed; one that did not can ask nothing.
        processes: Whether it started processes, in which no lines were recorded.
        lines: The lines that it reached, by file.
    """

    file: str
    seconds: float
    virtual: bool
    passed: bool
    processes: bool
    lines: dict[str, list[int]]


_PATIENCE: Final = 45.0
"""Seconds after which a test has hung."""

_started: set[str] = set()  # what the current test has started: "process", "thread"


def _watch_processes(event: str, _: object) -> None:
    if event in ("subprocess.Popen", "os.posix_spawn"):
        _started.add("process")


def _watch_threads() -> None:
    """trio keeps threads for the next one who needs some, so it is asked besides."""
    from trio._core._thread_cache import ThreadCache

    for owner, name in ((threading.Thread, "start"), (ThreadCache, "start_thread_soon")):
        original = getattr(owner, name)

        def watched(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            _started.add("thread")
            return original(*args, **kwargs)

        setattr(owner, name, watched)


def hash_of(paths: Iterable[Path]) -> str:
    """A hash of some files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def load(path: Path, items: Iterable[pytest.Item]) -> dict[str, Reach]:
    """What is known of these tests, and is not out of date."""
    if not path.exists():
        return {}
    first, *lines = path.read_text().splitlines()
    if json.loads(first) != hash_of(Path("agentrun").rglob("*.py")):
        return {}
    hashes = {name: hash_of([Path(name)]) for name in {file_of(item) for item in items}}
    wanted = {item.nodeid: hashes[file_of(item)] for item in items}
    stored = [json.loads(line) for line in lines]
    return {name: Reach(**reach) for name, reach in stored if wanted.get(name) == reach["file"]}


def record(path: Path, items: list[pytest.Item]) -> dict[str, Reach]:
    """Run the tests of which nothing is known, write down what they reach, and return that of all.

    They run in virtual time if they can, else in real time. One that hangs there is ended and tried in real time.
    """
    known = load(path, items)
    if not known:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(hash_of(Path("agentrun").rglob("*.py"))) + "\n")
    hung: set[str] = set()
    while left := [item for item in items if item.nodeid not in known]:
        print(f"recording what {len(left)} tests reach", file=sys.stderr)
        begun = -1
        with Fork(functools.partial(_record, path, left, frozenset(hung))) as fork:
            while said := fork.hear(_PATIENCE):
                begun += 1
        if said is None:
            item = left[begun]
            if item.nodeid in hung or not set_clock(item, virtual=False):
                _write(path, item, Reach(hash_of([Path(file_of(item))]), _PATIENCE, False, False, False, {}))
            hung.add(item.nodeid)
        before, known = len(known), load(path, items)
        if said is not None and len(known) == before:
            raise RuntimeError("recording came to no end")
    for name, reach in known.items():
        if not reach.passed:
            print(f"left out, since it fails while lines are recorded: {name}", file=sys.stderr)
    return known


def _record(path: Path, items: list[pytest.Item], hung: frozenset[str], say: Callable[[bytes], object]) -> None:
    sys.addaudithook(_watch_processes)
    _watch_threads()
    for item in items:
        say(b".")
        virtual = set_clock(item, virtual=True) and item.nodeid not in hung
        reach = _run(item, virtual=virtual)
        if virtual and (not reach.passed or _started):
            # On trio the clock jumps while a thread or a process is at work, and what comes of that is chance.
            reach = _run(item, virtual=False)
        _write(path, item, reach)


def _run(item: pytest.Item, *, virtual: bool) -> Reach:
    _started.clear()
    set_clock(item, virtual=virtual)
    measured = coverage.Coverage(data_file=None, include=[str(Path("agentrun").resolve() / "*")], config_file=False)
    measured.set_option("run:disable_warnings", ["no-data-collected"])  # here a warning is an error
    measured.start()
    began = time.perf_counter()
    passed = run_test(item)
    seconds = time.perf_counter() - began
    measured.stop()
    data = measured.get_data()
    lines = {str(Path(file).relative_to(Path.cwd())): sorted(data.lines(file) or ()) for file in data.measured_files()}
    return Reach(hash_of([Path(file_of(item))]), round(seconds, 3), virtual, passed, "process" in _started, lines)


def _write(path: Path, item: pytest.Item, reach: Reach) -> None:
    with path.open("a") as file:
        file.write(json.dumps([item.nodeid, asdict(reach)]) + "\n")
