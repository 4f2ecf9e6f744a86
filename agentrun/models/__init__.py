"""Models: the contract they meet, and adapters for providers.

The adapters are imported on first use, so that ``import agentrun.models`` does not import an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from agentrun.core.model import (
    FinishReason,
    Model,
    ModelEvent,
    ModelRequest,
    ModelSettings,
    OutputSchema,
    ResponseEnded,
    ToolSpec,
)

if TYPE_CHECKING:
    from agentrun.models.local import LocalModel
    from agentrun.models.openai_chat import OpenAIChatModel
    from agentrun.models.openai_responses import OpenAIResponsesModel
    from agentrun.models.providers import model_from_string

__all__ = [
    "FinishReason",
    "LocalModel",
    "Model",
    "ModelEvent",
    "ModelRequest",
    "ModelSettings",
    "OpenAIChatModel",
    "OpenAIResponsesModel",
    "OutputSchema",
    "ResponseEnded",
    "ToolSpec",
    "model_from_string",
]

_LAZY: Final = {
    "LocalModel": "agentrun.models.local",
    "OpenAIChatModel": "agentrun.models.openai_chat",
    "OpenAIResponsesModel": "agentrun.models.openai_responses",
    "model_from_string": "agentrun.models.providers",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
