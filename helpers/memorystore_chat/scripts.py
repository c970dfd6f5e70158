"""The package's Lua scripts, by their path without the ending."""

import asyncio
import hashlib
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script as EVAL takes it, and its name on the server, both as bytes.

    A client with ``encoding="utf-16"`` would send text that no server can run.
    """

    text: bytes
    sha: bytes


APPEND = ("demand", "append")
"""The files of the script that appends."""

_loaded: dict[tuple[str, ...], Script] = {}


def script(*names: str) -> Script:
    """The script in ``NAME.lua``, or in several such files one after the other, read once.

    Example:
        >>> len(script(*APPEND).sha)
        40
    """
    if names not in _loaded:
        folder = files("memorystore_chat")
        text = b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names)
        # Redis names scripts by their SHA-1.
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        _loaded[names] = Script(text, sha)
    return _loaded[names]


async def script_async(*names: str) -> Script:
    """`script`, which reads the files in a thread and not on the event loop."""
    return _loaded[names] if names in _loaded else await asyncio.to_thread(script, *names)
