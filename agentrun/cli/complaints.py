"""What the command says when it cannot do what it was asked for."""

from __future__ import annotations

import os

__all__ = ["complain"]


def complain(message: str, exception: BaseException | None = None) -> None:
    """Say on stderr what is wrong: in one line, and with the traceback of ``exception`` above it if there is one."""
    if exception is not None:
        import traceback

        _write("".join(traceback.format_exception(exception)))
    _write(f"agentrun: {' '.join(message.split())}\n")


def _write(text: str) -> None:
    # Not print(): a closed stderr must not turn one problem into two.
    try:
        os.write(2, text.encode(errors="replace"))
    except OSError:
        pass
