"""A store beside LangGraph's InMemoryStore: whatever is done to both, they answer the same."""

import asyncio
import hashlib
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from memorystore_chat.store import MemorystoreStore
from proxy import Proxy
from servers import Cluster

OFTEN = ConstantBackoff(0.001), 20  # which redis-py tries again
PARTS = ("a", "b", "a/b", "{a}", "%2F", "a:b", "#", "茶🍵", "*a", "x" * 1024)
KEYS = ("k", "", "i:k", "meta", "o:0", "{k}", "k\0k", "k:🍵", "clé", "y" * 1024)
WORDS = ("green tea", "black tea", "coffee", "nuts", "")

parts = st.sampled_from(PARTS)
names = st.lists(parts, min_size=1, max_size=3).map(tuple)
prefixes = st.lists(parts, max_size=2).map(tuple)
keys = st.sampled_from(KEYS)
numbers = st.integers(-3, 3)
scalars = (
    st.none() | st.booleans() | numbers | st.floats(-3, 3) | st.sampled_from(["5", "tea", "\ue000"])
)
values = st.fixed_dictionaries(
    {"text": st.sampled_from(WORDS), "n": numbers},
    optional={
        "nested": st.fixed_dictionaries({"n": numbers}),
        "list": st.lists(scalars, max_size=2, unique_by=str),
    },
)
compared = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("$gt", "$gte", "$lt", "$lte", "$eq", "$ne"), numbers)
).filter(len)
filters = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "n": numbers | compared,
        "text": st.sampled_from(WORDS) | st.fixed_dictionaries({"$ne": st.sampled_from(WORDS)}),
        "nested": st.fixed_dictionaries({"n": numbers}),
        "list": st.lists(scalars, max_size=2),
    },
)
gets = st.builds(GetOp, names, keys)
searches = st.builds(SearchOp, prefixes, filters, st.just(10**6), st.just(0), st.none())
indexed: Any = st.sampled_from([None, False, ["list[*]"]])
puts = st.builds(PutOp, names, keys, values, indexed, st.none())
deletions = st.builds(PutOp, names, keys, st.none(), st.none(), st.none())
paths = st.lists(parts | st.just("*"), min_size=1, max_size=3).map(tuple)
kinds: Any = st.sampled_from(["prefix", "suffix"])
conditions = st.lists(st.builds(MatchCondition, kinds, paths), max_size=2)
limits, offsets = st.integers(0, 5), st.integers(0, 3)


def embed(texts: Any) -> list[list[float]]:
    """A vector of each text that has no meaning, and no two alike."""
    return [[byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:4]] for text in texts]


INDEX: Any = {"dims": 4, "embed": embed, "fields": ["text", "list[*]"]}


class Beside(RuleBasedStateMachine):
    """Every operation on both stores, through links that lose a reply now and then."""

    direct: Any
    proxies: list[Proxy]
    batch: Any  # our store's

    @initialize()
    def begin(self) -> None:
        self.direct.flushall()
        self.model: Any = InMemoryStore(index=INDEX)

    def both(self, *ops: Any) -> list[tuple[Any, Any]]:
        ours = self.batch(ops)
        reads = iter(self.model.batch([op for op in ops if not isinstance(op, PutOp)]))
        for op in ops:  # one by one: it cannot embed a text twice in a batch, nor forget vectors
            if isinstance(op, PutOp):
                self.model._vectors[op.namespace].pop(op.key, None)
                self.model.batch([op])
        theirs = [None if isinstance(op, PutOp) else next(reads) for op in ops]
        return list(zip(ours, theirs, strict=True))

    @rule()
    def lose_a_reply(self) -> None:
        for proxy in self.proxies:
            proxy.lose_reply_to = b"store:"

    @rule(ops=st.lists(puts | deletions, min_size=1, max_size=4))
    def write(self, ops: list[PutOp]) -> None:
        assert all(pair == (None, None) for pair in self.both(*ops))

    @rule(ops=st.lists(gets | searches, min_size=1, max_size=4), put=puts)
    def read_and_write(self, ops: list[Any], put: PutOp) -> None:
        for ours, theirs in self.both(*ops, put, GetOp(put.namespace, put.key)):
            assert plain(ours) == plain(theirs)

    @rule(op=searches, limit=limits, offset=offsets)
    def search(self, op: SearchOp, limit: int, offset: int) -> None:
        [(ours, _)] = self.both(op._replace(limit=limit, offset=offset))
        assert plain(ours) == plain(self.model.batch([op])[0])[offset:][:limit]

    @rule(op=searches, query=st.sampled_from(WORDS[:-1]), limit=limits, offset=offsets)
    def search_by_meaning(self, op: SearchOp, query: str, limit: int, offset: int) -> None:
        [ours] = self.batch([op._replace(query=query, limit=limit, offset=offset)])
        [theirs] = self.model.batch([op._replace(query=query)])  # its offset counts scores only
        assert [score for _, score in scored(ours)] == [
            score for _, score in scored(theirs)[offset:][:limit]
        ]
        assert all(each in scored(theirs) for each in scored(ours))

    @rule(wanted=conditions, depth=st.none() | st.integers(1, 3), limit=limits, offset=offsets)
    def list_namespaces(self, wanted: Any, depth: int | None, limit: int, offset: int) -> None:
        op = ListNamespacesOp(tuple(wanted), depth, limit, offset)
        every = op._replace(limit=10**6, offset=0, max_depth=None)
        # InMemoryStore lists what is empty as well.
        full = [name for name in self.model.batch([every])[0] if self.model._data[name]]
        cut = sorted({name[:depth] for name in full})
        assert self.both(op)[0][0] == cut[offset:][:limit]


def scored(found: Any) -> list[tuple[Any, float | None]]:
    return [(plain(item), item.score and round(item.score, 4)) for item in found]


def plain(found: Any) -> Any:
    """What was found; InMemoryStore has namespaces in the order in which they came, not by name."""
    if isinstance(found, list):
        return [plain(item) for item in sorted(found, key=lambda item: item.namespace)]
    return found and (found.namespace, found.key, found.value)


@pytest.mark.parametrize("place", ["redis_server", "valkey_cluster"])
def test_like_langgraphs_own(place: str, request: pytest.FixtureRequest) -> None:
    """Hundreds of steps are answered as InMemoryStore does, also if replies are lost.

    The server is asked by asyncio, and the cluster without it.
    """
    server = request.getfixturevalue(place)
    nodes = server.nodes if isinstance(server, Cluster) else [server]
    with asyncio.Runner() as runner, ExitStack() as links:
        proxies = [links.enter_context(Proxy(node.host, node.port)) for node in nodes]
        if isinstance(server, Cluster):
            ports = {node.port: proxy.port for node, proxy in zip(nodes, proxies, strict=True)}
            moved: Any = {"address_remap": lambda at: (at[0], ports.get(at[1], at[1]))}
            client = links.enter_context(server.client(retry=Retry(*OFTEN), **moved))
            batch: Any = MemorystoreStore(client, index=INDEX).batch
        else:
            alone = server.async_client(retry=AsyncRetry(*OFTEN), port=proxies[0].port)
            links.callback(lambda: runner.run(alone.aclose()))
            store = MemorystoreStore(alone, index=INDEX)

            def batch(ops: Any) -> Any:
                return runner.run(store.abatch(ops))

        direct = links.enter_context(server.client())
        given = {"direct": direct, "proxies": proxies, "batch": staticmethod(batch)}
        steps = settings(
            max_examples=25,
            stateful_step_count=25,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(type("Machine", (Beside,), given), settings=steps)
