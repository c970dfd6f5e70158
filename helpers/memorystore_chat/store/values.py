"""What a store's items hold: JSON, filters over it, and vectors of its texts."""

import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import PutOp, get_text_at_path

from memorystore_chat.arguments import check_count, check_text, type_name
from memorystore_chat.extras import require

MAX_DEPTH = 100  # of lists and dicts in a value
_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
_OPERATORS = ("$eq", "$ne", *_ORDER)


def to_json(value: Any) -> bytes:
    """A value as JSON that reads back equal.

    Raises:
        TypeError: It is no dict, or something in it is not JSON; the message names the place.
        ValueError: A number is not finite, a text not UTF-8, or the nesting too deep.

    Example:
        >>> to_json({"seen": {"on": {1, 2}}})
        Traceback (most recent call last):
        ...
        TypeError: value['seen']['on'] is a set, which JSON cannot hold, so nothing was stored. ...
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"value is a {type_name(value)}; it takes a dict, or None to delete.")
    _refuse(dict(value), "value", MAX_DEPTH)
    return json.dumps(dict(value), ensure_ascii=False, separators=(",", ":")).encode()


def _refuse(value: Any, place: str, depth: int) -> None:
    if type(value) is str:
        check_text(place, value)
    elif type(value) in (dict, list):
        if depth == 0:
            raise ValueError(f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep.")
        for name, part in value.items() if type(value) is dict else enumerate(value):
            if type(value) is dict:
                check_text(f"A key of {place}", name)
            _refuse(part, f"{place}[{name!r}]", depth - 1)
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which JSON cannot hold, so nothing was stored.")
    elif value is not None and type(value) not in (bool, int, float):
        raise TypeError(
            f"{place} is a {type_name(value)}, which JSON cannot hold, so nothing was stored. "
            "Make it text, a number, a list or a dict first."
        )


def check_filter(wanted: object) -> None:
    """Raise a TypeError unless a filter is a dict, and a ValueError if an operator is unknown."""
    if wanted is not None and not isinstance(wanted, dict):
        raise TypeError(f"filter is a {type_name(wanted)}; it takes a dict, or None.")
    for name, condition in (wanted or {}).items():
        if str(name).startswith("$") and name not in _OPERATORS:
            raise ValueError(f"filter has {name!r}; its operators are {', '.join(_OPERATORS)}.")
        if isinstance(condition, dict):
            check_filter(condition)


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is as a filter wants it, read as LangGraph's InMemoryStore reads filters.

    What has no order with the operand, such as a missing field, is neither above nor below it.

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
    if isinstance(wanted, list | tuple) and isinstance(value, list):
        return len(value) == len(wanted) and all(map(matches, value, wanted))
    return bool(value == wanted)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name in ("$eq", "$ne"):
        return bool((value == operand) == (name == "$eq"))
    try:
        value, operand = float(value), float(operand)
    except (TypeError, ValueError, OverflowError):
        if not (isinstance(value, str) and isinstance(operand, str)):
            return False
    return bool(_ORDER[name](value, operand))


def _check_paths(paths: object) -> None:
    if not isinstance(paths, list | tuple):
        raise TypeError(f"The fields of an index are {paths!r}; it takes a list of paths (str).")


class Vectors:
    """Packs the vectors of items, and compares them with that of a query.

    Args:
        dims: How many numbers a vector has.
        fields: The paths of the texts that are embedded.
    """

    def __init__(self, dims: Any, fields: Sequence[str]) -> None:
        check_count("index['dims']", dims, "numbers")
        _check_paths(fields)
        self._numpy = require("numpy", extra="agents")
        self._dims, self._fields, self._head = dims, fields, b"%d " % dims

    def texts(self, op: PutOp) -> list[str]:
        """The texts of an item that are embedded."""
        if op.value is None or op.index is False:
            return []
        paths = self._fields if op.index is None else op.index
        _check_paths(paths)
        return [text for path in paths for text in get_text_at_path(dict(op.value), path)]

    def pack(self, vectors: Sequence[Sequence[float]]) -> bytes:
        """Vectors as they are stored: how many numbers each has, then float32, 4 bytes a number."""
        packed = [self._array(vector).tobytes() for vector in vectors]
        return self._head + b"".join(packed) if packed else b""

    def _array(self, vector: Sequence[float]) -> Any:
        array = self._numpy.asarray(vector, dtype="<f4")
        if array.shape != (self._dims,):
            raise ValueError(f"A vector is {array.shape} numbers, and index['dims'] {self._dims}.")
        return array

    def rank(
        self, query: Sequence[float], packed: Sequence[bytes]
    ) -> list[tuple[int, float | None]]:
        """Positions and cosines of stored vectors, the nearest first, those without any last.

        The best of several vectors counts. Those of another number of dimensions count as none.
        """
        numpy, head, wanted = self._numpy, len(self._head), self._array(query)
        scored = [place for place, each in enumerate(packed) if each[:head] == self._head]
        scores: dict[int, float] = {}
        if scored:
            joined = b"".join(memoryview(packed[place])[head:] for place in scored)
            matrix = numpy.frombuffer(joined, dtype="<f4").reshape(-1, self._dims)
            lengths = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(wanted)
            cosines = matrix @ wanted / numpy.where(lengths == 0, numpy.inf, lengths)
            counts = [(len(packed[place]) - head) // (4 * self._dims) for place in scored]
            best = numpy.maximum.reduceat(cosines, numpy.cumsum([0, *counts[:-1]]))
            scores = dict(zip(scored, best.tolist(), strict=True))
        nearest = sorted(scored, key=scores.__getitem__, reverse=True)
        rest = [place for place in range(len(packed)) if place not in scores]
        return [(place, scores.get(place)) for place in [*nearest, *rest]]
