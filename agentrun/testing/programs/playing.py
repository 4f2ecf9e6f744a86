"""Playing programs in virtual time, and what they leave behind."""

from __future__ import annotations

import contextlib
import gc
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Self, cast

import anyio

from agentrun.core.errors import InboxFull, RunEnded
from agentrun.core.events import ApprovalRequested, EventsDropped
from agentrun.core.items import UserMessage
from agentrun.runtime.cancellations import split_cancelled
from agentrun.runtime.handle import ActiveRun
from agentrun.runtime.opening import open_run
from agentrun.testing.laws import LAWS_OF_CHECKS, RunRecord
from agentrun.testing.programs.building import build_agent, build_hooks, build_session
from agentrun.testing.programs.ledger import Ledger
from agentrun.testing.programs.plans import ACTIONS, Program, Steer, WatcherPlan
from agentrun.testing.sweeping.engine import BackendName, Conditions, Engine, check_backends
from agentrun.testing.sweeping.points import Shot, Trial
from agentrun.testing.sweeping.verdicts import BrokenLaw

__all__ = ["BlockBroke", "Player", "run_program"]

_BUFFER: Final = 100_000
_FREEZE_EVERY: Final = 20  # runs
_OUTSIDE: Final = ("cancel", "cancel_outer", "native")
_ENDLESS: Final = 1e9  # virtual seconds: the laws themselves say how long a teardown may take


class BlockBroke(Exception):
    """What the block of a run raises when it is steered to."""


def run_program(program: Program, backend: BackendName = "asyncio", seed: int = 0) -> RunRecord:
    """Play a program once, in virtual time, and return the record of it, for `agentrun.testing.laws.broken_laws`.

    Args:
        program: What to play. If one of its steers is at a fraction of the run's points, the program is played without
            its steers before, to count them.
        backend: ``"asyncio"`` or ``"trio"``.
        seed: Chooses the order in which trio runs tasks that are ready together.

    Raises:
        UserError: The backend is unknown, or it was called inside an event loop or a sweep.
    """
    with Player((backend,)) as player:
        return player.play(program, backend, seed)


class Player:
    """Plays many programs: ``with Player() as player: player.play(program, "trio")``. It is faster than `run_program`.

    Attributes:
        plays: How many runs there were.
        points: How many scheduling points they had.
        steered: How many steers were carried out.
    """

    def __init__(self, backends: Sequence[BackendName] = ("asyncio", "trio")) -> None:
        """Args:
        backends: Those that will be used.
        """
        conditions = Conditions(
            self._scenario,
            self._drain,
            grace=_ENDLESS,
            raises=(Exception,),
            laws=LAWS_OF_CHECKS,
        )
        self._engine = Engine(conditions, check_backends(backends))
        self._playing: _Playing
        self._points: tuple[tuple[Program, BackendName, int], int] | None = None
        self.plays: int = 0
        self.points: int = 0
        self.steered: int = 0

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._engine.__exit__(*exc)

    def play(self, program: Program, backend: BackendName, seed: int = 0) -> RunRecord:
        """Play a program once. See `run_program`."""
        total = 0
        if any(isinstance(steer.at, float) for steer in program.steers):
            clean = (program.unsteered(), backend, seed)
            if self._points is None or self._points[0] != clean:
                self._points = clean, self._play(*clean, ()).points
            total = self._points[1]
        record = self._play(program, backend, seed, _shots(program.steers, total))
        if not program.steers:
            self._points = (program, backend, seed), record.points
        return record

    def _play(self, program: Program, backend: BackendName, seed: int, shots: Sequence[Shot]) -> RunRecord:
        record = RunRecord(backend=backend, grace=program.config.cleanup_grace, tidy=program.is_tidy)
        self._playing = _Playing(program, record)
        trial = self._engine.trial(backend, shots, seed=seed)
        record.points = trial.steps
        record.disturbed = bool(record.deeds)
        record.found = [
            BrokenLaw(
                violation.law if violation.law is not None else 1, str(violation).removeprefix(f"law {violation.law}: ")
            )
            for violation in trial.violations
        ]
        record.cancelled |= any(deed.action in _OUTSIDE for deed in record.deeds)
        self.plays += 1
        if self.plays % _FREEZE_EVERY == 0:
            gc.freeze()  # what Hypothesis keeps of each program would be looked through after each run
        self.points += trial.steps
        self.steered += len(record.deeds)
        return record

    async def _scenario(self, trial: Trial) -> None:
        await self._playing.scenario(trial)

    async def _drain(self) -> None:
        await self._playing.drain()


def _shots(steers: Sequence[Steer], total: int) -> list[Shot]:
    """The steers at points, as shots, in order: each point is for one only, so that the next one moves on."""
    wanted: list[tuple[int, Steer]] = []
    for steer in steers:
        if steer.at is not None:
            at = steer.at
            point = max(1, math.ceil(at * total)) if isinstance(at, float) else int(at)
            wanted.append((point, steer))
    shots: list[Shot] = []
    last = 0
    for point, steer in sorted(wanted, key=lambda pair: pair[0]):
        last = max(point, last + 1)
        # A native cancellation before the very first step would keep the program from being run at all.
        resuming = steer.resuming and steer.action != "native"
        shots.append(Shot(last, "before" if resuming else "after", steer.action, steer.times))
    return shots


class _Playing:
    """One run of a program."""

    def __init__(self, program: Program, record: RunRecord) -> None:
        self._program = program
        self._record = record
        self._ledger = Ledger(record)
        self._trial: Trial
        self._leaving: anyio.CancelScope
        self._raising = False
        self._stream: Any = None
        self._held: list[Any] = []  # streams that nobody reads

    async def scenario(self, trial: Trial) -> None:
        program, record, ledger = self._program, self._record, self._ledger
        self._trial = trial
        ledger.now = trial.backend.now
        agent = build_agent(program.agent, ledger, self._act)
        record.model = agent.model
        record.session = build_session(program.session, ledger)
        record.watchers = sum(watcher.kind != "quick" for watcher in program.watchers)
        self._leaving = anyio.CancelScope()
        trial.actions.update({action: partial(self._act, action) for action in ACTIONS if action not in _OUTSIDE})
        trial.on_fire = self._fired
        trial.knows_thread = record.names_thread
        opening = open_run(
            agent, "Go.", session=record.session, hooks=build_hooks(program.hooks, ledger), config=program.config
        )
        raised: BaseException | None = None
        async with anyio.create_task_group() as around:
            try:
                async with opening as live:
                    record.live = live
                    self._stream = stream = live.events(buffer=_BUFFER)
                    # A task that reads them would tell when they come, and be one more task to schedule.
                    stream._queue = _Timed(stream._queue, ledger.now)
                    self._watch(live, around)
                    if later := [steer for steer in program.steers if steer.after is not None]:
                        around.start_soon(self._steer_later, later)
                    await self._body(live)
            except BaseException as exc:
                raised = exc
                record.raised = exc
                cancelled, _ = split_cancelled(exc, anyio.get_cancelled_exc_class())
                if cancelled is not None:
                    record.cancelled = True
                    raise  # what else is in it is of no interest
            finally:
                record.left, record.left_order = ledger.now(), ledger.tick()
                around.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def _body(self, live: ActiveRun[Any]) -> None:
        """What the block does: wait, and leave when it has waited long enough or is told to."""
        self._leaving.deadline = anyio.current_time() + self._program.patience
        with self._leaving:
            await live.wait()
            self._record.returned = True
        if self._leaving.cancelled_caught:
            if not any(deed.action in ("leave", "raise") for deed in self._record.deeds):
                self._ledger.deed("patience", stops=live.result is None)
            if self._raising:
                self._record.own_error = BlockBroke("the block broke")
                raise self._record.own_error

    def _watch(self, live: ActiveRun[Any], around: Any) -> None:
        for watcher in self._program.watchers:
            stream = live.events(watcher.buffer, "drop" if watcher.kind == "drop" else "wait")
            if watcher.kind == "dead":
                self._held.append(stream)
            else:
                around.start_soon(_read, stream, watcher)
        if self._program.approvals is not None:
            around.start_soon(self._answer_approvals, live, live.events(_BUFFER))

    async def _answer_approvals(self, live: ActiveRun[Any], stream: Any) -> None:
        async for event in stream:
            if isinstance(event, ApprovalRequested) and not event.path:
                self._decide(live, event.call_id, self._program.approvals == "approve")

    def _decide(self, live: ActiveRun[Any], call_id: str, approved: bool) -> None:
        if approved and live.approve(call_id):
            self._record.approved.add(call_id)
        elif not approved and live.reject(call_id, "no"):
            self._record.rejected.add(call_id)

    async def _steer_later(self, steers: list[Steer]) -> None:
        """One task for all: those of the same moment come in the order of the program, on both backends."""
        began = anyio.current_time()
        for steer in sorted(steers, key=lambda steer: steer.after or 0.0):
            if (at := began + (steer.after or 0.0)) > anyio.current_time():  # no step of the scheduler in between
                await anyio.sleep_until(at)
            for _ in range(steer.times):
                self._trial.act(steer.action)

    async def drain(self) -> None:
        """After the end: all events."""
        record = self._record
        self._held.clear()
        if self._stream is None or record.live is None or record.live.result is None:
            return
        record.state = record.live.state()
        record.times = self._stream._queue.times
        async for event in self._stream:
            if not isinstance(event, EventsDropped):
                record.events.append(event)

    # What is done to the run ------------------------------------------------------------------------------------

    def _fired(self, action: str) -> None:
        """Before an action: those of the engine's own are noted here, the others when it is known what came of them."""
        live = self._record.live
        if action in _OUTSIDE and live is not None:
            real = action != "native" or self._record.backend == "asyncio"
            self._ledger.deed(action, stops=real and live.result is None)

    def _act(self, action: str) -> None:
        live, record = self._record.live, self._record
        if live is None:
            return
        deed = self._ledger.deed(action, stops=False)  # noted before what it leads to
        if action == "interrupt":
            deed.stops = live.interrupt("steered")
            record.interrupted = record.interrupted or deed.stops
        elif action in ("leave", "raise"):
            deed.stops = live.result is None
            self._raising = self._raising or action == "raise"
            self._leaving.cancel()
        elif action == "after_turn":
            live.interrupt("steered", mode="after_turn")
        elif action == "escalate":
            live.interrupt("steered", mode="after_turn", escalate_after=0.51)
        elif action.startswith("inject_"):
            self._inject(live, cast("Any", action.removeprefix("inject_")))
        elif action == "withdraw":
            if record.injections and record.injections[-1][0].withdraw():
                record.withdrawn.add(record.injections[-1][0].id)
        else:
            self._on_tool(live, action)

    def _inject(self, live: ActiveRun[Any], deliver: Any) -> None:
        item = UserMessage(f"injected ({deliver}, {len(self._record.injections) + 1})")
        with contextlib.suppress(RunEnded, InboxFull):
            self._record.injections.append((live.inject(item, deliver=deliver), item))

    def _on_tool(self, live: ActiveRun[Any], action: str) -> None:
        wanted = None if action == "interrupt_tool" else "waiting for approval"
        for child in live.state().scope.children:
            if child.kind == "tool" and wanted in (None, child.status):
                if action == "interrupt_tool":
                    live.interrupt_tool(child.id, "steered")
                else:
                    self._decide(live, child.id, action == "approve")
                return


class _Timed(deque[Any]):
    """A queue that knows when each item came."""

    def __init__(self, items: Iterable[Any], now: Callable[[], float]) -> None:
        super().__init__(items)
        self.times = [now()] * len(self)
        self._now = now

    def append(self, item: Any) -> None:
        self.times.append(self._now())
        super().append(item)


async def _read(stream: Any, watcher: WatcherPlan) -> None:
    async for _ in stream:
        if watcher.kind != "quick":
            await anyio.sleep(0.2)
