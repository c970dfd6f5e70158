"""Copying sessions from langchain-community."""

from collections.abc import Iterable, Iterator

from memorystore_chat.commands import Client
from memorystore_chat.sessions._archive import Piece
from memorystore_chat.sessions._moving import put, read
from memorystore_chat.sessions._primaries import Primaries
from memorystore_chat.sessions.arguments import Progress, check, check_flags, with_progress
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import is_message, scanned


def from_langchain_community(
    client: Client,
    *,
    key_prefix_from: str = "message_store:",
    key_prefix: str = "",
    dry_run: bool = True,
    progress: Progress = False,
) -> Report:
    """Copy the sessions of langchain-community's RedisChatMessageHistory.

    It stores them newest first; the copies are what MemorystoreChatMessageHistory reads. The
    originals stay as they are. A copy holds the same bytes, so its messages carry no time, and it
    gets the time to live that the original has left. Copying again changes nothing, except that
    a session that has grown since gets the new messages; if the copy has gone its own way, it is
    left alone and counted as conflicting.

    Args:
        client: A connected client.
        key_prefix_from: The prefix that the other library was given.
        key_prefix: The prefix for the copies.
        dry_run: Only say what would be copied.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were, or would be, copied; ``existing`` counts sessions
        that were copied before, ``unreadable`` the messages in the originals that cannot be read.

    Raises:
        TypeError, ValueError: An argument is not acceptable; the copies must not look like
            originals.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused, or was replaced meanwhile.

    Example:
        >>> from memorystore_chat import connect, sessions
        >>> sessions.from_langchain_community(connect("embedded")).dry_run
        True
    """
    check(client, progress, key_prefix_from=key_prefix_from, key_prefix=key_prefix)
    check_flags(dry_run=dry_run)
    if key_prefix.startswith(key_prefix_from):
        raise ValueError(
            f"key_prefix is {key_prefix!r} and key_prefix_from is {key_prefix_from!r}, so the "
            "copies would be taken for originals the next time. Choose a key_prefix that does not "
            "begin with key_prefix_from."
        )
    unreadable = 0

    def checked(pieces: Iterable[Piece]) -> Iterator[Piece]:
        nonlocal unreadable
        for piece in pieces:
            unreadable += sum(not is_message(element) for element in piece.elements)
            yield piece

    primaries = Primaries(client, "copying sessions", writing=not dry_run)
    found = with_progress(scanned(primaries, key_prefix_from), progress, "Copying", None)
    pieces = read(primaries, (entry.session for entry in found), newest_first=True)
    counts = put(
        primaries, checked(pieces), key_prefix=key_prefix, existing="extend", dry_run=dry_run
    )
    return Report("copy", dry_run, unreadable=unreadable, **counts)
