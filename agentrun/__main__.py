"""``python -m agentrun``: the command line, where the ``agentrun`` command is not on the path."""

from __future__ import annotations

import sys

from agentrun.cli import main

if __name__ == "__main__":
    sys.exit(main())
