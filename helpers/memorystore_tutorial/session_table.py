"""`sessions_table`: the sessions on a server, for people."""

from datetime import UTC, datetime, timedelta

from memorystore_chat.commands import Client
from memorystore_chat.sessions.report import counted
from memorystore_chat.sessions.scanning import Session, newest
from memorystore_tutorial.tables import Table


def sessions_table(client: Client, *, key_prefix: str = "", limit: int = 50) -> Table[Session]:
    """Show the sessions that were used last, newest first: a table in a notebook, text elsewhere.

    Everything under the prefix is looked at to find them, a step at a time as `scan` does it.

    Args:
        client: A connected client.
        key_prefix: What the keys begin with, literally.
        limit: How many sessions to show; those without a known time come last.

    Returns:
        A list of `Session` that shows itself, with times as of now.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is not acceptable.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused, or the servers changed too often to find
            everything.

    Example:
        >>> from memorystore_chat import connect
        >>> from memorystore_tutorial import sessions_table
        >>> sessions_table(connect("embedded"), key_prefix="nothing-here:")
        No sessions.
    """
    shown, number = newest(client, key_prefix=key_prefix, limit=limit)
    now = datetime.now(UTC)
    title = counted(number, "session") if number else ""
    if number > limit:
        title = f"The {limit:,} used last of {title}"
    return Table(
        shown,
        {
            "id": "session",
            "messages": "messages",
            "last": "last activity",
            "ttl": "expires in",
            "bytes": "size",
        },
        title=title,
        formats={
            "messages": "{:,}".format,
            "last": lambda last: "unknown" if last is None else _ago(now - last),
            "ttl": lambda ttl: "never" if ttl is None else span(ttl),
            "bytes": size,
        },
        empty="No sessions.",
    )


def span(seconds: float) -> str:
    """A duration in the largest unit that says it well: "30 days", "25 hours", "90 minutes"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds / length
        if count >= 1.95 or 0.98 < count < 1.02:
            return counted(round(count), unit)
    return counted(round(seconds), "second")


def size(size: int) -> str:
    """Bytes with two digits: "1.2 kB", "56 MB". Below, MEMORY USAGE itself varies by some bytes."""
    if size < 1000:
        return "under 1 kB"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def _ago(passed: timedelta) -> str:
    # Clocks differ: what another machine did just now may lie ahead.
    seconds = passed.total_seconds()
    return "just now" if seconds < 60 else f"{span(seconds)} ago"
