"""What a store's items hold: JSON, filters over it, and vectors of its texts."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph.store.base import get_text_at_path

from memorystore_chat.arguments import check_count, check_text, type_name
from memorystore_chat.extras import require

MAX_DEPTH = 100
"""Deepest nesting of lists and dicts in a value."""

_OPERATORS = {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"}


def to_json(value: Mapping[str, Any]) -> bytes:
    """A value as JSON that reads back equal.

    Raises:
        TypeError: It is no dict, or has something in it that JSON cannot hold as it is; the
            message names the place.
        ValueError: A number is not finite, a text not UTF-8, or the nesting too deep.

    Example:
        >>> to_json({"likes": ["green tea"]})
        b'{"likes":["green tea"]}'
        >>> to_json({"seen": {"on": {1, 2}}})
        Traceback (most recent call last):
        ...
        TypeError: value['seen']['on'] is a set, which JSON cannot hold, so nothing was stored. ...
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"value is a {type_name(value)}; it takes a dict, or None to delete.")
    value = dict(value)
    _refuse(value, "value", MAX_DEPTH)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _refuse(value: object, place: str, depth: int) -> None:
    if type(value) is str:
        check_text(place, value)
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{place} is {value}, which JSON cannot hold, so nothing was stored.")
    elif type(value) in (dict, list):
        if depth == 0:
            raise ValueError(f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep.")
        _refuse_parts(value, place, depth - 1)
    elif value is not None and type(value) not in (bool, int):
        raise TypeError(
            f"{place} is a {type_name(value)}, which JSON cannot hold, so nothing was stored. "
            "Make it text, a number, a list or a dict first."
        )


def _refuse_parts(value: Any, place: str, depth: int) -> None:
    for name, part in value.items() if type(value) is dict else enumerate(value):
        if type(value) is dict:
            check_text(f"A key of {place}", name)
        _refuse(part, f"{place}[{name!r}]", depth)


def check_filter(wanted: object) -> None:
    """Raise a TypeError unless a filter is a dict, and a ValueError if an operator is unknown."""
    if wanted is not None and not isinstance(wanted, dict):
        raise TypeError(f"filter is a {type_name(wanted)}; it takes a dict, or None.")
    for name, condition in (wanted or {}).items():
        if str(name).startswith("$") and name not in _OPERATORS:
            raise ValueError(f"The filter has {name!r}; it takes {', '.join(sorted(_OPERATORS))}.")
        if isinstance(condition, dict):
            check_filter(condition)


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is as a filter wants it: read as LangGraph's InMemoryStore reads filters.

    What has no order, such as a missing field, is neither above nor below anything.

    Example:
        >>> matches({"taste": {"tea": 5}}, {"taste": {"tea": {"$gte": 4}}})
        True
    """
    if isinstance(wanted, dict):
        if any(str(name).startswith("$") for name in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(
            matches(value.get(name), part) for name, part in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(map(matches, value, wanted))
        )
    return bool(value == wanted)


def _holds(value: Any, operator: str, operand: Any) -> bool:
    if operator in ("$eq", "$ne"):
        return bool((value == operand) == (operator == "$eq"))
    try:
        one, other = float(value), float(operand)
    except (TypeError, ValueError):
        if not (isinstance(value, str) and isinstance(operand, str)):
            return False
        one, other = value, operand  # type: ignore[assignment]
    above, below = one > other, one < other
    return {"$gt": above, "$gte": not below, "$lt": below, "$lte": not above}[operator]


class Vectors:
    """Packs the vectors of items, and compares them with those of queries.

    Args:
        dims: How many numbers a vector has.
        fields: The paths of the texts that are embedded.
    """

    def __init__(self, dims: int, fields: Sequence[str]) -> None:
        check_count("index['dims']", dims, "numbers")
        if isinstance(fields, str) or not all(isinstance(path, str) for path in fields):
            raise TypeError("index['fields'] takes a list of paths (str), or None.")
        self.fields = list(fields)
        self._numpy = require("numpy", extra="agents")
        self._head = b"%d " % dims
        self._dims = dims

    def texts(self, value: Mapping[str, Any], paths: Sequence[str] | None) -> list[str]:
        """The texts of a value at the given paths, or at the index's own."""
        return [
            text
            for path in (self.fields if paths is None else paths)
            for text in get_text_at_path(dict(value), path)
        ]

    def pack(self, vectors: Iterable[Sequence[float]]) -> bytes:
        """Vectors as they are stored: float32, 4 bytes a number."""
        return self._head + b"".join(self._array(vector).tobytes() for vector in vectors)

    def _array(self, vector: Sequence[float]) -> Any:
        array = self._numpy.asarray(vector, dtype="<f4")
        if array.shape != (self._dims,):
            raise ValueError(
                f"index['embed'] made a vector of shape {array.shape}; index['dims'] is "
                f"{self._dims}."
            )
        return array

    def rank(
        self, query: Sequence[float], packed: Sequence[bytes]
    ) -> list[tuple[int, float | None]]:
        """Positions and scores of stored vectors, the nearest first, those without any last.

        A score is the cosine; that of an item with several vectors is its highest. Vectors of
        another number of dimensions count as none.
        """
        numpy, head = self._numpy, len(self._head)
        scored = [i for i, each in enumerate(packed) if each[:head] == self._head]
        rest: list[tuple[int, float | None]] = [
            (i, None) for i, each in enumerate(packed) if each[:head] != self._head
        ]
        if not scored:
            return rest
        joined = b"".join(memoryview(packed[i])[head:] for i in scored)
        matrix = numpy.frombuffer(joined, dtype="<f4").reshape(-1, self._dims)
        wanted = self._array(query)
        lengths = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(wanted)
        lengths[lengths == 0] = numpy.inf
        counts = [(len(packed[i]) - head) // (4 * self._dims) for i in scored]
        starts = numpy.cumsum([0, *counts[:-1]])
        best = numpy.maximum.reduceat(matrix @ wanted / lengths, starts)
        order = numpy.argsort(-best, kind="stable")
        return [(scored[i], float(best[i])) for i in order] + rest
