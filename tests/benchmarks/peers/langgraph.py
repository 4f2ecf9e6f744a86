# mypy: ignore-errors
"""langgraph: its prebuilt agent, watched in the stream mode for messages."""

from __future__ import annotations

from ..contest.driver import Call, Driver, Script, Seen


class DRIVER(Driver):
    name = "langgraph"
    requirements = ("langgraph==1.2.22", "langchain-core==1.7.2", "langchain-openai==1.7.3", "openai==3.54.0")
    package = "langgraph"
    imports = "from langgraph.prebuilt import create_react_agent"

    def agent(self, model, tool):
        from langchain_core.tools import StructuredTool
        from langgraph.prebuilt import create_react_agent

        if isinstance(model, str):
            from langchain_openai import ChatOpenAI

            played = ChatOpenAI(model="m", api_key="k", base_url=model, use_responses_api=True, streaming=True)
        else:
            played = _scripted(model)
        return create_react_agent(played, [StructuredTool.from_function(coroutine=tool)])

    async def run(self, agent):
        seen = Seen()
        messages = {"messages": [{"role": "user", "content": "Go."}]}
        stream = agent.astream(messages, {"recursion_limit": 1_000_000_000}, stream_mode="messages")
        async for message, _ in stream:
            if message.type == "tool":
                seen.outputs.append(message.content)
            elif isinstance(message.content, str):
                if message.content:
                    seen.texts.append(message.content)
            else:
                seen.texts += [part["text"] for part in message.content if part["type"] == "text" and part.get("text")]
        return seen


def _scripted(script: Script):
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk
    from langchain_core.outputs import ChatGenerationChunk

    class Scripted(BaseChatModel):
        @property
        def _llm_type(self):
            return "scripted"

        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, *args, **kwargs):
            raise NotImplementedError

        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            calls = []
            async for part in script.play():
                if isinstance(part, Call):
                    call = {"name": part.tool, "args": part.arguments, "id": part.call_id, "index": len(calls)}
                    calls.append({**call, "type": "tool_call_chunk"})
                    continue
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=part))
                if run_manager:
                    await run_manager.on_llm_new_token(part, chunk=chunk)
                yield chunk
            if calls:
                yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))

    return Scripted()
