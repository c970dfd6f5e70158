"""Checks of arguments that several modules share."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

_MOST = 10**12  # seconds or messages; Redis adds 1000 * ttl to a 64-bit clock


def check_text(name: str, value: object) -> None:
    """Raise a TypeError unless a value is text, and a ValueError if UTF-8 cannot hold it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, of type {type_name(value)}; it takes text (str).")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is {value!r}, which UTF-8 cannot hold.") from error


def check_ids(name: str, value: Iterable[str]) -> list[str]:
    """Return the ids as a list; raise a TypeError for one text in place of several.

    Example:
        >>> check_ids("run_ids", ("a", "b"))
        ['a', 'b']
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(
            f"{name} is {value!r}, of type {type_name(value)}; it takes several ids (a list of "
            "str). Put a single one into a list."
        )
    ids = [*value]
    for index, each in enumerate(ids):
        check_text(f"{name}[{index}]", each)
    return ids


def thread_id_of(config: Mapping[str, Any], who: str) -> str:
    """The thread that a call's config names; a ValueError says how to name one."""
    thread_id = config.get("configurable", {}).get("thread_id")
    if not isinstance(thread_id, str) or not thread_id:
        given = "no thread_id" if thread_id is None else f"thread_id={thread_id!r}"
        raise ValueError(
            f"The config has {given}, so {who} cannot tell which conversation this is. Name it in "
            'each call, as text: invoke({...}, {"configurable": {"thread_id": "ada/1"}}).'
        )
    return thread_id


def check_count(name: str, value: object, unit: str, *, optional: bool = False) -> None:
    """Raise a TypeError unless a value is an int (or None), and a ValueError if it is below 1."""
    if value is None and optional:
        return
    accepted = f"a whole number of {unit} from 1 up (int){', or None' if optional else ''}"
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}, of type {type_name(value)}; it takes {accepted}.")
    if not 0 < value <= _MOST:
        raise ValueError(f"{name} is {value!r}; it takes {accepted}.")


def check_seconds(
    name: str, value: object, *, zero: bool = False, most: float | None = None
) -> None:
    """Raise a TypeError unless a value is a number, and a ValueError if it is not acceptable."""
    accepted = "from 0 up" if zero else "above 0"
    if most is not None:
        accepted += f" and up to {most}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a {type_name(value)}; it takes a number of seconds {accepted}.")
    enough = value >= 0 if zero else value > 0
    if not enough or value == math.inf or (most is not None and value > most):
        raise ValueError(f"{name} is {value!r}; it takes a number of seconds {accepted}.")


def type_name(value: object) -> str:
    """The full name of a value's type, for an error's text."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
