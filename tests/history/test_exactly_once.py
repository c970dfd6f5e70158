"""Appends under lost replies, failovers, crashes and crowds: all or none, and once."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, message_to_dict
from redis.crc import key_slot

import servers
from memorystore_chat import MemorystoreChatMessageHistory, codec, connect, connect_async
from memorystore_chat.history import CLOCK_ALLOWANCE, SEARCHED_ALWAYS, SEARCHED_AT_MOST
from proxy import Proxy
from reshaping import move_slots
from servers import Cluster, Server


def batch_of(name: str, size: int, first: int = 0) -> list[BaseMessage]:
    return [HumanMessage(f"{name} {number}") for number in range(first, first + size)]


def stored(client: Any, key: str) -> dict[str, list[int]]:
    """The numbers that are stored of each writer, in their order."""
    found: dict[str, list[int]] = {}
    for message in MemorystoreChatMessageHistory(client, key).messages:
        writer, _, number = message.text.partition(" ")
        found.setdefault(writer, []).append(int(number))
    return found


@pytest.mark.parametrize(("lose_every", "await_reply"), [(3, True), (2, False)])
async def test_with_replies_lost_nothing_is_lost_or_doubled(
    valkey_server: Server, key_prefix: str, lose_every: int, await_reply: bool
) -> None:
    """Two writers at once, scripts that are flushed, and tries that overtake the first one."""
    options: Any = {"lose_every": lose_every, "await_reply": await_reply}
    with (
        valkey_server.client() as direct,
        Proxy(valkey_server.host, valkey_server.port, **options) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}") as client,
    ):

        async def write(writer: str, used: Any) -> None:
            history = MemorystoreChatMessageHistory(used, "s", key_prefix=key_prefix)
            for number in range(0, 80, 2):
                if number % 8 == 0:
                    direct.script_flush()
                await history.aadd_messages(batch_of(writer, 2, number))

        async with await connect_async(f"redis://127.0.0.1:{proxy.port}") as async_client:
            await asyncio.gather(write("a", client), write("b", async_client))
        assert proxy.lost >= 80 / lose_every
        assert stored(direct, f"{key_prefix}s") == {w: list(range(80)) for w in "ab"}


def id_from(milliseconds: int) -> str:
    """An append id made so long ago."""
    return str(UUID(int=UUID(codec.new_append_id()).int - (milliseconds << 80)))


DAY = 24 * 60 * 60 * 1000
OLD = json.dumps(message_to_dict(HumanMessage("of another package")))

# The age of an append, the ages and numbers of what others appended since, and whether it is found.
SEARCHES: list[tuple[int | None, list[tuple[int, int]], bool]] = [
    (0, [(CLOCK_ALLOWANCE // 2, 3000)], True),  # slow clocks
    (DAY, [(DAY + CLOCK_ALLOWANCE // 2, 5000), (0, 5000)], True),
    (0, [(DAY, SEARCHED_ALWAYS - 1)], True),
    (0, [(DAY, SEARCHED_ALWAYS)], False),
    (0, [(0, SEARCHED_AT_MOST - 1)], True),
    (0, [(0, SEARCHED_AT_MOST)], False),
    (None, [(DAY, 5000)], True),  # a UUID4 has no age
]


@pytest.mark.parametrize("rights", ["+lpos", "-lpos"])
def test_an_earlier_try_is_searched_for_behind_what_others_appended(
    valkey_server: Server, key_prefix: str, rights: str
) -> None:
    """As documented: 20,000 messages at most, and 100 whatever the clocks say.

    Redis before 6.0.6 has no LPOS, and the script then looks for itself. Many messages are one
    append, though Lua's unpack() takes fewer than 8,000 values.
    """
    with valkey_server.limited(rights) as client:
        for number, (age, others, found) in enumerate(SEARCHES):
            append_id = str(uuid4()) if age is None else id_from(age)
            history = MemorystoreChatMessageHistory(client, f"{number}", key_prefix=key_prefix)
            client.rpush(history.key, *[OLD] * 200)
            history.add_messages(batch_of("a", 1), append_id=append_id)
            for older, count in others:
                history.add_messages(batch_of("b", count), append_id=id_from(older))
            before = 200 + 1 + sum(count for _, count in others)
            assert len(history) == before
            history.add_messages(batch_of("a", 1), append_id=append_id)
            assert len(history) == before + (not found), number


@pytest.mark.parametrize(("start", "share"), [(servers.valkey, 0.5), (servers.redis7, 0.9999)])
def test_an_append_only_file_cut_inside_a_batch_keeps_none_of_it(
    start: Callable[..., Server], share: float
) -> None:
    """Nor does a second crash: Redis 7.0 revives whole commands, and a batch is one command."""
    size = 7900
    with start(appendonly="yes", appendfsync="always") as server:
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
            assert stored(client, "s") == {"a": [*range(size)]}
            assert client.ttl("s") > 0
            MemorystoreChatMessageHistory(client, "s", 1000).add_messages(batch_of("c", size))
        server.kill()
        server.restart()
        with server.client() as client:
            found = stored(client, "s")
        assert found.keys() >= {"a", "c"}
        assert all(numbers == [*range(size)] for numbers in found.values())


async def test_a_failover_loses_and_doubles_nothing() -> None:
    """The sessions' primary is killed: appends wait for its replica, and each is stored once.

    Several commands at once, as clear() sends them where its keys have two slots, wait as well.
    """
    # A primary is given up after a second without an answer, and the vote takes about as long.
    with servers.cluster(cluster_node_timeout=1000) as cluster, cluster.client() as direct:
        primary = cluster.node_of("s")
        replica = cluster.nodes[cluster.nodes.index(primary) + cluster.primaries]
        clients = {"{s}sync": connect(replica.url), "{s}async": await connect_async(replica.url)}
        promoted = threading.Event()

        def kill() -> None:
            with replica.admin() as admin, admin.client() as one:
                one.execute_command("READONLY")
                servers.wait_until(lambda: min(map(one.llen, clients)) >= 20, "appends before")
                primary.kill()
                master = lambda: admin.info("replication")["role"] == "master"  # noqa: E731
                servers.wait_until(master, "the failover", within=20)
            promoted.set()

        async def write(name: str) -> None:
            history, late = MemorystoreChatMessageHistory(clients[name], name), list[int]()
            for number in itertools.count():
                after = promoted.is_set()
                await history.aadd_messages(batch_of("a", 1, number))
                late += [number] * after
                if len(late) == 20:
                    break
            found = stored(direct, name)["a"]
            assert found == sorted(set(found)), "an append is there twice, or changed places"
            assert set(late) <= set(found), "an append that was acknowledged is missing"

        async def clear(name: str) -> None:
            while not promoted.is_set():
                await MemorystoreChatMessageHistory(clients[name], "s}").aclear()

        work = [*map(write, clients), *map(clear, clients)]
        await asyncio.gather(asyncio.to_thread(kill), *work)
        clients["{s}sync"].close()
        await clients["{s}async"].aclose()  # type: ignore[union-attr]


async def test_a_session_whose_slot_moves_is_followed(valkey_cluster: Cluster) -> None:
    """Appends and reads go on at every step of a resharding."""
    source = valkey_cluster.node_of("moving")
    target = next(n for n in valkey_cluster.nodes[: valkey_cluster.primaries] if n is not source)
    with connect(valkey_cluster.url) as client:
        async with await connect_async(valkey_cluster.url) as async_client:
            histories = [
                MemorystoreChatMessageHistory(used, f"{{moving}}{number}")
                for number, used in enumerate((client, async_client))
            ]
            places = (source, target), (target, source)  # there, and back again
            steps = itertools.product(places, ("open", "keys", "close"))
            for number, (place, step) in enumerate(steps):
                move_slots([key_slot(b"moving")], *place, step)
                for history in histories:
                    await history.aadd_messages(batch_of("a", 1, number))
                    assert await history.aget_messages() == batch_of("a", number + 1)
            for history in histories:
                await history.aclear()
