"""One request over HTTP and its answer: opening the stream, retrying, timing out, closing for certain.

A `ModelStream` tries again, with exponential back-off, as long as nothing of the answer has been handed out; from the
first event on an error is final. However it is left, the response is closed under a bounded shield: a connection that
was cut in mid-stream is not returned to the pool, and no limiter token is lost.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import anyio

from agentrun.core.errors import ModelError, UserError
from agentrun.core.model import ModelEvent, ModelRequest
from agentrun.models.http_cancel import ConnectGuard, plain_body, shut
from agentrun.models.http_clients import SharedClient, limiter_for, shared_client
from agentrun.models.http_errors import error_from_exception, error_from_response
from agentrun.models.sse import SSEDecoder
from agentrun.models.timed_wait import TimedWait

if TYPE_CHECKING:
    from agentrun.models.http import HttpModel

__all__ = ["Decoder", "ModelStream"]

_DRAIN_SECONDS: Final = 0.25
_MAX_ERROR_BODY: Final = 64 * 1024
_FIRST_BACKOFF: Final = 0.5
_MAX_BACKOFF: Final = 8.0

_sleep = anyio.sleep  # replaced by tests, which record the waits instead of waiting
_random = random.random


class Decoder(Protocol):
    """Turns the events of one answer into model events."""

    complete: bool
    """Whether the provider has said that the answer is complete; nothing is fed after that."""

    def feed(self, event: str, data: bytes, out: deque[ModelEvent]) -> None:
        """Take one event of the stream; append what follows from it to ``out``, or raise `ModelError`."""
        ...

    def end(self, out: deque[ModelEvent]) -> None:
        """The body has ended without ``complete``: finish the answer, or raise `ModelError` if it broke off."""
        ...


class ModelStream:
    """One request and its answer: an async context manager that gives itself, an iterator of model events.

    Waiting for the next event is a checkpoint only when no decoded event is at hand.
    """

    def __init__(self, model: HttpModel, request: ModelRequest) -> None:
        self._model = model
        self._request = request
        self._body = b""
        self._ready: deque[ModelEvent] = deque()
        self._attempts = 0
        self._started = False  # something was handed out: no more retries
        self._finished = False
        self._error: ModelError | None = None  # to be raised when what came before it has been handed out
        self._first_deadline = float("inf")
        self._limiter: anyio.CapacityLimiter | None = None
        self._shared: SharedClient | None = None
        self._response: Any = None
        self._chunks: Any = None  # the async generator of the body's bytes
        self._decoder: Decoder | None = None
        self._sse = SSEDecoder()
        self._request_id: str | None = None

    async def __aenter__(self) -> Self:
        if self._attempts:
            raise UserError("a model stream can be entered only once; call model.stream(...) again")
        self._body = self._model._body(self._request)
        await self._open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._finished = True
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ModelEvent:
        while True:
            if self._ready:
                self._started = True
                return self._ready.popleft()
            if self._finished:
                await self._finish()
                raise StopAsyncIteration
            try:
                if self._error is not None:
                    raise self._error
                await self._read()
            except ModelError as error:
                if self._ready and self._error is None:
                    self._error = error
                    continue
                await self._close()
                self._finished = True
                await self._before_retry(error)
                await self._open()
                self._finished = False

    # -- one attempt ------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        while True:
            self._attempts += 1
            try:
                await self._attempt()
                return
            except ModelError as error:
                await self._close()
                await self._before_retry(error)
            except BaseException:
                await self._close()
                raise

    async def _attempt(self) -> None:
        model = self._model
        client = model._client
        if model._max_connections is not None:
            limiter = limiter_for(model if client is None else client, model._max_connections)
            try:
                # The usual case needs no await, so that no cancellation can come between token and owner.
                limiter.acquire_on_behalf_of_nowait(self)
            except anyio.WouldBlock:
                await limiter.acquire_on_behalf_of(self)
            self._limiter = limiter
        if client is None:
            self._shared = await shared_client()
            client = self._shared.client
        self._error = None
        self._request_id = None
        self._sse = SSEDecoder()
        headers = {
            **model._headers,
            "content-type": "application/json",
            "accept": "text/event-stream",
            # Compression makes proxies hold events back.
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in (self._request.settings.extra_headers or {}).items()},
        }
        if model._first_token_timeout is None:
            self._first_deadline = float("inf")
        else:
            self._first_deadline = anyio.current_time() + model._first_token_timeout
        guard = anyio.CancelScope()
        request = client.build_request(
            "POST",
            model.base_url + model._path(),
            content=self._body,
            headers=headers,
            # connect, read, write, pool; reading is timed by our own scopes.
            timeout=(model._connect_timeout, None, model._first_token_timeout, model._connect_timeout),
            extensions={"trace": ConnectGuard(guard)},
        )
        request.stream = plain_body(request.stream, self._body)
        failures: list[Exception] = []
        with anyio.CancelScope(deadline=self._first_deadline) as scope:
            # In a child task, which no native cancellation reaches: see `ConnectGuard`.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send, client, request, guard, failures)
        if failures:
            raise failures[0]
        if scope.cancelled_caught:
            raise self._stalled()

    async def _send(self, client: Any, request: Any, guard: anyio.CancelScope, failures: list[Exception]) -> None:
        with guard:
            try:
                self._response = await client.send(request, stream=True, follow_redirects=False)
                failure = await self._check(self._response)
                if failure is not None:
                    failures.append(failure)
            except Exception as exc:  # noqa: BLE001 - raised by the host task
                error = self._translated(exc)
                if error is not exc:
                    error.__cause__ = exc
                failures.append(error)

    async def _check(self, response: Any) -> ModelError | None:
        self._request_id = response.headers.get("x-request-id")
        self._chunks = response.aiter_bytes()
        kind = response.headers.get("content-type")
        if response.status_code == 200 and (kind is None or kind.lower().startswith("text/event-stream")):
            self._decoder = self._model._decoder(self._request_id)
            return None
        body = b""
        try:
            while len(body) < _MAX_ERROR_BODY:
                body += await anext(self._chunks)
        except StopAsyncIteration:
            pass
        except Exception as exc:
            # The status says more than the fact that its explanation broke off.
            if error_from_exception(exc, host=self._model._host, opened=True) is None:
                raise
        return error_from_response(
            response.status_code,
            response.headers,
            body[:_MAX_ERROR_BODY],
            host=self._model._host,
            hint=self._model._hint(response.status_code),
        )

    async def _read(self) -> None:
        model, decoder = self._model, self._decoder
        assert decoder is not None
        chunk: bytes | None = None
        reading: TimedWait[bytes] = TimedWait(anext(self._chunks), self._deadline)
        try:
            chunk = await reading
        except StopAsyncIteration:
            pass
        except Exception as exc:
            raise self._stalled() if reading.expired else self._translated(exc) from exc
        try:
            self._decode(decoder, chunk)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ModelError(
                f"{model._host} sent an event of an unexpected shape: {type(exc).__name__}: {exc}",
                request_id=self._request_id,
            ) from exc

    def _deadline(self) -> float:
        """Until when the next piece must have come."""
        if not self._started:
            return self._first_deadline
        timeout = self._model._chunk_timeout
        return float("inf") if timeout is None else anyio.current_time() + timeout

    def _decode(self, decoder: Decoder, chunk: bytes | None) -> None:
        if chunk is None:
            self._finished = True
            decoder.end(self._ready)
            return
        for event, data in self._sse.feed(chunk):
            decoder.feed(event, data, self._ready)
            if decoder.complete:
                self._finished = True
                break

    def _translated(self, exc: Exception) -> Exception:
        if isinstance(exc, ModelError):
            return exc
        opened = self._response is not None
        error = error_from_exception(exc, host=self._model._host, opened=opened, request_id=self._request_id)
        return exc if error is None else error

    def _stalled(self) -> ModelError:
        if self._started:
            what = f"sent nothing for {self._model._chunk_timeout} s in the middle of its answer (chunk_timeout)"
        else:
            what = f"did not begin to answer within {self._model._first_token_timeout} s (first_token_timeout)"
        return ModelError(f"{self._model._host} {what}", retryable=True, request_id=self._request_id)

    async def _before_retry(self, error: ModelError) -> None:
        """Wait before the next attempt, or raise ``error`` when there must be none."""
        model = self._model
        if self._started or not error.retryable or self._attempts > model._max_retries:
            if self._attempts > 1 and not self._started:
                error.add_note(f"gave up after {self._attempts} attempts")
            raise error
        if error.retry_after is None:
            delay = min(_FIRST_BACKOFF * 2 ** (self._attempts - 1), _MAX_BACKOFF) * (0.5 + _random() / 2)
        elif error.retry_after > model._max_retry_wait:
            error.add_note(f"not retried: the wait asked for is longer than max_retry_wait={model._max_retry_wait} s")
            raise error
        else:
            delay = error.retry_after
        await _sleep(delay)

    # -- the end ----------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        if self._decoder is not None and self._decoder.complete and not self._response.is_closed:
            # The answer is complete but for the end of the HTTP body, which follows at once. With it read, the
            # connection can be used again; without it, it has to be closed.
            with anyio.move_on_after(_DRAIN_SECONDS), suppress(Exception):
                while True:
                    await anext(self._chunks)
        await self._close()

    async def _close(self) -> None:
        """Close the response, however the stream was left. Not a checkpoint when there is nothing to close."""
        try:
            if self._response is not None and not self._response.is_closed:
                # In a child task, because a native cancellation goes through shields, but only in the host task.
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(shut, self._response, self._chunks)
        finally:
            self._response = self._chunks = self._decoder = None
            if self._shared is not None:
                self._shared.give_back()
                self._shared = None
            if self._limiter is not None:
                self._limiter.release_on_behalf_of(self)
                self._limiter = None
