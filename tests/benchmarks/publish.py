"""``python -m tests.benchmarks.publish FILE``: the figures of a run as tables in ``docs/benchmarks.md`` and a chart."""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .chart import chart
from .harness import AGENTRUN, BARE, FLOOR, LEAN, LOOPS
from .report import quantity

__all__ = ["publish", "put_into_docs"]

_DOCS: Final = pathlib.Path(__file__).resolve().parents[2] / "docs"
_PEERS: Final = "peers"


def publish(figures: Mapping[str, Any], docs: pathlib.Path = _DOCS) -> None:
    """Replace what is between the marks of the page, and the chart. Figures that were not measured keep their place."""
    page = docs / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    beside = [row for row in figures["rows"] if row["measure"] == _PEERS]
    alone = [row for row in figures["rows"] if row["measure"] != _PEERS]
    if beside:
        text = _put(text, "peers", [f"{figures['about']}.", *_versions(beside), "", *_peers_table(beside)])
        (docs / "benchmarks.svg").write_text(chart(beside), encoding="utf-8")
    if alone:
        text = _put(text, "floors", [f"{figures['about']}.", "", *_floors_table(alone)])
    if beside and alone:
        text = _put(text, "aims", list(_aims_table(figures["aims"])))
    page.write_text(text, encoding="utf-8")


def put_into_docs(name: str, lines: Sequence[str], docs: pathlib.Path = _DOCS) -> None:
    """Replace what is between two marks of the page."""
    page = docs / "benchmarks.md"
    page.write_text(_put(page.read_text(encoding="utf-8"), name, lines), encoding="utf-8")


def _put(text: str, name: str, lines: Sequence[str]) -> str:
    begin, end = f"<!-- {name}: written by --publish -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    body = "\n".join([begin, *lines, end])
    changed, count = pattern.subn(lambda _: body, text)
    if count != 1:
        raise ValueError(f"docs/benchmarks.md has {count} places for {name!r}; there must be one")
    return changed


def _versions(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        for text, _ in row["findings"]:
            if text.startswith("versions: "):
                yield text.removeprefix("versions: ") + "."


def _peers_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row["programs"]))
    names.sort(key=lambda name: name != AGENTRUN)
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    for row in rows:
        cells = [_cell(row, name) for name in names]
        yield f"| {row['what']} | {' | '.join(cells)} |"
    notes = [f"{row['what']}: {text}" for row in rows for text, _ in row["findings"] if "versions: " not in text]
    if notes:
        yield ""
        yield from (f"- {note}." for note in notes)


def _cell(row: Mapping[str, Any], name: str) -> str:
    program = row["programs"].get(name)
    if program is None:
        return "none"
    value = quantity(program["median"], row["unit"])
    ratio = program["ratios"].get(AGENTRUN)
    return value if ratio is None else f"{value} ({_times(ratio)})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _floors_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each thing that was measured; the loops beside each other."""
    yield f"| | {AGENTRUN} on asyncio | x {BARE} | x {FLOOR} | x lean {FLOOR} | on trio | on uvloop |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    lines: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    units: dict[tuple[str, str], str] = {}
    for row in rows:
        for name, program in row["programs"].items():
            if name.split(",")[0] == AGENTRUN:
                key = (row["what"], name.removeprefix(AGENTRUN))
                units[key] = row["unit"]
                loop = row["loop"] if row["loop"] in LOOPS else LOOPS[0]
                lines.setdefault(key, {})[loop] = program
    for (what, more), by_loop in lines.items():
        values = [quantity(by_loop[loop]["median"], units[what, more]) if loop in by_loop else "" for loop in LOOPS]
        ratios = by_loop[LOOPS[0]]["ratios"] if LOOPS[0] in by_loop else {}
        beside = [_times(ratios[name]) if name in ratios else "" for name in (BARE, FLOOR, LEAN)]
        yield f"| {' | '.join([what + more, values[0], *beside, *values[1:]])} |"


def _aims_table(aims: Sequence[tuple[str, str, bool]]) -> Iterator[str]:
    lines = [f"| {where} | {text} |" for where, text, met in aims if met]
    missed = [f"| {where} | {text} |" for where, text, met in aims if not met]
    head = ["", "| | measured |", "| --- | --- |"]
    if missed:
        yield f"{len(lines)} of {len(aims)} aims are met. Those that are not:"
        yield from [*head, *missed, "", "Those that are:"]
    else:
        yield f"All {len(aims)} aims are met:"
    yield from [*head, *lines]


if __name__ == "__main__":
    publish(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
