# mypy: ignore-errors
"""openai-agents: a streamed run, watched through `stream_events`."""

from __future__ import annotations

import asyncio
import functools

from ..contest.driver import Call, Driver, Handle, Script, Seen


class DRIVER(Driver):
    name = "openai-agents"
    requirements = ("openai-agents==0.24.0", "openai==3.54.0")
    package = "openai-agents"
    imports = "from agents import Agent, Runner, function_tool"

    def agent(self, model, tool):
        from agents import Agent, OpenAIResponsesModel, function_tool, set_tracing_disabled
        from openai import AsyncOpenAI

        set_tracing_disabled(True)
        if isinstance(model, str):
            client = AsyncOpenAI(api_key="k", base_url=model, max_retries=0)
            played = OpenAIResponsesModel("m", client)
        else:
            played = _scripted(model)
        return Agent("bench", model=played, tools=[function_tool(tool)])

    async def run(self, agent):
        return await _watched(_started(agent))

    def start(self, agent):
        return _Run(_started(agent))


def _started(agent):
    from agents import Runner

    return Runner.run_streamed(agent, "Go.", max_turns=1_000_000)


async def _watched(streaming):
    seen = Seen()
    async for event in streaming.stream_events():
        if event.type == "raw_response_event":
            if event.data.type == "response.output_text.delta":
                seen.texts.append(event.data.delta)
        elif event.type == "run_item_stream_event" and event.name == "tool_output":
            seen.outputs.append(event.item.output)
    return seen


class _Run(Handle):
    """It is stopped by its own `cancel`; that the consumer of its events returns is how it says that it has stopped."""

    def __init__(self, streaming):
        self._streaming = streaming
        self._task = asyncio.ensure_future(_watched(streaming))

    def stop(self):
        self._streaming.cancel()

    async def ended(self):
        await asyncio.wait([self._task])


def _scripted(script: Script):
    from agents import Model
    from openai.types.responses import (
        Response,
        ResponseCompletedEvent,
        ResponseFunctionToolCall,
        ResponseOutputMessage,
        ResponseOutputText,
        ResponseTextDeltaEvent,
    )

    @functools.cache
    def delta(text):
        # Kept, since to make one costs as much as all that is done with it.
        return ResponseTextDeltaEvent(
            content_index=0,
            delta=text,
            item_id="msg_1",
            logprobs=[],
            output_index=0,
            sequence_number=0,
            type="response.output_text.delta",
        )

    class Scripted(Model):
        async def get_response(self, *args, **kwargs):
            raise NotImplementedError

        async def stream_response(self, *args, **kwargs):
            texts, output = [], []
            async for part in script.play():
                if isinstance(part, Call):
                    call = ResponseFunctionToolCall(
                        arguments=part.arguments, call_id=part.call_id, name=part.tool, type="function_call"
                    )
                    output.append(call)
                    continue
                texts.append(part)
                yield delta(part)
            if texts:
                content = [ResponseOutputText(annotations=[], text="".join(texts), type="output_text")]
                message = ResponseOutputMessage(
                    id="msg_1", content=content, role="assistant", status="completed", type="message"
                )
                output.append(message)
            response = Response(
                id="resp_1",
                created_at=1,
                model="m",
                object="response",
                output=output,
                parallel_tool_calls=True,
                tool_choice="auto",
                tools=[],
            )
            yield ResponseCompletedEvent(response=response, sequence_number=0, type="response.completed")

    return Scripted()
