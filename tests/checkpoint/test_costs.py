"""What MemorystoreSaver costs: round trips counted on the wire, and bytes on the server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

import servers
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_tutorial import DemoChatModel
from proxy import Proxy
from servers import Server

CONFIG: Any = {"configurable": {"thread_id": "ada/{1}"}}
SMALL_TALK = "My favorite number is 7, and this is a sentence of a usual length."


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.host, server.port) as running:
        yield running


@pytest.fixture
def counted(server: Server, proxy: Proxy) -> Iterator[redis.Redis]:
    """A client through the proxy, with its connections open and every script on the server."""
    pool = redis.BlockingConnectionPool(
        host=server.host, port=proxy.port, protocol=2, max_connections=1
    )
    with redis.Redis(connection_pool=pool) as client:
        saver = MemorystoreSaver(client, key_prefix="warm-up:")
        talk(saver, 1)
        saver.prune(["ada/{1}"])
        list(saver.list(CONFIG))
        saver.delete_thread("copy")
        saver.copy_thread("ada/{1}", "copy")
        for thread_id in ("ada/{1}", "copy"):
            saver.delete_thread(thread_id)
        yield client


def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}, 21 degrees, with a light breeze from the west."


def talk(saver: Any, turns: int, *, every: int = 5, **options: Any) -> Any:
    """Turns of which every fifth calls a tool; `every=1` for each."""
    agent = create_agent(DemoChatModel(), [get_weather], checkpointer=saver)
    for turn in range(turns):
        text = SMALL_TALK if turn % every != every - 1 else "What is the weather in Paris?"
        agent.invoke({"messages": [HumanMessage(f"{text} ({turn})")]}, CONFIG, **options)
    return agent


class TestRoundTrips:
    """One for each call that LangGraph makes."""

    @pytest.mark.parametrize(
        ("durability", "with_tool", "expected"),
        [
            ("sync", False, 6),
            ("async", False, 6),
            ("exit", False, 2),
            ("sync", True, 10),
            ("async", True, 10),
            ("exit", True, 2),
        ],
    )
    @pytest.mark.parametrize("keep", [None, 1])
    def test_of_a_turn(
        self,
        counted: redis.Redis,
        proxy: Proxy,
        key_prefix: str,
        durability: Any,
        with_tool: bool,
        expected: int,
        keep: int | None,
    ) -> None:
        """A turn is 6 round trips, 10 with a tool, and 2 where only the end is stored."""
        saver = MemorystoreSaver(counted, key_prefix=key_prefix, ttl=60, keep=keep)
        talk(saver, 10)
        proxy.reset()
        talk(saver, 2, every=1 if with_tool else 5, durability=durability)
        assert proxy.round_trips == 2 * expected

    def test_of_each_method(self, counted: redis.Redis, proxy: Proxy, key_prefix: str) -> None:
        """Each method that a turn uses is one, however long the thread is."""
        saver = MemorystoreSaver(counted, key_prefix=key_prefix)
        messages = [HumanMessage(f"message {number}", id=str(number)) for number in range(200)]
        agent = create_agent(DemoChatModel(), checkpointer=saver)
        agent.update_state(CONFIG, {"messages": messages})
        state = saver.get_tuple(CONFIG)
        assert state is not None
        calls: list[Callable[[], Any]] = [
            lambda: saver.get_tuple(CONFIG),
            lambda: saver.put_writes(state.config, [("messages", messages)], "task"),
            lambda: saver.put(CONFIG, state.checkpoint, state.metadata, {"messages": "1"}),
            lambda: saver.delete_thread("ada/{1}"),
        ]
        for call in calls:
            proxy.reset()
            call()
            assert proxy.round_trips == 1


def test_what_is_sent(server: Server, key_prefix: str) -> None:
    """A put of one new message to 10,000 sends 25 kB at most."""
    with server.client() as client:
        saver = MemorystoreSaver(client, key_prefix=key_prefix)
        messages = [HumanMessage(f"message {number} " + "x" * 200) for number in range(10_000)]
        config, sent = CONFIG, 0
        for number in (1, 2):
            checkpoint: Any = empty_checkpoint() | {
                "channel_values": {"messages": messages},
                "channel_versions": {"messages": number},
            }
            before = client.info("stats")["total_net_input_bytes"]
            config = saver.put(config, checkpoint, {}, {"messages": number})
            sent = client.info("stats")["total_net_input_bytes"] - before
            messages.append(HumanMessage("new"))
        assert sent <= 25_000


@pytest.mark.parametrize(("keep", "most"), [(None, 1_000_000), (1, 240_000)])
def test_what_is_stored(keep: int | None, most: int) -> None:
    """200 turns take 1 MB at most, 13 times as much as 20; what the model says is there once."""
    with servers.valkey() as server, server.client() as client:
        saver, used = MemorystoreSaver(client, keep=keep), []
        for turns in (20, 180):
            agent = talk(saver, turns)
            used.append(client.memory_usage("checkpoints:ada/{1}", samples=0))
        assert used[0] <= (80_000 if keep else 400_000)
        assert used[1] <= min(most, 13 * used[0])
        values = client.hgetall("checkpoints:ada/{1}").values()
        for message in agent.get_state(CONFIG).values["messages"][-5:]:
            assert sum(message.id.encode() in value for value in values) == 1
