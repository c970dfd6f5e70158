"""What MemorystoreSaver costs: round trips counted on the wire, and bytes on the server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage

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
        """Each method is one, however long the thread is; those for all threads scan first."""
        saver = MemorystoreSaver(counted, key_prefix=key_prefix)
        agent = create_agent(DemoChatModel(), checkpointer=saver)
        messages = [
            kind(f"message {number}", id=str(number))
            for number in range(50)
            for kind in (HumanMessage, AIMessage)
        ]
        agent.update_state(CONFIG, {"messages": messages})
        for _ in range(60):
            agent.update_state(CONFIG, {"messages": [HumanMessage("more")]})
        state = saver.get_tuple(CONFIG)
        assert state is not None
        calls: list[tuple[int, Callable[[], Any]]] = [
            (1, lambda: saver.get_tuple(CONFIG)),
            (1, lambda: saver.put_writes(state.config, [("messages", messages)], "task")),
            (1, lambda: saver.put(state.parent_config or {}, state.checkpoint, state.metadata, {})),
            (1, lambda: saver.get_delta_channel_history(config=CONFIG, channels=["messages"])),
            (1, lambda: saver.delete_thread("ada/{1}")),
        ]
        for expected, call in calls:
            proxy.reset()
            call()
            assert proxy.round_trips == expected

    def test_what_is_sent_is_what_is_new(
        self, counted: redis.Redis, proxy: Proxy, server: Server, key_prefix: str
    ) -> None:
        """A turn on 2,000 messages sends hardly more than a turn on two."""
        sent = []
        for number, length in enumerate((2, 2000)):
            saver = MemorystoreSaver(counted, key_prefix=f"{key_prefix}{number}")
            messages = [
                HumanMessage(f"message {number}", id=str(number)) for number in range(length)
            ]
            create_agent(DemoChatModel(), checkpointer=saver).update_state(
                CONFIG, {"messages": messages}
            )
            with server.client() as direct:
                before = direct.info("stats")["total_net_input_bytes"]
                talk(saver, 1)
                sent.append(direct.info("stats")["total_net_input_bytes"] - before)
        assert sent[1] < sent[0] + 2000


class TestBytes:
    """What is stored grows with the conversation, and not with its square."""

    @pytest.mark.parametrize(("keep", "most"), [(None, 400_000), (1, 80_000)])
    def test_of_fifty_turns(self, keep: int | None, most: int) -> None:
        """50 turns with each checkpoint take 400 kB at most, and 80 kB with keep=1."""
        with servers.valkey() as server, server.client() as client:
            talk(MemorystoreSaver(client, keep=keep), 50)
            (key,) = client.keys()
            assert client.memory_usage(key, samples=0) <= most

    def test_of_ten_times_as_many(self) -> None:
        """Ten times as many checkpoints take at most 13 times as much."""
        used = []
        with servers.valkey() as server, server.client() as client:
            for turns in (10, 100):
                saver = MemorystoreSaver(client, key_prefix=f"{turns}:")
                agent = create_agent(DemoChatModel(), checkpointer=saver)
                for turn in range(turns):
                    said = [HumanMessage(f"{SMALL_TALK} ({turn})"), AIMessage(f"answer {turn}")]
                    agent.update_state(CONFIG, {"messages": said})
                used.append(client.memory_usage(saver._key("ada/{1}"), samples=0))
        assert used[1] <= 13 * used[0]

    def test_of_parallel_tools(self) -> None:
        """Results of parallel tasks that arrive out of order leave no growing trace."""
        used = []
        with servers.valkey() as server, server.client() as client:
            for steps in (30, 120):
                saver = MemorystoreSaver(client, key_prefix=f"{steps}:")
                config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
                messages: list[Any] = []
                for step in range(steps):
                    new = [HumanMessage("x" * 300, id=f"{step} {number}") for number in range(3)]
                    if step:
                        for number in (2, 0, 1):
                            saver.put_writes(config, [("messages", [new[number]])], f"t{number}")
                    messages = [*messages, *new]
                    checkpoint: Any = {
                        "v": 4,
                        "id": f"{step:05}",
                        "ts": "",
                        "channel_values": {"messages": messages},
                        "channel_versions": {"messages": step},
                        "versions_seen": {},
                    }
                    config = saver.put(config, checkpoint, {}, {"messages": step})
                used.append(client.memory_usage(saver._key("t"), samples=0))
        assert used[1] <= 4.4 * used[0]

    def test_each_message_is_stored_once(self, client: redis.Redis, key_prefix: str) -> None:
        """What the model says is in one field, whatever checkpoints and writes show it."""
        saver = MemorystoreSaver(client, key_prefix=key_prefix)
        agent = talk(saver, 5)
        replies = [m for m in agent.get_state(CONFIG).values["messages"] if m.type == "ai"]
        values = client.hgetall(saver._key("ada/{1}")).values()
        for reply in replies:
            assert sum(reply.id.encode() in value for value in values) == 1
