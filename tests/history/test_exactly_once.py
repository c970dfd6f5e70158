"""Appends under lost replies, failovers, crashes and crowds: all or none, and once."""

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import redis
import redis.asyncio
from langchain_core.messages import BaseMessage, HumanMessage, message_to_dict
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.retry import Retry

import servers
from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
    connect,
    connect_async,
)
from memorystore_chat.commands import Command, Steps, arun, run, script
from memorystore_chat.history import CLOCK_ALLOWANCE, SEARCHED_ALWAYS, SEARCHED_AT_MOST
from proxy import Proxy
from servers import Cluster, Server


class Link(NamedTuple):
    """Proxies in front of a server or of every node of a cluster."""

    server: Server | Cluster
    proxies: dict[int, Proxy]

    @property
    def lost(self) -> int:
        return sum(proxy.lost for proxy in self.proxies.values())

    @asynccontextmanager
    async def client(self, way: str, retries: int = 20) -> AsyncIterator[Any]:
        """A client of either kind, through the proxies."""

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            proxy = self.proxies.get(address[1])
            return (address[0], proxy.port) if proxy else address

        # A startup node keeps the address that it is given, so that is a proxy's, too.
        port = next(iter(self.proxies.values())).port
        kind: Any = Retry if way == "sync" else AsyncRetry
        options: Any = {"retry": kind(ConstantBackoff(0.001), retries), "protocol": 2}
        if isinstance(self.server, Server):
            used: Any = (redis if way == "sync" else redis.asyncio).Redis(port=port, **options)
        elif way == "sync":
            used = RedisCluster("127.0.0.1", port, address_remap=remap, **options)
        else:
            used = redis.asyncio.RedisCluster("127.0.0.1", port, address_remap=remap, **options)
            parser: Any = used.commands_parser
            ask = parser.initialize

            async def ask_once(node: Any = None) -> None:
                """Keep redis-py from reading the table of all commands after every cut."""
                if not parser.commands:
                    await ask(node)

            parser.initialize = ask_once
        yield used
        if way == "sync":
            used.close()
        else:
            await used.aclose()


@contextmanager
def lossy(
    server: Server | Cluster, lose_every: int = 3, *, await_reply: bool = True
) -> Iterator[Link]:
    """A link to the server, which knows the script already, so that every append is one request."""
    nodes = [server] if isinstance(server, Server) else server.nodes
    with server.client() as direct:
        direct.script_load(script("demand", "append").text)
    options: Any = {"lose_every": lose_every, "await_reply": await_reply}
    with ExitStack() as stack:
        yield Link(
            server,
            {n.port: stack.enter_context(Proxy(n.host, n.port, **options)) for n in nodes},
        )


@pytest.fixture
def history(client: redis.Redis, key_prefix: str) -> MemorystoreChatMessageHistory:
    return MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)


@pytest.fixture(params=[servers.valkey, servers.redis7], ids=["valkey", "redis"])
def start(request: pytest.FixtureRequest) -> Any:
    """What starts a server of one's own."""
    return request.param


def batch_of(name: str, size: int, first: int = 0) -> list[BaseMessage]:
    return [HumanMessage(f"{name} {number}") for number in range(first, first + size)]


def stored(client: Any, key_prefix: str = "") -> dict[str, list[int]]:
    """What is stored of each writer."""
    found: dict[str, list[int]] = {}
    for message in MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix).messages:
        writer, _, number = message.text.partition(" ")
        found.setdefault(writer, []).append(int(number))
    return found


def batches_of(client: Any, size: int, key_prefix: str = "") -> Counter[str]:
    """How often each batch is stored; its messages must be next to each other, in order."""
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
    texts = [message.text for message in history.messages]
    found: Counter[str] = Counter()
    for begin in range(0, len(texts), size):
        name = texts[begin].split()[0]
        assert texts[begin : begin + size] == [f"{name} {number}" for number in range(size)]
        found[name] += 1
    return found


@pytest.mark.parametrize(("lose_every", "await_reply"), [(3, True), (2, False)])
async def test_with_replies_lost_nothing_is_lost_or_doubled(
    place: Any, key_prefix: str, lose_every: int, await_reply: bool
) -> None:
    """Two writers at once, scripts that are flushed, and tries that overtake the first one."""
    with lossy(place.server, lose_every, await_reply=await_reply) as link:

        async def write(writer: str) -> None:
            async with link.client(place.way) as client:
                history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
                for number in range(0, 100, 2):
                    if number % 8 == 0:
                        place.sync_client.script_flush()
                    await place.call(history, "add_messages", batch_of(writer, 2, number))

        if place.way == "async":
            await asyncio.gather(write("a"), write("b"))
        else:
            runs = (asyncio.to_thread(asyncio.run, write(writer)) for writer in "ab")
            await asyncio.gather(*runs)
        # redis-py's asynchronous cluster client follows a redirection past the proxies.
        past = place.way == "async" and isinstance(place.server, Cluster)
        assert past or link.lost >= 100 / lose_every
    assert stored(place.sync_client, key_prefix) == {w: list(range(100)) for w in "ab"}


async def test_without_retries_an_append_id_makes_it_safe_to_repeat(
    place: Any, key_prefix: str
) -> None:
    """The caller does not know whether the append was stored; repeated with its id it is, once."""
    if isinstance(place.server, Cluster):
        pytest.skip("the reply that is lost may be a redirection")
    append_id = codec.new_append_id()
    with lossy(place.server, 10**6) as link:
        async with link.client(place.way, retries=0) as client:
            history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
            for proxy in link.proxies.values():
                proxy.lose_reply_to = append_id.encode()
            with pytest.raises(ConnectError, match="may or may not have been done") as raised:
                await place.call(history, "add_messages", batch_of("a", 1), append_id=append_id)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
            assert stored(place.sync_client, key_prefix) == {"a": [0]}
            for proxy in link.proxies.values():
                proxy.lose_reply_to = None
            await place.call(history, "add_messages", batch_of("a", 1), append_id=append_id)
            assert stored(place.sync_client, key_prefix) == {"a": [0]}
            await place.call(history, "add_messages", batch_of("a", 1))
            assert stored(place.sync_client, key_prefix) == {"a": [0, 0]}


def id_from(milliseconds: int) -> str:
    """An append id made so long ago."""
    id_ = UUID(codec.new_append_id()).int
    return str(UUID(int=id_ - (milliseconds << 80)))


DAY = 24 * 60 * 60 * 1000


@pytest.mark.parametrize(
    ("age", "others", "found"),
    [
        (0, [(0, 3000)], True),
        (0, [(CLOCK_ALLOWANCE // 2, 3000)], True),
        (DAY, [(DAY + CLOCK_ALLOWANCE // 2, 5000), (0, 5000)], True),
        (0, [(DAY, SEARCHED_ALWAYS - 1)], True),
        (0, [(DAY, SEARCHED_ALWAYS)], False),
        (0, [(0, SEARCHED_AT_MOST - 1)], True),
        (0, [(0, SEARCHED_AT_MOST)], False),
        (None, [(DAY, 5000)], True),
    ],
    ids=["burst", "slow clocks", "a day", "late clock", "later clock", "most", "more", "UUID4"],
)
def test_an_earlier_try_is_searched_for_behind_what_others_appended(
    history: MemorystoreChatMessageHistory,
    client: Any,
    age: int | None,
    others: list[tuple[int, int]],
    found: bool,
) -> None:
    """As documented: 20,000 messages at most, and 100 whatever the clocks say."""
    append_id = str(uuid4()) if age is None else id_from(age)
    client.rpush(history.key, *[json.dumps(message_to_dict(HumanMessage("old")))] * 200)
    history.add_messages(batch_of("a", 1), append_id=append_id)
    for older, count in others:
        history.add_messages(batch_of("b", count), append_id=id_from(older))
    before = len(history)
    history.add_messages(batch_of("a", 1), append_id=append_id)
    assert len(history) == before + (not found)


@pytest.mark.parametrize("share", [0.5, 0.9999])
def test_an_append_only_file_cut_inside_a_batch_keeps_none_of_it(
    start: Callable[..., Server], share: float
) -> None:
    """Nor does a second crash: Redis 7.0 revives whole commands, and a batch is one command."""
    size = 7900
    with start(appendonly="yes") as server:
        (file,) = server.folder.rglob("*.incr.aof")
        with server.client() as client:
            history = MemorystoreChatMessageHistory(client, "s", 1000)
            history.add_messages(batch_of("a", size))
            before = file.stat().st_size
            history.add_messages(batch_of("b", size))
        server.kill()
        with file.open("r+b") as opened:
            opened.truncate(before + int((file.stat().st_size - before) * share))
        server.restart()
        with server.client() as client:
            assert batches_of(client, size) == {"a": 1}
            assert client.ttl("s") > 0
            MemorystoreChatMessageHistory(client, "s", 1000).add_messages(batch_of("c", size))
        server.kill()
        server.restart()
        with server.client() as client:
            assert batches_of(client, size) in ({"a": 1, "c": 1}, {"a": 1, "b": 1, "c": 1})


async def test_a_full_memory_is_reported_and_changes_nothing(start: Callable[..., Server]) -> None:
    """`maxmemory` with `noeviction`: the error says what to do, and the session is as it was."""
    with start(maxmemory_policy="noeviction") as server, server.client() as client:
        async with server.async_client() as aclient:
            history = MemorystoreChatMessageHistory(
                client, "s", 100, max_messages=2, async_client=aclient
            )
            history.add_messages(batch_of("a", 2))
            client.expire(history.key, 50)
            client.config_set("maxmemory", 1)
            for use in (
                asyncio.to_thread(history.add_messages, batch_of("b", 3)),
                history.aadd_messages(batch_of("b", 3)),
            ):
                with pytest.raises(MemorystoreChatError, match="Its memory is full") as raised:
                    await use
                assert isinstance(raised.value.__cause__, redis.OutOfMemoryError)
            assert batches_of(client, 2) == {"a": 1}
            assert client.ttl(history.key) == 50


async def test_a_server_without_lpos_is_as_safe() -> None:
    """Redis before 6.0.6 has no LPOS; the script then looks through the newest elements itself."""
    with servers.redis7(rename_command='LPOS ""') as server, lossy(server) as link:
        async with link.client("sync") as client:
            history = MemorystoreChatMessageHistory(client, "s", 100, max_messages=50)
            for number in range(100):
                history.add_messages(batch_of("a", 1, number))
            assert link.lost >= 33
            assert stored(client) == {"a": list(range(50, 100))}
            client.set("text", "not a list")
            with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
                MemorystoreChatMessageHistory(client, "text").add_messages(batch_of("a", 1))
        with server.client() as direct:
            history, append_id = MemorystoreChatMessageHistory(direct, "t"), codec.new_append_id()
            history.add_messages(batch_of("a", 1001), append_id=append_id)
            history.add_messages(batch_of("b", 2500))
            history.add_messages(batch_of("a", 1001), append_id=append_id)
            assert len(history) == 3501


def test_a_batch_of_a_hundred_thousand_messages_is_one_append(
    history: MemorystoreChatMessageHistory, client: redis.Redis, key_prefix: str
) -> None:
    """Lua's unpack() takes fewer than 8,000 values; the script does not depend on it."""
    history.add_messages(batch_of("a", 100_000))
    assert batches_of(client, 100_000, key_prefix) == {"a": 1}


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_failover_loses_and_doubles_nothing(way: str) -> None:
    """The session's primary is killed: appends wait for its replica, and each is stored once."""
    # A primary is given up after a second without an answer, and the vote takes about as long.
    with servers.cluster(cluster_node_timeout=1000) as cluster:
        primary = cluster.node_of("s")
        replica = cluster.nodes[cluster.nodes.index(primary) + cluster.primaries]
        client: Any = connect(replica.url) if way == "sync" else await connect_async(replica.url)
        history = MemorystoreChatMessageHistory(client, "s")
        promoted = threading.Event()

        def kill() -> None:
            with replica.admin() as admin, admin.client() as one:
                one.execute_command("READONLY")
                servers.wait_until(lambda: one.llen("s") >= 20, "appends before")
                primary.kill()
                copied.extend(one.lrange("s", 0, -1))
                servers.wait_until(
                    lambda: admin.info("replication").get("role") == "master",
                    "the failover",
                    within=20,
                )
            promoted.set()

        copied: list[bytes] = []
        killer = asyncio.create_task(asyncio.to_thread(kill))
        late: list[int] = []
        for number in itertools.count():
            after = promoted.is_set()
            if way == "sync":
                await asyncio.to_thread(history.add_messages, batch_of("a", 1, number))
            else:
                await history.aadd_messages(batch_of("a", 1, number))
            late += [number] * after
            if len(late) == 20:
                break
        await killer
        found = stored(cluster.client())["a"]
        assert found == sorted(set(found)), "an append is there twice, or changed places"
        assert found[: len(copied)] == list(range(len(copied))), "the replica had them"
        assert set(late) <= set(found), "an append that was acknowledged afterwards is missing"
        await client.aclose() if way == "async" else client.close()


async def test_commands_of_one_round_trip_wait_for_an_outage_to_end() -> None:
    """What needs several commands at once goes on as one command does."""
    with servers.cluster(primaries=1, replicas=0) as single, connect(single.url) as client:
        async_client = await connect_async(single.url)
        (node,) = single.nodes

        def several() -> Steps[list[int]]:
            return (yield [Command("LLEN", (b"k%d" % n,), kind=int) for n in range(5)])

        async def both() -> list[list[int]]:
            asked = asyncio.to_thread(run, client, several())
            return [*await asyncio.gather(asked, arun(async_client, several()))]

        assert await both() == [[0] * 5] * 2
        node.kill()
        back = threading.Timer(0.5, node.restart)
        back.start()
        assert await both() == [[0] * 5] * 2
        back.join()
        await async_client.aclose()


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_session_whose_slot_moves_is_followed(valkey_cluster: Cluster, way: str) -> None:
    """Appends and reads go on at every step of a resharding."""
    session, slot = f"moving-{way}", key_slot(f"moving-{way}".encode())
    source = valkey_cluster.node_of(session)
    target = next(n for n in valkey_cluster.nodes[: valkey_cluster.primaries] if n is not source)
    url = valkey_cluster.url
    client: Any = connect(url) if way == "sync" else await connect_async(url)
    history = MemorystoreChatMessageHistory(client, session)
    numbers = itertools.count()

    async def turns() -> None:
        for number in itertools.islice(numbers, 3):
            if way == "sync":
                history.add_messages(batch_of("a", 1, number))
                read = history.messages
            else:
                await history.aadd_messages(batch_of("a", 1, number))
                read = await history.aget_messages()
            assert read == batch_of("a", number + 1)

    with source.admin() as one, target.admin() as other:
        ids = [node.execute_command("CLUSTER MYID").decode() for node in (one, other)]
        await turns()
        other.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        one.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        await turns()
        one.migrate(target.host, target.port, [session], 0, 5000)
        await turns()
        for owner in reversed(ids):  # there, and when the session is deleted back again
            for node in (other, one):
                node.execute_command("CLUSTER SETSLOT", slot, "NODE", owner)
            if owner == ids[1]:
                await turns()
                await history.aclear() if way == "async" else history.clear()
    await client.aclose() if way == "async" else client.close()
