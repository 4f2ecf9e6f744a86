"""From what went wrong on the wire to a `ModelError` that says what and whether to try again.

httpx and httpx2 have exceptions of the same names that are not the same classes, and neither may leak to users of
agentrun, so exceptions are told apart by the names in their class hierarchy.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import from_json

from agentrun.core.errors import ModelError
from agentrun.models.wire import as_list, as_object

__all__ = [
    "connect_error",
    "connect_timeout_error",
    "error_from_event",
    "error_from_exception",
    "error_from_response",
    "parse_retry_after",
]

_RETRYABLE_STATUSES: Final = frozenset((408, 409, 429))
# Codes of errors that arrive inside a stream, where there is no HTTP status to go by (OpenAI's error reference, and
# what compatible servers send).
_RETRYABLE_CODES: Final = frozenset(
    (
        "server_error",
        "internal_error",
        "internal_server_error",
        "api_error",
        "rate_limit_exceeded",
        "rate_limit_error",
        "overloaded",
        "overloaded_error",
        "server_is_overloaded",
        "slow_down",
        "service_unavailable",
        "timeout",
    )
)
# These come as 429 but do not go away by waiting.
_FINAL_CODES: Final = frozenset(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))
_SNIPPET: Final = 300


def error_from_exception(
    exc: Exception, *, host: str, opened: bool, request_id: str | None = None
) -> ModelError | None:
    """The `ModelError` for an exception of the HTTP client or the connection, or ``None`` when it is not one of theirs.

    Args:
        exc: What was raised.
        host: Who was asked, for the message.
        opened: Whether the answer had begun.
        request_id: The provider's id of the request, when the answer had begun.
    """
    names = {cls.__name__ for cls in type(exc).__mro__ if cls.__module__.partition(".")[0] in _CLIENT_PACKAGES}
    if not names and not isinstance(exc, (OSError, EOFError)):
        return None
    detail = str(exc) or type(exc).__name__
    if "PoolTimeout" in names:
        return ModelError(
            f"no connection to {host} became free in the HTTP client's pool; "
            "give the model a max_connections that is no larger than the client's own limit",
            retryable=True,
        )
    if "ConnectTimeout" in names:
        return connect_timeout_error(host)
    if "ConnectError" in names:
        return connect_error(exc, host=host)
    if opened:
        if "DecodingError" in names:
            return ModelError(f"the answer of {host} could not be decoded: {detail}", request_id=request_id)
        return ModelError(f"the answer of {host} broke off: {detail}", retryable=True, request_id=request_id)
    if names & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "TooManyRedirects"}:
        return ModelError(f"the request to {host} could not be made: {detail}", retryable=False)
    return ModelError(f"the connection to {host} failed: {detail}", retryable=True)


_CLIENT_PACKAGES: Final = frozenset(("httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio"))


def connect_error(exc: Exception, *, host: str) -> ModelError:
    """The `ModelError` for a connection that could not be made."""
    causes = list(_causes(exc))
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError):
        return ModelError(f"could not set up TLS with {host}: {tls}", retryable=False)
    # What the system said is at the end of the chain, below "All connection attempts failed".
    reason = next((cause for cause in reversed(causes) if isinstance(cause, OSError)), exc)
    return ModelError(f"could not connect to {host}: {str(reason) or type(reason).__name__}", retryable=True)


def connect_timeout_error(host: str) -> ModelError:
    """The `ModelError` for a connection that took too long to make."""
    return ModelError(f"could not connect to {host} in time", retryable=True)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException] = [exc]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting.extend(cause for cause in (current.__cause__, current.__context__) if cause is not None)


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, host: str, hint: str = ""
) -> ModelError:
    """The `ModelError` for an HTTP answer that is not the stream that was asked for.

    Args:
        status: The HTTP status; one of 200 to 299 means that the body was not an event stream.
        headers: Response headers, looked up by lower-case names.
        body: The body, or its beginning.
        host: Who answered.
        hint: What the user can do about it, added to the message.
    """
    message, code = _read_error(body)
    if 200 <= status < 300:
        kind = headers.get("content-type") or "no content type"
        text = f"{host} answered with {kind} where text/event-stream was expected: {message or 'an empty body'}"
        return ModelError(text, status=status, request_id=headers.get("x-request-id"), code=code)
    if 300 <= status < 400:
        where = headers.get("location", "elsewhere")
        message = f"it redirects to {where}; redirects are not followed, set base_url to the right address"
    retryable = (status in _RETRYABLE_STATUSES or status >= 500) and code not in _FINAL_CODES
    if (wish := headers.get("x-should-retry")) in ("true", "false"):
        retryable = wish == "true"
    text = f"{host} answered {status}: {message or 'an empty body'}"
    return ModelError(
        f"{text} ({hint})" if hint else text,
        status=status,
        request_id=headers.get("x-request-id"),
        retryable=retryable,
        retry_after=parse_retry_after(headers),
        code=code,
    )


def error_from_event(error: Any, *, request_id: str | None = None) -> ModelError:
    """The `ModelError` for an error that the provider sent inside a stream."""
    message, code = _from_error_value(error)
    return ModelError(
        f"the provider reported an error: {message or 'no message'}",
        request_id=request_id,
        retryable=code in _RETRYABLE_CODES or (code is not None and code.isdigit() and int(code) >= 500),
        code=code,
    )


def _read_error(body: bytes) -> tuple[str, str | None]:
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return "", None
    try:
        value: Any = from_json(body)
    except ValueError:
        value = None
    found = as_object(next(iter(as_list(value)), value))  # Google's compatible endpoint wraps its errors in an array
    message, code = _from_error_value(found.get("error", found))
    if message:
        return message, code
    return _snippet(text), None


def _from_error_value(error: Any) -> tuple[str, str | None]:
    if isinstance(error, str):
        return error, None
    fields = as_object(error)
    message = fields.get("message") or fields.get("detail") or ""
    code = fields.get("code") or fields.get("type")
    return message if isinstance(message, str) else str(message), None if code is None else str(code)


def _snippet(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SNIPPET else line[:_SNIPPET] + "..."


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the provider asks to wait, from ``retry-after-ms`` (OpenAI) or ``Retry-After`` (RFC 9110, 10.2.3)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    from email.utils import parsedate_to_datetime  # rarely needed, and slow to import

    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
