"""Sessions to a file and back."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from memorystore_chat.commands import Client
from memorystore_chat.sessions._archive import (
    BinaryFile,
    check_archive,
    read_archive,
    write_archive,
)
from memorystore_chat.sessions._moving import put, read
from memorystore_chat.sessions._primaries import Primaries
from memorystore_chat.sessions.arguments import (
    Progress,
    check,
    check_flags,
    checked_ids,
    with_progress,
)
from memorystore_chat.sessions.report import Report
from memorystore_chat.sessions.scanning import find

File: TypeAlias = str | os.PathLike[str] | BinaryFile


def export(
    client: Client,
    file: File,
    *,
    key_prefix: str = "",
    ids: Iterable[str] | None = None,
    progress: Progress = False,
) -> Report:
    """Write sessions to a file, from which `load` brings them back.

    The file is JSON Lines in UTF-8: a heading, one line for each session (for one of more than
    1,000 messages, several), and a last line with the counts and a SHA-256 of the rest. Messages
    are kept byte for byte, broken ones too; so is the time each session has to live, counted
    from now.

    Args:
        client: A connected client.
        file: A path, or a file opened for writing in binary mode (``gzip.open(path, "wb")``
            too). At a path the file appears when it is complete, readable for its owner only;
            until then an earlier one stays.
        key_prefix: What the keys begin with, literally.
        ids: Session ids; None stands for all under the prefix.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were written, and how many ids have no session.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        ConnectError: The server cannot be reached or did not answer.
        MemorystoreChatError: The server refused, or changed too often to find everything.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> sessions.export(connect("embedded"), io.BytesIO(), key_prefix="nothing-here:")
        Exported 0 sessions (0 messages, less than 0.1 MB).
    """
    check(client, progress, key_prefix=key_prefix)
    names = checked_ids(ids)
    counts: Counter[str] = Counter()
    total = None if names is None else len(names)
    with _opened_for_writing(file) as archive:
        primaries = Primaries(client, "exporting sessions")
        found = find(primaries, names, key_prefix, counts)
        entries = with_progress(found, progress, "Exporting", total)
        pieces = read(primaries, (entry.session for entry in entries))
        counts += write_archive(archive, pieces, key_prefix)
    return Report("export", False, **counts)


def load(
    client: Client,
    file: File,
    *,
    key_prefix: str | None = None,
    overwrite: bool = False,
    progress: Progress = False,
) -> Report:
    """Bring back the sessions of a file that `export` wrote.

    The file is checked first: if it was cut off or changed, nothing is loaded. Every session
    appears at once with all its messages, which are read back and compared. Sessions that are
    there already are left as they are, so loading a file twice changes nothing, and after an
    interruption it is simply loaded again.

    Args:
        client: A connected client.
        file: A path, or a file opened for reading in binary mode that can be rewound.
        key_prefix: What to put in front of the ids; None stands for the prefix that the sessions
            were exported with.
        overwrite: Replace sessions that are there already. A key that is not a list is left
            alone all the same.
        progress: As for `delete`.

    Returns:
        How many sessions and messages were loaded; ``existing`` counts those that were there
        with these messages (and perhaps newer ones), ``conflicting`` those with others.

    Raises:
        TypeError, ValueError: An argument is not acceptable, such as a file opened in text mode.
        MemorystoreChatError: The file is not complete or not sound; or the server refused, as
            when its memory is full, or was replaced meanwhile: then what is loaded by then stays.
        ConnectError: The server cannot be reached or did not answer.

    Example:
        >>> import io
        >>> from memorystore_chat import connect, sessions
        >>> client, file = connect("embedded"), io.BytesIO()
        >>> report = sessions.export(client, file, key_prefix="nothing-here:")
        >>> _ = file.seek(0)
        >>> sessions.load(client, file)
        Loaded 0 sessions (0 messages, less than 0.1 MB).
    """
    check(client, progress, key_prefix="" if key_prefix is None else key_prefix)
    check_flags(overwrite=overwrite)
    with _opened_for_reading(file) as archive:
        prefix, pieces = check_archive(archive)
        counts = put(
            Primaries(client, "loading sessions", writing=True),
            with_progress(
                read_archive(archive, pieces), progress, "Loading", pieces, unit=" lines"
            ),
            key_prefix=prefix if key_prefix is None else key_prefix,
            existing="replace" if overwrite else "keep",
        )
    return Report("load", False, **counts)


@contextmanager
def _opened_for_writing(file: File) -> Iterator[BinaryFile]:
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "write") or hasattr(file, "encoding"):
            raise TypeError("file takes a path, or a file opened for writing with mode 'wb'.")
        yield file
        return
    path = Path(file)
    # Under a name of its own, so that two exports to one path do not meet; mode 0600.
    descriptor, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _opened_for_reading(file: File) -> Iterator[BinaryFile]:
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as opened:
            yield opened
        return
    if not hasattr(file, "seekable") or hasattr(file, "encoding") or not file.seekable():
        raise TypeError(
            "file takes a path, or a file opened for reading with mode 'rb' that can be rewound: "
            "it is read twice, to check it before anything is loaded."
        )
    yield file
