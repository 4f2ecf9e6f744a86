"""The other side of ``isolation="process"``: what runs in the tool's process.

It is started as ``python -P -c BOOTSTRAP FD``, where FD is one end of a socket pair that nothing else uses, so that
what the tool prints goes where its parent's output goes and does no harm. Over it come three pickles: the parent's
``sys.path``; where to find the function; its arguments. Back goes one frame: eight bytes of length (big-endian) and a
pickled tuple, ``("value", pickle)`` or ``("error", pickle or None, text, traceback)``.
"""

from __future__ import annotations

import importlib
import pickle
import runpy
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable
from typing import IO, Any, Final, Literal, TypeAlias, cast

from agentrun.core.error_text import words_of
from agentrun.core.errors import CallCancelled
from agentrun.tools.results import to_output

__all__ = ["BOOTSTRAP", "HEADER_SIZE", "Location", "Reply", "importing_main", "main"]

# Nothing of agentrun can be imported before the parent's `sys.path` is known.
BOOTSTRAP: Final = (
    "import pickle, socket, sys; s = socket.socket(fileno=int(sys.argv.pop())); f = s.makefile('rb'); "
    "sys.path[:] = pickle.load(f); from agentrun.tools.worker import main; main(s, f)"
)

HEADER_SIZE: Final = 8

_TERMINATED: Final = 128 + signal.SIGTERM
"""Exit status of a process that ended because of SIGTERM, in the shell's way of counting."""

Main: TypeAlias = tuple[Literal["path", "module"], str]
"""What the parent runs as its main script: a file, or a module (``python -m``)."""

Location: TypeAlias = tuple[str, str, Main | None]
"""Module and qualified name of a function; and the main script, if the function or its arguments come from there."""

Reply: TypeAlias = tuple[Literal["value"], bytes] | tuple[Literal["error"], bytes | None, str, str]

_importing_main = False


def importing_main() -> bool:
    """Whether this is a tool's process that is importing the main script: a run started now is started by mistake."""
    return _importing_main


def main(channel: socket.socket, requests: IO[bytes]) -> None:
    """Serve one call and exit."""
    channel.set_inheritable(False)  # what the tool starts is not to hold the channel open
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        reply = _serve(requests)
    except CallCancelled:
        sys.exit(_TERMINATED)
    frame = pickle.dumps(reply)
    try:
        channel.sendall(len(frame).to_bytes(HEADER_SIZE, "big") + frame)
    except OSError:
        pass  # the parent does not want to know any more
    channel.close()
    # From here on nothing of the tool's is running that an exception could tell to clean up.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_sigterm(_number: int, _frame: object) -> None:
    # As an exception, so that the tool's `finally` blocks run.
    raise CallCancelled("the call was cancelled")


def _serve(requests: IO[bytes]) -> Reply:
    try:
        function = _locate(pickle.load(requests))
        args, kwargs = pickle.load(requests)
        value = function(*args, **kwargs)
        return "value", _pickled_value(value)
    except CallCancelled:
        raise
    except SystemExit as exc:
        return "error", None, f"the function called sys.exit({exc.code!r})", traceback.format_exc()
    except BaseException as exc:  # noqa: BLE001
        words = words_of(exc)
        text = f"{type(exc).__name__}: {words}" if words else type(exc).__name__
        return "error", _pickled_error(exc), text, traceback.format_exc()


def _locate(location: Location) -> Callable[..., Any]:
    module_name, qualname, script = location
    if script is not None:
        _import_main(script)
    found: Any = importlib.import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    # Decorated, the name stands for the tool; the function is inside.
    return cast("Callable[..., Any]", getattr(found, "function", found))


def _import_main(script: Main) -> None:
    # As multiprocessing does: under another name, so that `if __name__ == "__main__"` is false, and as `__main__` too,
    # since that is the module that pickles of the parent name.
    global _importing_main
    module = types.ModuleType("__mp_main__")
    _importing_main = True
    try:
        kind, name = script
        if kind == "path":
            names = runpy.run_path(name, run_name=module.__name__)
        else:
            names = runpy.run_module(name, run_name=module.__name__, alter_sys=True)
        module.__dict__.update(names)
    finally:
        _importing_main = False
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _pickled_value(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except CallCancelled:
        raise
    except Exception:  # noqa: BLE001
        # Only its JSON is needed in the end, so that will do; and if it has none, the error says so.
        return pickle.dumps(to_output(value))


def _pickled_error(exc: BaseException) -> bytes | None:
    # Many exception classes can be pickled but not unpickled: theirs is a constructor with other arguments.
    if not isinstance(exc, Exception):
        return None
    try:
        pickled = pickle.dumps(exc)
        return pickled if type(pickle.loads(pickled)) is type(exc) else None
    except Exception:  # noqa: BLE001
        return None
