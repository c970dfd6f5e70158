"""Appends under lost replies, fail-over, crashes and crowds: all or none, and once."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import redis
import redis.asyncio
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, message_to_dict
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

import servers
from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
)
from memorystore_chat.commands import script
from memorystore_chat.history import CLOCK_ALLOWANCE, SEARCHED_ALWAYS, SEARCHED_AT_MOST
from proxy import Proxy
from servers import Cluster, Server

PER_WRITER = 100


class Link(NamedTuple):
    """Proxies in front of a server or of every node of a cluster."""

    server: Server | Cluster
    proxies: dict[int, Proxy]

    @property
    def lost(self) -> int:
        return sum(proxy.lost for proxy in self.proxies.values())

    def remap(self, address: tuple[str, int]) -> tuple[str, int]:
        host, port = address
        return (host, self.proxies[port].port) if port in self.proxies else address

    @contextmanager
    def client(self, retries: int = 20) -> "Iterator[redis.Redis | RedisCluster]":
        if isinstance(self.server, Server):
            retry = Retry(ConstantBackoff(0.001), retries)
            with self.server.client(port=self.remap(("", self.server.port))[1], retry=retry) as one:
                yield one
            return
        with RedisCluster(
            startup_nodes=[ClusterNode(node.host, node.port) for node in self.server.nodes],
            address_remap=self.remap,
            protocol=2,
            retry=Retry(ConstantBackoff(0.001), retries),
        ) as many:
            yield many

    @asynccontextmanager
    async def aclient(self, retries: int = 20) -> AsyncIterator[Any]:
        retry = AsyncRetry(ConstantBackoff(0.001), retries)
        if isinstance(self.server, Server):
            port = self.remap(("", self.server.port))[1]
            async with redis.asyncio.Redis(port=port, retry=retry, protocol=2) as one:
                yield one
            return
        first = self.server.nodes[0]
        async with redis.asyncio.RedisCluster(
            host=first.host, port=first.port, address_remap=self.remap, retry=retry, protocol=2
        ) as many:
            _ask_for_commands_once(many)
            yield many


def _ask_for_commands_once(client: redis.asyncio.RedisCluster) -> None:
    """Keep redis-py from reading the table of all commands after every cut: a minute in all."""
    parser: Any = client.commands_parser
    ask = parser.initialize

    async def ask_once(node: Any = None) -> None:
        if not parser.commands:
            await ask(node)

    parser.initialize = ask_once


@contextmanager
def lossy(
    server: Server | Cluster, lose_every: int = 3, *, await_reply: bool = True
) -> Iterator[Link]:
    """A link to the server, which knows the script already, so that every append is one request."""
    nodes = [server] if isinstance(server, Server) else server.nodes
    with server.client() as direct:
        direct.script_load(script("demand", "append").text)
    with ExitStack() as stack:
        yield Link(
            server,
            {
                node.port: stack.enter_context(
                    Proxy(node.host, node.port, lose_every=lose_every, await_reply=await_reply)
                )
                for node in nodes
            },
        )


@pytest.fixture(params=["valkey9", "redis7", "cluster"])
def target(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    if request.param == "cluster":
        yield request.getfixturevalue("valkey_cluster")
        return
    with {"valkey9": servers.valkey, "redis7": servers.redis7}[request.param]() as running:
        yield running


@pytest.fixture
def history(client: redis.Redis, key_prefix: str) -> MemorystoreChatMessageHistory:
    return MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)


@pytest.fixture(params=[servers.valkey, servers.redis7])
def start(request: pytest.FixtureRequest) -> Any:
    """What starts a server of one's own."""
    return request.param


def said(writer: str, number: int) -> list[BaseMessage]:
    return [HumanMessage(f"{writer} {number}")]


def check_once(history: MemorystoreChatMessageHistory, acknowledged: dict[str, list[int]]) -> None:
    """Every acknowledged append is stored, none twice, and each writer's are in order."""
    stored: dict[str, list[int]] = {writer: [] for writer in acknowledged}
    for message in history.messages:
        writer, _, number = message.text.partition(" ")
        stored[writer].append(int(number))
    assert stored == acknowledged


async def test_with_one_reply_in_three_lost_nothing_is_lost_or_doubled(
    target: Server | Cluster, key_prefix: str
) -> None:
    """Two synchronous and two asynchronous writers at once."""

    def write(link: Link, writer: str) -> None:
        with link.client() as client:
            history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
            for number in range(PER_WRITER):
                history.add_messages(said(writer, number))

    async def awrite(link: Link, writer: str) -> None:
        async with link.aclient() as client:
            history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
            for number in range(PER_WRITER):
                await history.aadd_messages(said(writer, number))

    with target.client() as direct, lossy(target) as link:
        await asyncio.gather(
            *(asyncio.to_thread(write, link, writer) for writer in "ab"),
            *(awrite(link, writer) for writer in "cd"),
        )
        assert link.lost >= 4 * PER_WRITER / 3
        history = MemorystoreChatMessageHistory(direct, "s", key_prefix=key_prefix)
        check_once(history, {writer: list(range(PER_WRITER)) for writer in "abcd"})


async def test_a_try_that_overtakes_the_first_one_is_recognized(
    server: Server, key_prefix: str
) -> None:
    with lossy(server, 2, await_reply=False) as link, link.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        batches = [[said("a", n)[0], said("a", n + 1)[0]] for n in range(0, 200, 2)]
        for batch in batches:
            history.add_messages(batch)
        assert link.lost >= 50
    with server.client() as direct:
        history = MemorystoreChatMessageHistory(direct, "s", key_prefix=key_prefix)
        check_once(history, {"a": list(range(200))})


def test_tries_that_pile_up_before_a_hanging_server_are_stored_once() -> None:
    with servers.valkey() as server:
        retry = Retry(ConstantBackoff(0.01), 20)
        with server.client(socket_timeout=0.2, retry=retry) as client:
            history = MemorystoreChatMessageHistory(client, "s")
            history.add_user_message("first")
            server.pause()
            threading.Timer(0.9, server.resume).start()
            history.add_messages([HumanMessage("second"), AIMessage("third")])
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert calls >= 3, "one for the first message, and at least two tries after it"
            assert [message.text for message in history.messages] == ["first", "second", "third"]


def test_without_retries_it_raises_and_an_append_id_makes_it_safe_to_repeat(
    server: Server, key_prefix: str
) -> None:
    """The caller does not know whether the append was stored; repeated with its id it is, once."""
    append_id = codec.new_append_id()
    with lossy(server, 2) as link, link.client(retries=0) as client:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_user_message("the first reply arrives")
        with pytest.raises(ConnectError, match="may or may not have been done") as raised:
            history.add_messages(said("a", 1), append_id=append_id)
        assert isinstance(raised.value.__cause__, redis.ConnectionError)
        assert len(history) == 2
        history.add_messages(said("a", 1), append_id=append_id)
        assert len(history) == 2
        with pytest.raises(ConnectError):
            history.add_messages(said("a", 1))
        assert len(history) == 3, "without an append_id, calling it again is a new append"


def id_from(milliseconds: int) -> str:
    """An append id made so long ago."""
    id_ = UUID(codec.new_append_id()).int
    return str(UUID(int=id_ - (milliseconds << 80)))


DAY = 24 * 60 * 60 * 1000


@pytest.mark.parametrize(
    ("age", "others"),
    [
        (0, [(0, 3000)]),
        (0, [(CLOCK_ALLOWANCE // 2, 3000)]),
        (DAY, [(DAY // 2, 5000), (0, 5000)]),
        (DAY, [(DAY + CLOCK_ALLOWANCE // 2, 5000), (0, 5000)]),
        (0, [(DAY, SEARCHED_ALWAYS - 1)]),
        (0, [(0, SEARCHED_AT_MOST - 1)]),
    ],
    ids=["burst", "slow clocks", "a day later", "both", "a clock a day late", "the most"],
)
def test_an_earlier_try_is_found_behind_what_others_appended(
    history: MemorystoreChatMessageHistory, age: int, others: list[tuple[int, int]]
) -> None:
    append_id = id_from(age)
    history.add_messages(said("z", 1), append_id=id_from(age + DAY))
    history.add_messages(said("a", 1), append_id=append_id)
    for older, count in others:
        history.add_messages(said("b", 1) * count, append_id=id_from(older))
    before = len(history)
    history.add_messages(said("a", 1), append_id=append_id)
    assert len(history) == before


def test_the_search_has_its_limits(history: MemorystoreChatMessageHistory) -> None:
    """What the documentation says: 20,000 messages, and 100 whatever the clocks say."""
    for older, count in ((DAY, SEARCHED_ALWAYS), (0, SEARCHED_AT_MOST)):
        history.clear()
        append_id = codec.new_append_id()
        history.add_messages(said("a", 1), append_id=append_id)
        history.add_messages(said("b", 1) * count, append_id=id_from(older))
        history.add_messages(said("a", 1), append_id=append_id)
        assert len(history) == count + 2


@pytest.mark.parametrize("cap", [None, 100_000])
def test_an_id_without_a_time_is_searched_for_as_far_as_any(
    client: redis.Redis, key_prefix: str, cap: int | None
) -> None:
    """A user's own UUID of another version, in a session of elements without ids."""
    append_id = str(uuid4())
    key = f"{key_prefix}s"
    client.rpush(key, *[json.dumps(message_to_dict(HumanMessage("old")))] * 3000)
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix, max_messages=cap)
    history.add_messages(said("a", 1), append_id=append_id)
    history.add_messages(said("b", 1) * 5000, append_id=id_from(DAY))
    history.add_messages(said("a", 1), append_id=append_id)
    assert len(history) == 8001


def test_a_batch_longer_than_the_cap_is_recognized(server: Server, key_prefix: str) -> None:
    """The cap cuts a batch to its newest messages; a lost reply does not double those."""
    with lossy(server, 2) as link, link.client() as client:
        history = MemorystoreChatMessageHistory(
            client, "s", 100, key_prefix=key_prefix, max_messages=3
        )
        history.add_messages(said("a", 0))
        history.add_messages([message for n in range(1, 9) for message in said("a", n)])
        assert link.lost == 1
        check_once(history, {"a": [6, 7, 8]})
        assert client.ttl(history.key) == 100


def test_scripts_that_were_flushed_are_sent_again(
    target: Server | Cluster, key_prefix: str
) -> None:
    with lossy(target) as link, link.client() as client, target.client() as direct:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        for number in range(120):
            if number % 4 == 0:
                direct.script_flush()
            history.add_messages(said("a", number))
        evals = sum(proxy.requests[b"EVAL"] for proxy in link.proxies.values())
        assert evals > 30, "some replies to EVAL were lost, too"
        check_once(history, {"a": list(range(120))})


async def test_a_fail_over_loses_and_doubles_nothing() -> None:
    acknowledged: dict[str, list[int]] = {"a": [], "b": []}
    stop = threading.Event()
    with servers.cluster() as cluster, lossy(cluster) as link, cluster.client() as direct:

        def write() -> None:
            with link.client() as client:
                history = MemorystoreChatMessageHistory(client, "s")
                while not stop.is_set():
                    history.add_messages(said("a", len(acknowledged["a"])))
                    acknowledged["a"].append(len(acknowledged["a"]))

        async def awrite() -> None:
            async with link.aclient() as client:
                history = MemorystoreChatMessageHistory(direct, "s", async_client=client)
                while not stop.is_set():
                    await history.aadd_messages(said("b", len(acknowledged["b"])))
                    acknowledged["b"].append(len(acknowledged["b"]))

        def take_over() -> None:
            old = cluster.node_of("s")
            new = cluster.nodes[cluster.nodes.index(old) + 3]
            try:
                servers.wait_until(
                    lambda: min(map(len, acknowledged.values())) >= 20, "appends before"
                )
                with new.admin() as admin:
                    admin.execute_command("CLUSTER FAILOVER")
                    servers.wait_until(
                        lambda: admin.info("replication")["role"] == "master", "the fail-over"
                    )
                    moved = {writer: len(done) for writer, done in acknowledged.items()}
                servers.wait_until(
                    lambda: all(len(acknowledged[w]) >= moved[w] + 20 for w in moved),
                    "appends after",
                )
            finally:
                stop.set()

        threads = [asyncio.to_thread(write), asyncio.to_thread(take_over)]
        await asyncio.gather(awrite(), *threads)
        check_once(MemorystoreChatMessageHistory(direct, "s"), acknowledged)


def batches_of(history: MemorystoreChatMessageHistory, size: int) -> Counter[str]:
    """How often each batch is stored; its messages must be next to each other, in order."""
    texts = [message.text for message in history.messages]
    assert len(texts) % size == 0
    found: Counter[str] = Counter()
    for start in range(0, len(texts), size):
        batch = texts[start].split()[0]
        assert texts[start : start + size] == [f"{batch} {n}" for n in range(size)]
        found[batch] += 1
    return found


def batch_of(name: str, size: int) -> list[BaseMessage]:
    return [message for number in range(size) for message in said(name, number)]


def test_two_hundred_threads_append_to_one_session(server: Server, key_prefix: str) -> None:
    with server.client(max_connections=200) as client, ThreadPoolExecutor(200) as threads:
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        together = threading.Barrier(200)

        def write(thread: int) -> None:
            together.wait()
            for turn in range(3):
                history.add_messages(batch_of(f"{thread}.{turn}", 4))

        list(threads.map(write, range(200)))
        expected = {f"{thread}.{turn}": 1 for thread in range(200) for turn in range(3)}
        assert batches_of(history, 4) == expected


def append_until_cut(server: Server, messages: list[BaseMessage]) -> int:
    """Append the same batch again and again; how often before the server was gone."""
    acknowledged = 0
    with server.client(retry=Retry(NoBackoff(), 0)) as client:
        history = MemorystoreChatMessageHistory(client, "s")
        while True:
            try:
                history.add_messages(messages)
            except ConnectError:
                return acknowledged
            acknowledged += 1


def test_a_server_killed_in_the_middle_of_a_batch_keeps_all_or_none_of_it(
    start: Callable[..., Server],
) -> None:
    size = 10_000
    messages = batch_of("x", size)
    for delay in (0.15, 0.22, 0.27):
        with start(appendonly="yes") as server:
            killer = threading.Timer(delay, server.kill)
            killer.start()
            acknowledged = append_until_cut(server, messages)
            killer.join()
            server.restart()
            with server.client() as client:
                stored = batches_of(MemorystoreChatMessageHistory(client, "s"), size)["x"]
            # The batch that was cut short may have been stored without a reply.
            assert stored in (acknowledged, acknowledged + 1)


@pytest.mark.parametrize("share", [0.5, 0.85, 0.9999])
def test_an_append_only_file_cut_inside_a_batch_keeps_none_of_it(
    start: Callable[..., Server], share: float
) -> None:
    size = 10_000
    with start(appendonly="yes") as server:
        append_and_cut(server, size, share)
        with server.client() as client:
            history = MemorystoreChatMessageHistory(client, "s")
            assert batches_of(history, size) == {"a": 1}
            assert client.ttl("s") > 0


@pytest.mark.parametrize("share", [0.85, 0.9999])
def test_a_second_crash_revives_no_part_of_a_batch(
    start: Callable[..., Server], share: float
) -> None:
    """Redis 7.0 keeps whole commands of a transaction that was cut off; a batch is one command."""
    size = 7900
    with start(appendonly="yes") as server:
        append_and_cut(server, size, share)
        with server.client() as client:
            MemorystoreChatMessageHistory(client, "s", 1000).add_messages(batch_of("c", size))
        server.kill()
        server.restart()
        with server.client() as client:
            found = batches_of(MemorystoreChatMessageHistory(client, "s"), size)
        assert found in ({"a": 1, "c": 1}, {"a": 1, "b": 1, "c": 1})


def append_and_cut(server: Server, size: int, share: float) -> None:
    """Store batch a, and batch b up to a share of its bytes in the append-only file; restart."""
    (file,) = server.folder.rglob("*.incr.aof")
    with server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", 1000)
        history.add_messages(batch_of("a", size))
        before = file.stat().st_size
        history.add_messages(batch_of("b", size))
    server.kill()
    whole = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(before + int((whole - before) * share))
    server.restart()


async def test_a_full_memory_is_reported_and_changes_nothing(
    start: Callable[..., Server],
) -> None:
    """`maxmemory` with `noeviction`: the error says what to do, and the session is as it was."""
    with start(maxmemory_policy="noeviction") as server, server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s", 100, max_messages=2)
        history.add_messages(batch_of("a", 2))
        client.expire(history.key, 50)
        before = client.lrange(history.key, 0, -1)
        client.config_set("maxmemory", 1)
        with pytest.raises(MemorystoreChatError, match="Its memory is full") as raised:
            history.add_messages(batch_of("b", 3))
        assert isinstance(raised.value.__cause__, redis.OutOfMemoryError)
        async with redis.asyncio.Redis(port=server.port, protocol=2) as aclient:
            twin = MemorystoreChatMessageHistory(client, "s", 100, async_client=aclient)
            with pytest.raises(MemorystoreChatError) as araised:
                await twin.aadd_messages(batch_of("b", 3))
        assert str(araised.value) == str(raised.value)
        assert client.lrange(history.key, 0, -1) == before
        assert client.ttl(history.key) == 50


def test_a_read_replica_is_reported_and_changes_nothing(start: Callable[..., Server]) -> None:
    """READONLY reaches the caller with what to do; reading from the replica works."""
    with (
        start(repl_diskless_sync_delay=0) as primary,
        start(replicaof=f"127.0.0.1 {primary.port}") as replica,
        primary.client() as writer,
        replica.client() as reader,
    ):
        MemorystoreChatMessageHistory(writer, "s").add_messages(batch_of("a", 2))
        history = MemorystoreChatMessageHistory(reader, "s")
        servers.wait_until(lambda: len(history) == 2, "replication")
        with pytest.raises(MemorystoreChatError, match="Connect to the primary") as raised:
            history.add_messages(batch_of("b", 2))
        assert isinstance(raised.value.__cause__, redis.ReadOnlyError)
        with pytest.raises(MemorystoreChatError, match="Connect to the primary"):
            history.clear()
        assert batches_of(history, 2) == {"a": 1}


def test_a_server_without_lpos_is_as_safe() -> None:
    """Redis before 6.0.6 has no LPOS; the script then looks through the newest elements itself."""
    with servers.redis7(rename_command='LPOS ""') as server, lossy(server) as link:
        with server.client() as direct, pytest.raises(redis.ResponseError, match="unknown command"):
            direct.lpos("x", "y")
        with link.client() as client:
            history = MemorystoreChatMessageHistory(client, "s", 100, max_messages=50)
            for number in range(100):
                history.add_messages(said("a", number))
            assert link.lost >= 33
            check_once(history, {"a": list(range(50, 100))})
            assert client.ttl("s") == 100
            client.set("text", "not a list")
            with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
                MemorystoreChatMessageHistory(client, "text").add_messages(said("a", 1))
        with server.client() as direct:
            history, append_id = MemorystoreChatMessageHistory(direct, "t"), codec.new_append_id()
            history.add_messages(batch_of("a", 1001), append_id=append_id)
            history.add_messages(batch_of("b", 2500))
            history.add_messages(batch_of("a", 1001), append_id=append_id)
            assert len(history) == 3501


def test_a_batch_of_a_hundred_thousand_messages_is_one_append(
    client: redis.Redis, key_prefix: str
) -> None:
    """Lua's unpack() takes fewer than 8,000 values; the script does not depend on it."""
    history = MemorystoreChatMessageHistory(client, "s", 100, key_prefix=key_prefix, window=3)
    history.add_messages([HumanMessage("x")] * 99_998 + said("a", 1) + said("a", 2))
    assert len(history) == 100_000
    assert [message.text for message in history.messages] == ["x", "a 1", "a 2"]
