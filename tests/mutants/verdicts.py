"""What came of the mutants: kept in a file of JSON lines, explained in another, and shown as a table."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .asking import Answer
from .making import Mutant
from .rules import equivalent

__all__ = ["Explanations", "Judged", "Verdicts", "entry", "table"]

EXPLAINED = Path(__file__).with_name("explained.toml")


class Verdicts:
    """The file of answers. The last one about a mutant counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, Answer] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                stored = json.loads(line)
                key = stored.pop("mutant")
                self._answers[key] = Answer(**stored)

    def get(self, mutant: Mutant) -> Answer | None:
        """The answer that there is."""
        return self._answers.get(mutant.key)

    def add(self, mutant: Mutant, answer: Answer) -> None:
        """Write an answer down, at once: the next mutant may take the machine along."""
        self._answers[mutant.key] = answer
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"mutant": mutant.key, **asdict(answer)}) + "\n")


class Explanations:
    """The mutants that somebody has looked into and found to change nothing that matters, with the reasons."""

    def __init__(self, path: Path = EXPLAINED) -> None:
        self._reasons: dict[tuple[str, str, str, str], str] = {}
        self._used: set[tuple[str, str, str, str]] = set()
        for entry in tomllib.loads(path.read_text()).get("reason", []) if path.exists() else ():
            for module, function, before, after in entry["mutants"]:
                self._reasons[module, function, before, after] = entry["why"]

    def why(self, mutant: Mutant) -> str | None:
        """Why nothing is to notice this mutant."""
        key = (mutant.module, mutant.function, mutant.before, mutant.after)
        if key in self._reasons:
            self._used.add(key)
            return self._reasons[key]
        return equivalent(mutant)

    def stale(self, modules: Iterable[str]) -> list[str]:
        """Explanations of mutants of these modules that there are not any more."""
        unused = [key for key in self._reasons if key not in self._used and key[0] in set(modules)]
        return [f"{module} {function}: {before!r} -> {after!r}" for module, function, before, after in unused]


def entry(mutant: Mutant) -> str:
    """How the mutant is named in the file of explanations."""
    return json.dumps([mutant.module, mutant.function, mutant.before, mutant.after], ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Judged:
    """A mutant, and what is known about it: one of the two, or none."""

    mutant: Mutant
    answer: Answer | None
    why: str | None

    @property
    def noticed(self) -> bool:
        """Whether a test noticed it."""
        return self.answer is not None and self.answer.verdict != "survived"

    @property
    def unexplained(self) -> bool:
        """Whether it survived, and nobody has said why."""
        return self.answer is not None and self.answer.verdict == "survived" and self.why is None


def table(judged: Sequence[Judged]) -> str:
    """A row for each module."""
    rows = ["| module | mutants | noticed | of these out of time | change nothing | unexplained | not asked |"]
    rows.append("| --- " * 7 + "|")
    modules = list(dict.fromkeys(one.mutant.module for one in judged))
    for module in [*modules, *(["all"] if len(modules) > 1 else [])]:
        some = [one for one in judged if module in ("all", one.mutant.module)]
        noticed = [one for one in some if one.noticed]
        numbers = [
            len(some),
            len(noticed),
            sum(one.answer is not None and one.answer.verdict == "out of time" for one in noticed),
            sum(one.why is not None and not one.noticed for one in some),
            sum(one.unexplained for one in some),
            sum(one.answer is None and one.why is None for one in some),
        ]
        name = module if module == "all" else f"`{Path(module).stem}`"
        rows.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows)
