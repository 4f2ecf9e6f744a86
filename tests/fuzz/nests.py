"""User code in nests of scopes, task groups, cleanups and generators, cancelled at a chosen moment by `Contained`.

Whole programs (`agentrun.testing.strategies`) have tools whose bodies are sequences; what goes wrong where scopes,
groups and cleanups stand inside of each other is found here. The code watches itself. Its own task knows whether it was
told of the cancellation, and then:

* what it awaits after that is left in peace until the grace is over,
* until then each of its awaits, once the cancellation was asked for, is cut,
* nothing is cut that nobody has cancelled, or that a shield protects,
* the outcome says the same: swallowed, or cancelled, or neither.

A cancelled scope of the code's own cuts what is in it whatever else is true, and the tasks that it starts follow the
rules of anyio; about both nothing is said. Where docs/semantics.md (law 7) has exceptions, there are the same here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import anyio
import anyio.lowlevel
from hypothesis import strategies as st

from agentrun.runtime.containment import Contained, Outcome
from agentrun.testing.sweeping.virtual_time import Deadlock, run_virtual

__all__ = [
    "Ask",
    "CancelOwn",
    "Group",
    "Nest",
    "Pause",
    "Shield",
    "Timeout",
    "Try",
    "nests",
    "what_breaks",
]


@dataclass(frozen=True)
class Pause:
    """Await something that ends by itself. ``"lock"`` asks for a cancellation, but does not wait for one."""

    how: Literal["sleep", "sleep twice", "checkpoint", "lock"] = "sleep"
    seconds: float = 0.1


@dataclass(frozen=True)
class Try:
    """``body``, and ``cleanup`` in a way of its own.

    ``"finally"``; ``"swallow"``: in the ``except`` that swallows a cancellation; ``"swallow, then"``: behind it;
    ``"keep"``: behind an ``except`` that keeps the cancellation, which is raised then; ``"generator"`` and
    ``"manager"``: in the ``finally`` of an asynchronous generator, or context manager.
    """

    body: Code
    cleanup: Code = ()
    how: Literal["finally", "swallow", "swallow, then", "keep", "generator", "manager"] = "finally"


@dataclass(frozen=True)
class Timeout:
    """``anyio.move_on_after``; or ``asyncio.timeout``, if it is native and plays on asyncio."""

    seconds: float
    body: Code
    native: bool = False


@dataclass(frozen=True)
class Shield:
    """A shield of the code's own."""

    body: Code


@dataclass(frozen=True)
class Group:
    """A task group: its body, and the code of each of its tasks."""

    body: Code = ()
    tasks: tuple[Code, ...] = ()


@dataclass(frozen=True)
class CancelOwn:
    """Cancel the innermost scope of the code's own that is no shield.

    Nothing if that is a native timeout: what becomes of one that expires together with a scope is between anyio and
    asyncio.
    """


@dataclass(frozen=True)
class Ask:
    """Ask for the cancellation of the whole, as ``ctx.run.interrupt()`` does in a tool."""


Part: TypeAlias = "Pause | Try | Timeout | Shield | Group | CancelOwn | Ask"
Code: TypeAlias = "tuple[Part, ...]"


@dataclass(frozen=True)
class Nest:
    """The code, the moment of its cancellation (seconds, and then steps of the scheduler), and its grace in seconds."""

    body: Code
    at: float = 0.0
    steps: int = 0
    grace: float = 5.0


@dataclass(frozen=True)
class _Place:
    """Where a part of the code stands: in its own task or not, and in which scopes of its own, the outermost first."""

    own_task: bool = True
    scopes: tuple[Any, ...] = ()

    def inside(self, scope: Any) -> _Place:
        return _Place(self.own_task, (*self.scopes, scope))

    @property
    def is_cut(self) -> bool:
        """Whether a scope of the code's own is cancelled here. A native timeout goes through shields."""
        if any(scope.is_over for scope in self.scopes if isinstance(scope, _NativeTimeout)):
            return True
        for scope in reversed(self.scopes):
            if isinstance(scope, _NativeTimeout):
                continue
            if scope.cancel_called:
                return True
            if scope.shield:
                return False
        return False

    @property
    def is_shielded(self) -> bool:
        return any(_is_shield(scope) for scope in self.scopes)


def _is_shield(scope: Any) -> bool:
    return not isinstance(scope, _NativeTimeout) and scope.shield


class _NativeTimeout:
    """``asyncio.timeout``, which a `TimeoutError` does not leave.

    It has none of the names of a cancel scope: the runtime would take it for one.
    """

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)
        self.has_raised = False

    @property
    def is_over(self) -> bool:
        return self._timeout.expired()

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(exc_type, exc, traceback)
        except TimeoutError:
            self.has_raised = True
            return True
        return False


class _Playing:
    """One play of a nest.

    Attributes:
        found: What has gone wrong.
        told: Whether the code knows of the cancellation. It may be impossible to tell whose one was, or behind which
            await on trio it was swallowed: then ``"perhaps"``.
    """

    def __init__(self, nest: Nest, backend: str) -> None:
        self.nest = nest
        self.on_trio = backend == "trio"
        self.found: list[str] = []
        self.told: Literal["no", "perhaps", "yes"] = "no"
        self._cancelled = anyio.get_cancelled_exc_class()
        self._contained: Contained[None] = Contained(nest.grace, shield=True)
        self._began = anyio.current_time()
        self._asked_at = math.inf
        self._swallowed = False
        self._own: set[int] = set()  # ids of the scopes that the code has cancelled itself
        self._out_of_own_group = False  # the last cancellation has come out of such a group
        # The exceptions of law 7, which concern the next await outside of a shield.
        self._behind_group = self._behind_tie = self._behind_taking_scope = False

    async def play(self) -> None:
        outcomes: list[Outcome[None]] = []

        async def task() -> None:
            outcomes.append(await self._contained.run(self._code(self.nest.body, _Place())))

        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await anyio.sleep(self.nest.at)
            for _ in range(self.nest.steps):
                await anyio.lowlevel.checkpoint()
            self._ask()
        self._judge(outcomes[0])

    def _judge(self, outcome: Outcome[None]) -> None:
        if outcome.ending not in ("returned", "cancelled") or outcome.error is not None or outcome.left_open:
            self._find(f"ended as {outcome.ending}, {outcome.error!r}, left open: {outcome.left_open}")
        swallowed = outcome.ending == "returned" and self.told == "yes"
        if swallowed != outcome.swallowed and self.told != "perhaps":
            self._find(f"swallowed: {outcome.swallowed}, but told: {self.told}")
        if outcome.ending == "cancelled" and self.told == "no":
            self._find("cancelled, but not told")

    def _find(self, what: str) -> None:
        self.found.append(
            f"{'trio' if self.on_trio else 'asyncio'}, at {anyio.current_time() - self._began:.3f}: {what}"
        )

    def _ask(self) -> None:
        if not self._contained.cancel_called:
            self._asked_at = anyio.current_time()
        self._contained.cancel()

    @property
    def _asked(self) -> bool:
        return self._contained.cancel_called

    @property
    def _in_grace(self) -> bool:
        return anyio.current_time() < self._asked_at + self.nest.grace - 1e-6

    async def _code(self, code: Code, place: _Place) -> None:
        for part in code:
            match part:
                case Pause():
                    await self._pause(part, place)
                case Try():
                    await self._try(part, place)
                case Timeout():
                    await self._timeout(part, place)
                case Shield():
                    with anyio.CancelScope(shield=True) as scope:
                        await self._code(part.body, place.inside(scope))
                case Group():
                    await self._group(part, place)
                case CancelOwn():
                    for scope in reversed(place.scopes):
                        if isinstance(scope, _NativeTimeout):
                            break
                        if not scope.shield:
                            scope.cancel()
                            self._own.add(id(scope))
                            break
                case Ask():
                    self._ask()

    async def _pause(self, part: Pause, place: _Place) -> None:
        if not place.own_task:
            # Not a lock: a task that asks in its very first step may spin until the grace is over (law 7).
            await _await(part if part.how != "lock" else Pause("checkpoint"))
            return
        asked, told, cut = self._asked, self.told, place.is_cut
        excused = part.how == "lock" and (self._behind_group or self._behind_tie)
        may_pass = part.how == "lock" and self._behind_taking_scope
        began = anyio.current_time()
        if not place.is_shielded:
            self._behind_group = self._behind_tie = self._behind_taking_scope = False
        try:
            await _await(part)
        except self._cancelled:
            took = anyio.current_time() - began
            at_its_end = any(math.isclose(took, end) for end in (part.seconds, part.seconds / 2))
            self._behind_tie = not asked and (at_its_end or part.how == "checkpoint")
            cut = place.is_cut
            if not cut and not self._asked:
                self._find(f"{part} was cut by nobody")
            if not cut and place.is_shielded:
                self._find(f"{part} was cut in its own shield")
            if not cut and told == "yes" and self._in_grace and not excused:
                self._find(f"{part} was cut, but the code knew already")
            if self._asked and told != "yes":
                self.told = "perhaps" if cut else "yes"
            if excused:
                self.told = "perhaps"
            raise
        if asked and told == "no" and not cut and not place.is_shielded and not may_pass:
            self._find(f"{part} was not cut")

    async def _try(self, part: Try, place: _Place) -> None:
        if part.how == "finally":
            try:
                await self._code(part.body, place)
            finally:
                await self._code(part.cleanup, place)
        elif part.how == "swallow":
            try:
                await self._code(part.body, place)
            except self._cancelled:
                self._swallow(place)
                await self._code(part.cleanup, place)
            self._perhaps_behind_group(place)
        elif part.how == "swallow, then":
            try:
                await self._code(part.body, place)
            except self._cancelled:
                self._swallow(place)
            self._perhaps_behind_group(place)
            await self._code(part.cleanup, place)
        elif part.how == "keep":
            kept: BaseException | None = None
            try:
                await self._code(part.body, place)
            except self._cancelled as exc:
                kept = exc
            try:
                await self._code(part.cleanup, place)
                if kept is not None:
                    raise kept
            finally:
                del kept
        elif part.how == "generator":
            generator = self._generator(part, place)
            try:
                async for _ in generator:
                    await self._pause(Pause("checkpoint"), place)
            finally:
                await generator.aclose()
        else:
            async with self._manager(part, place):
                await self._code(part.body, place)

    def _swallow(self, place: _Place) -> None:
        self._swallowed |= place.own_task

    def _perhaps_behind_group(self, place: _Place) -> None:
        # On trio a group raises the cancellation of its tasks, and nobody sees whether it did once it is swallowed. On
        # both that of one which the code has cancelled itself may be its own or ours.
        if place.own_task and self._behind_group and (self.on_trio or self._out_of_own_group):
            self.told = "perhaps"
            self._out_of_own_group = False

    async def _generator(self, part: Try, place: _Place) -> AsyncGenerator[None, None]:
        try:
            await self._code(part.body, place)
            yield
        finally:
            await self._code(part.cleanup, place)

    @contextlib.asynccontextmanager
    async def _manager(self, part: Try, place: _Place) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._code(part.cleanup, place)

    async def _timeout(self, part: Timeout, place: _Place) -> None:
        told = self.told
        if part.native and not self.on_trio:
            async with _NativeTimeout(part.seconds) as timeout:
                await self._inside(timeout, part.body, place)
            over, taken = timeout.is_over, timeout.has_raised
        else:
            with anyio.move_on_after(part.seconds) as scope:
                await self._inside(scope, part.body, place)
            over, taken = scope.cancel_called, scope.cancelled_caught
        if place.own_task and over:
            self._behind_group = True  # as behind a group: the shield was down in it
        if place.own_task and taken and self.told != told:
            # It has taken what the code was told. If that was ours for certain, it must be told again.
            self._behind_taking_scope = self.told == "yes" and not self._swallowed
            self.told = "no" if self._behind_taking_scope else "perhaps"

    async def _inside(self, scope: Any, code: Code, place: _Place) -> None:
        try:
            await self._code(code, place.inside(scope))
        except self._cancelled:
            over = scope.is_over if isinstance(scope, _NativeTimeout) else scope.cancel_called
            if place.own_task and over and self._asked and self.told == "no":
                self.told = "perhaps"  # its own, which goes on if ours was asked for without an await
            if place.own_task and over and self.on_trio:
                self._behind_tie = True  # the shield was down in it
            raise

    async def _group(self, part: Group, place: _Place) -> None:
        told = self.told
        try:
            async with anyio.create_task_group() as group:
                for task in part.tasks:
                    group.start_soon(self._code, task, _Place(own_task=False, scopes=place.scopes))
                await self._code(part.body, place.inside(group.cancel_scope))
        except self._cancelled:
            if place.own_task:
                self._group_was_cut(place, told)
                self._out_of_own_group |= id(group.cancel_scope) in self._own
            raise
        if place.own_task and group.cancel_scope.cancel_called:
            self._behind_group = True
        if place.own_task and group.cancel_scope.cancelled_caught and self._asked:
            self.told = "perhaps"

    def _group_was_cut(self, place: _Place, told: str) -> None:
        cut = place.is_cut
        if not cut and not self._asked:
            self._find("a task group was cut by nobody")
        excused = self._behind_group or self._behind_tie
        if not cut and told == self.told == "yes" and self._in_grace and not excused:
            self._find("a task group was cut, but the code knew already")
        self._behind_group = True
        # What has come out of a cancelled scope of the code's own inside of the group may be that one's.
        from_inside = self.told == "perhaps" != told
        if self._asked and self.told != "yes":
            self.told = "perhaps" if cut or place.is_shielded or from_inside else "yes"


async def _await(part: Pause) -> None:
    if part.how == "checkpoint":
        await anyio.lowlevel.checkpoint()
    elif part.how == "lock":
        async with anyio.Lock():
            pass
    elif part.how == "sleep":
        await anyio.sleep(part.seconds)
    else:
        await anyio.sleep(part.seconds / 2)
        await anyio.sleep(part.seconds / 2)


def what_breaks(nest: Nest, backend: str, seed: int = 0) -> list[str]:
    """Play a nest once, in virtual time, and say what has gone wrong.

    Args:
        nest: What to play.
        backend: ``"asyncio"`` or ``"trio"``.
        seed: Chooses the order in which trio runs tasks that are ready together.
    """

    async def main() -> list[str]:
        playing = _Playing(nest, backend)
        await playing.play()
        return playing.found

    try:
        return run_virtual(main, backend=backend, seed=seed)
    except (Deadlock, Exception) as exc:
        return [f"{backend}: {type(exc).__name__}: {exc}"]


_PAUSES: Final[Sequence[Any]] = ("sleep", "sleep twice", "checkpoint", "lock")
_WAYS: Final[Sequence[Any]] = ("finally", "swallow", "swallow, then", "keep", "generator", "manager")


def _nests() -> st.SearchStrategy[Nest]:
    leaves: st.SearchStrategy[Part] = st.one_of(
        st.builds(Pause, st.sampled_from(_PAUSES), st.sampled_from([0.1, 0.0, 0.25, 0.5])),
        st.just(Ask()),
        st.just(CancelOwn()),
    )

    def around(inner: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
        code = st.lists(inner, max_size=3).map(tuple)
        return st.one_of(
            st.builds(Try, code, code, st.sampled_from(_WAYS)),
            st.builds(Group, code, st.lists(code, max_size=2).map(tuple)),
            st.builds(Timeout, st.sampled_from([0.05, 0.13, 0.3, 0.6]), code, st.booleans()),
            st.builds(Shield, code),
        )

    parts = st.recursive(leaves, around, max_leaves=12)
    return st.builds(
        Nest,
        st.lists(parts, min_size=1, max_size=4).map(tuple),
        st.sampled_from([0.0, 0.02, 0.1, 0.12, 0.25, 0.27, 0.4]),
        st.integers(0, 6),
        st.sampled_from([5.0, 0.3]),
    )


_NESTS: Final = _nests()


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    """Nests of every kind, up to four deep or so. They shrink to few parts."""
    return draw(_NESTS)
