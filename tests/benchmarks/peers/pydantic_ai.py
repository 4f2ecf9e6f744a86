# mypy: ignore-errors
"""pydantic-ai: all events of a run, from its own model for functions that stream."""

from __future__ import annotations

from ..contest.driver import Call, Driver, Script, Seen


class DRIVER(Driver):
    name = "pydantic-ai"
    requirements = ("pydantic-ai-slim[openai]==2.68.0", "openai==3.54.0")
    package = "pydantic-ai-slim"
    imports = "from pydantic_ai import Agent"

    def agent(self, model, tool):
        from pydantic_ai import Agent

        if isinstance(model, str):
            from pydantic_ai.models.openai import OpenAIResponsesModel
            from pydantic_ai.providers.openai import OpenAIProvider

            played = OpenAIResponsesModel("m", provider=OpenAIProvider(base_url=model, api_key="k"))
        else:
            played = _scripted(model)
        return Agent(played, tools=[tool])

    async def run(self, agent):
        from pydantic_ai import UsageLimits

        seen = Seen()
        limits = UsageLimits(request_limit=None)
        async with agent.run_stream_events("Go.", usage_limits=limits) as events:
            async for event in events:
                if event.event_kind == "part_delta":
                    if event.delta.part_delta_kind == "text":
                        seen.texts.append(event.delta.content_delta)
                elif event.event_kind == "part_start":
                    if event.part.part_kind == "text" and event.part.content:
                        seen.texts.append(event.part.content)
                elif event.event_kind == "function_tool_result":
                    seen.outputs.append(event.part.content)
        return seen


def _scripted(script: Script):
    from pydantic_ai.models.function import DeltaToolCall, FunctionModel

    async def stream(messages, info):
        calls = 0
        async for part in script.play():
            if isinstance(part, Call):
                yield {calls: DeltaToolCall(part.tool, part.arguments, tool_call_id=part.call_id)}
                calls += 1
            else:
                yield part

    return FunctionModel(stream_function=stream)
