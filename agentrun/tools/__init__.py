"""Tools: what a model can have done.

`tool` makes one of a function, `as_tool` of anything callable; a function that takes a `RunContext` first is given its
run. The other modules in here are how that works.
"""

from agentrun.core.model import ToolSpec
from agentrun.tools.context import RunContext
from agentrun.tools.function import FunctionTool, as_tool, tool

__all__ = ["FunctionTool", "RunContext", "ToolSpec", "as_tool", "tool"]
