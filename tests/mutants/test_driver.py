"""The driver itself: what it makes of a file, what it plants, and what it says without asking."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mutmut")

from .making import Mutant, make_mutants, unified_diff
from .planting import Overlay, plant
from .rules import equivalent
from .verdicts import Explanations

REPOSITORY = Path(__file__).resolve().parents[2]

SOURCE = '''"""A module to be mutated."""

from __future__ import annotations

from typing import cast


def limit(number: int, most: int = 3, *, least: int = 0) -> int:
    return max(least, min(number, most))


class Base:
    def size(self) -> int:
        return 4


class Box(Base):
    def __init__(self) -> None:
        self._open = False
        self._full = False

    @property
    def wide(self) -> bool:
        return self.size() > 3

    @property
    def full(self) -> bool:
        return self._full

    def size(self) -> int:
        return super().size() + 1

    def state(self) -> str:
        return cast("str", "open" if self._open else "shut")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    package = tmp_path / "agentrun"
    package.mkdir()
    (package / "mutated_module.py").write_text(SOURCE)
    (tmp_path / "README").write_text("Here.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(package)
    yield importlib.import_module("mutated_module")
    del sys.modules["mutated_module"]


PATH = "agentrun/mutated_module.py"


def mutant_of(function: str, after: str) -> Mutant:
    (found,) = [m for m in make_mutants(PATH) if m.function == function and m.after == after]
    return found


def test_the_mutants_of_decorated_functions_are_made_and_each_has_a_name_of_its_own(module: ModuleType) -> None:
    mutants = make_mutants(PATH)
    assert {"limit", "Box.__init__", "Box.wide", "Box.size", "Box.state"} <= {mutant.function for mutant in mutants}
    assert len({mutant.key for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        assert mutant.before in "\n".join(line.strip() for line in SOURCE.splitlines())
        assert unified_diff(mutant).startswith(f"{PATH}:{mutant.line}: {mutant.function}")


def test_a_planted_mutant_is_there_for_those_that_have_imported_the_function_too(module: ModuleType) -> None:
    imported = module.limit
    plant(mutant_of("limit", "return max(least, min(number, ))"))
    with pytest.raises(TypeError):
        imported(2)


@pytest.mark.parametrize(
    ("after", "most", "least"),
    [
        ("def limit(number: int, most: int = 4, *, least: int = 0) -> int:", 4, 0),
        ("def limit(number: int, most: int = 3, *, least: int = 1) -> int:", 3, 1),
    ],
)
def test_a_default_can_be_a_mutant(module: ModuleType, after: str, most: int, least: int) -> None:
    plant(mutant_of("limit", after))
    assert module.limit(9) == most
    assert module.limit(-9) == least


def test_a_property_and_a_method_that_asks_its_base_can_be_mutants(module: ModuleType) -> None:
    plant(mutant_of("Box.size", "return super().size() - 1"))
    plant(mutant_of("Box.wide", "return self.size() >= 3"))
    assert module.Box().size() == 3
    assert module.Box().wide


def test_a_process_finds_the_mutant_where_the_repository_was(module: ModuleType, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    overlay = Overlay(there, PATH)
    assert (there / PATH).read_text() == SOURCE
    overlay.write("changed = True")
    assert (there / PATH).read_text() == "changed = True"
    assert (there / "README").read_text() == "Here."
    assert Path(PATH).read_text() == SOURCE


def test_what_cannot_change_anything_is_known_by_rule_and_what_may_is_not(module: ModuleType) -> None:
    assert equivalent(mutant_of("Box.state", 'return cast(None, "open" if self._open else "shut")')) is not None
    assert equivalent(mutant_of("Box.__init__", "self._open = None")) is not None
    assert equivalent(mutant_of("Box.__init__", "self._full = None")) is None  # `full` hands it on
    assert equivalent(mutant_of("Box.__init__", "self._open = True")) is None


def test_an_explanation_counts_for_its_mutant_only_and_one_for_nothing_is_stale(
    module: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "explained.toml"
    file.write_text(
        f"""
        [[reason]]
        why = "nobody reads it"
        mutants = [
            ["{PATH}", "Box.__init__", "self._full = False", "self._full = None"],
            ["{PATH}", "Box.__init__", "self._gone = False", "self._gone = None"],
        ]
        """
    )
    explanations = Explanations(file)
    assert explanations.why(mutant_of("Box.__init__", "self._full = None")) == "nobody reads it"
    assert explanations.why(mutant_of("Box.__init__", "self._full = True")) is None
    assert [text for text in explanations.stale([PATH]) if "_gone" in text] == explanations.stale([PATH])
    assert len(explanations.stale([PATH])) == 1


def test_what_is_explained_is_still_there() -> None:
    """An explanation of a line that has changed since would count for whatever takes its place."""
    reasons = tomllib.loads(Path(__file__).with_name("explained.toml").read_text(encoding="utf-8"))["reason"]
    gone = [
        (file, function, line)
        for reason in reasons
        for file, function, line, _ in reason["mutants"]
        if line.splitlines()[0] not in (REPOSITORY / file).read_text(encoding="utf-8")
    ]
    assert not gone
