"""The base of the adapters that speak HTTP: where requests go, with which limits and timeouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from agentrun.core.errors import UserError
from agentrun.core.model import ModelRequest
from agentrun.models.http_stream import Decoder, ModelStream

__all__ = ["HttpModel"]


class HttpModel(ABC):
    """Base of the adapters. Not part of the public API; its arguments are described by the adapters."""

    _keep_connections = True
    """Whether a connection of agentrun's own serves one request after the other."""
    _through_proxies = True
    """Whether requests without a ``client`` heed the proxies of the environment."""

    def __init__(
        self,
        *,
        base_url: str,
        headers: Mapping[str, str],
        client: Any | None,
        connect_timeout: float | None,
        first_token_timeout: float | None,
        chunk_timeout: float | None,
        max_retries: int,
        max_retry_wait: float,
        max_connections: int | None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"base_url must be an http or https address such as 'https://host/v1', not {base_url!r}")
        if client is not None and not (hasattr(client, "build_request") and hasattr(client, "aclose")):
            raise UserError(
                f"client must be an httpx.AsyncClient or httpx2.AsyncClient, not {type(client).__name__}; "
                "leave it out to use agentrun's own"
            )
        for name, value in (
            ("connect_timeout", connect_timeout),
            ("first_token_timeout", first_token_timeout),
            ("chunk_timeout", chunk_timeout),
        ):
            if value is not None and not value > 0:
                raise UserError(f"{name} must be a number of seconds above 0, or None for no limit, not {value!r}")
        if max_retries < 0:
            raise UserError(f"max_retries must be 0 or more, not {max_retries!r}")
        if not max_retry_wait >= 0:
            raise UserError(f"max_retry_wait must be a number of seconds, 0 or more, not {max_retry_wait!r}")
        if max_connections is not None and max_connections < 1:
            raise UserError(f"max_connections must be 1 or more, or None for no limit, not {max_connections!r}")
        self.base_url: Final = base_url.rstrip("/")
        self._host: Final = parts.hostname
        self._headers: Final = dict(headers)
        self._client: Final = client
        self._connect_timeout: Final = connect_timeout
        self._first_token_timeout: Final = first_token_timeout
        self._chunk_timeout: Final = chunk_timeout
        self._max_retries: Final = max_retries
        self._max_retry_wait: Final = max_retry_wait
        self._max_connections: Final = max_connections

    def stream(self, request: ModelRequest) -> ModelStream:
        """Open the answer to ``request``; see `agentrun.models.Model`.

        Raises:
            ModelError: On entering or while iterating.
            UserError: On entering, when the request cannot be expressed in the provider's API.
        """
        return ModelStream(self, request)

    @abstractmethod
    def _path(self) -> str: ...

    @abstractmethod
    def _body(self, request: ModelRequest) -> bytes: ...

    @abstractmethod
    def _decoder(self, request_id: str | None) -> Decoder: ...

    def _hint(self, status: int) -> str:
        return ""
