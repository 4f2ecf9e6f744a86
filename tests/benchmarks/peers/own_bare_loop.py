"""What one writes without concurrency; a run is stopped by cancelling a scope around it."""

from __future__ import annotations

from typing import Any

from ..contest.driver import Driver, Handle, Script, Seen, Tool
from ..programs import bare_loop_parts
from ..programs_http import bare_http_parts, new_client
from .own_sc_floor import ScopeHandle, played


class DRIVER(Driver):
    """`programs.bare_loop`."""

    name = "bare loop"
    package = "httpx"
    imports = "import httpx"
    cannot = {"further": "it calls tools one after the other", "import": "it is the floor's"}

    def agent(self, model: Script | str, tool: Tool) -> Any:
        tools = {tool.__name__: tool}
        return (model, new_client(), tools) if isinstance(model, str) else (played(model), None, tools)

    async def run(self, agent: Any) -> Seen:
        model, client, tools = agent
        if client is None:
            return Seen(*await bare_loop_parts(model, tools))
        return Seen(*await bare_http_parts(client, model, tools))

    def start(self, agent: Any) -> Handle:
        return ScopeHandle(self.run(agent))
