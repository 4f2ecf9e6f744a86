"""The program around the commands: arguments in, exit code out, every error in one clear line."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

import anyio

from agentrun.cli.arguments import Ending, FuzzOptions, Options, parse
from agentrun.cli.complaints import complain
from agentrun.cli.signals import use_system_default
from agentrun.errors import UserError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """See `agentrun.cli.main`."""
    options: Options | FuzzOptions | None = None
    use_system_default()
    try:
        options = parse(argv)
        ending = _run(options)
    except UserError as exc:
        complain(str(exc), exc if options is not None and options.verbose else None)
        return 2
    finally:
        _flush()
    if ending.threads_left:
        # The interpreter would wait for them, for ever perhaps. They were given their time, and named on stderr.
        os._exit(ending.exit_code)
    return ending.exit_code


def _run(options: Options | FuzzOptions) -> Ending:
    if isinstance(options, FuzzOptions):
        from agentrun.cli.fuzz_command import fuzz_command

        return fuzz_command(options)
    if options.backend == "trio":
        try:
            import trio  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ModuleNotFoundError as exc:
            raise UserError("--backend trio needs trio: pip install trio (or agentrun's extra 'trio')") from exc
    if options.command == "run":
        from agentrun.cli.run_command import run_command as command
    else:
        from agentrun.cli.chat_command import chat_command as command
    return anyio.run(functools.partial(command, options), backend=options.backend)


def _flush() -> None:
    """Flush what user code printed now: at exit, a broken pipe would come with a message of the interpreter's own."""
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is None:  # pyright: ignore[reportUnnecessaryComparison] - when it is closed
            continue
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as devnull:  # noqa: PTH123 - a device, and only its descriptor is wanted
                os.dup2(devnull.fileno(), fd)
