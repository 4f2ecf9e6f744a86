"""The chart of the docs: what each framework costs as a multiple of agentrun, row by row, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from .harness import AGENTRUN, BARE, FLOOR

__all__ = ["chart"]

_LEFT, _RIGHT, _TOP, _LINE, _WIDTH = 300, 40, 96, 34, 960
# Colours that people with any colour vision tell apart (Okabe and Ito), and a shape each besides.
_LOOKS: Final = (
    ("#E69F00", "circle"),
    ("#0072B2", "square"),
    ("#009E73", "triangle"),
    ("#CC79A7", "diamond"),
    ("#D55E00", "cross"),
)
_FLOOR_LOOK: Final = ("#888888", "bar")
_EDGE: Final = 'stroke="white" stroke-width="1"'  # so that those which lie on each other stay apart
_STYLE: Final = "font-family: system-ui, sans-serif; font-size: 14px; fill: #222"


def chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the rows that `measures.peers` has measured."""
    shown = [(row, _ratios(row)) for row in rows if row["unit"] != "%"]
    names = list(dict.fromkeys(name for _, ratios in shown for name in ratios if name != FLOOR))
    looks = {name: _LOOKS[number % len(_LOOKS)] for number, name in enumerate(sorted(names))} | {FLOOR: _FLOOR_LOOK}
    every = [ratio for _, ratios in shown for ratio in ratios.values()]
    low = math.floor(math.log10(min([*every, 0.5])) * 2) / 2
    high = math.ceil(math.log10(max([*every, 2.0])) * 2) / 2
    height = _TOP + _LINE * len(shown) + 30

    def x(ratio: float) -> float:
        return _LEFT + (math.log10(ratio) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{_STYLE}">',
        "<title>What other frameworks cost, as multiples of agentrun</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(16, 26, "Cost as a multiple of agentrun's: further right is slower or larger", weight="bold"),
    ]
    place = 16.0
    for name in [*sorted(names), FLOOR]:
        parts += [_mark(place + 6, 51, *looks[name]), _text(place + 18, 56, name)]
        place += 44 + 7.6 * len(name)
    bottom = _TOP + _LINE * len(shown)
    for power in range(math.ceil(low), math.floor(high) + 1):
        here = x(10.0**power)
        colour, width = ("#222", 2) if power == 0 else ("#ccc", 1)
        parts.append(f'<path d="M{here:.1f} {_TOP - 8}V{bottom}" stroke="{colour}" stroke-width="{width}"/>')
        label = "agentrun" if power == 0 else f"{10.0**power:g}x"
        parts.append(_text(here, _TOP - 14, label, anchor="middle", weight="bold" if power == 0 else "normal"))
    for number, (row, ratios) in enumerate(shown):
        middle = _TOP + _LINE * (number + 0.5)
        parts.append(f'<path d="M16 {middle + _LINE / 2}H{_WIDTH - 16}" stroke="#eee"/>')
        parts.append(_text(16, middle + 5, row["what"]))
        # The floor first, so that nobody is hidden behind it.
        for name in sorted(ratios, key=lambda name: name != FLOOR):
            title = f"{name}: {ratios[name]:.2f} times agentrun"
            parts.append(f"<g><title>{escape(title)}</title>{_mark(x(ratios[name]), middle, *looks[name])}</g>")
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _ratios(row: Mapping[str, Any]) -> dict[str, float]:
    programs = row["programs"]
    others = (name for name in programs if name not in (AGENTRUN, BARE))
    return {name: programs[name]["ratios"][AGENTRUN] for name in others if programs[name]["ratios"].get(AGENTRUN)}


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _mark(x: float, y: float, colour: str, shape: str) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="{colour}" {_EDGE}/>'
    paths = {
        "square": "M-5.5 -5.5h11v11h-11z",
        "triangle": "M0 -7l6.5 12h-13z",
        "diamond": "M0 -7.5l7.5 7.5l-7.5 7.5l-7.5 -7.5z",
        "cross": "M-6.5 -4l2.5 -2.5l4 4l4 -4l2.5 2.5l-4 4l4 4l-2.5 2.5l-4 -4l-4 4l-2.5 -2.5l4 -4z",
        "bar": "M-2 -10h4v20h-4z",
    }
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{paths[shape]}" fill="{colour}" {_EDGE}/>'
