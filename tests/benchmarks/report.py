"""The tables: one for each measure as it comes, and one of all aims at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from .harness import AGENTRUN, BARE, FLOOR, LEAN, Aim, Comparison

__all__ = ["Report"]

_COLUMNS = ("", "loop", "program", "absolute", f"x {BARE}", f"x {FLOOR}", f"x {AGENTRUN}", "aim")
_WIDTHS = (44, 7, 30, 11, 11, 10, 10, 0)
_TRIO_AT_MOST: Final = 1.5  # times asyncio


@dataclass(frozen=True)
class _Judged:
    where: str
    text: str
    met: bool


class Report:
    """Prints comparisons as they come, and keeps what is to be said at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._measure = ""
        self._judged: list[_Judged] = []
        self._on_asyncio: dict[tuple[str, str, str], float] = {}
        self.rows: list[dict[str, Any]] = []

    def title(self, name: str, text: str) -> None:
        """Begin a measure."""
        self._measure = name
        self._line(f"\n{name}: {text}")
        self._row(_COLUMNS)
        self._line("-" * (sum(_WIDTHS) + 20))

    def skip(self, name: str, reason: str) -> None:
        """Say loudly that something was not measured."""
        self._line(f"\n*** SKIPPED {name}: {reason}")

    def add(self, comparison: Comparison) -> None:
        """Print one comparison."""
        rows: dict[str, Any] = {}
        for number, program in enumerate(comparison.samples):
            aims = self._aims(comparison, program)
            median = comparison.median(program)
            ratios = {name: comparison.ratio(program, name) for name in (BARE, FLOOR, AGENTRUN, LEAN)}
            self._row(
                (
                    comparison.what if number == 0 else "",
                    comparison.backend if number == 0 else "",
                    program,
                    quantity(median, comparison.unit),
                    *(_ratio(ratios[name]) for name in (BARE, FLOOR, AGENTRUN)),
                    "; ".join(f"{text}: {self._count(comparison, program, text, met)}" for text, met in aims),
                )
            )
            rows[program] = {"median": median, "ratios": {k: v for k, v in ratios.items() if v is not None}}
        for text, met in comparison.findings:
            self._line(f"    {text}{'' if met is None else ': ' + self._count(comparison, '', text, met)}")
        self.rows.append(
            {
                "measure": self._measure,
                "what": comparison.what,
                "loop": comparison.backend,
                "unit": comparison.unit,
                "programs": rows,
                "findings": comparison.findings,
            }
        )

    def end(self) -> None:
        """All aims in one table, those that were missed last."""
        self._line("\naims")
        self._line("-" * (sum(_WIDTHS) + 20))
        for judged in sorted(self._judged, key=lambda one: not one.met):
            self._line(f"{'met' if judged.met else 'NOT MET':8} {judged.where:70} {judged.text}")
        met = sum(judged.met for judged in self._judged)
        self._line(f"\naims: {met} met, {len(self._judged) - met} not met")

    def as_json(self) -> dict[str, Any]:
        """All figures, for a chart or to compare runs of the benchmarks."""
        return {"rows": self.rows, "aims": [[one.where, one.text, one.met] for one in self._judged]}

    def _aims(self, comparison: Comparison, program: str) -> list[tuple[str, bool]]:
        """The aims are for asyncio; on trio, agentrun shall not cost much more than there."""
        key = (self._measure, comparison.what, program)
        if comparison.backend in ("asyncio", ""):
            self._on_asyncio[key] = comparison.median(program)
            return [self._judge(comparison, aim) for aim in comparison.aims if self._counts(comparison, aim, program)]
        if comparison.backend == "trio" and program.split(",")[0] == AGENTRUN and self._on_asyncio.get(key):
            ratio = comparison.median(program) / self._on_asyncio[key]
            return [(f"{ratio:.2f} of at most {_TRIO_AT_MOST:g}x asyncio", ratio <= _TRIO_AT_MOST)]
        return []

    @staticmethod
    def _counts(comparison: Comparison, aim: Aim, program: str) -> bool:
        return aim.program == program and comparison.ratio(program, aim.against) is not None

    @staticmethod
    def _judge(comparison: Comparison, aim: Aim) -> tuple[str, bool]:
        ratio = comparison.ratio(aim.program, aim.against)
        assert ratio is not None
        bound = f"at least {aim.at_least:g}" if aim.at_least else f"at most {aim.at_most:g}"
        return f"{ratio:.2f} of {bound}x {aim.against}", aim.at_least <= ratio <= aim.at_most

    def _count(self, comparison: Comparison, program: str, text: str, met: bool) -> str:
        who = "" if program == AGENTRUN else program
        where = ", ".join(part for part in (self._measure, comparison.what, comparison.backend, who) if part)
        self._judged.append(_Judged(where, text, met))
        return "met" if met else "NOT MET"

    def _row(self, cells: Sequence[str]) -> None:
        self._line(" ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip())

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def quantity(value: float, unit: str) -> str:
    """A number of seconds or bytes, as people write it."""
    if unit == "%":
        return f"{value:.0%}"
    steps = {"s": ((1.0, "s"), (1e-3, "ms"), (0.0, "us")), "B": ((2.0**20, "MiB"), (0.0, "KiB"))}[unit]
    name = next(name for least, name in steps if value >= least or least == 0)
    size = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "MiB": 2.0**20, "KiB": 2.0**10}[name]
    return f"{value / size:.2f} {name}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
