"""What the command line and the ini file say about sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agentrun.core.errors import UserError

__all__ = ["options_for"]


def options_for(config: pytest.Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """The seed, the limit and the failure to replay: of the command line, the test (``given``) or the ini file.

    Raises:
        UserError: What the ini file says is no number.
    """
    options: dict[str, Any] = {}
    for name, least in (("seed", None), ("limit", 1)):
        value = config.getoption(f"agentrun_{name}")
        if value is None and name not in given:
            value = _ini_number(config, f"agentrun_{name}", least)
        if value is not None:
            options[name] = None if value == "all" else value
    only = config.getoption("agentrun_only")
    if only is not None:
        options["only"] = only
    return options


def _ini_number(config: pytest.Config, name: str, least: int | None) -> int | str | None:
    text = config.getini(name)
    if text in (None, "") or (least is not None and text == "all"):
        return text or None
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or (least is not None and number < least):
        expected = "a whole number" if least is None else f"a whole number of at least {least}, or 'all'"
        raise UserError(f"the ini option {name} must be {expected}, not {text!r}")
    return number
