"""What an item of the store is: checked, read, compared with a filter, and with a query."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import eq, ge, gt, le, lt, ne
from typing import Any, NamedTuple, TypeAlias, TypeVar

from langgraph.store import base

from memorystore_chat.arguments import check_count, check_seconds, check_text, type_name
from memorystore_chat.commands import Steps
from memorystore_chat.extras import require

AnItem = TypeVar("AnItem", bound=base.Item)
Namespace: TypeAlias = tuple[str, ...]

_OPERATORS = {"$eq": eq, "$ne": ne, "$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}


class Record(NamedTuple):
    """An item as store.lua answers it; it has no JSON as long as that was not asked for."""

    namespace: Namespace
    key: bytes = b""
    created: bytes = b""
    updated: bytes = b""
    ttl: bytes = b""
    json: bytes = b""
    vectors: bytes = b""
    score: float | None = None

    def item(self, kind: type[AnItem], **more: Any) -> AnItem:
        """It as an item of LangGraph."""
        created, updated = (datetime.fromtimestamp(int(at) / 1e6, UTC) for at in self[2:4])
        more |= {"namespace": self.namespace, "created_at": created, "updated_at": updated}
        return kind(key=self.key.decode(), value=json.loads(self.json), **more)


class Vectors:
    """Packs vectors of ``dims`` numbers for the texts at some paths, and compares them."""

    def __init__(self, dims: Any, fields: Any) -> None:
        check_count("index['dims']", dims, "numbers")
        if not isinstance(fields, list | tuple):
            raise TypeError(f"index['fields'] is {fields!r}; it takes a list of paths (str).")
        self._numpy = require("numpy", extra="agents")
        self._dims, self._fields, self._head = dims, fields, b"%d " % dims

    def texts(self, op: base.PutOp) -> list[str]:
        """The texts of an item that are embedded."""
        value: Any = op.value
        paths = () if value is None else self._fields if op.index is None else op.index or ()
        return [text for path in paths for text in base.get_text_at_path(value, path)]

    def pack(self, op: base.PutOp, embedded: Mapping[str, Sequence[float]]) -> bytes:
        """An item's vectors as stored: how many numbers each has, then these, 4 bytes each."""
        vectors = [self._array(embedded[text]) for text in self.texts(op)]
        return b"".join([self._head, *vectors]) if vectors else b""

    def _array(self, vector: Sequence[float]) -> Any:
        array = self._numpy.ascontiguousarray(vector, dtype="<f4")
        if array.shape != (self._dims,):
            raise ValueError(f"A vector is {array.shape} numbers, and index['dims'] {self._dims}.")
        return array

    def ranked(self, query: Sequence[float], found: Sequence[Record]) -> list[Record]:
        """Items by the cosine of the best vector of each; last those without any of ``dims``."""
        numpy, head, wanted = self._numpy, len(self._head), self._array(query)
        packed = [one.vectors if one.vectors.startswith(self._head) else b"" for one in found]
        joined = b"".join(each[head:] for each in packed)
        matrix = numpy.frombuffer(joined, dtype="<f4").reshape(-1, self._dims)
        lengths = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(wanted)
        cosines = iter((matrix @ wanted / numpy.where(lengths, lengths, numpy.inf)).tolist())
        counts = [len(each) // (4 * self._dims) for each in packed]
        scores = [max(islice(cosines, count), default=None) for count in counts]
        scored = [one._replace(score=score) for one, score in zip(found, scores, strict=True)]
        return sorted(scored, key=lambda one: (one.score is not None, one.score or 0), reverse=True)


def together(several: Mapping[Any, Steps[Any]]) -> Steps[dict[Any, Any]]:
    """Take several steps at once: what all of them ask for next is one round trip."""
    outcomes: dict[Any, Any] = {}
    answers: dict[Any, Any] = dict.fromkeys(several)
    while answers:
        asked: dict[Any, Any] = {}
        for place, answer in answers.items():
            try:
                asked[place] = several[place].send(answer)
            except StopIteration as finished:
                outcomes[place] = finished.value
        replies = iter((yield [command for request in asked.values() for command in request]))
        answers = {place: list(islice(replies, len(request))) for place, request in asked.items()}
    return {place: outcomes[place] for place in several}


def fits(namespace: Namespace, condition: base.MatchCondition) -> bool:
    """Whether a namespace is as a condition wants it."""
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    pairs = zip(path, part, strict=False)
    return len(part) == len(path) and all(one in ("*", other) for one, other in pairs)


def checked(op: Any) -> Any:
    """An operation; an error names what of it is not acceptable."""
    listing = isinstance(op, base.ListNamespacesOp)
    for name in [one.path for one in op.match_conditions or ()] if listing else [op[0]]:
        if not isinstance(name, tuple | list if listing else tuple):
            raise TypeError(f"A namespace is a {type_name(name)}; it takes a tuple of texts.")
        for part in name:
            check_text("A part of a namespace", part)
        if "" in name or (isinstance(op, base.PutOp) and not name):
            raise base.InvalidNamespaceError(f"The namespace {name!r} is empty, or a part of it.")
    if isinstance(op, base.GetOp | base.PutOp):
        check_text("key", op.key)
    if isinstance(op, base.PutOp) and op.value is not None:
        check_seconds("ttl (in minutes)", 1 if op.ttl is None else op.ttl, most=10**9)
        if not isinstance(op.value, dict):
            raise TypeError(f"value is a {type_name(op.value)}; it takes a dict, or None.")
        _check_json(op.value)
    return op


def _check_json(value: Any, place: str = "value", depth: int = 100) -> None:
    """Raise a TypeError or ValueError that names the place of what JSON would not give back."""
    if type(value) is str:
        check_text(place, value)
    elif type(value) in (dict, list):
        if depth == 0:
            raise ValueError(f"{place[:60]}... is nested more than 100 levels deep.")
        for name, part in value.items() if type(value) is dict else enumerate(value):
            if type(value) is dict:
                check_text(f"A key of {place}", name)
            _check_json(part, f"{place}[{name!r}]", depth - 1)
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which JSON cannot hold, so nothing was stored.")
    elif value is not None and type(value) not in (bool, int, float):
        raise TypeError(f"{place} is a {type_name(value)}, no JSON, so nothing was stored.")


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is as a filter wants it, read as InMemoryStore reads filters."""
    if isinstance(wanted, dict):
        if any(str(name).startswith("$") for name in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(matches(value.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list | tuple) and isinstance(value, list):
        return len(value) == len(wanted) and all(map(matches, value, wanted))
    return bool(value == wanted)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name not in _OPERATORS:
        raise ValueError(f"filter has {name!r}; its operators are {', '.join(_OPERATORS)}.")
    if name not in ("$eq", "$ne"):
        try:
            value, operand = float(value), float(operand)
        except (TypeError, ValueError, OverflowError):
            if not (isinstance(value, str) and isinstance(operand, str)):
                return False
    return bool(_OPERATORS[name](value, operand))
