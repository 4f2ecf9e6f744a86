"""What a docstring says about a tool and its parameters.

The Google, NumPy and Sphinx styles are read with griffelib (the extra ``docstrings``), which is imported only when a
docstring has something for it to read. Without it the Google style is still understood, by a small parser of our own;
a docstring in another style then becomes the description as a whole, so the model loses nothing.

The formats: https://google.github.io/styleguide/pyguide.html#383-functions-and-methods,
https://numpydoc.readthedocs.io/en/latest/format.html, https://www.sphinx-doc.org/en/master/usage/domains/python.html.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from agentrun.core.plain import PlainValue

__all__ = ["Documentation", "Style", "parse_docstring", "style_of"]

Style: TypeAlias = Literal["google", "numpy", "sphinx", "plain"]
"""How a docstring is laid out; ``"plain"`` when it has no sections at all."""

_PARAMETER_SECTIONS: Final = frozenset(
    ("args", "arguments", "params", "parameters", "keyword args", "keyword arguments", "other parameters", "other args")
)
# Sections that tell a programmer something, but not the model that calls the tool.
_OTHER_SECTIONS: Final = frozenset(
    ("returns", "return", "yields", "yield", "receives", "raises", "raise", "exceptions", "warns", "attributes",
     "example", "examples")
)  # fmt: skip
_SECTION_NAMES: Final = "|".join(sorted(_PARAMETER_SECTIONS | _OTHER_SECTIONS, key=len, reverse=True))
# Patterns are compiled when a docstring needs them: `re` keeps them, and importing the package stays cheap.
_GOOGLE_SECTION: Final = rf"(?im)^({_SECTION_NAMES}):[ \t]*$"
_NUMPY_SECTION: Final = rf"(?im)^({_SECTION_NAMES})[ \t]*\n-{{3,}}[ \t]*$"
_SPHINX_FIELD: Final = (
    r"(?m)^:(param|parameter|arg|argument|key|keyword|type|return|returns|rtype|raise|raises)\b[^:\n]*:"
)
# `name: text`, `name (type): text`, `*names: text`
_GOOGLE_PARAMETER: Final = r"^(\*{0,2}[A-Za-z_]\w*)[ \t]*(?:\(.*?\))?[ \t]*:(?:[ \t]+|$)(.*)$"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Documentation(PlainValue):
    """What a docstring says.

    Attributes:
        description: Summary and long text, without the sections about parameters, results, errors and examples.
        parameters: Parameter name to its description.
    """

    description: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


def style_of(docstring: str) -> Style:
    """Which style a (dedented) docstring is written in, judged by the section headings it has."""
    if re.search(_NUMPY_SECTION, docstring):
        return "numpy"
    if re.search(_GOOGLE_SECTION, docstring):
        return "google"
    if re.search(_SPHINX_FIELD, docstring):
        return "sphinx"
    return "plain"


def parse_docstring(docstring: str | None) -> Documentation:
    """Take a docstring apart. Never raises: what cannot be understood stays in the description."""
    text = inspect.cleandoc(docstring or "").strip()
    style = style_of(text)
    if style == "plain":
        return Documentation(text)
    try:
        return _parse_with_griffe(text, style)
    except Exception:  # not installed, or it stumbled over the text: a docstring must not break a tool  # noqa: BLE001
        return _parse_google(text) if style == "google" else Documentation(text)


def _parse_with_griffe(text: str, style: Style) -> Documentation:
    import griffe

    docstring = griffe.Docstring(text)
    # Its warnings are about documentation quality (a parameter without a type, say) and no business of ours.
    if style == "google":
        sections = griffe.parse_google(docstring, warnings=False)
    elif style == "numpy":
        sections = griffe.parse_numpy(docstring, warnings=False)
    else:
        sections = griffe.parse_sphinx(docstring, warnings=False)
    paragraphs: list[str] = []
    parameters: dict[str, str] = {}
    for section in sections:
        kind, value = section.kind.value, section.value
        if kind == "text":
            paragraphs.append(str(value).strip())
        elif kind == "admonition" and str(section.title).lower() not in _OTHER_SECTIONS:
            paragraphs.append(f"{section.title}:\n{value.description}".strip())
        elif kind in ("parameters", "other parameters"):
            for parameter in value:
                # NumPy may document several at once: "x, y : int".
                for name in str(parameter.name).split(","):
                    parameters[name.strip().lstrip("*")] = _one_line(parameter.description)
    return Documentation("\n\n".join(p for p in paragraphs if p), parameters)


def _parse_google(text: str) -> Documentation:
    paragraphs: list[str] = []
    parameters: dict[str, str] = {}
    section: str | None = None
    indent: int | None = None
    name: str | None = None
    for line in text.splitlines():
        heading = re.match(_GOOGLE_SECTION, line)
        if heading:
            section, indent, name = heading[1].lower(), None, None
        elif section is None or (line.strip() and not line[0].isspace()):
            section = None
            paragraphs.append(line.rstrip())
        elif section in _PARAMETER_SECTIONS and line.strip():
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            found = re.match(_GOOGLE_PARAMETER, line.strip()) if depth <= indent else None
            if found:
                name = str(found[1]).lstrip("*")
                parameters[name] = found[2]
            elif name is not None:
                parameters[name] += " " + line.strip()
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(paragraphs)).strip()
    return Documentation(description, {key: _one_line(value) for key, value in parameters.items()})


def _one_line(text: str) -> str:
    return " ".join(text.split())
