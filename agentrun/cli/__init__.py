"""The command line: ``agentrun run`` for scripts and pipes, ``agentrun chat`` for a conversation.

Only this function is for other code; everything it needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The program ``agentrun``. For the main thread, since it receives signals.

    When a run had to leave a thread behind, it does not return: the process ends at once, without waiting for it.

    Args:
        argv: The arguments, without the program's name; by default those of the process.

    Returns:
        The exit code: 0; 1 for a run that failed; 2 for wrong usage; 128 and the number of the signal that ended it,
        so 130 for Ctrl-C, 143 for SIGTERM, and 141 when the reader of the output had gone.

    Raises:
        SystemExit: After ``--help``, ``--version`` and wrong arguments, as `argparse` does.
    """
    from agentrun.cli.program import main as program

    return program(argv)
