"""Which test reaches which line, how long it takes, and whether it can be asked in virtual time: recorded once.

A record is good as long as the package and the test's file are as they were; what is new is recorded when it is needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import coverage
import pytest

from .running import file_of, run_test, set_clock

__all__ = ["Reach", "load", "record"]


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


_started_process = False


def _watch(event: str, _: object) -> None:
    global _started_process
    if event in ("subprocess.Popen", "os.posix_spawn"):
        _started_process = True


def hash_of(paths: Iterable[Path]) -> str:
    """A hash of some files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def load(path: Path, items: Iterable[pytest.Item]) -> dict[str, Reach]:
    """What is known of these tests, and is not out of date."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    if stored["package"] != hash_of(Path("agentrun").rglob("*.py")):
        return {}
    hashes = {name: hash_of([Path(name)]) for name in {file_of(item) for item in items}}
    known = {item.nodeid: hashes[file_of(item)] for item in items}
    return {name: Reach(**reach) for name, reach in stored["tests"].items() if known.get(name) == reach["file"]}


def record(path: Path, items: list[pytest.Item], modules: Path) -> None:
    """Run tests and store what they reach, with what is known of others.

    It runs in virtual time what can, and once more in real time what fails there.
    """
    known = load(path, items)
    sys.addaudithook(_watch)
    measured = coverage.Coverage(data_file=None, include=[f"{modules}/*"], config_file=False)
    with_clock = {item.nodeid: set_clock(item, virtual=True) for item in items}
    measured.start()
    for number, item in enumerate(items):
        if item.nodeid in known:
            continue
        measured.switch_context(item.nodeid)
        known[item.nodeid] = reach = _run(item, virtual=with_clock[item.nodeid])
        if not reach.passed and reach.virtual:
            known[item.nodeid] = reach = _run(item, virtual=False)
        if not reach.passed:
            print(f"left out, since it fails while lines are recorded: {item.nodeid}", file=sys.stderr)
        if number % 250 == 249:
            print(f"recorded {number + 1} of {len(items)} tests", file=sys.stderr)
    measured.stop()
    data = measured.get_data()
    for file in data.measured_files():
        lines: defaultdict[str, list[int]] = defaultdict(list)
        for line, names in data.contexts_by_lineno(file).items():
            for name in names:
                lines[name].append(line)
        for name, numbers in lines.items():
            if name in known:
                known[name].lines[str(Path(file).relative_to(Path.cwd()))] = sorted(numbers)
    tests = {name: asdict(reach) for name, reach in known.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"package": hash_of(Path("agentrun").rglob("*.py")), "tests": tests}))


def _run(item: pytest.Item, *, virtual: bool) -> Reach:
    global _started_process
    _started_process = False
    set_clock(item, virtual=virtual)
    began = time.perf_counter()
    passed = run_test(item)
    seconds = time.perf_counter() - began
    return Reach(hash_of([Path(file_of(item))]), round(seconds, 3), virtual, passed, _started_process, {})
