"""A key prefix that no other notebook at work on this machine has: `key_prefix`."""

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path


def key_prefix(name: str) -> str:
    """Choose the prefix of a notebook's keys, ``tutorial-NAME:`` unless another kernel has that.

    A kernel keeps its prefix until it ends, so a cell can be run again, and after a restart the
    kernel finds what it stored. A second kernel of the same user gets ``tutorial-NAME-2:``.

    Args:
        name: Lower-case letters and digits, such as ``"chain"``.

    Raises:
        ValueError: The name has other characters.

    Example:
        >>> key_prefix("docs")
        'tutorial-docs:'
    """
    if not re.fullmatch(r"[a-z0-9]+", name):
        raise ValueError(f"name is {name!r}; it takes lower-case letters and digits.")
    return _claimed(name)


@cache
def _claimed(name: str, number: int = 1) -> str:
    """Lock the first file that is free, for as long as this process lives."""
    prefix = f"tutorial-{name}:" if number == 1 else f"tutorial-{name}-{number}:"
    if sys.platform == "win32":  # it has no such locks, and one notebook at a time is fine there
        return prefix
    import fcntl

    path = Path(tempfile.gettempdir(), f"memorystore-chat-{os.getuid()}-{name}-{number}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return _claimed(name, number + 1)
    return prefix
