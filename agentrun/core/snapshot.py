"""A run that has ended, as plain data to go on from."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from agentrun.core.errors import UserError
from agentrun.core.events import RunStatus
from agentrun.core.inbox import Delivery
from agentrun.core.item_json import dump_items, json_text, parse_items
from agentrun.core.items import Item, ToolCall
from agentrun.core.plain import Plain, PlainValue
from agentrun.core.usage import Usage

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["RunSnapshot", "UndeliveredInput"]

SNAPSHOT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class UndeliveredInput(PlainValue):
    """An injected input that no model call has seen."""

    injection_id: str
    items: tuple[Item, ...]
    deliver: Delivery


@dataclass(slots=True, repr=False, eq=False)
class RunSnapshot(Plain):
    """A run that has ended, as plain data, to be stored and gone on from with ``open_run(..., resume_from=...)``.

    Attributes:
        run_id: Id of the run it was taken of.
        status: How that run ended.
        agent: Name of the agent that was at work.
        history: All items.
        pending_approvals: Tool calls that wait for a decision. In ``history`` they are answered as cancelled; a run
            that resumes from the snapshot opens them again.
        undelivered: Injected inputs that no model call has seen; a run that resumes delivers them first.
        usage: What had been used.
        turns: Turns taken.
        version: Version of this format.
        asked_by: Name of the agent whose tools the pending approvals are for, if it has handed over to ``agent`` in the
            same response; else ``None``, and not in the JSON form.
    """

    run_id: str
    status: RunStatus
    agent: str
    history: tuple[Item, ...]
    pending_approvals: tuple[ToolCall, ...] = ()
    undelivered: tuple[UndeliveredInput, ...] = ()
    usage: Usage = field(default_factory=Usage)
    turns: int = 0
    version: int = SNAPSHOT_VERSION
    asked_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able form."""
        values = {
            "version": self.version,
            "run_id": self.run_id,
            "status": self.status,
            "agent": self.agent,
            "history": dump_items(self.history),
            "pending_approvals": [call.call_id for call in self.pending_approvals],
            "undelivered": [
                {"injection_id": entry.injection_id, "items": dump_items(entry.items), "deliver": entry.deliver}
                for entry in self.undelivered
            ],
            "usage": asdict(self.usage),
            "turns": self.turns,
        }
        if self.asked_by is not None:
            values["asked_by"] = self.asked_by
        return values

    def to_json(self, *, indent: int | None = None) -> str:
        """The snapshot as JSON text."""
        return json_text(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSnapshot:
        """Read what `to_dict` gave.

        Raises:
            UserError: It is not a snapshot, or of a version this agentrun does not know.
        """
        if not isinstance(cast("object", data), Mapping):
            raise UserError(f"a run snapshot must be a JSON object, not {type(data).__name__}")
        if (version := data.get("version")) != SNAPSHOT_VERSION:
            raise UserError(
                f"snapshot version {version!r:.60} is not supported; this agentrun reads version {SNAPSHOT_VERSION}"
            )
        from pydantic import ValidationError

        values = dict(data)
        try:
            history = parse_items(values["history"], what="history")
            calls = {item.call_id: item for item in history if isinstance(item, ToolCall)}
            values["history"] = history
            values["pending_approvals"] = [calls[call_id] for call_id in values.get("pending_approvals", ())]
            values["undelivered"] = [
                {**entry, "items": parse_items(entry["items"])} for entry in values.get("undelivered", ())
            ]
            return _adapter().validate_python(values)
        except ValidationError as exc:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
            raise UserError(f"not a valid run snapshot: {problems}") from exc
        except (KeyError, TypeError) as exc:
            raise UserError(f"not a valid run snapshot: {exc!r}") from exc

    @classmethod
    def from_json(cls, text: str | bytes) -> RunSnapshot:
        """Read what `to_json` wrote.

        Raises:
            UserError: It is not JSON or not a snapshot.
        """
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise UserError(f"the snapshot is not valid JSON: {exc}") from exc
        return cls.from_dict(data)


@functools.cache
def _adapter() -> TypeAdapter[RunSnapshot]:
    from pydantic import TypeAdapter

    return TypeAdapter(RunSnapshot)
