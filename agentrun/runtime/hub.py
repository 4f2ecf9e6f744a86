"""The event hub: one run publishes, any number of watchers read, and no watcher can hold up an interrupt.

``publish`` is synchronous: it never waits and never raises, so it may be called on any path, also one that is being
torn down. Pressure is applied elsewhere: between two deltas the driver asks whether a watcher lags, and waits there,
inside the scope that an interrupt cancels. Buffers are therefore bounded by the watcher's ``buffer`` for deltas, plus
the few structural events of the step under way.

What else was considered: a memory object stream per watcher (a send waits, or drops without saying so, and costs
several times as much per event), and one shared log with cursors (the slowest watcher would keep everything alive).
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import anyio

from agentrun.core.errors import UserError
from agentrun.core.events import Event, EventsDropped, ReasoningDelta, TextDelta, ToolCallDelta, ToolProgress, with_path
from agentrun.runtime.backend import Backend, WakeUp
from agentrun.runtime.ctrl_c import uninterruptible
from agentrun.runtime.event_loop import EventLoop, running_loop

__all__ = ["EventHub", "EventStream", "Overflow"]

Overflow: TypeAlias = Literal["wait", "drop"]

_DELTAS: Final = frozenset((TextDelta, ReasoningDelta, ToolCallDelta, ToolProgress))
# So many events are kept for the first watcher, if it comes late.
_PRELUDE: Final = 256
# A watcher with events in its buffer goes through the event loop only every so often.
_BATCH: Final = 32


class EventStream:
    """One watcher's view of a run: an asynchronous iterator of events that ends after the terminal event.

    Also an async context manager, which unsubscribes on leaving; so does ``aclose()``, and dropping the last reference
    to the stream (as ``break`` in an ``async for`` over it does).
    """

    __slots__ = (
        "__weakref__",
        "_asleep",
        "_buffer",
        "_careful_from",
        "_dropped",
        "_ended",
        "_hub",
        "_low_water",
        "_queue",
        "_since_checkpoint",
        "_waiter",
        "overflow",
    )

    def __init__(self, hub: EventHub, buffer: int, overflow: Overflow, queue: deque[Event]) -> None:
        self._hub = hub
        self._buffer = buffer
        self._careful_from = buffer  # with so many in it, there is more to do than to put an event in
        self.overflow: Overflow = overflow
        self._queue = queue
        self._dropped = 0
        self._waiter: WakeUp | None = None
        self._asleep = False  # there is a waiter that nobody has woken yet
        self._ended = False
        self._since_checkpoint = 0
        # A watcher that lagged is let catch up by half before the model stream goes on: fewer switches back and forth.
        self._low_water = buffer // 2

    @property
    def lagging(self) -> bool:
        """Whether the model stream waits for this watcher."""
        return len(self._queue) >= self._buffer and self.overflow == "wait"

    def __aiter__(self) -> EventStream:
        return self

    @uninterruptible
    async def __anext__(self) -> Event:
        """The next event. Waits if there is none; a checkpoint then, and every few events otherwise.

        That there will be none any more is told at once, without a checkpoint.
        """
        queue = self._queue
        try:
            if queue and self._since_checkpoint < _BATCH:
                self._since_checkpoint += 1
            else:
                self._since_checkpoint = 0
                if queue:
                    await self._hub.backend.checkpoint()
                while not queue:  # still, or because another task that reads this stream was quicker
                    if self._ended:
                        raise StopAsyncIteration
                    if self._waiter is not None:
                        raise UserError(
                            "two tasks iterate over the same event stream; call run.events() once for each of them"
                        )
                    self._waiter = self._hub.backend.wake_up()
                    self._asleep = True
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                        self._asleep = False
            event = queue.popleft()
            if self._hub._room is not None and len(queue) == self._low_water:
                self._hub.room()
            return event
        except BaseException:
            # Whoever keeps a cancellation, as a cancelled task does, keeps this frame. It must not keep the stream as
            # well: a watcher that nobody reads any more would hold up the run for ever.
            del self, queue
            raise

    def _put_with_care(self) -> bool:
        """What becomes of the last event, now that the buffer is full or events have been dropped.

        Returns whether the model stream has to wait for this watcher now.
        """
        queue = self._queue
        length = len(queue) - 1
        if length >= self._buffer:
            # A tool's progress cannot be slowed down, since telling it is synchronous: beyond twice the buffer it is
            # lost.
            kind = type(queue[-1])
            if (kind in _DELTAS and self.overflow == "drop") or (kind is ToolProgress and length >= 2 * self._buffer):
                queue.pop()
                self._dropped += 1
                self._careful_from = 0
                return self.overflow == "wait"
        if self._dropped:
            queue.insert(length, EventsDropped(self._dropped))
            self._dropped = 0
            self._careful_from = self._buffer
        return length + 1 >= self._buffer and self.overflow == "wait"

    def _wake(self) -> None:
        if self._waiter is not None:
            self._asleep = False
            self._hub.backend.wake(self._waiter)

    def _end(self) -> None:
        self._ended = True
        self._wake()

    @uninterruptible
    def close(self) -> None:
        """Unsubscribe. Synchronous; may be called any number of times."""
        self._queue.clear()
        self._end()
        self._hub.unsubscribe(self)

    async def aclose(self) -> None:
        """Unsubscribe. Not a checkpoint."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class EventHub:
    """What a run publishes to."""

    __slots__ = (
        "_ended",
        "_loop",
        "_parent",
        "_path",
        "_prelude",
        "_prelude_lost",
        "_room",
        "_streams",
        "backend",
        "pressed",
        "waiting",
    )

    def __init__(
        self,
        backend: Backend,
        parent: EventHub | None = None,
        path: tuple[str, ...] = (),
        loop: EventLoop | None = None,
    ) -> None:
        """Args:
        backend: That of the event loop.
        parent: The hub of the run this one is nested in; it gets every event, too, with ``path`` in front.
        path: The id of the tool call in which this run is nested.
        loop: That which is running, if it is at hand.
        """
        self._loop: EventLoop = loop if loop is not None else running_loop(backend)
        self.backend: Backend = backend
        self._parent = parent
        self._path = path
        # Weak: a watcher that was dropped without a word must not slow the run for ever.
        self._streams: list[weakref.ref[EventStream]] = []
        self._prelude: deque[Event] | None = deque()
        self._prelude_lost = 0
        self._room: anyio.Event | None = None
        self._ended = False
        self.waiting: bool = False
        # Looking at every watcher for every delta would cost more than the delta itself. This is set when an event, or
        # what happened before a watcher came, fills a buffer. Only `wait_for_watchers`, which looks closely, takes it
        # back: it may be out of date, but never wrong about there being no need to wait.
        self.pressed: bool = False

    @property
    def lagging(self) -> bool:
        """Whether some watcher, of this run or of one it is nested in, is too slow."""
        return self.lagging_here or (self._parent is not None and self._parent.lagging)

    @property
    def lagging_here(self) -> bool:
        """Whether a watcher of this very run is too slow."""
        for ref in self._streams:
            stream = ref()
            if stream is not None and stream.lagging:
                return True
        return False

    @uninterruptible
    def subscribe(self, buffer: int, overflow: Overflow) -> EventStream:
        """A new watcher. The first one also gets what happened before it came."""
        prelude, self._prelude = self._prelude, None
        stream = EventStream(self, buffer, overflow, prelude if prelude is not None else deque())
        if self._prelude_lost:
            stream._queue.appendleft(EventsDropped(self._prelude_lost))
            self._prelude_lost = 0
        if self._ended:
            stream._end()
        else:
            self._streams.append(weakref.ref(stream, self._forget))
            self.pressed |= stream.lagging
        return stream

    def unsubscribe(self, stream: EventStream) -> None:
        """Remove a watcher."""
        self._streams = [ref for ref in self._streams if ref() not in (None, stream)]
        self.room()

    def _forget(self, ref: weakref.ref[EventStream]) -> None:
        # The garbage collector calls this in whatever thread it runs.
        if not self._loop.is_here:
            self._loop.call_soon(functools.partial(self._forget, ref))
        elif ref in self._streams:
            self._streams = [other for other in self._streams if other is not ref]
            self.room()

    @uninterruptible
    def publish(self, event: Event) -> None:
        """Give an event to every watcher. Never waits, never raises; after the end it does nothing."""
        if self._ended:
            return
        prelude = self._prelude
        if prelude is not None:
            if len(prelude) == _PRELUDE:
                self._prelude_lost += 1
                prelude.popleft()
            prelude.append(event)
        else:
            for ref in self._streams:
                stream = ref()
                if stream is not None:
                    # Here, not in methods of the stream's: calls cost more than what is done.
                    queue = stream._queue
                    queue.append(event)
                    if stream._asleep:
                        stream._asleep = False
                        self.backend.wake(stream._waiter)
                    if len(queue) >= stream._careful_from and stream._put_with_care():
                        self.pressed = True
        parent = self._parent
        if parent is not None:
            parent.publish(with_path(event, self._path))
            if parent.pressed:
                self.pressed = True

    def end(self, event: Event) -> None:
        """Publish the terminal event and end all streams."""
        if self._ended:
            return
        self.publish(event)
        self._ended = True
        for ref in self._streams:
            stream = ref()
            if stream is not None:
                stream._end()
        self._streams = []
        self.room()

    def room(self) -> None:
        """A watcher has caught up or gone: whoever waits may look again."""
        if self._room is not None:
            self._room.set()
        if self._parent is not None:
            self._parent.room()

    async def wait_for_watchers(self) -> None:
        """Let the watchers run, and wait while one of them lags. Always a checkpoint."""
        await self.backend.checkpoint()
        hub: EventHub | None = self
        self.waiting = True
        try:
            while hub is not None:
                hub.pressed = False
                while hub.lagging_here:
                    if hub._room is None or hub._room.is_set():
                        hub._room = self.backend.event()
                    await hub._room.wait()
                hub = hub._parent
        except BaseException:
            self.pressed = True  # who lagged may lag still
            raise
        finally:
            self.waiting = False
