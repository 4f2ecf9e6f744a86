"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .sessions import end_programs


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """The event loop that the program is told to use."""
    return anyio_backend[0]


@pytest.fixture(autouse=True)
def _no_program_is_left() -> Iterator[None]:
    yield
    end_programs()
