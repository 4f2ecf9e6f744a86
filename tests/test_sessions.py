"""Histories that live longer than a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from laws.support import check_ended, checkpoints, watch

from agentrun import (
    Agent,
    AgentRunError,
    AssistantMessage,
    RunConfig,
    RunHooks,
    ToolCall,
    ToolError,
    ToolOutput,
    UserError,
    UserMessage,
    events,
    open_run,
    run,
)
from agentrun.events import Event
from agentrun.items import Item
from agentrun.sessions import MemorySession, Session
from agentrun.testing import Call, Hang, Say, ScriptedModel, assert_valid_history


class Broken(Exception):
    pass


class Store:
    """A session that keeps what was written apart."""

    def __init__(self, items: Sequence[Item] = ()) -> None:
        self.items = list(items)
        self.writes: list[tuple[Item, ...]] = []
        self.loads = 0

    async def load(self) -> Sequence[Item]:
        self.loads += 1
        await anyio.lowlevel.checkpoint()
        return list(self.items)

    async def append(self, items: Sequence[Item]) -> None:
        await anyio.lowlevel.checkpoint()
        self.writes.append(tuple(items))
        self.items.extend(items)


def texts(items: Any) -> list[str]:
    return [getattr(item, "text", "?") for item in items]


async def test_a_session_carries_a_conversation_from_run_to_run() -> None:
    session = MemorySession()
    assert isinstance(session, Session)
    for n in range(3):
        model = ScriptedModel([Say(f"answer {n}")])
        result = await run(Agent("a", model=model), f"question {n}", session=session)
        assert tuple(session.items) == result.history
        assert texts(model.requests[0].items)[-1] == f"question {n}"
        assert len(result.items) == 1
    assert texts(session.items) == ["question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2"]


async def test_any_object_with_load_and_append_will_do() -> None:
    session = Store([UserMessage("before"), AssistantMessage("yes?")])

    async def look() -> str:
        return "looked"

    model = ScriptedModel([Call("look"), Say("done")])
    result = await run(Agent("a", tools=[look], model=model), "go", session=session)
    assert session.loads == 1
    # What was there is not written again; each write leaves a valid history.
    assert [[type(item).__name__ for item in write] for write in session.writes] == [
        ["UserMessage"],
        ["ToolCall", "ToolOutput"],
        ["AssistantMessage"],
    ]
    assert tuple(session.items) == result.history
    assert texts(result.history)[:3] == ["before", "yes?", "go"]


async def test_what_was_said_before_an_interrupt_is_stored() -> None:
    session = Store()
    async with open_run(Agent("a", model=ScriptedModel([[Say("so far"), Hang()]])), "go", session=session) as live:
        async for event in live.events():
            if isinstance(event, events.TextDelta):
                live.interrupt("stop")
    result = check_ended(live)
    assert tuple(session.items) == result.history
    assert texts(session.items) == ["go", "so far"]


async def test_what_was_done_before_a_failure_is_stored() -> None:
    from agentrun.testing import Fail

    session = Store()
    model = ScriptedModel([[Say("so far"), Fail(Broken("line cut"))]])
    with pytest.raises(Broken):
        await run(Agent("a", model=model), "go", session=session)
    assert texts(session.items) == ["go", "so far"]


async def test_what_was_done_before_a_cancellation_is_stored() -> None:
    session = Store()
    with anyio.CancelScope() as scope:
        async with open_run(Agent("a", model=ScriptedModel([[Say("so far"), Hang()]])), "go", session=session) as live:
            async for event in live.events():
                if isinstance(event, events.TextDelta):
                    scope.cancel()
    assert scope.cancelled_caught
    assert texts(session.items) == ["go", "so far"]
    assert check_ended(live).status == "cancelled"


async def test_a_session_that_cannot_be_read_fails_the_run_before_anything_is_spent() -> None:
    class Down(Store):
        async def load(self) -> Sequence[Item]:
            raise Broken("no connection")

    session, model = Down(), ScriptedModel([Say("never")])
    seen: list[Event] = []
    with pytest.raises(Broken, match="no connection"):
        async with open_run(Agent("a", model=model), "go", session=session) as live:
            await watch(live, seen)
    result = check_ended(live, model, seen)
    assert result.status == "failed"
    assert model.requests == []
    assert session.writes == []
    assert result.history == (UserMessage("go"),)


@pytest.mark.parametrize("method", ["load", "append"])
async def test_a_session_that_lets_a_foreign_cancellation_out_fails_the_run(method: str) -> None:
    async def odd(*args: Any) -> Any:
        cancelled = anyio.get_cancelled_exc_class()
        raise cancelled.__new__(cancelled)

    session, model = Store(), ScriptedModel([Say("hi")])
    setattr(session, method, odd)
    with pytest.raises(AgentRunError, match="^the session let a cancellation out that agentrun did not ask for$"):
        await run(Agent("a", model=model), "go", session=session)
    assert session.items == []
    assert len(model.requests) == (method == "append")


@pytest.mark.parametrize("loaded", [5, "text", [5], [{"role": "user", "content": "x"}]])
async def test_a_session_that_gives_no_items_fails_the_run_and_is_not_written_to(loaded: Any) -> None:
    class Odd(Store):
        async def load(self) -> Sequence[Item]:
            return loaded  # type: ignore[no-any-return]

    session, model = Odd(), ScriptedModel([Say("hi")])
    if loaded == [{"role": "user", "content": "x"}]:  # plain dicts are as good as items
        result = await run(Agent("a", model=model), "go", session=session)
        assert_valid_history(result.history)
        return
    with pytest.raises(UserError, match="^session"):
        await run(Agent("a", model=model), "go", session=session)
    assert session.writes == []
    assert model.requests == []


async def test_a_session_that_is_empty_or_gives_nothing_is_a_new_conversation() -> None:
    class Nothing(Store):
        async def load(self) -> Any:
            return None

    session = Nothing()
    result = await run(Agent("a", model=ScriptedModel([Say("hi")])), "go", session=session)
    assert texts(result.history) == ["go", "hi"]
    assert texts(session.items) == ["go", "hi"]


async def test_an_interrupt_while_the_session_is_read_writes_nothing() -> None:
    reading = anyio.Event()
    cleaned: list[str] = []

    class Slow(Store):
        async def load(self) -> Sequence[Item]:
            reading.set()
            try:
                await anyio.sleep_forever()
            finally:
                await checkpoints(3)
                cleaned.append("read")
            return ()

    session, model = Slow(), ScriptedModel([])
    seen: list[Event] = []
    async with anyio.create_task_group() as group:
        async with open_run(Agent("a", model=model), "go", session=session) as live:
            group.start_soon(watch, live, seen)
            await reading.wait()
            live.interrupt("stop")
    result = check_ended(live, model, seen)
    assert result.status == "interrupted"
    assert cleaned == ["read"]
    # Without knowing what is there nothing may be added: it could be stored twice, or out of place.
    assert session.items in ([], [UserMessage("go")])
    assert len(session.items) == len(set(map(id, session.items)))


async def test_an_interrupt_before_the_session_is_read_still_stores_the_input() -> None:
    class Stopping(RunHooks):
        async def on_run_start(self, ctx: Any) -> None:
            ctx.run.interrupt("early")

    session, model = Store([UserMessage("before"), AssistantMessage("yes?")]), ScriptedModel([])
    async with open_run(Agent("a", model=model, hooks=Stopping()), "go", session=session) as live:
        await live.wait()
    assert check_ended(live, model).status == "interrupted"
    assert session.loads == 0
    assert texts(session.items) == ["before", "yes?", "go"]


async def test_a_soft_interrupt_while_the_session_is_read_still_stores_the_input() -> None:
    reading, read = anyio.Event(), anyio.Event()

    class Slow(Store):
        async def load(self) -> Sequence[Item]:
            reading.set()
            await read.wait()
            return await super().load()

    session, model = Slow([UserMessage("before"), AssistantMessage("yes?")]), ScriptedModel([])
    async with open_run(Agent("a", model=model), "go", session=session) as live:
        await reading.wait()
        live.interrupt("enough", mode="after_turn")
        read.set()
        await live.wait()
    result = check_ended(live, model)
    assert result.status == "interrupted"
    assert texts(session.items) == texts(result.history) == ["before", "yes?", "go"]


async def test_a_write_that_hangs_is_cut_when_its_grace_is_over_and_reported() -> None:
    writing = anyio.Event()

    class Stuck(Store):
        async def append(self, items: Sequence[Item]) -> None:
            writing.set()
            await anyio.sleep_forever()

    async with open_run(
        Agent("a", model=ScriptedModel([Say("hi")])), "go", session=Stuck(), config=RunConfig(cleanup_grace=0.05)
    ) as live:
        await writing.wait()
        live.interrupt("stop")
        result = await live.wait()
    assert result.status == "interrupted"
    [error] = result.errors
    assert isinstance(error, TimeoutError)
    assert str(error) == "the session did not store the history within the cleanup grace"
    assert result.teardown.expired_graces == ["session append"]


async def test_a_write_that_is_cut_cleans_up() -> None:
    writing = anyio.Event()
    cleaned: list[str] = []

    class Stuck(Store):
        async def append(self, items: Sequence[Item]) -> None:
            writing.set()
            try:
                await anyio.sleep_forever()
            finally:
                await checkpoints(3)
                cleaned.append("write")

    model = ScriptedModel([Say("hi")])
    config = RunConfig(cleanup_grace=0.05)
    async with open_run(Agent("a", model=model), "go", session=Stuck(), config=config) as live:
        await writing.wait()
        live.interrupt("stop")
        result = await live.wait()
    assert result.status == "interrupted"
    assert cleaned == ["write"]
    assert result.teardown.expired_graces == ["session append"]


async def test_input_that_clashes_with_the_stored_history_is_refused_by_name() -> None:
    from agentrun import ToolOutput

    old: list[Any] = [UserMessage("hi"), ToolCall("c1", "look", "{}"), ToolOutput("c1", "x")]
    session = Store(old)
    with pytest.raises(UserError, match="'c1'"):
        await run(Agent("a", model=ScriptedModel([])), old, session=session)
    assert session.items == old


async def test_what_a_run_adds_with_a_call_id_that_another_has_stored_meanwhile_is_refused_by_name() -> None:
    session = MemorySession()
    both_called = anyio.Event()
    waiting = 0

    async def work() -> str:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            both_called.set()
        await both_called.wait()
        return "worked"

    async def one(name: str) -> None:
        model = ScriptedModel([Call("work", call_id="call_1"), Say("done")])
        try:
            async with open_run(Agent("a", tools=[work], model=model), name, session=session) as live:
                await live.wait()
        except UserError as exc:
            refused.append(str(exc))
        results.append(check_ended(live, model))

    refused: list[str] = []
    results: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(one, "one")
        group.start_soon(one, "two")
    [message] = refused
    assert message == (
        "the session already has a tool call with the id 'call_1': another run has used it at the same time, and this "
        "one did not see what that one added. Let the runs of a session follow one another"
    )
    assert sorted(result.status for result in results) == ["completed", "failed"]
    assert [len(result.history) for result in results if result.status == "failed"] == [3]  # what it did is not lost
    assert_valid_history(session.items)
    after = await run(Agent("a", model=ScriptedModel([Say("go on")])), "again", session=session)
    assert after.output == "go on"


async def test_a_memory_session_whose_items_were_changed_goes_by_what_it_has_now() -> None:
    def piece(call_id: str) -> tuple[Item, ...]:
        return ToolCall(call_id, "work"), ToolOutput(call_id, "worked")

    session = MemorySession(piece("a"))
    await session.append(piece("b"))
    session.items.extend(piece("c"))  # by hand
    await session.append((UserMessage("u"),))
    for call_id in ("a", "b", "c"):
        with pytest.raises(UserError, match=f"with the id '{call_id}'"):
            await session.append(piece(call_id))
    del session.items[:4]
    await session.append(piece("b"))
    with pytest.raises(UserError, match="with the id 'c'"):
        await session.append(piece("c"))
    session.items.clear()
    await session.append(piece("c"))
    assert session.items == [*piece("c")]


async def test_a_broken_history_cannot_even_begin_a_memory_session() -> None:
    with pytest.raises(UserError, match=r"session\[0\]"):
        MemorySession([ToolCall("c1", "look", "{}")])


async def test_a_session_that_exits_while_the_end_of_a_failed_run_is_written_ends_the_program() -> None:
    class Exits(MemorySession):
        async def append(self, items: Any) -> None:
            if failed.is_set():
                raise SystemExit(3)
            await super().append(items)

    failed = anyio.Event()

    async def work() -> str:
        failed.set()
        raise ToolError("no more")

    model = ScriptedModel([Call("work", call_id="c"), Say("never")])
    with pytest.raises(SystemExit):
        async with open_run(Agent("a", tools=[work], model=model), "go", session=Exits()) as live:
            await live.wait()
