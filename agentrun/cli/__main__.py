"""``python -m agentrun.cli``: the command line where the program ``agentrun`` is not on the path."""

from __future__ import annotations

import sys

from agentrun.cli import main

sys.exit(main())
