"""Fixtures of the tests of the command line."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    """The event loop that the program is told to use."""
    return anyio_backend[0]
