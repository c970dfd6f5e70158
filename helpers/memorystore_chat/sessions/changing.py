"""Deleting sessions, and setting when they expire."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

from memorystore_chat.arguments import check_count, check_seconds, type_name
from memorystore_chat.codec import aside_key
from memorystore_chat.commands import Client, Command, script
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, ask, find


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
    given = (client, ids, key_prefix, idle_for, all_sessions, dry_run)
    return _change("delete", ("UNLINK",), *given)


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
    """Set how long stored sessions have to live; by default only count them.

    ``ttl`` is in whole seconds from now; None lets the sessions stay until they are deleted. It
    holds until the next append of a history that has a ``ttl`` of its own. The other arguments and
    the errors are those of `delete`.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.expire(connect("embedded"), key_prefix="docs:", ttl=3600).sessions
        0
    """
    check_count("ttl", ttl, "seconds", optional=True)
    command = ("PERSIST",) if ttl is None else ("EXPIRE", ttl)
    given = (client, ids, key_prefix, idle_for, all_sessions, dry_run)
    return _change("expire", command, *given)


def _change(
    action: Literal["delete", "expire"],
    command: tuple[str | int, ...],
    client: Client,
    ids: Iterable[str] | None,
    key_prefix: str,
    idle_for: timedelta | float | None,
    all_sessions: bool,
    dry_run: bool,
) -> Report:
    """Find the sessions, and run a command on each, whose key comes after the command's name."""
    check_flags(all_sessions=all_sessions, dry_run=dry_run)
    counts: Counter[str] = Counter()
    found = find(client, ids, key_prefix, counts)
    if ids is None and not key_prefix and not all_sessions:
        raise ValueError(
            f"This would {action} every session on the server. Say which: ids=[...], "
            "key_prefix='...', or all_sessions=True if you mean all of them."
        )

    def change(meant: list[Found]) -> list[Found]:
        """Change those that nobody appended to meanwhile, and what repair() moved out of them."""
        how, doing, orders = script("sessions/change"), f"{action[:-1]}ing sessions", []
        for session, newest in meant:
            given = (session.messages, newest, *command)
            orders.append(Command("", (session.key.encode(),), given, how, int))
        replies = ask(client, doing, orders)
        done = [one for one, reply in zip(meant, replies, strict=True) if reply]
        aside = [(aside_key(session.key),) for session, _ in done]
        ask(client, doing, [Command(str(command[0]), key, command[1:], kind=int) for key in aside])
        return done

    counts += change_those(found, change, idle_for, dry_run)
    return Report(action, "session", dry_run, asked=(key_prefix, idle_for), **counts)


def change_those(
    found: Iterable[list[Found]],
    change: Callable[[list[Found]], list[Found]],
    idle_for: timedelta | float | None,
    dry_run: bool,
) -> Counter[str]:
    """Change those that are old enough, or only count them; `change` says which it did change."""
    before, counts = None, Counter[str]()
    if idle_for is not None:
        seconds = idle_for.total_seconds() if isinstance(idle_for, timedelta) else idle_for
        check_seconds("idle_for", seconds, most=10**10)  # a datetime reaches back that far
        before = datetime.now(UTC) - timedelta(seconds=seconds)
    for batch in found:
        meant = batch
        if before:
            counts["undated"] += sum(session.last is None for session, _ in batch)
            meant = [one for one in batch if (last := one[0].last) and last <= before]
        done = meant if dry_run else change(meant)
        counts["changed"] += len(meant) - len(done)
        for session, _ in done:
            counts.update(sessions=1, messages=session.messages, bytes=session.bytes)
    return counts


def check_flags(**flags: object) -> None:
    """Raise a TypeError unless values are True or False: None would delete as False does."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is of type {type_name(value)}; it takes True or False.")
