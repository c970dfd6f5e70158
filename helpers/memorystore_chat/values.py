"""What JSON can hold: the rest is refused, or stored in another form if no model looks at it."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

from pydantic_core import to_jsonable_python

from memorystore_chat.arguments import type_name

MAX_DEPTH = 190
"""Deepest nesting of lists and dicts in a field; pydantic's JSON parser stops at 200."""

_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def refuse(value: object, place: str, depth: int = MAX_DEPTH) -> None:
    """Raise a ValueError that names the first place in a value that JSON cannot hold.

    Example:
        >>> refuse({"when": {1, 2}}, "artifact")
        Traceback (most recent call last):
        ...
        ValueError: artifact['when'] is a set, which JSON cannot hold, so nothing was stored. ...
    """
    if isinstance(value, str):
        if _SPLIT_CHARACTER.search(value):
            raise ValueError(
                f"{place} has a character in two surrogate halves, which JSON would join to one"
            )
        return
    if value is None or isinstance(value, int | float):
        return
    if not isinstance(value, dict | list | tuple):
        raise ValueError(
            f"{place} is a {type_name(value)}, which JSON cannot hold, so nothing was stored. "
            "Make it text, a number, a list or a dict first."
        )
    if depth == 0:
        raise ValueError(f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        _refuse_dict(value, place, depth)
        return
    for position, item in enumerate(value):
        refuse(item, f"{place}[{position}]", depth - 1)


def _refuse_dict(value: dict[Any, Any], place: str, depth: int) -> None:
    texts = set()
    for key, item in value.items():
        if not (key is None or isinstance(key, str | int | float)):
            raise ValueError(f"{place} has a {type_name(key)} as key, which JSON cannot hold")
        text = key if isinstance(key, str) else json.dumps(key)
        if text in texts:
            raise ValueError(f"{place} has two keys that JSON writes as {text!r}")
        texts.add(text)
        refuse(text, f"a key of {place}", depth)
        refuse(item, f"{place}[{key!r}]", depth - 1)


LeftOut = Callable[[str, object], None]
"""Is told the place and the value of what has no JSON form."""


class _Absent:
    """Stands for a value that has no JSON form."""


def json_form(value: object, place: str, left_out: LeftOut) -> Any:
    """A value in pydantic's JSON form, without what has none.

    Numpy's scalars become their values, bytes base64, keys what ``json.dumps`` makes of them.

    Example:
        >>> from datetime import date
        >>> json_form({"day": date(2026, 5, 1), "f": len}, "artifact", lambda *found: print(*found))
        artifact['f'] <built-in function len>
        {'day': '2026-05-01'}
    """
    form = _form(value, place, left_out, ())
    return None if form is _Absent else form


def _form(value: object, place: str, left_out: LeftOut, inside: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        if not _SPLIT_CHARACTER.search(value):
            return value
    elif len(inside) < MAX_DEPTH and id(value) not in inside:
        inside = (*inside, id(value))
        if isinstance(value, dict):
            return _form_of_dict(value, place, left_out, inside)
        if isinstance(value, list | tuple | set | frozenset):
            items = enumerate(value)
            forms = [_form(item, f"{place}[{i}]", left_out, inside) for i, item in items]
            return [form for form in forms if form is not _Absent]
        plain = _plain(value)
        if plain is not _Absent:
            return _form(plain, place, left_out, inside)
    left_out(place, value)
    return _Absent


def _form_of_dict(
    value: dict[Any, Any], place: str, left_out: LeftOut, inside: tuple[int, ...]
) -> dict[str, Any]:
    forms: dict[str, Any] = {}
    for key, item in value.items():
        here = f"{place}[{str(key)[:60]!r}]"
        text = _key(key)
        if text is _Absent or text in forms:
            left_out(here, item)
            continue
        form = _form(item, here, left_out, inside)
        if form is not _Absent:
            forms[text] = form
    return forms


def _key(key: object) -> Any:
    if isinstance(key, str):
        return _Absent if _SPLIT_CHARACTER.search(key) else key
    if key is None or isinstance(key, int | float):
        return json.dumps(key)
    plain = _plain({key: None})
    return plain if plain is _Absent else next(iter(plain))


def _plain(value: object) -> Any:
    """Built-in values for another kind of object; `_Absent` if it has none."""
    try:
        return to_jsonable_python(
            value, bytes_mode="base64", inf_nan_mode="constants", fallback=_scalar
        )
    except (ValueError, TypeError, RecursionError):
        return _Absent


def _scalar(value: object) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        item = value.item()
        if not isinstance(item, numpy.generic):
            return item
    raise TypeError(type_name(value))
