"""What a scene is made of: one small run with something of interest in it, and what must be true of it afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.lowlevel

from agentrun import ActiveRun, Agent, RunConfig, RunHooks, RunResult, RunSnapshot, ToolOutput
from agentrun.events import Event
from agentrun.sessions import Session
from agentrun.testing import BrokenLaw, Call, Say, ScriptedModel
from agentrun.testing.laws import RunRecord
from agentrun.testing.watched_runs import Program

from .kinds import KINDS

ALWAYS_CHECKED: Final = frozenset({1, 2, 3, 4, 5, 6, 8, 9, 11, 12})
"""The laws that `interrupt_everywhere` checks after each run, whatever it is about. The others need a look inside."""

SPARE: Final = [Say("Very well.")] * 4
"""Turns for what the sweep injects."""


@dataclass(slots=True)
class Book:
    """What is written down while a run of a scene is going on, by the user code in it.

    Attributes:
        kinds: The kinds of user code that were at work in any run of the sweep.
        laws: The laws that the scene itself has looked at.
        owed: Cleanups that must come to their end.
        done: Cleanups that have.
        said: Anything else, in order.
    """

    kinds: set[str] = field(default_factory=set[str])
    laws: set[int] = field(default_factory=set[int])
    owed: Counter[str] = field(default_factory=Counter[str])
    done: Counter[str] = field(default_factory=Counter[str])
    said: list[str] = field(default_factory=list[str])

    def seen(self, kind: str) -> None:
        """User code of this kind is doing what it is known for."""
        assert kind in KINDS, kind
        self.kinds.add(kind)

    def say(self, what: str) -> None:
        """Something has happened."""
        self.said.append(what)

    @asynccontextmanager
    async def whole(self, name: str) -> AsyncIterator[None]:
        """What is in here, once begun, must come to its end."""
        self.owed[name] += 1
        yield
        self.done[name] += 1

    @asynccontextmanager
    async def cleaned(self, name: str, *, kind: str | None = None, always: bool = False) -> AsyncIterator[None]:
        """``try: ... finally: await ...``: if it is cut in its body, the cleanup that follows must come to its end.

        Args:
            name: Of what is cleaned up.
            kind: Seen when the cleanup begins because of a cancellation.
            always: The cleanup must come to its end whatever happens, because it is registered or shielded.
        """
        if always:
            self.owed[name] += 1
        cut = False
        try:
            yield
        except BaseException as exc:
            cut = has_cancellation(exc)
            raise
        finally:
            if cut:
                if kind is not None:
                    self.seen(kind)
                if not always:
                    self.owed[name] += 1
            await anyio.sleep(0.1)
            await anyio.lowlevel.checkpoint()
            if cut or always:
                self.done[name] += 1

    def expect(self, law: int, fine: object, evidence: object = "") -> None:
        """A law, looked at."""
        self.laws.add(law)
        if not fine:
            raise BrokenLaw(law, f"{evidence or 'it is not so'}; said: {self.said}")

    def settle(self) -> None:
        """All cleanup that was owed has been done."""
        if self.owed:
            self.expect(7, not self.owed - self.done, f"cleanups not done: {dict(self.owed - self.done)}")


def has_cancellation(exc: BaseException) -> bool:
    """Whether an exception is a cancellation, or a group with one in it."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(cancelled) is not None
    return isinstance(exc, cancelled)


@dataclass(slots=True)
class Play:
    """One run of a scene, with all its state.

    Attributes:
        agent: Who runs.
        after: Called with the result when the run has ended, to look at what the scene is about.
        record: The same with the whole record.
        session: The run's session.
        hooks: The run's hooks.
        program: What is done with the run instead of watching it.
        on_event: What the watcher does.
    """

    agent: Agent[Any, Any]
    after: Callable[[RunResult[Any]], None] | None = None
    record: Callable[[RunRecord, RunResult[Any]], None] | None = None
    session: Session | None = None
    hooks: RunHooks | None = None
    program: Program | None = None
    on_event: Callable[[ActiveRun[Any], Event], object] | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene, and how it is swept.

    Attributes:
        name: What it shows, as a phrase.
        subject: The module it is in.
        laws: The laws that it is about.
        kinds: The kinds of user code that are in it.
        make: Makes one run of it.
        options: How `interrupt_everywhere` is to sweep it.
        backends: Where it can be played.
    """

    name: str
    subject: str
    laws: frozenset[int]
    kinds: frozenset[str]
    make: Callable[[Book], Play]
    options: dict[str, Any]
    backends: tuple[str, ...]


SCENES: Final[dict[str, Scene]] = {}
"""All scenes by name; importing the modules of `scenes` fills it."""


def scene(
    *,
    laws: Iterable[int],
    kinds: Iterable[str],
    input: Any = "Go.",
    config: RunConfig | None = None,
    resume_from: RunSnapshot | None = None,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    tidy: bool = True,
    second: int = 0,
    ignore: Iterable[str] = (),
    on_approval: str | None = None,
    backends: tuple[str, ...] = ("asyncio", "trio"),
) -> Callable[[Callable[[Book], Play]], Callable[[Book], Play]]:
    """Make a function a scene. Approvals are among what is done to it if ``on_approval`` says what the watcher does."""

    def register(make: Callable[[Book], Play]) -> Callable[[Book], Play]:
        name = make.__name__
        assert name not in SCENES, f"two scenes are called {name}"
        assert not (unknown := set(kinds) - KINDS), f"{name}: unknown kinds {unknown}"
        actions = ["interrupt", "interrupt_after_turn", "interrupt_tool", "inject_next", "inject_now", "inject_idle"]
        if on_approval is not None:
            actions += ["approve", "reject"]
        options = {
            "input": input,
            "config": config,
            "resume_from": resume_from,
            "raises": raises,
            "tidy": tidy,
            "second": second,
            "ignore": list(ignore),
            "on_approval": on_approval if on_approval != "nobody" else None,
            "actions": [*actions, "cancel", "native"],
        }
        subject = make.__module__.rpartition(".")[2]
        SCENES[name] = Scene(name, subject, frozenset(laws), frozenset(kinds), make, options, backends)
        return make

    return register


def scripted(*turns: Any) -> ScriptedModel:
    """A model that says this, and then a little more if it is asked to."""
    return ScriptedModel([*turns, *SPARE])


def call(name: str, call_id: str | None = None, /, **arguments: Any) -> Call:
    """A tool call, whose id is the tool's name unless it is given one."""
    return Call(name, arguments, call_id or name)


def outputs(result: RunResult[Any], *, new: bool = True) -> dict[str, ToolOutput]:
    """The outputs of a run's tool calls, by the calls' ids."""
    items = result.items if new else result.history
    return {item.call_id: item for item in items if isinstance(item, ToolOutput)}


async def steps(count: int) -> None:
    """Let others take ``count`` steps."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()
