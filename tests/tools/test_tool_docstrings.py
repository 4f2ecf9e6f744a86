"""What docstrings say about tools, with and without griffelib."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun.tools import tool
from agentrun.tools.docstrings import Documentation, parse_docstring, style_of

GOOGLE = """Current weather in a city.

    It asks the weather service: the one in Oslo.
    Slowly.

    Args:
        city: Name of the city,
            e.g. "Oslo: the capital".
        days (int, optional): How many days.
        **more: Further things.

    Returns:
        The weather.

    Raises:
        ValueError: No such city.
    """
NUMPY = """Current weather in a city.

    It asks the weather service: the one in Oslo.
    Slowly.

    Parameters
    ----------
    city : str
        Name of the city,
        e.g. "Oslo: the capital".
    days : int, optional
        How many days.
    **more
        Further things.

    Returns
    -------
    str
        The weather.
    """
SPHINX = """Current weather in a city.

    It asks the weather service: the one in Oslo.
    Slowly.

    :param city: Name of the city,
        e.g. "Oslo: the capital".
    :param int days: How many days.
    :param more: Further things.
    :returns: The weather.
    :raises ValueError: No such city.
    """
EXPECTED = Documentation(
    "Current weather in a city.\n\nIt asks the weather service: the one in Oslo.\nSlowly.",
    {"city": 'Name of the city, e.g. "Oslo: the capital".', "days": "How many days.", "more": "Further things."},
)


@pytest.fixture(params=[True, False], ids=["griffelib", "none"])
def griffe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        pytest.importorskip("griffe")
    else:
        monkeypatch.setitem(sys.modules, "griffe", None)
    return bool(request.param)


def test_google_style_is_understood_with_and_without_griffelib(griffe: bool) -> None:
    assert style_of(GOOGLE) == "plain"  # not dedented: nobody should call it so
    assert parse_docstring(GOOGLE) == EXPECTED


@pytest.mark.parametrize("text", [NUMPY, SPHINX], ids=["numpy", "sphinx"])
def test_numpy_and_sphinx_style_need_griffelib(griffe: bool, text: str) -> None:
    documentation = parse_docstring(text)
    if griffe:
        assert documentation == EXPECTED
    else:  # the model gets the whole text instead
        assert not documentation.parameters
        assert "How many days." in documentation.description


@pytest.mark.parametrize("text", [None, "", "   ", "Just a line.", "Two.\n\n    Paragraphs: yes.\n    More."])
def test_a_docstring_without_sections_is_the_description(griffe: bool, text: str | None) -> None:
    documentation = parse_docstring(text)
    assert not documentation.parameters
    assert documentation.description == "\n".join(line.strip() for line in (text or "").strip().splitlines())


def test_text_after_a_section_belongs_to_the_description(griffe: bool) -> None:
    documentation = parse_docstring("Sum.\n\nArgs:\n    a: First.\n\nExample:\n    >>> f(1)\n\nIt is fast.")
    assert documentation == Documentation("Sum.\n\nIt is fast.", {"a": "First."})


def test_notes_are_for_the_model_too(griffe: bool) -> None:
    documentation = parse_docstring("Sum.\n\nNote:\n    Slow at night.\n\nArgs:\n    a: First.")
    assert "Slow at night." in documentation.description
    assert documentation.parameters == {"a": "First."}


@given(st.text(alphabet="ab:*(), \n-`Args:Returns"))
def test_no_text_breaks_the_parser(text: str) -> None:
    parse_docstring(text)
    parse_docstring(f"Sum.\n\nArgs:\n{text}")
    parse_docstring(f"Sum.\n\n:param {text}")


def test_descriptions_reach_the_schema_but_do_not_replace_those_of_the_types() -> None:
    from typing import Annotated

    from pydantic import Field

    @tool
    def f(a: int, b: Annotated[int, Field(description="Mine.")], c: int = 0) -> None:
        """F.

        Args:
            a: The a.
            b: Not this.
            nobody: There is no such parameter.
        """

    properties = f.parameters["properties"]
    assert properties["a"]["description"] == "The a."
    assert properties["b"]["description"] == "Mine."
    assert "description" not in properties["c"]


def test_griffelib_is_imported_only_when_there_is_something_for_it_to_read() -> None:
    pytest.importorskip("griffe")
    code = """
import sys
from agentrun.tools import tool
@tool
def a(x: int):
    "Just a line."
@tool
def b(x: int):
    '''B.

    Args:
        x: The x.
    '''
a.spec
assert "griffe" not in sys.modules
assert b.spec.parameters["properties"]["x"]["description"] == "The x."
assert "griffe" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
