"""The Lua scripts of this folder, by name."""

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


_loaded: dict[str, Script] = {}


def script(name: str) -> Script:
    """The script in ``NAME.lua``, read at its first use.

    Example:
        >>> len(script("append").sha)
        40
    """
    if name not in _loaded:
        text = files("memorystore_chat.storage").joinpath(f"{name}.lua").read_bytes()
        # Redis names scripts by their SHA-1.
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        _loaded[name] = Script(text, sha)
    return _loaded[name]


async def script_async(name: str) -> Script:
    """`script`, which reads the file in a thread and not on the event loop."""
    return _loaded[name] if name in _loaded else await asyncio.to_thread(script, name)
