"""What an error says, for models, reports and events. Total: an exception of the user's may fail even at that."""

from __future__ import annotations

from typing import cast

__all__ = ["describe_error", "words_of"]


def words_of(error: BaseException) -> str:
    """Its text, as ``str`` gives it."""
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - a ``__str__`` of the user's own that broke must break nothing else
        return f"(it cannot say what is wrong: {type(exc).__name__} in its __str__)"


def describe_error(error: BaseException, *, whole: bool = False) -> str:
    """Its type and the first line of what it says, or the ``whole`` of it."""
    if isinstance(error, BaseExceptionGroup):
        # What is in it, not what each event loop calls a group of what was raised in a task group.
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return "; ".join(describe_error(each, whole=whole) for each in inner)
    text = words_of(error).strip()
    if not whole:
        text = text.split("\n", 1)[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
