"""What a line of a conversation means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["HELP", "Command", "Say", "read_line"]

_CommandName: TypeAlias = Literal["approve", "help", "quit", "reject", "state", "stop"]

_COMMANDS: Final[tuple[_CommandName, ...]] = ("approve", "help", "quit", "reject", "state", "stop")

HELP: Final = """\
While the agent works:
  some text       joins the next model call
  /now TEXT       cuts in: what runs is stopped, and the model called again at once
  /later TEXT     waits until the agent would be done
  /stop [WHY]     interrupts the run, as Ctrl-C does
  /approve [ID]   lets a tool call run that waits for approval (the oldest one, this one, or 'all')
  /reject [WHY]   refuses it (an id or 'all' may come first)
  /state          shows what is alive right now
At any time:
  /help           shows this
  /quit           leaves, as Ctrl-D does, and a second Ctrl-C
  //text          says '/text'"""


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the agent, and when it is to be delivered to a run that is under way."""

    text: str
    deliver: Literal["next", "now", "idle"] = "next"


@dataclass(frozen=True, slots=True)
class Command:
    """A command to the program."""

    name: _CommandName
    rest: str = ""


def read_line(line: str) -> Say | Command | str | None:
    """What the line means; ``None`` for a blank one, and a text that says what is wrong with it for others."""
    if not line.strip():
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        return Say(line)
    word, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if word in ("now", "later"):
        if not rest:
            return f"/{word} needs a text: /{word} TEXT"
        return Say(rest, "now" if word == "now" else "idle")
    for name in _COMMANDS:
        if word == name:
            return Command(name, rest)
    return f"there is no command /{word}; /help shows them, and //{word} says '/{word}' to the agent"
