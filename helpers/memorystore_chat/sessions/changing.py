"""Deleting sessions, and setting when they expire."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from memorystore_chat.arguments import check_count, check_ids, check_seconds, check_text, type_name
from memorystore_chat.codec import aside_key
from memorystore_chat.commands import Client, script
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, find
from memorystore_chat.sessions.servers import MOST, Order, ask, check_client, settled

_LONGEST_IDLE = 10**10  # seconds; a datetime reaches back that far


def delete(
    client: Client,
    ids: Iterable[str] | None = None,
    *,
    key_prefix: str = "",
    idle_for: timedelta | float | None = None,
    all_sessions: bool = False,
    dry_run: bool = True,
) -> Report:
    """Delete sessions for good, by id, by prefix or by age; by default only count them.

    Only what `scan` takes for sessions is deleted; with a session goes what ``history.repair()``
    moved out of it. One that is appended to before its turn comes is kept: the server compares and
    deletes in one step.

    Args:
        client: A connected client.
        ids: Session ids; None stands for all under the prefix.
        key_prefix: What the keys begin with, literally.
        idle_for: Only sessions whose newest message is at least so old: a timedelta or seconds,
            by the clocks of the programs. Sessions without a known time are kept.
        all_sessions: Must be True if neither ``ids`` nor ``key_prefix`` says which.
        dry_run: Only say what would be deleted.

    Returns:
        How many were, or would be, deleted, and how many were kept for which reason.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which sessions.
        MemorystoreChatError: A server cannot be reached (ConnectError) or refused, or was replaced
            meanwhile; some may be deleted.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> month = timedelta(days=30)
        >>> sessions.delete(connect("embedded"), key_prefix="docs:", idle_for=month).sessions
        0
    """
    options = (key_prefix, idle_for, all_sessions, dry_run)
    return _change("delete", ("UNLINK",), client, ids, *options)


def expire(
    client: Client,
    ids: Iterable[str] | None = None,
    *,
    ttl: int | None,
    key_prefix: str = "",
    idle_for: timedelta | float | None = None,
    all_sessions: bool = False,
    dry_run: bool = True,
) -> Report:
    """Set how long stored sessions have to live from now; by default only count them.

    For sessions that were stored without a TTL, or with another than you want today. It holds
    until the next append of a history that has a ``ttl`` of its own.

    Args:
        client: A connected client.
        ids: Session ids; None stands for all under the prefix.
        ttl: Seconds from now until they are gone, whole and more than 0; None lets them stay
            until they are deleted.
        key_prefix: What the keys begin with, literally.
        idle_for: As for `delete`.
        all_sessions: As for `delete`.
        dry_run: Only say which sessions it would concern.

    Returns:
        How many got, or would get, this time to live, and how many were left for which reason.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which sessions.
        MemorystoreChatError: As for `delete`.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.expire(connect("embedded"), key_prefix="docs:", ttl=3600).sessions
        0
    """
    check_count("ttl", ttl, "seconds", optional=True)
    order: Order = ("PERSIST",) if ttl is None else ("EXPIRE", ttl)
    return _change("expire", order, client, ids, key_prefix, idle_for, all_sessions, dry_run)


def _change(
    action: Literal["delete", "expire"],
    order: Order,
    client: Client,
    ids: Iterable[str] | None,
    key_prefix: str,
    idle_for: timedelta | float | None,
    all_sessions: bool,
    dry_run: bool,
) -> Report:
    """Find the sessions, and run a command on each, whose key comes after the command's name."""
    check_client(client)
    check_text("key_prefix", key_prefix)
    check_flag("all_sessions", all_sessions)
    check_flag("dry_run", dry_run)
    names = None if ids is None else check_ids("ids", ids)
    before = moment_before(idle_for)
    if names is None and not key_prefix and not all_sessions:
        raise ValueError(
            f"This would {action} every session on the server. Say which: ids=[...], "
            "key_prefix='...', or all_sessions=True if you mean all of them."
        )
    doing = "deleting sessions" if action == "delete" else "expiring sessions"
    counts: Counter[str] = Counter()
    with settled(client, doing):
        found = find(client, names, key_prefix, counts)
        while batch := list(islice(found, MOST)):
            if before is not None:
                counts["undated"] += sum(one.session.last is None for one in batch)
                batch = [one for one in batch if (last := one.session.last) and last <= before]
            if not dry_run:
                done = _done(client, doing, order, batch)
                counts["changed"] += len(batch) - len(done)
                batch = done
            for one in batch:
                session = one.session
                counts.update(sessions=1, messages=session.messages, bytes=session.bytes)
    return Report(action, dry_run, **counts)


def _done(client: Client, doing: str, order: Order, meant: list[Found]) -> list[Found]:
    """Run the command on each, and say on which: not on those appended to meanwhile."""
    text = script("sessions/if_unchanged").text
    orders: list[Order] = [
        ("EVAL", text, 1, one.session.key, one.session.messages, one.sha, *order) for one in meant
    ]
    replies = ask(client, doing, orders)
    done = [one for one, reply in zip(meant, replies, strict=True) if reply]
    # What repair() moved out of them is in lists of its own.
    ask(client, doing, [(order[0], aside_key(one.session.key), *order[1:]) for one in done])
    return done


def check_flag(name: str, value: object) -> None:
    """Raise a TypeError unless a value is True or False: None would delete as False does."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, of type {type_name(value)}; it takes True or False.")


def moment_before(idle_for: timedelta | float | None) -> datetime | None:
    """When a session was last used that has been idle for so long."""
    if idle_for is None:
        return None
    seconds = idle_for.total_seconds() if isinstance(idle_for, timedelta) else idle_for
    check_seconds("idle_for", seconds, most=_LONGEST_IDLE)
    return datetime.now(UTC) - timedelta(seconds=seconds)
