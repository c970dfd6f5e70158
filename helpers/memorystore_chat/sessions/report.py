"""What a function of this package did, in numbers and in a sentence."""

import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal

_WORDS = {
    "delete": ("delete", "Deleted"),
    "expire": ("set the time to live of", "Set the time to live of"),
    "export": ("export", "Exported"),
    "load": ("load", "Loaded"),
    "copy": ("copy", "Copied"),
}
_REMARKS = {
    "missing": "not found",
    "undated": "left because their age is not known",
    "changed": "left because they were used meanwhile",
    "existing": "there already",
    "conflicting": "left out because something else is there",
    "unreadable": "unreadable",
}


@dataclass(frozen=True, repr=False)
class Report:
    """What one of these functions did, or would do; its repr is a sentence.

    Attributes:
        action: What was done.
        thing: With what.
        dry_run: Whether it was only tried out and nothing was changed.
        sessions: How many sessions or threads it was done with.
        messages: How many messages they have; of threads that are not exported, checkpoints.
        bytes: For "delete" and "expire" the memory on the server; else the size of the messages.
        missing: Ids that were asked for and have no session.
        undated: Sessions left because it is not known when they were last used.
        changed: Sessions left because they were used in the meantime.
        existing: Sessions that were at their destination already.
        conflicting: Sessions left out because something else is at their destination.
        unreadable: Copied messages that cannot be read; ``history.repair()`` moves them aside.
        asked: The ``key_prefix`` and ``idle_for`` that `delete` or `expire` of sessions was given.
    """

    action: Literal["delete", "expire", "export", "load", "copy"]
    thing: Literal["session", "thread"]
    dry_run: bool
    sessions: int = 0
    messages: int = 0
    bytes: int = 0
    missing: int = 0
    undated: int = 0
    changed: int = 0
    existing: int = 0
    conflicting: int = 0
    unreadable: int = 0
    asked: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        would, done = _WORDS[self.action]
        start = f"Would {would}" if self.dry_run else done
        part = "checkpoint" if self.thing == "thread" and self.action != "export" else "message"
        size = f"{self.bytes / 1e6:,.1f} MB" if self.bytes >= 100_000 else "less than 0.1 MB"
        number = f"{counted(self.sessions, self.thing)} ({counted(self.messages, part)}"
        found = ((getattr(self, name), words) for name, words in _REMARKS.items())
        remarks = [f"{number:,} {words}" for number, words in found if number]
        if self.dry_run:
            remarks.append("nothing was changed, dry_run=False does it")
        return "; ".join([f"{start} {number}, {size})", *remarks]) + "."

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What a notebook shows: lines that fit a narrow window."""
        printer.text("\n".join(textwrap.wrap(repr(self), 66)))


def counted(number: int, thing: str) -> str:
    """A number of things: "1 session", "2,000 sessions"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
