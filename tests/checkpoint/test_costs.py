"""What MemorystoreSaver costs: round trips counted on the wire, bytes, and the server's time."""

import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import servers
from checkpoints import CONFIG, THREAD, Make, Stored, newest, put
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.checkpoint.values import Remembered
from memorystore_tutorial import DemoChatModel
from proxy import Proxy
from servers import Server

SMALL_TALK = "My favorite number is 7, and this is a sentence of a usual length."


def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}, 21 degrees, with a light breeze from the west."


def talk(saver: Any, turns: int, *, every: int = 5, **options: Any) -> Any:
    """Have turns of an agent of which every fifth calls a tool; `every=1` for each."""
    agent = create_agent(DemoChatModel(), [get_weather], checkpointer=saver)
    for turn in range(turns):
        text = SMALL_TALK if turn % every != every - 1 else "What is the weather in Paris?"
        agent.invoke({"messages": [HumanMessage(f"{text} ({turn})")]}, CONFIG, **options)
    return agent


@pytest.fixture
def counted(valkey_server: Server) -> Iterator[tuple[redis.Redis, Proxy]]:
    """A client through a proxy, with its connection open and the script on the server."""
    with Proxy(valkey_server.host, valkey_server.port) as proxy:
        pool = redis.BlockingConnectionPool(port=proxy.port, protocol=2, max_connections=1)
        with redis.Redis(connection_pool=pool) as client:
            saver = MemorystoreSaver(client, key_prefix="warm-up:")
            talk(saver, 1)
            saver.delete_thread(THREAD)
            yield client, proxy


@pytest.mark.parametrize(
    ("durability", "with_tool", "keep", "expected"),
    [
        ("sync", False, None, 6),
        ("async", False, 1, 6),
        ("exit", False, None, 2),
        ("sync", True, 1, 10),
        ("async", True, None, 10),
        ("exit", True, 1, 2),
    ],
)
def test_round_trips_of_a_turn(
    counted: Any, key_prefix: str, durability: Any, with_tool: bool, keep: Any, expected: int
) -> None:
    """A turn is 6 round trips, 10 with a tool, and 2 where only the end is stored."""
    client, proxy = counted
    saver = MemorystoreSaver(client, key_prefix=key_prefix, ttl=60, keep=keep)
    talk(saver, 10)
    proxy.reset()
    talk(saver, 2, every=1 if with_tool else 5, durability=durability)
    assert proxy.round_trips == 2 * expected


class Counting(JsonPlusSerializer):
    """Counts what it serializes."""

    calls = 0

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        self.calls += 1
        return super().dumps_typed(obj)


@pytest.mark.parametrize("has_read", [False, True])
def test_what_is_sent(client: redis.Redis, make_saver: Make, has_read: bool) -> None:
    """A put of one new message to 10,000 sends 25 kB at most, and serializes no other."""
    messages: list[Any] = [HumanMessage(f"{number} " + "x" * 200) for number in range(10_000)]
    serde = Counting()
    saver = make_saver(serde=serde)
    config = put(saver, CONFIG, "1", messages=messages)
    if has_read:
        saver = make_saver(serde=serde)
        messages = newest(saver).checkpoint["channel_values"]["messages"]
    new = HumanMessage("new")
    for changed, most in ([*messages, new], 20), ([new, *messages[1:]], 10_000):
        before, calls = client.info("stats")["total_net_input_bytes"], serde.calls
        put(saver, config, str(most), messages=changed)
        assert client.info("stats")["total_net_input_bytes"] - before <= 25_000
        assert serde.calls - calls <= most


@pytest.mark.parametrize(("keep", "most"), [(None, 250_000), (1, 60_000)])
def test_what_is_stored(
    make_saver: Make, client: redis.Redis, key: str, stored: Stored, keep: Any, most: int
) -> None:
    """50 turns take 0.25 MB at most, 13 times as much as 5; what the model says is there once."""
    saver, used = make_saver(keep=keep), list[Any]()
    for turns in (5, 45):
        agent = talk(saver, turns)
        used.append(client.memory_usage(key, samples=0))
    assert used[1] <= min(most, 13 * used[0])
    values = stored().values()
    for message in agent.get_state(CONFIG).values["messages"][-5:]:
        assert sum(message.id.encode() in value for value in values) == 1


def test_what_is_remembered_is_bounded() -> None:
    """A saver remembers 8 MB at most, and what was used last."""
    remembered = Remembered()
    names = [b"%016d" % number for number in range(30_000)]
    tracemalloc.start()
    for name in (*names[:20_000], names[0], *names[20_000:]):
        remembered.note(b"", [(bytes(bytearray(name)), b"s" + name)])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used <= 8 * 2**20
    digests = {digest[-16:] for digest in remembered}
    assert [name in digests for name in (names[0], names[1], names[-1])] == [True, False, True]


def test_no_call_blocks_the_server() -> None:
    """With 3,000 checkpoints of 3,000 messages no command takes longer than 25 ms, or 50 ms."""
    slowlog: Any = {"slowlog_log_slower_than": 0, "slowlog_max_len": 20_000}
    with servers.valkey(**slowlog) as server, server.client() as client:
        messages = [HumanMessage(f"{number} " + "x" * 200) for number in range(3000)]
        config, number = CONFIG, 0

        def add(keep: int | None = None) -> None:
            nonlocal config, number
            number += 1
            count = min(3000, number // 10 * 10)
            checkpoint: Any = empty_checkpoint() | {
                "id": f"{number:06}",
                "channel_values": {"messages": messages[:count]},
                "channel_versions": {"messages": count},
            }
            new: Any = {"messages": count} if number % 10 == 0 else {}
            metadata: Any = {"step": number, "run_id": f"r{number % 10}"}
            config = savers[keep].put(config, checkpoint, metadata, new)

        savers = {keep: MemorystoreSaver(client, keep=keep) for keep in (None, 2000, 1500, 100, 1)}
        saver = savers[None]
        for _ in range(3000):
            add()
        calls: list[tuple[int, Callable[[int], Any]]] = [
            (25, lambda _: saver.get_tuple(CONFIG)),
            (25, lambda _: next(saver.list(CONFIG))),
            (25, lambda _: [*saver.list(CONFIG, filter={"step": 3}, limit=1)]),
            (50, lambda attempt: saver.copy_thread(THREAD, f"copy {attempt}")),
            (50, lambda attempt: saver.prune([f"copy {attempt}"])),
            (50, lambda attempt: saver.delete_for_runs([f"r{attempt}"])),
            *[(25, partial(lambda keep, _: add(keep), keep)) for keep in savers],
        ]
        for most, call in calls:
            for attempt in range(5):
                client.slowlog_reset()
                before = processor_time(client)
                call(attempt)
                busy = processor_time(client) - before
                times = [each["duration"] for each in client.slowlog_get(20_000)]
                # A busy machine stops the server now and then, which its log counts, too.
                worst = max(times) * min(1.0, busy / sum(times))
                if worst < 1000 * most:
                    break
            assert worst < 1000 * most, calls.index((most, call))
        saver.prune([THREAD])  # nothing waits, or is left over
        assert len(client.hgetall(f"checkpoints:{THREAD}")) < 3000 * 8 / 7 + 20


def processor_time(client: Any) -> float:
    """Microseconds that the server has worked."""
    used = client.info("cpu")
    return float(1e6 * (used["used_cpu_user"] + used["used_cpu_sys"]))
