"""Deleting sessions, and setting when they expire."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice
from typing import Literal

from memorystore_chat.arguments import check_count
from memorystore_chat.commands import Client
from memorystore_chat.scripts import script
from memorystore_chat.sessions._batches import MOST
from memorystore_chat.sessions._primaries import Command, Primaries
from memorystore_chat.sessions.arguments import (
    Progress,
    check,
    check_flags,
    checked_ids,
    moment_before,
    with_progress,
)
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import Found, find, is_message


def delete(
    client: Client,
    ids: Iterable[str] | None = None,
    *,
    key_prefix: str = "",
    idle_for: timedelta | float | None = None,
    all_sessions: bool = False,
    dry_run: bool = True,
    progress: Progress = False,
) -> Report:
    """Delete sessions for good, by id, by prefix or by age; by default only count them.

    Only lists that `scan` takes for sessions are deleted, whatever else has such a key; with a
    session goes what ``history.repair()`` moved out of it. The memory is freed in the background
    (UNLINK).

    Args:
        client: A connected client.
        ids: Session ids; None stands for all under the prefix.
        key_prefix: What the keys begin with, literally.
        idle_for: Only sessions whose newest message is at least so old: a timedelta or seconds,
            by the clocks of this program and of the one that appended. Sessions without a known
            time are kept. One that is appended to before its turn comes is kept too: the server
            compares and deletes in one step.
        all_sessions: Must be True if neither ``ids`` nor ``key_prefix`` says which, so that
            nobody deletes all sessions of a server by leaving something out.
        dry_run: Only say what would be deleted.
        progress: Show a progress bar, if this runs in a notebook or a terminal; "always" shows
            it elsewhere too. Needs tqdm.

    Returns:
        How many were, or would be, deleted, and how many were kept for which reason.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which sessions.
        ConnectError: The server cannot be reached or did not answer; some may be deleted.
        MemorystoreChatError: The server refused, or was replaced meanwhile; some may be deleted.

    Example:
        >>> from datetime import timedelta
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> report = sessions.delete(client, key_prefix="docs:", idle_for=timedelta(days=30))
        >>> report.dry_run, report.sessions
        (True, 0)
    """
    options = (key_prefix, idle_for, all_sessions, dry_run, progress)
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
    progress: Progress = False,
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
        progress: As for `delete`.

    Returns:
        How many got, or would get, this time to live, and how many were left for which reason.

    Raises:
        TypeError, ValueError: An argument is not acceptable, or nothing says which sessions.
        ConnectError, MemorystoreChatError: As for `delete`.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> client = connect("embedded")
        >>> report = sessions.expire(client, key_prefix="docs:", ttl=30 * 24 * 60 * 60)
        >>> report.dry_run, report.sessions
        (True, 0)
    """
    check_count("ttl", ttl, "seconds", optional=True)
    command: Command = ("PERSIST",) if ttl is None else ("EXPIRE", ttl)
    options = (key_prefix, idle_for, all_sessions, dry_run, progress)
    return _change("expire", command, client, ids, *options)


def _change(
    action: Literal["delete", "expire"],
    command: Command,
    client: Client,
    ids: Iterable[str] | None,
    key_prefix: str,
    idle_for: timedelta | float | None,
    all_sessions: bool,
    dry_run: bool,
    progress: Progress,
) -> Report:
    """Find the sessions, and run a command on each, whose key comes after the command's name."""
    check(client, progress, key_prefix=key_prefix)
    check_flags(all_sessions=all_sessions, dry_run=dry_run)
    names = checked_ids(ids)
    if names is None and not key_prefix and not all_sessions:
        raise ValueError(
            f"This would {action} every session on the server. Say which: ids=[...], "
            "key_prefix='...', or all_sessions=True if you mean all of them."
        )
    before = moment_before(idle_for)
    title = "Deleting" if action == "delete" else "Expiring"
    primaries = Primaries(client, f"{title.lower()} sessions", writing=not dry_run)
    counts: Counter[str] = Counter()
    total = None if names is None else len(names)
    found = with_progress(find(primaries, names, key_prefix, counts), progress, title, total)
    while batch := list(islice(found, MOST)):
        if before is not None:
            counts["undated"] += sum(entry.session.last is None for entry in batch)
            batch = [entry for entry in batch if (last := entry.session.last) and last <= before]
        if not dry_run:
            done = _done(primaries, command, batch, if_unchanged=before is not None)
            counts["changed"] += len(batch) - len(done)
            batch = done
        for entry in batch:
            session = entry.session
            counts.update(sessions=1, messages=session.messages, bytes=session.bytes)
    return Report(action, dry_run, **counts)


def _done(
    primaries: Primaries, command: Command, meant: list[Found], *, if_unchanged: bool
) -> list[Found]:
    """Do it, and say with which: not with those appended to meanwhile, if that matters."""
    name, *rest = command
    if if_unchanged:
        text = script("sessions/if_unchanged").text
        replies = primaries.run(
            [("EVAL", text, 1, entry.session.key, entry.sha, *command) for entry in meant]
        )
        meant = [entry for entry, reply in zip(meant, replies, strict=True) if reply]
    else:
        primaries.run([(name, entry.session.key, *rest) for entry in meant])
    # What repair() moved out of them; a session may have such a name, too.
    aside = [f"{entry.session.key}:corrupt" for entry in meant]
    ends = primaries.run([("LINDEX", key, -1) for key in aside])
    found = [
        key for key, end in zip(aside, ends, strict=True) if end is not None and not is_message(end)
    ]
    primaries.run([(name, key, *rest) for key in found])
    return meant
