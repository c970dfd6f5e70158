"""The Lua scripts of this folder, by name."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script as EVAL takes it, and its name on the server."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script in ``NAME.lua``, read at its first use.

    Example:
        >>> len(script("append").sha)
        40
    """
    text = files("memorystore_chat.storage").joinpath(f"{name}.lua").read_text("utf-8")
    # Redis names scripts by their SHA-1.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
