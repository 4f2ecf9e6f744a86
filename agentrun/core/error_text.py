"""An error in one line, for models, reports and events."""

from __future__ import annotations

from typing import cast

__all__ = ["describe_error"]


def describe_error(error: BaseException) -> str:
    """Its type and the first line of what it says."""
    if isinstance(error, BaseExceptionGroup):
        # What is in it, not what each event loop calls a group of what was raised in a task group.
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return "; ".join(describe_error(each) for each in inner)
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
