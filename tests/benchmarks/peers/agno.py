# mypy: ignore-errors
"""agno: a streamed run, watched through its events."""

from __future__ import annotations

from ..contest.driver import Call, Driver, Script, Seen


class DRIVER(Driver):
    name = "agno"
    requirements = ("agno==3.1.10", "openai==3.54.0")
    package = "agno"
    imports = "from agno.agent import Agent"

    def agent(self, model, tool):
        from agno.agent import Agent

        if isinstance(model, str):
            from agno.models.openai import OpenAIResponses

            played = OpenAIResponses(id="m", api_key="k", base_url=model, store=False)
        else:
            played = _scripted(model)
        return Agent(model=played, tools=[tool], telemetry=False)

    async def run(self, agent):
        seen = Seen()
        async for event in agent.arun("Go.", stream=True, stream_events=True):
            if event.event == "RunContent":
                if event.content:
                    seen.texts.append(event.content)
            elif event.event == "ToolCallCompleted":
                seen.outputs.append(event.tool.result)
        return seen


def _scripted(script: Script):
    from agno.models.base import Model
    from agno.models.response import ModelResponse

    class Scripted(Model):
        def invoke(self, *args, **kwargs):
            raise NotImplementedError

        invoke_stream = ainvoke = _parse_provider_response = _parse_provider_response_delta = invoke

        async def ainvoke_stream(self, messages, assistant_message, **kwargs):
            calls = []
            async for part in script.play():
                if isinstance(part, Call):
                    function = {"name": part.tool, "arguments": part.arguments}
                    calls.append({"id": part.call_id, "type": "function", "function": function})
                else:
                    yield ModelResponse(content=part)
            if calls:
                yield ModelResponse(tool_calls=calls)

    return Scripted(id="scripted")
