"""The table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from .harness import BARE, FLOOR, Aim, Comparison

__all__ = ["Report"]

_COLUMNS = ("", "loop", "program", "absolute", f"x {BARE}", f"x {FLOOR}", "aim")
_WIDTHS = (44, 7, 30, 11, 11, 10, 0)


class Report:
    """Prints comparisons as they come, and counts the aims."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.met = 0
        self.missed = 0

    def title(self, text: str) -> None:
        """Begin a measure."""
        self._line(f"\n{text}")
        self._row(_COLUMNS)
        self._line("-" * (sum(_WIDTHS) + 20))

    def add(self, comparison: Comparison) -> None:
        """Print one comparison."""
        for number, program in enumerate(comparison.samples):
            self._row(
                (
                    comparison.what if number == 0 else "",
                    comparison.backend if number == 0 else "",
                    program,
                    quantity(comparison.median(program), comparison.unit),
                    _ratio(comparison.ratio(program, BARE)),
                    _ratio(comparison.ratio(program, FLOOR)),
                    "; ".join(self._judge(comparison, aim) for aim in comparison.aims if aim.program == program),
                )
            )
        for text, met in comparison.findings:
            self._line(f"    {text}{'' if met is None else ': ' + self._count(met)}")

    def end(self) -> None:
        """The last line."""
        self._line(f"\naims: {self.met} met, {self.missed} not met")

    def _judge(self, comparison: Comparison, aim: Aim) -> str:
        ratio = comparison.ratio(aim.program, aim.against)
        if ratio is None:
            return ""
        return f"{ratio:.2f} of at most {aim.at_most:g}x {aim.against}: {self._count(ratio <= aim.at_most)}"

    def _count(self, met: bool) -> str:
        if met:
            self.met += 1
            return "met"
        self.missed += 1
        return "NOT MET"

    def _row(self, cells: Sequence[str]) -> None:
        self._line(" ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip())

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def quantity(value: float, unit: str) -> str:
    """A number of seconds or bytes, as people write it."""
    steps = {"s": ((1.0, "s"), (1e-3, "ms"), (0.0, "us")), "B": ((2.0**20, "MiB"), (0.0, "KiB"))}[unit]
    name = next(name for least, name in steps if value >= least or least == 0)
    size = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "MiB": 2.0**20, "KiB": 2.0**10}[name]
    return f"{value / size:.2f} {name}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
