"""What a store asks the server for, and what it makes of the answers; no way of asking."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)

from memorystore_chat.commands import Command, Steps, script
from memorystore_chat.store.values import Vectors, matches

AnItem = TypeVar("AnItem", bound=Item)
Namespace: TypeAlias = tuple[str, ...]
Below: TypeAlias = dict[Namespace, list[tuple[bytes, bytes]]]  # and old notes: their node and time

TOGETHER = 64  # namespaces or items that are asked for in one round trip
HOUR = 3_600_000  # milliseconds before what was noted and leads nowhere is forgotten
ROOM = 512  # namespaces in a node of the index; store.lua knows it too
_ALL = 10**9
_EPOCH = datetime.fromtimestamp(0, UTC)


class Record(NamedTuple):
    """An item as store.lua answers it, or only its name, with or without its vectors."""

    namespace: Namespace
    key: bytes
    text: bytes = b""

    @property
    def value(self) -> Any:
        """Its value: plain data."""
        return json.loads(self.text.split(b" ", 5)[5])

    @property
    def expires(self) -> bool:
        """Whether it has a time to live."""
        return self.text.split(b" ", 4)[3] != b"0"

    def matches(self, wanted: Mapping[str, Any]) -> bool:
        """Whether its value is as a filter wants it."""
        return not wanted or matches(self.value, wanted)

    def item(self, kind: type[AnItem], **more: Any) -> AnItem:
        """It as an item of LangGraph."""
        created, updated = (
            _EPOCH + timedelta(microseconds=int(each)) for each in self.text.split(b" ", 3)[1:3]
        )
        key, value = self.key.decode(), self.value
        times = {"created_at": created, "updated_at": updated}
        return kind(namespace=self.namespace, key=key, value=value, **times, **more)


class Page(NamedTuple):
    """What was read of a namespace: whether it is there, and how many items were skipped."""

    there: bool = False
    skipped: int = 0
    records: tuple[Record, ...] = ()


class StoreSteps:
    """The steps of each operation.

    Args:
        key_prefix: What keys begin with.
        vectors: Compares vectors, if there is an index.
        one_server: Whether one command may have keys of several hash slots.
    """

    def __init__(self, key_prefix: str, vectors: Vectors | None, *, one_server: bool) -> None:
        self._prefix, self._vectors, self._one_server = key_prefix, vectors, one_server

    def get(self, op: GetOp) -> Steps[Item | None]:
        """Read an item."""
        [found] = yield from self._fetch([Record(op.namespace, op.key.encode())], op.refresh_ttl)
        return found and found.item(Item)

    def write(self, op: PutOp, value: bytes, vectors: bytes) -> Steps[None]:
        """Remove an item, or store it after noting its namespace in the index of those above."""
        key, path, noted, reply = self._key(op.namespace), _path(op.namespace), 0, b""
        if op.value is None:
            yield [self._call("delete", [key], op.key)]
            return
        ttl = 0 if op.ttl is None else max(1, round(op.ttl * 60_000))
        above = [op.namespace[:depth] for depth in range(len(op.namespace))]
        keys = [key, *(self._node(each) for each in above if self._one_server)]
        while reply != b"OK":
            if reply:
                noted = min((yield from together([self._note(each, path) for each in above])))
            [reply] = yield [self._call("put", keys, op.key, ttl, noted, path, vectors, value)]

    def _note(self, above: Namespace, path: str) -> Steps[int]:
        digits, digest = "", hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        while True:
            [reply] = yield [self._call("note", [self._node(above, digits)], path)]
            if reply != b"FULL":
                return int(reply)
            digits = digest[: len(digits) + 1]

    def search(self, op: SearchOp, query: Sequence[float] | None) -> Steps[list[SearchItem]]:
        """Find items below a prefix: the oldest, or those nearest to a query."""
        prefix, wanted, most = op.namespace_prefix, op.filter or {}, op.offset + op.limit
        refresh = op.refresh_ttl and not wanted
        if query is not None:
            what, most = "vectors", _ALL
            first = self._page(prefix, what)
        elif wanted:
            what, first = "items", self._page(prefix, "items", most, wanted)
        else:  # nothing is fetched that is not handed out
            what, first = "keys", self._page(prefix, "items", op.limit, {}, refresh, op.offset)
        own, below = yield from together([first, self._below(prefix)])
        found, names = [*[Record(prefix, b"")] * own.skipped, *own.records], list(below)
        while names and len(found) < most:
            size = min(TOGETHER, most - len(found)) if what == "keys" else TOGETHER
            asked = [self._page(name, what, most - len(found), wanted) for name in names[:size]]
            pages = yield from self._pages(names[:size], asked, below)
            found += [record for page in pages for record in page.records]
            names = names[size:]
        start, order = 0, list[tuple[int, float | None]]((n, None) for n in range(len(found)))
        if query is not None and self._vectors:
            order = self._vectors.rank(query, [record.text for record in found])
            found = [record._replace(text=b"") for record in found]
        if query is not None and wanted:
            start = op.offset
        else:
            order = order[op.offset :][: op.limit]
        best: list[tuple[Record, float | None]] = []
        while order and len(best) < start + op.limit:
            group, order = order[:TOGETHER], order[TOGETHER:]
            records = yield from self._fetch([found[place] for place, _ in group], refresh)
            pairs = zip(records, group, strict=True)
            best += [(one, score) for one, (_, score) in pairs if one and one.matches(wanted)]
        best = best[start:][: op.limit]
        if wanted and op.refresh_ttl:
            lasting = [record._replace(text=b"") for record, _ in best if record.expires]
            yield from self._fetch(lasting, refresh=True)
        return [record.item(SearchItem, score=score) for record, score in best]

    def namespaces(self, op: ListNamespacesOp) -> Steps[list[Namespace]]:
        """List the namespaces that hold something, by name, cut to a depth."""
        conditions, most = op.match_conditions or (), op.offset + op.limit
        prefixes = [one.path for one in conditions if one.match_type == "prefix"]
        fixed = [tuple(takewhile(lambda part: part != "*", path)) for path in prefixes]
        prefix = max(fixed, key=len, default=())
        below = yield from self._below(prefix)
        names = [name for name in (prefix, *below) if all(_fits(name, one) for one in conditions)]
        found: dict[Namespace, None] = {}
        while names and len(found) < most:
            group = names[: min(TOGETHER, most - len(found))]
            asked = [self._page(name, "keys", 1) for name in group]
            pages = zip(group, (yield from self._pages(group, asked, below)), strict=True)
            found |= dict.fromkeys(name[: op.max_depth] for name, page in pages if page.records)
            names = [name for name in names[len(group) :] if name[: op.max_depth] not in found]
        return list(found)[op.offset :][: op.limit]

    def _page(
        self,
        namespace: Namespace,
        what: str,
        most: int = _ALL,
        wanted: Mapping[str, Any] | None = None,
        refresh: bool = False,
        skip: int = 0,
    ) -> Steps[Page]:
        """Read live items of a namespace, or their keys or vectors, the oldest first."""
        place, page, keys = 0, Page(), [self._key(namespace)]
        while place >= 0 and len(page.records) < most:
            take = _ALL if wanted else most - len(page.records)
            arguments = (what, place, skip - page.skipped, take, int(refresh))
            [reply] = yield [self._call("page", keys, *arguments, kind=list)]
            place, there, skipped, texts = reply
            new = [Record(namespace, *one) for one in zip(*[iter(texts)] * 2, strict=True)]
            kept = [record for record in new if what != "items" or record.matches(wanted or {})]
            page = Page(bool(there), page.skipped + skipped, (*page.records, *kept))
        return page

    def _pages(
        self, names: Sequence[Namespace], asked: Sequence[Steps[Page]], below: Below
    ) -> Steps[list[Page]]:
        """Read pages of namespaces, and forget those that have not been there for an hour."""
        pages: list[Page] = yield from together(asked)
        gone = [name for name, page in zip(names, pages, strict=True) if not page.there]
        notes = [(name, *note) for name in gone for note in below.get(name, ())]
        yield [self._call("forget", [node], _path(name), noted) for name, node, noted in notes]
        return pages

    def _fetch(self, records: Sequence[Record], refresh: bool) -> Steps[list[Record | None]]:
        """Read what has no text yet; None for an item that went meanwhile."""
        missing = [record for record in records if not record.text]
        replies = yield [
            self._call("get", [self._key(name)], int(refresh), key, kind=list)
            for name, key, _ in missing
        ]
        found = iter(replies)
        texts = [[record.text] if record.text else next(found) for record in records]
        pairs = zip(records, texts, strict=True)
        return [record._replace(text=text[0]) if text else None for record, text in pairs]

    def _below(self, prefix: Namespace) -> Steps[Below]:
        """Read the namespaces below a prefix, sorted, from the nodes of its index."""
        found: Below = {}
        level = [""]
        while level:
            nodes = [self._node(prefix, digits) for digits in level]
            replies = yield [self._call("names", [node], kind=list) for node in nodes]
            deeper = []
            for digits, node, (now, pairs) in zip(level, nodes, replies, strict=True):
                if b"" in pairs[::2] or len(pairs) >= 2 * ROOM:
                    deeper += [digits + each for each in "0123456789abcdef"]
                for path, noted in zip(pairs[::2], pairs[1::2], strict=True):
                    old = int(now) - int(noted) > HOUR
                    if path:
                        found.setdefault(_namespace(path), []).extend([(node, noted)] * old)
            level = deeper
        return dict(sorted(found.items()))

    def _call(
        self, ask: str, keys: Sequence[bytes], *arguments: str | bytes | int, kind: type = bytes
    ) -> Command:
        return Command("", tuple(keys), (ask, *arguments), script("store/store"), kind)

    def _key(self, namespace: Namespace) -> bytes:
        return f"{self._prefix}store:{{{_path(namespace)}}}".encode()

    def _node(self, above: Namespace, digits: str = "") -> bytes:
        # The first node of a namespace's index is in the hash slot of its items.
        return f"{self._prefix}store:{{{_path(above)}{digits and '#'}{digits}}}#".encode()


def together(several: Sequence[Steps[Any]]) -> Steps[list[Any]]:
    """Take several steps at once: what all of them ask for next is one round trip."""
    outcomes: dict[int, Any] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(several)))
    while answers:
        asked: dict[int, list[Command]] = {}
        for place, answer in answers.items():
            try:
                asked[place] = cast("list[Command]", several[place].send(answer))
            except StopIteration as finished:
                outcomes[place] = finished.value
        commands = [command for request in asked.values() for command in request]
        replies = iter((yield commands) if commands else ())
        answers = {place: list(islice(replies, len(request))) for place, request in asked.items()}
    return [outcomes[place] for place in range(len(several))]


def _path(namespace: Namespace) -> str:
    """A namespace as text: no part can end another, nor choose the hash slot."""
    parts = (re.sub(r"[%/#{}]", lambda found: f"%{ord(found[0]):02X}", part) for part in namespace)
    return "/" + "/".join(parts)


def _namespace(path: bytes) -> Namespace:
    return tuple(unquote(part) for part in path.decode()[1:].split("/"))


def _fits(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(
        one in ("*", other) for one, other in zip(path, part, strict=True)
    )
