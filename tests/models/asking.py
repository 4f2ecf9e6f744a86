"""Asking a model, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from agentrun.core.errors import ModelError
from agentrun.core.items import UserMessage
from agentrun.core.model import ModelEvent, ModelRequest

REQUEST = ModelRequest(None, [UserMessage("Is it raining?")])


async def collect(model: Any, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    """All events of the answer."""
    async with model.stream(request) as stream:
        return [event async for event in stream]


async def failure(model: Any, request: ModelRequest = REQUEST) -> ModelError:
    """The error that the request ends in, which must be neither a client's own nor hold one back."""
    with pytest.raises(ModelError) as caught:
        await collect(model, request)
    return caught.value
