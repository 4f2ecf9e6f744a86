"""Checks of the options of a tool, made when the tool is defined."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from agentrun.core.errors import UserError

__all__ = ["check_options"]


def check_options(tool: str, function: Any, options: Mapping[str, Any], *, is_async: bool, takes_context: bool) -> None:
    """Check the options of `agentrun.tool`.

    Args:
        tool: The tool as named in error messages.
        function: What it calls.
        options: The options by name.
        is_async: Whether the function is async.
        takes_context: Whether it takes a `RunContext`.

    Raises:
        UserError: An option has a value it cannot have; the message names it.
    """

    def wrong(name: str, expected: str) -> UserError:
        return UserError(f"{tool}: {name} must be {expected}, not {options[name]!r:.100}")

    timeout = options["timeout"]
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise wrong("timeout", "a number of seconds or None")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise wrong("timeout", "a finite number of seconds above 0, or None for no limit")
    retries = options["retries"]
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise wrong("retries", "a whole number, 0 or more")
    if not isinstance(options["parallel"], bool):
        raise wrong("parallel", "True or False")
    for name in ("needs_approval", "is_enabled"):
        if not isinstance(options[name], bool) and not callable(options[name]):
            raise wrong(name, "True, False or a callable that decides")
    on_error = options["on_error"]
    if not callable(on_error) and on_error not in ("model", "raise"):
        raise wrong("on_error", "'model', 'raise' or a callable")
    if options["strict"] not in (True, False, None):
        raise wrong("strict", "True, False or None")
    if options["description"] is not None and not isinstance(options["description"], str):
        raise wrong("description", "text or None")
    if options["on_cancel"] is not None:
        if not callable(options["on_cancel"]):
            raise wrong("on_cancel", "a callable or None")
        if _required_arguments(options["on_cancel"]) > 1:
            raise wrong("on_cancel", "a callable that takes the context or nothing")
    isolation = options["isolation"]
    if isolation not in ("thread", "process"):
        raise wrong("isolation", "'thread' or 'process'")
    if isolation == "process":
        _check_process(tool, function, is_async=is_async, takes_context=takes_context)


def _required_arguments(function: Any) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def _check_process(tool: str, function: Any, *, is_async: bool, takes_context: bool) -> None:
    if is_async:
        raise UserError(
            f"{tool}: isolation='process' is for sync functions; an async function runs in the event loop. Leave out "
            "isolation, or make the function sync"
        )
    if takes_context:
        raise UserError(
            f"{tool}: isolation='process' cannot pass a RunContext to another process; take what the function needs "
            "from it as parameters, or use isolation='thread'"
        )
    if not isinstance(function, FunctionType) or "." in function.__qualname__:
        raise UserError(
            f"{tool}: isolation='process' needs a function at the top level of a module, because the other process "
            "imports it by name; methods, lambdas, partials and functions inside functions cannot be imported"
        )
