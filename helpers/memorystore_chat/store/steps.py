"""What a store asks the server for, and what it makes of the answers; no way of asking."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from langgraph.store.base import GetOp, Item, ListNamespacesOp, MatchCondition, SearchItem, SearchOp

from memorystore_chat.commands import Command, Steps, script
from memorystore_chat.store.values import Vectors, matches

T = TypeVar("T")
AnItem = TypeVar("AnItem", bound=Item)
Namespace: TypeAlias = tuple[str, ...]

TOGETHER = 64  # namespaces that are read in one round trip
HOUR = (
    3_600_000  # milliseconds after which a namespace that was noted and holds nothing is forgotten
)
ROOM = 512  # namespaces in a node of the index; store.lua knows it too
_ALL = 10**9
_EPOCH = datetime.fromtimestamp(0, UTC)


class Record(NamedTuple):
    """An item as it is stored."""

    namespace: Namespace
    key: bytes
    text: bytes

    def value(self) -> dict[str, Any]:
        """Its value, as plain data."""
        value: dict[str, Any] = json.loads(self.text.split(b" ", 5)[5])
        return value

    def expires(self) -> bool:
        """Whether it has a time to live."""
        return self.text.split(b" ", 4)[3] != b"0"

    def item(self, kind: type[AnItem], **more: Any) -> AnItem:
        """The item, of LangGraph's class for it."""
        created, updated = (int(each) for each in self.text.split(b" ", 3)[1:3])
        return kind(
            namespace=self.namespace,
            key=self.key.decode(),
            value=self.value(),
            created_at=_EPOCH + timedelta(microseconds=created),
            updated_at=_EPOCH + timedelta(microseconds=updated),
            **more,
        )


class Page(NamedTuple):
    """What was read of a namespace: whether it is there, and how much was skipped and taken."""

    there: bool
    skipped: int
    taken: int
    records: list[Record]


class Below(dict[Namespace, list[tuple[bytes, bytes]]]):
    """The namespaces below a prefix, by name, with the nodes that an old note of them is in."""


class StoreSteps:
    """The steps of each operation."""

    def __init__(self, key_prefix: str, vectors: Vectors | None, *, one_server: bool) -> None:
        self._prefix = key_prefix
        self._vectors = vectors
        self._one_server = one_server

    def get(self, op: GetOp) -> Steps[Item | None]:
        """Read an item."""
        [found] = yield from self._fetch([(op.namespace, op.key.encode())], op.refresh_ttl)
        return found and found.item(Item)

    def delete(self, namespace: Namespace, key: str) -> Steps[None]:
        """Remove an item."""
        yield [self._call("delete", self._key(namespace), key)]

    def put(
        self, namespace: Namespace, key: str, value: bytes, ttl: int, vectors: bytes
    ) -> Steps[None]:
        """Store an item, after its namespace was noted in the index of each one above it."""
        path, noted = _path(namespace), 0
        above = [namespace[:depth] for depth in range(len(namespace))]
        nodes = [self._node(each) for each in above] if self._one_server else []
        while True:
            arguments = (key, ttl, noted, path, vectors, value)
            [reply] = yield [self._call("put", self._key(namespace), *arguments, nodes=nodes)]
            if reply == b"OK":
                return
            noted = min((yield from together([self._note(each, path) for each in above])))

    def _note(self, above: Namespace, path: str) -> Steps[int]:
        digits, digest = "", hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        while True:
            [reply] = yield [self._call("note", self._node(above, digits), path)]
            if reply != b"FULL":
                return int(reply)
            digits = digest[: len(digits) + 1]

    def search(self, op: SearchOp) -> Steps[list[SearchItem]]:
        """Find the oldest items below a prefix; with a filter, read until enough of them match."""
        prefix, wanted = op.namespace_prefix, op.filter or {}
        skip, take = (0, op.offset + op.limit) if wanted else (op.offset, op.limit)
        refresh = op.refresh_ttl and not wanted
        own, below = yield from together(
            [self._page(prefix, (skip, take), wanted, refresh), self._below(prefix)]
        )
        found, skip, gone = list(own.records), skip - own.skipped, []
        for group in _groups(below):
            missing = take - len(found)
            if missing <= 0:
                break
            slices = dict.fromkeys(group, (0, missing))
            if not wanted:  # nothing is fetched that is not handed out
                counts = yield from self._counts(group, skip + missing)
                gone += [name for name, page in counts.items() if not page.there]
                slices = {}
                for name, page in counts.items():
                    skipped = min(skip, page.taken)
                    taken = min(missing, page.taken - skipped)
                    skip, missing = skip - skipped, missing - taken
                    if taken:
                        slices[name] = (skipped, taken)
            pages = yield from together(
                [self._page(name, part, wanted, refresh) for name, part in slices.items()]
            )
            gone += [name for name, page in zip(slices, pages, strict=True) if not page.there]
            found += [record for page in pages for record in page.records]
        yield from self._forget(below, gone)
        found = found[op.offset if wanted else 0 :][: op.limit]
        yield from self._refresh(found, op.refresh_ttl and bool(wanted))
        return [record.item(SearchItem) for record in found]

    def nearest(self, op: SearchOp, query: Sequence[float]) -> Steps[list[SearchItem]]:
        """Find the items below a prefix whose vectors are nearest to that of a query."""
        prefix, wanted, names, packed = op.namespace_prefix, op.filter or {}, [], []
        below = yield from self._below(prefix)
        for group in _groups([prefix, *below]):
            pages = yield from together([self._page(name, what="vectors") for name in group])
            names += [(found.namespace, found.key) for page in pages for found in page.records]
            packed += [found.text for page in pages for found in page.records]
        ranked = self._vectors.rank(query, packed) if self._vectors else []
        start, end = (0, len(ranked)) if wanted else (op.offset, op.offset + op.limit)
        best: list[tuple[Record, float | None]] = []
        for group in _groups(ranked[start:end]):
            records = yield from self._fetch([names[place] for place, _ in group])
            best += [
                (record, score)
                for record, (_, score) in zip(records, group, strict=True)
                if record and (not wanted or matches(record.value(), wanted))
            ]
            if wanted and len(best) >= op.offset + op.limit:
                break
        best = best[op.offset if wanted else 0 :][: op.limit]
        yield from self._refresh([record for record, _ in best], op.refresh_ttl)
        return [record.item(SearchItem, score=score) for record, score in best]

    def namespaces(self, op: ListNamespacesOp) -> Steps[list[Namespace]]:
        """List the namespaces that hold something, cut to a depth."""
        conditions = op.match_conditions or ()
        fixed = max(
            (
                tuple(takewhile(lambda part: part != "*", one.path))
                for one in conditions
                if one.match_type == "prefix"
            ),
            key=len,
            default=(),
        )
        below, gone = (yield from self._below(fixed)), []
        pending = [each for each in (fixed, *below) if all(_fits(each, one) for one in conditions)]
        found: dict[Namespace, None] = {}
        while pending and len(found) < op.offset + op.limit:
            counts = yield from self._counts(pending[:TOGETHER], 1)
            found |= dict.fromkeys(name[: op.max_depth] for name in counts if counts[name].taken)
            gone += [name for name, page in counts.items() if not page.there]
            pending = [name for name in pending[TOGETHER:] if name[: op.max_depth] not in found]
        yield from self._forget(below, gone)
        return list(found)[op.offset :][: op.limit]

    def _page(
        self,
        namespace: Namespace,
        part: tuple[int, int] = (0, _ALL),
        wanted: Mapping[str, Any] | None = None,
        refresh: bool = False,
        what: str = "items",
    ) -> Steps[Page]:
        """Read live items of a namespace, the oldest first: so many, after so many."""
        (skip, take), place = part, 0
        page = Page(there=False, skipped=0, taken=0, records=[])
        while place >= 0 and page.taken < take:
            rest = (skip - page.skipped, _ALL if wanted else take - page.taken)
            [[place, there, skipped, taken, texts]] = yield [
                self._call(
                    "page", self._key(namespace), what, place, *rest, int(refresh), kind=list
                )
            ]
            new = [Record(namespace, *pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
            if wanted:
                new = [record for record in new if matches(record.value(), wanted)]
                taken = len(new)
            page = Page(bool(there), page.skipped + skipped, page.taken + taken, page.records + new)
        return page

    def _counts(self, names: Sequence[Namespace], most: int) -> Steps[dict[Namespace, Page]]:
        pages = yield from together([self._page(name, (0, most), what="count") for name in names])
        return dict(zip(names, pages, strict=True))

    def _fetch(
        self, names: Sequence[tuple[Namespace, bytes]], refresh: bool = False
    ) -> Steps[list[Record | None]]:
        together_: dict[Namespace, list[bytes]] = {}
        for namespace, key in names:
            together_.setdefault(namespace, []).append(key)
        replies = yield [
            self._call("get", self._key(namespace), int(refresh), *keys, kind=list)
            for namespace, keys in together_.items()
        ]
        found = {
            (namespace, key): text
            for (namespace, keys), texts in zip(together_.items(), replies, strict=True)
            for key, text in zip(keys, texts, strict=True)
        }
        return [Record(*name, found[name]) if found[name] else None for name in names]

    def _refresh(self, records: Sequence[Record], wanted: bool) -> Steps[None]:
        lasting = [(found.namespace, found.key) for found in records if found.expires()]
        if wanted and lasting:
            yield from self._fetch(lasting, refresh=True)

    def _below(self, prefix: Namespace) -> Steps[Below]:
        found, level = Below(), [""]
        while level:
            nodes = [self._node(prefix, digits) for digits in level]
            replies = yield [self._call("names", node, kind=list) for node in nodes]
            deeper = []
            for digits, node, (now, pairs) in zip(level, nodes, replies, strict=True):
                if b"" in pairs[::2] or len(pairs) >= 2 * ROOM:
                    deeper += [digits + each for each in "0123456789abcdef"]
                for path, noted in zip(pairs[::2], pairs[1::2], strict=True):
                    if path:
                        old = int(now) - int(noted) > HOUR
                        found.setdefault(_namespace(path), []).extend([(node, noted)] * old)
            level = deeper
        return Below(sorted(found.items()))

    def _forget(self, below: Below, gone: Iterable[Namespace]) -> Steps[None]:
        yield [
            self._call("forget", node, _path(name), noted)
            for name in gone
            for node, noted in below.get(name, ())
        ]

    def _call(
        self,
        ask: str,
        key: bytes,
        *arguments: str | bytes | int,
        nodes: Sequence[bytes] = (),
        kind: type = bytes,
    ) -> Command:
        return Command("", (key, *nodes), (ask, *arguments), script("store/store"), kind)

    def _key(self, namespace: Namespace) -> bytes:
        return f"{self._prefix}store:{{{_path(namespace)}}}".encode()

    def _node(self, above: Namespace, digits: str = "") -> bytes:
        return f"{self._prefix}store:{{{_path(above)}{'#' if digits else ''}{digits}}}#".encode()


def together(several: Sequence[Steps[Any]]) -> Steps[list[Any]]:
    """Take several steps at once: what all of them ask for next is one round trip."""
    outcomes: dict[int, Any] = {}
    answers: dict[int, list[Any] | None] = dict.fromkeys(range(len(several)))
    while answers:
        asked: dict[int, list[Command]] = {}
        for place, answer in answers.items():
            try:
                asked[place] = cast("list[Command]", several[place].send(cast("Any", answer)))
            except StopIteration as finished:
                outcomes[place] = finished.value
        commands = [each for request in asked.values() for each in request]
        replies = iter((yield commands) if commands else ())
        answers = {place: list(islice(replies, len(request))) for place, request in asked.items()}
    return [outcomes[place] for place in range(len(several))]


def _groups(names: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(names)
    while group := list(islice(rest, TOGETHER)):
        yield group


def _path(namespace: Namespace) -> str:
    """The path of a namespace, in which no part can end another, nor choose a cluster's slot."""
    parts = (re.sub(r"[%/#{}]", lambda found: f"%{ord(found[0]):02X}", part) for part in namespace)
    return "/" + "/".join(parts)


def _namespace(path: bytes) -> Namespace:
    return tuple(unquote(part) for part in path.decode()[1:].split("/"))


def _fits(namespace: Namespace, condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(
        one in ("*", other) for one, other in zip(path, part, strict=True)
    )
