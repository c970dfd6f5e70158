"""What a store asks the server for, what its items hold, and how they are found."""

import json
import math
import operator
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote, unquote

from langgraph.store import base

from memorystore_chat.arguments import check_count, check_text, type_name
from memorystore_chat.commands import Command, Steps, script
from memorystore_chat.extras import require

AnItem = TypeVar("AnItem", bound=base.Item)
Namespace: TypeAlias = tuple[str, ...]

TOGETHER = 64  # namespaces that are asked in one round trip
SHARDS = 8  # of the index of each prefix
_ALL = 10**9
_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


class Record(NamedTuple):
    """An item as store.lua answers it, or a part of one."""

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
        times = (int(each) / 1e6 for each in (self.created, self.updated))
        created, updated = (datetime.fromtimestamp(each, UTC) for each in times)
        key, value = self.key.decode(), json.loads(self.json)
        more |= {"namespace": self.namespace, "created_at": created, "updated_at": updated}
        return kind(key=key, value=value, **more)


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
        packed = [self._array(embedded[text]).tobytes() for text in self.texts(op)]
        return self._head + b"".join(packed) if packed else b""

    def _array(self, vector: Sequence[float]) -> Any:
        array = self._numpy.asarray(vector, dtype="<f4")
        if array.shape != (self._dims,):
            raise ValueError(f"A vector is {array.shape} numbers, and index['dims'] {self._dims}.")
        return array

    def scores(self, query: Sequence[float], packed: Sequence[bytes]) -> list[float | None]:
        """The cosine of each item's best vector; None for those without any of ``dims`` numbers."""
        numpy, head, wanted = self._numpy, len(self._head), self._array(query)
        bodies = [each[head:] if each.startswith(self._head) else b"" for each in packed]
        matrix = numpy.frombuffer(b"".join(bodies), dtype="<f4").reshape(-1, self._dims)
        lengths = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(wanted)
        cosines = iter((matrix @ wanted / numpy.where(lengths, lengths, numpy.inf)).tolist())
        counts = [len(body) // (4 * self._dims) for body in bodies]
        return [max((next(cosines) for _ in range(count)), default=None) for count in counts]


class StoreSteps:
    """The steps of each operation; on one server a command may have keys of several hash slots."""

    def __init__(self, key_prefix: str, vectors: Vectors | None, *, one_server: bool) -> None:
        self._prefix, self._vectors, self._one_server = key_prefix, vectors, one_server

    def read(self, op: Any, queries: Mapping[str, Any]) -> Steps[Any]:
        """Read an item or many, or list namespaces."""
        if isinstance(op, base.SearchOp):
            return (yield from self._search(op, queries.get(op.query or "")))
        if isinstance(op, base.ListNamespacesOp):
            return (yield from self._namespaces(op))
        [found] = yield from self._fetch([Record(op.namespace, op.key.encode())], op.refresh_ttl)
        return found.item(base.Item) if found.json else None

    def write(self, op: base.PutOp, vectors: bytes) -> Steps[None]:
        """Remove an item, or store it after noting its namespace in the index of those above."""
        path, shards, noted = _path(op.namespace), self._shards(op.namespace), 0
        keys = [self._key(op.namespace), *(shards if self._one_server else ())]
        if op.value is None:
            if (yield [_call("delete", keys, op.key, path)]) == [b"EMPTY"]:
                yield self._forgetting({op.namespace: False})
            return
        ttl = 0 if op.ttl is None else max(1, round(op.ttl * 60_000))
        value = json.dumps(op.value, ensure_ascii=False, separators=(",", ":"))
        while (yield [_call("put", keys, op.key, path, ttl, value, vectors, noted)]) == [b"NEW"]:
            noted = min((yield [_call("note", [shard], path, kind=int) for shard in shards]))

    def _search(self, op: base.SearchOp, query: Any) -> Steps[list[base.SearchItem]]:
        prefix, wanted = op.namespace_prefix, op.filter or {}
        what = "j" * bool(wanted) + "v" * (query is not None)
        most = op.offset + op.limit if query is None else _ALL
        first = self._page(prefix, 0, most, what, wanted)
        if not what:  # nothing is fetched that is not handed out
            first = self._page(prefix, op.offset, most, "j" + "r" * op.refresh_ttl, wanted)
        (_, found), names = (yield from together({0: first, 1: self._below(prefix)})).values()
        while names and len(found) < most:
            size = TOGETHER if what else min(TOGETHER, most - len(found))
            group, names = names[:size], names[size:]
            left = most - len(found)
            pages = {name: self._page(name, 0, left, what, wanted) for name in group}
            replies = yield from together(pages)
            yield self._forgetting({name: there for name, (there, _) in replies.items()})
            found += [record for _, records in replies.values() for record in records]
        if query is not None and self._vectors:
            scores = self._vectors.scores(query, [record.vectors for record in found])
            found = [one._replace(score=score) for one, score in zip(found, scores, strict=True)]
            found.sort(key=lambda one: -math.inf if one.score is None else one.score, reverse=True)
        best = found[op.offset :][: op.limit]
        if wanted and op.refresh_ttl:  # those that expire are read again
            best = [one if one.ttl == b"0" else one._replace(json=b"") for one in best]
        best = yield from self._fetch(best, op.refresh_ttl)
        return [one.item(base.SearchItem, score=one.score) for one in best if one.json]

    def _namespaces(self, op: base.ListNamespacesOp) -> Steps[list[Namespace]]:
        conditions, most = op.match_conditions or (), op.offset + op.limit
        starts = (one.path for one in conditions if one.match_type == "prefix")
        prefix = max((tuple(takewhile("*".__ne__, path)) for path in starts), key=len, default=())
        below = yield from self._below(prefix)
        names = [name for name in (prefix, *below) if all(_fits(name, one) for one in conditions)]
        found: dict[Namespace, None] = {}
        while names and len(found) < most:
            group = names[: min(TOGETHER, most - len(found))]
            replies = yield [Command("EXISTS", (self._key(name),), kind=int) for name in group]
            there = dict(zip(group, replies, strict=True))
            yield self._forgetting(there)
            found |= dict.fromkeys(name[: op.max_depth] for name in group if there[name])
            names = [name for name in names[len(group) :] if name[: op.max_depth] not in found]
        return list(found)[op.offset :][: op.limit]

    def _page(self, name: Namespace, skip: int, most: int, what: str, wanted: Any) -> Steps[Any]:
        """Read live items, the oldest first: whether there are any, and those that are wanted."""
        after, there, found = b"1e13", False, list[Record]()
        while after and len(found) < most:
            left = _ALL if wanted else most - len(found)
            page = ("page", [self._key(name)], after, skip - len(found), left, what)
            [(after, parts)] = yield [_call(*page, kind=list)]
            new = [Record(name, *each) for each in parts]
            found += [one for one in new if not wanted or matches(json.loads(one.json), wanted)]
            there = there or bool(new)
        return there, found

    def _fetch(self, records: Sequence[Record], refresh: bool) -> Steps[list[Record]]:
        """Read what has no JSON yet; an item that went meanwhile gets none."""
        what, lacking = "jr" if refresh else "j", [one for one in records if not one.json]
        names = [([self._key(one.namespace)], one.key) for one in lacking]
        replies = iter((yield [_call("get", *name, what, kind=list) for name in names]))
        read = (Record(one.namespace, *next(replies))._replace(score=one.score) for one in lacking)
        return [one if one.json else next(read) for one in records]

    def _below(self, prefix: Namespace) -> Steps[list[Namespace]]:
        """Read the namespaces below a prefix, by name, from its index."""
        found: set[str] = set()
        cursors = {self._key(prefix) + b"#%d" % number: 0 for number in range(SHARDS)}
        while cursors:
            pages = yield [
                Command("ZSCAN", (shard,), (cursor, "COUNT", 1000), kind=tuple)
                for shard, cursor in cursors.items()
            ]
            found.update(path.decode() for _, paths in pages for path, _ in paths)
            following = ((shard, page[0]) for shard, page in zip(cursors, pages, strict=True))
            cursors = {shard: cursor for shard, cursor in following if cursor}
        return sorted(tuple(map(unquote, path[1:].split("/"))) for path in found)

    def _forgetting(self, there: Mapping[Namespace, Any]) -> list[Command]:
        """What removes the names of empty namespaces, unless they are new."""
        empty = (name for name, one in there.items() if not one)
        names = ((_path(name), shard) for name in empty for shard in self._shards(name))
        return [_call("forget", [shard], path) for path, shard in names]

    def _key(self, namespace: Namespace) -> bytes:
        return f"{self._prefix}store:{{{_path(namespace)}}}".encode()

    def _shards(self, namespace: Namespace) -> list[bytes]:
        """Where a namespace is noted: one shard of the index of each prefix that it has."""
        number = b"#%d" % (zlib.crc32(_path(namespace).encode()) % SHARDS)
        return [self._key(namespace[:depth]) + number for depth in range(len(namespace))]


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


def _call(ask: str, keys: Sequence[bytes], *arguments: Any, kind: type = bytes) -> Command:
    return Command("", tuple(keys), (ask, *arguments), script("store/store"), kind)


def _path(namespace: Namespace) -> str:
    return "/" + "/".join(quote(part, safe=":@ ") for part in namespace)  # chooses no slot


def _fits(namespace: Namespace, condition: base.MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    pairs = zip(path, part, strict=False)
    return len(part) == len(path) and all(one in ("*", other) for one, other in pairs)


def check_json(value: Any, place: str = "value", depth: int = 100) -> None:
    """Raise a TypeError or ValueError that names the place of what JSON would not give back."""
    if type(value) is str:
        check_text(place, value)
    elif type(value) in (dict, list):
        if depth == 0:
            raise ValueError(f"{place[:60]}... is nested more than 100 levels deep.")
        for name, part in value.items() if type(value) is dict else enumerate(value):
            if type(value) is dict:
                check_text(f"A key of {place}", name)
            check_json(part, f"{place}[{name!r}]", depth - 1)
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
    if name in ("$eq", "$ne"):
        return bool((value == operand) == (name == "$eq"))
    if name not in _ORDER:
        raise ValueError(f"filter has {name!r}; its operators are $eq, $ne, {', '.join(_ORDER)}.")
    try:
        value, operand = float(value), float(operand)
    except (TypeError, ValueError, OverflowError):
        if not (isinstance(value, str) and isinstance(operand, str)):
            return False
    return bool(_ORDER[name](value, operand))
