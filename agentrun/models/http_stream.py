"""One request over HTTP and its answer: opening the stream, retrying, timing out, closing for certain.

A `ModelStream` tries again, with exponential back-off, as long as nothing of the answer has been handed out; from the
first event on an error is final. However it is left, the answer is closed for certain: a connection that was cut in
mid-stream is not used again, and no limiter token is lost.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, Self

import anyio

from agentrun.core.errors import ModelError, UserError
from agentrun.core.model import ModelEvent, ModelRequest
from agentrun.models import http_client
from agentrun.models.http_answer import Answer
from agentrun.models.http_errors import error_from_exception, error_from_response
from agentrun.models.http_pool import http_pool, limiter_for
from agentrun.models.http_target import target_of
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
        self._answer: Answer | None = None
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
        if model._max_connections is not None:
            limiter = limiter_for(model if model._client is None else model._client, model._max_connections)
            try:
                # The usual case needs no await, so that no cancellation can come between token and owner.
                limiter.acquire_on_behalf_of_nowait(self)
            except anyio.WouldBlock:
                await limiter.acquire_on_behalf_of(self)
            self._limiter = limiter
        self._error = None
        self._request_id = None
        self._sse = SSEDecoder()
        if model._first_token_timeout is None:
            self._first_deadline = float("inf")
        else:
            self._first_deadline = anyio.current_time() + model._first_token_timeout
        failure: ModelError | None = None
        with anyio.CancelScope(deadline=self._first_deadline) as scope:
            try:
                self._answer = await self._send()
                failure = await self._check(self._answer)
            except Exception as exc:  # noqa: BLE001
                raise self._translated(exc)  # noqa: B904 - which has its cause
        if scope.cancelled_caught:
            raise self._stalled()
        if failure is not None:
            raise failure

    async def _send(self) -> Answer:
        model = self._model
        headers = {
            **model._headers,
            "content-type": "application/json",
            "accept": "text/event-stream",
            # Compression makes proxies hold events back.
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in (self._request.settings.extra_headers or {}).items()},
        }
        url, client = model.base_url + model._path(), model._client
        if client is None:
            pool = await http_pool()
            if pool.proxied is None or not model._through_proxies:
                target = target_of(url)
                if target.authorization is not None:
                    headers["authorization"] = target.authorization
                answer = await pool.post(
                    target,
                    headers,
                    self._body,
                    connect_timeout=model._connect_timeout,
                    keep=model._keep_connections,
                    again=model._max_retries > 0,
                )
                if (encoding := answer.headers.get("content-encoding", "identity").lower()) != "identity":
                    await answer.close()
                    raise ModelError(
                        f"{model._host} sent its answer encoded as {encoding}, though it was asked not to; "
                        "with client=httpx.AsyncClient() it would be decoded"
                    )
                return answer
            client = pool.proxied
        return await http_client.post(
            client,
            url,
            headers,
            self._body,
            connect_timeout=model._connect_timeout,
            write_timeout=model._first_token_timeout,
        )

    async def _check(self, answer: Answer) -> ModelError | None:
        headers = answer.headers
        self._request_id = headers.get("x-request-id")
        kind = headers.get("content-type")
        if answer.status == 200 and (kind is None or kind.lower().startswith("text/event-stream")):
            self._decoder = self._model._decoder(self._request_id)
            return None
        body = b""
        try:
            while len(body) < _MAX_ERROR_BODY and (chunk := await answer.read()):
                body += chunk
        except Exception as exc:
            # The status says more than the fact that its explanation broke off.
            if error_from_exception(exc, host=self._model._host, opened=True) is None:
                raise
        return error_from_response(
            answer.status,
            headers,
            body[:_MAX_ERROR_BODY],
            host=self._model._host,
            hint=self._model._hint(answer.status),
        )

    async def _read(self) -> None:
        model, decoder, answer = self._model, self._decoder, self._answer
        assert decoder is not None
        assert answer is not None
        reading: TimedWait[bytes] = TimedWait(answer.read(), self._deadline)
        try:
            chunk = await reading
        except Exception as exc:
            if reading.expired:
                raise self._stalled() from exc
            raise self._translated(exc)  # noqa: B904 - which has its cause
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

    def _decode(self, decoder: Decoder, chunk: bytes) -> None:
        if not chunk:
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
        opened = self._answer is not None
        error = error_from_exception(exc, host=self._model._host, opened=opened, request_id=self._request_id)
        if error is None:
            return exc
        error.__cause__ = exc
        return error

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
        answer = self._answer
        if self._decoder is not None and self._decoder.complete and answer is not None and not answer.closed:
            # The answer is complete but for the end of the HTTP body, which follows at once. With it read, the
            # connection can be used again; without it, it has to be closed.
            deadline = anyio.current_time() + _DRAIN_SECONDS
            with suppress(Exception):
                while await TimedWait(answer.read(), lambda: deadline):
                    pass
        await self._close()

    async def _close(self) -> None:
        """Close the answer, however the stream was left. Not a checkpoint when there is nothing to close."""
        try:
            if self._answer is not None and not self._answer.closed:
                await self._answer.close()
        finally:
            self._answer = self._decoder = None
            if self._limiter is not None:
                self._limiter.release_on_behalf_of(self)
                self._limiter = None
