# mypy: ignore-errors
"""strands-agents: `stream_async`. An agent keeps one conversation, so each run has an agent of its own."""

from __future__ import annotations

from ..contest.driver import Call, Driver, Script, Seen


class DRIVER(Driver):
    name = "strands"
    requirements = ("strands-agents==1.62.0", "openai==3.54.0")
    package = "strands-agents"
    imports = "from strands import Agent, tool"

    def agent(self, model, tool):
        import strands

        if isinstance(model, str):
            from strands.models.openai_responses import OpenAIResponsesModel

            played = OpenAIResponsesModel(client_args={"api_key": "k", "base_url": model}, model_id="m")
        else:
            played = _scripted(model)
        return played, strands.tool(tool)

    async def run(self, agent):
        from strands import Agent
        from strands.agent.conversation_manager import NullConversationManager

        model, tool = agent
        seen = Seen()
        # Without its sliding window, which would drop turns that the others keep.
        conversation = Agent(model, tools=[tool], callback_handler=None, conversation_manager=NullConversationManager())
        async for event in conversation.stream_async("Go."):
            if "data" in event:
                seen.texts.append(event["data"])
            elif "message" in event and event["message"]["role"] == "user":
                for block in event["message"]["content"]:
                    if "toolResult" in block:
                        seen.outputs.append(block["toolResult"]["content"][0]["text"])
        return seen


def _scripted(script: Script):
    from strands.models import Model

    class Scripted(Model):
        def update_config(self, **config):
            raise NotImplementedError

        def get_config(self):
            return {"model_id": "scripted"}

        def structured_output(self, *args, **kwargs):
            raise NotImplementedError

        async def stream(self, *args, **kwargs):
            yield {"messageStart": {"role": "assistant"}}
            text = calls = False
            async for part in script.play():
                if isinstance(part, Call):
                    calls = True
                    yield {"contentBlockStart": {"start": {"toolUse": {"name": part.tool, "toolUseId": part.call_id}}}}
                    yield {"contentBlockDelta": {"delta": {"toolUse": {"input": part.arguments}}}}
                    yield {"contentBlockStop": {}}
                else:
                    if not text:
                        text = True
                        yield {"contentBlockStart": {"start": {}}}
                    yield {"contentBlockDelta": {"delta": {"text": part}}}
            if text:
                yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}}

    return Scripted()
