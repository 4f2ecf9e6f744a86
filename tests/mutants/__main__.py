"""The command line: ``python -m tests.mutants --module agentrun/runtime/hub.py``, at the top of the repository."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from .asking import Answer, ask
from .making import Mutant, make_mutants, unified_diff
from .planting import Overlay, functions_of
from .reached import Reach, record
from .verdicts import Explanations, Judged, Verdicts, entry, table

TESTS = [
    "tests/core",
    "tests/fuzz/test_nests.py",
    "tests/laws",
    "tests/tools",
    *(str(path) for path in sorted(Path("tests").glob("test_*.py"))),
    "tests/testing/test_check_sync_tool.py",
    "tests/testing/test_check_tool.py",
    "tests/testing/test_interrupt_everywhere.py",
    "tests/testing/test_programs.py",
]
"""Those that ask most for their time. The sweeps of the scenes would notice more, at a hundred times the price."""

_FEW = 10


def main() -> int:
    """Returns 1 if a mutant survived that nobody has explained."""
    given = _arguments()
    os.environ["MUTANT_UNDER_TEST"] = "agentrun"  # Hypothesis draws the same examples each time: tests/core/conftest.py
    os.environ.setdefault("AGENTRUN_SWEEP_LIMIT", "12")
    if given.backend:
        os.environ["AGENTRUN_TEST_BACKEND"] = given.backend
    session = _Session(given)
    tests: list[str] = given.tests or TESTS
    # Hypothesis needs no plugin, and its plugin imports it at the end, where its warnings are errors.
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--no-header", "--no-summary"]
    code = pytest.main([*tests, *options], [session])
    return session.code if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else int(code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Ask the tests about mutants.")
    parser.add_argument("--module", action="append", help="a file (default: all of agentrun/runtime); may be repeated")
    parser.add_argument("--function", action="append", help="a function by its qualified name; may be repeated")
    parser.add_argument("--changed-since", metavar="COMMIT", help="only functions that differ from those of the commit")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="ask on one backend only (default: on both)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of tests for a mutant at most (default: 10)")
    parser.add_argument("--processes", action="store_true", help="ask tests that start processes, too: they are slow")
    parser.add_argument(
        "--real-time", action="store_true", help="ask all tests in real time; by default many have none"
    )
    parser.add_argument("--explained", action="store_true", help="ask about mutants that are explained, too")
    parser.add_argument("--show", action="store_true", help="ask nothing; show what is known")
    parser.add_argument("--tests", action="append", metavar="PATH", help="ask these tests; may be repeated")
    parser.add_argument("--directory", type=Path, default=Path(".mutants"), help="where to keep what was found out")
    return parser.parse_args()


class _Session:
    """What pytest calls once it has collected the tests."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._verdicts = Verdicts(given.directory / "verdicts.jsonl")
        self._explanations = Explanations()
        self._noticed: Counter[tuple[str, str]] = Counter()
        self.code = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        mutants = self._mutants()
        if not self._given.show:
            self._ask_all(mutants, session.items)
        self._report(mutants)
        return True

    def _mutants(self) -> list[Mutant]:
        given = self._given
        modules = given.module or sorted(map(str, Path("agentrun/runtime").glob("*.py")))
        mutants = [mutant for module in modules for mutant in make_mutants(module)]
        if given.function:
            mutants = [mutant for mutant in mutants if mutant.function in given.function]
        if given.changed_since:
            changed = {module: _changed_lines(given.changed_since, module) for module in modules}
            mutants = [m for m in mutants if changed[m.module].intersection(range(m.first, m.last + 1))]
        return mutants

    def _ask_all(self, mutants: list[Mutant], items: list[pytest.Item]) -> None:
        given = self._given
        for mutant in mutants:
            if (answer := self._verdicts.get(mutant)) is not None:
                self._noticed[mutant.function, answer.by] += 1
        left = [mutant for mutant in mutants if not self._is_answered(mutant)]
        if not left:
            return
        reached = record(given.directory / "reached.jsonl", items)
        known = [(item, reached[item.nodeid]) for item in items if reached[item.nodeid].passed]
        if given.real_time:
            known = [(item, replace(reach, virtual=False)) for item, reach in known]
        for module in {mutant.module for mutant in left}:
            importlib.import_module(module.removesuffix(".py").replace("/", "."))  # some are imported when needed
            functions_of(str(Path(module).resolve()))
        gc.collect()
        gc.freeze()  # what was collected stays as it is in all the forks
        for module in dict.fromkeys(mutant.module for mutant in left):
            some = [mutant for mutant in left if mutant.module == module]
            with tempfile.TemporaryDirectory() as directory:
                overlay = Overlay(Path(directory), module)
                for number, mutant in enumerate(some, 1):
                    answer = ask(mutant, self._tests_for(mutant, known), overlay, Path(directory))
                    if answer.verdict != "survived":
                        self._noticed[mutant.function, answer.by] += 1
                    self._verdicts.add(mutant, answer)
                    _progress(mutant, answer, number, len(some))

    def _is_answered(self, mutant: Mutant) -> bool:
        """A survivor is asked again: there may be new tests, or more time for it than it had."""
        if not self._given.explained and self._explanations.why(mutant) is not None:
            return True
        answer = self._verdicts.get(mutant)
        return answer is not None and answer.verdict != "survived"

    def _tests_for(self, mutant: Mutant, known: list[tuple[pytest.Item, Reach]]) -> list[tuple[pytest.Item, Reach]]:
        """Those that have noticed most of the function's mutants so far, then the most telling, while there is time.

        Telling is a test that is quick and reaches lines of the function that few others reach.
        """
        lines = set(mutant.statement)
        near = [pair for pair in known if mutant.module in pair[1].lines]
        reached_by = Counter(line for _, reach in near for line in reach.lines[mutant.module])

        def telling(pair: tuple[pytest.Item, Reach]) -> tuple[int, float]:
            item, reach = pair
            inside = (line for line in reach.lines[mutant.module] if mutant.first <= line <= mutant.last)
            rarity = sum(1 / reached_by[line] for line in inside)
            return self._noticed[mutant.function, item.nodeid], rarity / (reach.seconds + 0.01)

        near.sort(key=telling, reverse=True)
        order = [pair for pair in near if not lines.isdisjoint(pair[1].lines[mutant.module])]
        few = len(order) < _FEW
        if self._given.processes or not order:
            order += sorted((pair for pair in known if pair[1].processes), key=lambda pair: pair[1].seconds)
        if few:
            # What is done once in a process was recorded for the test that was the first to need it, and for no other.
            order += near
        some: list[tuple[pytest.Item, Reach]] = []
        left: float = self._given.seconds
        for item, reach in {item.nodeid: (item, reach) for item, reach in order}.values():
            left -= reach.seconds
            if left < 0 and some:
                break
            some.append((item, reach))
        return some

    def _report(self, mutants: list[Mutant]) -> None:
        judged = [Judged(m, self._verdicts.get(m), self._explanations.why(m)) for m in mutants]
        unexplained = [one for one in judged if one.unexplained]
        for one in unexplained:
            print(f"\n{unified_diff(one.mutant)}\n\n    {entry(one.mutant)},")
        print(f"\n{table(judged)}\n")
        for why, number in Counter(one.why for one in judged if one.why and not one.noticed).most_common():
            print(f"{number} change nothing: {why}")
        if not (self._given.function or self._given.changed_since):
            for stale in self._explanations.stale({mutant.module for mutant in mutants}):
                print(f"an explanation of what is not there: {stale}")
        print(f"unexplained survivors: {len(unexplained)}")
        self.code = 1 if unexplained else 0


def _changed_lines(commit: str, module: str) -> set[int]:
    """The lines of a file that are not as they were."""
    diff = subprocess.run(
        ["git", "diff", "-U0", commit, "--", module], capture_output=True, text=True, check=True
    ).stdout
    lines: set[int] = set()
    for start, count in re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE):
        first, number = int(start), int(count or 1)
        lines.update(range(first, first + max(number, 1)))
    return lines


def _progress(mutant: Mutant, answer: Answer, number: int, all_: int) -> None:
    by = f" by {answer.by}" if answer.by else ""
    text = f"{number}/{all_} {mutant.module}:{mutant.line}: {answer.verdict} after {answer.asked} tests{by}"
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
