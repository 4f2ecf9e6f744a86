"""From a string such as ``"openai:gpt-5.1-mini"`` to a model."""

from __future__ import annotations

import functools
import os
from typing import Final

from agentrun.core.errors import UserError
from agentrun.core.model import Model

__all__ = ["model_from_string"]

_EXAMPLES: Final = "'openai:gpt-5.1-mini', 'openai-chat:NAME' (anything compatible, through OPENAI_BASE_URL) or 'local'"
_ENVIRONMENT: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")


def model_from_string(name: str) -> Model:
    """The model that ``name`` means: ``"openai:..."``, ``"openai-chat:..."``, ``"local"`` or ``"local:..."``.

    ``openai:`` is the Responses API and ``openai-chat:`` is Chat Completions, both with the key in ``OPENAI_API_KEY``
    and the address in ``OPENAI_BASE_URL`` (default: OpenAI's own). The same string gives the same model object, as
    long as these variables do not change.

    Raises:
        UserError: The string names no known provider, or a key is missing; the message says what to do.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"model must be a string such as {_EXAMPLES}, or a model object, not {type(name).__name__}")
    return _model(name.strip(), tuple(os.environ.get(variable) for variable in _ENVIRONMENT))


@functools.lru_cache(maxsize=64)
def _model(name: str, environment: tuple[str | None, ...]) -> Model:
    provider, colon, model = name.partition(":")
    model = model.strip()
    match provider:
        case "local":
            if colon and not model:
                raise UserError("model 'local:' names nothing after the colon: use 'local' for the default model")
            from agentrun.models.local import LocalModel

            return LocalModel(model) if model else LocalModel()
        case "openai" | "openai-chat":
            if not model:
                raise UserError(f"model {name!r} names no model: use for example '{provider}:gpt-5.1-mini'")
            if provider == "openai":
                from agentrun.models.openai_responses import OpenAIResponsesModel

                return OpenAIResponsesModel(model)
            from agentrun.models.openai_chat import OpenAIChatModel

            return OpenAIChatModel(model)
        case "anthropic":
            raise UserError(
                f"model {name!r}: this version of agentrun has no adapter for Anthropic's Messages API. Use the "
                "OpenAI-compatible endpoint: OpenAIChatModel('...', base_url='https://api.anthropic.com/v1', "
                "api_key='...'), or pass an object of your own that has the stream method of agentrun.models.Model"
            )
        case _:
            raise UserError(f"model {name!r} names no provider that agentrun knows: use {_EXAMPLES}")
