"""MemorystoreSaver: LangGraph's contract, on one server and on a cluster, and what it survives."""

import asyncio
import logging
import operator
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import ormsgpack
import pytest
import redis
import redis.asyncio
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointTuple,
    empty_checkpoint,
)
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.errors import CorruptCheckpointError
from memorystore_tutorial import DemoChatModel
from proxy import Proxy
from servers import Cluster, Server

EXTERNAL = os.environ.get("MEMORYSTORE_TEST_SERVER", "")
NO_RETRY = Retry(NoBackoff(), 0)
THREAD = "ada/{1}"
CONFIG: Any = {"configurable": {"thread_id": THREAD}}
ROOT: Any = {"configurable": {"thread_id": THREAD, "checkpoint_ns": ""}}


_TARGETS: dict[str, Callable[[], Any]] = {
    "valkey9": servers.valkey,
    "redis7": servers.redis7,
    "valkey9 cluster": lambda: servers.cluster(replicas=0),
    "redis7 cluster": lambda: servers.cluster("redis", replicas=0),
}
if EXTERNAL:
    _TARGETS["external"] = lambda: servers.external(EXTERNAL)


@pytest.fixture(scope="session", params=_TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    """Valkey 9 and Redis 7, each as one server and as a cluster."""
    with _TARGETS[request.param]() as running:
        yield running


def bridged(name: str) -> Any:
    async def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(self.saver, name)(*arguments, **options)

    return call


class Bridge(BaseCheckpointSaver[str]):
    """Hands every asynchronous call to a saver's synchronous method."""

    def __init__(self, saver: MemorystoreSaver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        for found in self.saver.list(config, **options):
            yield found

    aget_tuple, aput, aput_writes = map(bridged, ("get_tuple", "put", "put_writes"))
    adelete_thread, adelete_for_runs = map(bridged, ("delete_thread", "delete_for_runs"))
    acopy_thread, aprune = map(bridged, ("copy_thread", "prune"))


class TestConformance:
    """The official suite: all 81 of its tests."""

    async def check(self, saver: BaseCheckpointSaver[str]) -> None:
        @checkpointer_test(name=str(uuid4()))
        async def make() -> AsyncIterator[BaseCheckpointSaver[str]]:
            yield saver

        report = await validate(make)
        failures = [failure for found in report.results.values() for failure in found.failures]
        assert failures == []
        assert sum(found.tests_passed for found in report.results.values()) == 81

    async def test_asynchronous(self, target_saver: MemorystoreSaver) -> None:
        """The asyncio client's own methods pass."""
        await self.check(target_saver)

    async def test_synchronous(self, target: Server | Cluster, key_prefix: str) -> None:
        """The synchronous methods pass, and so does a client that decodes."""
        with target.client(decode_responses=True) as client:
            saver = MemorystoreSaver(client, key_prefix=key_prefix, ttl=600)
            await self.check(Bridge(saver))

    async def test_in_threads(self, saver: MemorystoreSaver) -> None:
        """Without an asyncio client the asynchronous methods pass, too."""
        await self.check(saver)


Make = Callable[..., MemorystoreSaver]


@pytest.fixture
def make_saver(client: redis.Redis, key_prefix: str) -> Make:
    return partial(MemorystoreSaver, client, key_prefix=key_prefix)


@pytest.fixture
def saver(make_saver: Make) -> MemorystoreSaver:
    return make_saver()


@pytest.fixture
async def target_saver(
    target: Server | Cluster, key_prefix: str
) -> AsyncIterator[MemorystoreSaver]:
    """One with both kinds of client, on one server or a cluster."""
    node = target if isinstance(target, Server) else target.nodes[0]
    kind: Any = redis.asyncio.Redis if isinstance(target, Server) else AsyncRedisCluster
    async with kind(host=node.host, port=node.port, protocol=2) as async_client:
        with target.client() as client:
            yield MemorystoreSaver(client, key_prefix=key_prefix, async_client=async_client)


def newest(saver: BaseCheckpointSaver[str], config: Any = CONFIG) -> CheckpointTuple:
    found = saver.get_tuple(config)
    assert found is not None
    return found


def stored(saver: MemorystoreSaver) -> dict[bytes, bytes]:
    """What the server has of the thread."""
    client: Any = saver._sender.client
    return dict(client.hgetall(saver._key(THREAD)))


def overwrite(saver: MemorystoreSaver, field: bytes, value: bytes | None) -> None:
    """Set a field of the thread, or remove it."""
    client: Any = saver._sender.client
    if value is None:
        client.hdel(saver._key(THREAD), field)
    else:
        client.hset(saver._key(THREAD), field, value)


def listed(saver: Any) -> list[Any]:
    """The value of the channel "list" in each checkpoint."""
    return [found.checkpoint["channel_values"]["list"] for found in saver.list(CONFIG)]


def words(messages: Any) -> list[str]:
    return [message.text for message in messages]


def one_node(act: Any, saver: Any = None, state: Any = MessagesState) -> Any:
    """The smallest graph."""
    graph = StateGraph(state)
    graph.add_node("node", act)
    graph.add_edge(START, "node")
    return graph.compile(checkpointer=saver)


def ask(saver: BaseCheckpointSaver[str], *texts: str, config: Any = CONFIG, **options: Any) -> Any:
    agent = create_agent(DemoChatModel(), [get_weather], checkpointer=saver)
    for text in texts:
        answer = agent.invoke({"messages": [HumanMessage(text)]}, config, **options)
    return answer


def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}."


def simple(tuples: Any) -> list[Any]:
    """Checkpoints without what differs from saver to saver: the versions' random part."""

    def plain(versions: Any) -> dict[str, int]:
        return {name: int(str(each).partition(".")[0]) for name, each in versions.items()}

    return [
        (
            found.config["configurable"]["checkpoint_ns"],
            found.metadata,
            found.checkpoint["channel_values"],
            plain(found.checkpoint["channel_versions"]),
            {node: plain(seen) for node, seen in found.checkpoint["versions_seen"].items()},
            [(channel, value) for _, channel, value in found.pending_writes],
        )
        for found in tuples
    ]


class TestAsInMemory:
    """What LangGraph's own InMemorySaver gives, step by step."""

    @pytest.mark.parametrize("durability", ["sync", "async", "exit"])
    def test_an_agent_leaves_the_same_checkpoints(
        self, saver: MemorystoreSaver, durability: Any
    ) -> None:
        """Values, versions, metadata and writes of an agent's turns are those of InMemorySaver."""
        given = [
            HumanMessage("My name is Ada.", id="1"),
            HumanMessage("What is the weather in Paris?", id="2"),
            HumanMessage("What is my name?", id="3"),
        ]
        found = []
        for each in (InMemorySaver(), saver):
            agent = create_agent(_Fixed(), [fixed_weather], checkpointer=each)
            for message in given:
                agent.invoke({"messages": [message]}, CONFIG, durability=durability)
            found.append(simple(each.list(CONFIG)))
        assert found[1] == found[0]
        assert len(found[0]) > 2

    def test_sub_graphs(self, saver: MemorystoreSaver) -> None:
        """A sub-graph has its namespace, is interrupted there and resumed."""

        def approve(state: MessagesState) -> Any:
            return {"messages": [AIMessage(str(interrupt("sure?")), id="a")]}

        graph = one_node(one_node(approve), saver)
        paused = graph.invoke({"messages": [HumanMessage("go")]}, CONFIG)
        assert paused["__interrupt__"][0].value == "sure?"
        namespaces = {found.config["configurable"]["checkpoint_ns"] for found in saver.list(CONFIG)}
        assert len(namespaces) == 2
        assert "" in namespaces
        assert 0 < len(list(saver.list(ROOT))) < len(list(saver.list(CONFIG)))
        done = graph.invoke(Command(resume="yes"), CONFIG)
        assert done["messages"][-1].text == "yes"

    def test_going_back_and_taking_another_way(self, saver: MemorystoreSaver) -> None:
        """A branch from an old checkpoint has its own messages, and the first way keeps its own."""
        agent = create_agent(DemoChatModel(), checkpointer=saver)
        ask(saver, "My name is Ada.", "I like tea.")
        states = list(agent.get_state_history(CONFIG))
        fork = next(state for state in states if len(state.values["messages"]) == 2)
        agent.invoke({"messages": [HumanMessage("I like coffee.")]}, fork.config)
        texts = words(agent.get_state(CONFIG).values["messages"])
        assert "I like coffee." in texts
        assert "I like tea." not in texts
        assert "I like tea." in words(agent.get_state(states[0].config).values["messages"])

    def test_the_newest_is_that_of_the_highest_id(self, saver: MemorystoreSaver) -> None:
        """A checkpoint that arrives late, with an older id, is listed in its place."""
        ids = ["0b", "0d", "0a", "0c", "A", "0"]
        for checkpoint_id in ids:
            saver.put(ROOT, {**empty_checkpoint(), "id": checkpoint_id}, {}, {})
        found = [each.checkpoint["id"] for each in saver.list(ROOT)]
        assert found == sorted(ids, reverse=True)
        assert newest(saver).checkpoint["id"] == "A"
        before: Any = {"configurable": {"thread_id": THREAD, "checkpoint_id": "0c"}}
        found = [each.checkpoint["id"] for each in saver.list(ROOT, before=before, limit=2)]
        assert found == ["0b", "0a"]

    def test_all_threads(self, saver: MemorystoreSaver) -> None:
        """Listing without a config reads every thread under the prefix, and no other key."""
        for number in range(120):
            config: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
            saver.put(config, empty_checkpoint(), {"step": number}, {})
        found = {each.config["configurable"]["thread_id"] for each in saver.list(None)}
        assert found == {f"t{number}" for number in range(120)}
        assert [each.metadata["step"] for each in saver.list(None, filter={"step": 7})] == [7]

    def test_a_thread_of_another_saver_goes_on(self, saver: MemorystoreSaver) -> None:
        """Checkpoints copied from InMemorySaver are read, and the conversation continues."""
        other = InMemorySaver()
        ask(other, "My name is Ada.")
        for found in reversed(list(other.list(CONFIG))):
            versions = found.checkpoint["channel_versions"]
            saver.put(found.parent_config or ROOT, found.checkpoint, found.metadata, versions)
        assert "Ada" in ask(saver, "What is my name?")["messages"][-1].text


class _Fixed(DemoChatModel):
    """A model whose answers have the same ids in each run."""

    def _generate(self, messages: Any, *arguments: Any, **options: Any) -> Any:
        result = super()._generate(messages, *arguments, **options)
        for generation in result.generations:
            message: Any = generation.message
            message.id = f"answer {len(messages)}"
            for number, call in enumerate(message.tool_calls):
                call["id"] = f"call {len(messages)} {number}"
        return result


@tool("get_weather")
def fixed_weather(city: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> ToolMessage:
    """Look up the weather, in a message that has the same id in each run."""
    return ToolMessage(
        f"It is sunny in {city}.", tool_call_id=tool_call_id, id=f"of {tool_call_id}"
    )


class TestLists:
    """Lists are stored by their elements, and come back as they were."""

    def test_every_edit(self, saver: MemorystoreSaver) -> None:
        """Appended to, cut, changed in the middle, turned around: each version stays readable."""
        history = [f"{number} " + "x" * (number % 5 * 100) for number in range(40)]
        edits: list[list[Any]] = [
            history,
            [*history, "new"],
            history[10:],
            [*history[:7], "changed" * 50, *history[8:]],
            list(reversed(history)),
            [],
            history * 2,
            [number * 1.5 for number in range(3000)],
            [*(number * 1.5 for number in range(3000)), 1.0],
            [[1, [2, {"a": b"b"}]], None, True, "x" * 5000],
        ]
        put_versions(saver, edits)
        assert listed(saver) == edits[::-1]

    def test_changed_in_place(self, saver: MemorystoreSaver) -> None:
        """A message that a node changes in place is stored as changed, and as it was before."""

        def change(state: MessagesState) -> Any:
            state["messages"][0].content = "changed"
            return {"messages": [state["messages"][0]]}

        given = {"messages": [HumanMessage("first", id="1"), HumanMessage("second", id="2")]}
        one_node(change, saver).invoke(given, CONFIG, durability="sync")
        values = [each.checkpoint["channel_values"] for each in saver.list(CONFIG)]
        texts = [words(each.get("messages", [])) for each in values]
        assert texts == [["changed", "second"], ["first", "second"], []]

    def test_what_is_known_is_checked(self, saver: MemorystoreSaver, make_saver: Make) -> None:
        """A thread that was deleted between two turns' writes is stored in full again."""
        config = put_versions(saver, [["a"], ["a", "b"]])
        make_saver().delete_thread(THREAD)
        put_versions(saver, [["a", "b", "c"]], config, start=2)
        assert listed(saver) == [["a", "b", "c"]]


def put_versions(
    saver: MemorystoreSaver, values: list[list[Any]], config: Any = ROOT, *, start: int = 0
) -> Any:
    for number, value in enumerate(values, start):
        checkpoint: Checkpoint = {
            **empty_checkpoint(),
            "id": f"{number:04}",
            "channel_values": {"list": value},
            "channel_versions": {"list": number},
        }
        config = saver.put(config, checkpoint, {"step": number}, {"list": number})
    return config


def hashes(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.hgetall(key) for key in client.scan_iter()}


def extend(state: list[str] | None, writes: list[list[str]]) -> list[str]:
    return [*(state or []), *(item for write in writes for item in write)]


class Items(TypedDict):
    items: Annotated[list[str], DeltaChannel(extend, list)]
    plain: Annotated[list[str], operator.add]


def parallel(saver: BaseCheckpointSaver[str], nodes: int = 6) -> Any:
    """A graph whose nodes n0, n1, ... write one DeltaChannel at the same time."""
    graph = StateGraph(Items)
    graph.add_node("end", lambda state: {"items": ["end"]})
    for number in range(nodes):
        graph.add_node(f"n{number}", lambda state, name=f"n{number}": {"items": [name]})
        graph.add_edge(START, f"n{number}")
        graph.add_edge(f"n{number}", "end")
    graph.add_edge("end", END)
    return graph.compile(checkpointer=saver)


def items(graph: Any) -> Any:
    return graph.get_state(CONFIG).values["items"]


class TestDeltaChannel:
    """A channel that is stored as what was written to it, and computed from that."""

    TURN = ("in", "n0", "n1", "n2", "n3", "n4", "n5", "end")

    @pytest.mark.parametrize("durability", ["sync", "async", "exit"])
    @pytest.mark.parametrize("keep", [None, 1, 2])
    def test_parallel_nodes_come_back_in_order(
        self, durability: Any, keep: int | None, make_saver: Make
    ) -> None:
        """n0 to n5 are in order, without a snapshot, after several turns, after pruning."""
        saver = make_saver(keep=keep)
        graph = parallel(saver)
        for turn in range(1, 4):
            graph.invoke({"items": ["in"], "plain": ["p"]}, CONFIG, durability=durability)
            assert items(graph) == [*self.TURN] * turn
        saver.prune([THREAD])
        assert items(graph) == [*self.TURN] * 3
        graph.invoke({"items": ["in"]}, CONFIG, durability=durability)
        assert items(graph) == [*self.TURN] * 4

    async def test_asynchronously(self, target_saver: MemorystoreSaver) -> None:
        """The same through the asyncio client, on a cluster as well."""
        graph = parallel(target_saver)
        await graph.ainvoke({"items": ["in"]}, CONFIG)
        assert (await graph.aget_state(CONFIG)).values["items"] == [*self.TURN]

    def test_a_snapshot_ends_the_chain(self, saver: MemorystoreSaver) -> None:
        """Pruning keeps the ancestors back to a snapshot, and none before it."""

        class Snapshots(TypedDict):
            items: Annotated[list[str], DeltaChannel(extend, list, snapshot_frequency=3)]

        graph = one_node(lambda state: {"items": ["said"]}, saver, Snapshots)
        for _ in range(10):
            graph.invoke({"items": ["in"]}, CONFIG)
        expected = ["in", "said"] * 10
        before = len(list(saver.list(CONFIG)))
        saver.prune([THREAD])
        after = len(list(saver.list(CONFIG)))
        assert items(graph) == expected
        assert after <= 6 < before

    def test_a_channel_that_is_a_delta_channel_no_more(self, make_saver: Make) -> None:
        """A graph that changed its annotation finds what was written before, with keep=1."""

        class Plain(TypedDict):
            items: Annotated[list[str], operator.add]
            other: str

        saver = make_saver(keep=1)
        parallel(saver).invoke({"items": ["in"]}, CONFIG)
        graph = one_node(lambda state: {"other": "said"}, saver, Plain)
        for _ in range(3):
            graph.invoke({"other": "x"}, CONFIG)
        assert items(graph) == [*self.TURN]

    def test_deleting_runs_does_not_break_it(self, saver: MemorystoreSaver) -> None:
        """A run whose writes a later checkpoint is computed from stays, and the error says why."""
        graph = parallel(saver)
        for run in ("r1", "r2"):
            graph.invoke({"items": ["in"]}, {**CONFIG, "metadata": {"run_id": run}})
        with pytest.raises(MemorystoreChatError, match=r"ada/\{1\}.*DeltaChannel.*later runs"):
            saver.delete_for_runs(["r1"])
        assert items(graph) == [*self.TURN] * 2
        assert {each.metadata["run_id"] for each in saver.list(CONFIG)} == {"r2"}
        saver.delete_for_runs(["r1", "r2"])
        assert saver.get_tuple(CONFIG) is None
        assert stored(saver) == {}

    def test_a_write_before_its_checkpoint(self, saver: MemorystoreSaver) -> None:
        """Writes that arrive first are no checkpoint yet, and are there when it comes."""
        checkpoint = empty_checkpoint()
        early: Any = {"configurable": {**ROOT["configurable"], "checkpoint_id": checkpoint["id"]}}
        saver.put_writes(early, [("items", ["a"])], "task", "path")
        assert saver.get_tuple(ROOT) is None
        assert saver.get_tuple(early) is None
        assert list(saver.list(ROOT)) == []
        saver.put(ROOT, checkpoint, {}, {})
        assert newest(saver).pending_writes == [("task", "items", ["a"])]

    def test_writes_are_in_langgraphs_order(self, saver: MemorystoreSaver) -> None:
        """By path, task and place, and not as they arrived."""
        config = saver.put(ROOT, empty_checkpoint(), {}, {})
        saver.put_writes(config, [("c", 3), ("c", 4)], "a", "~2")
        saver.put_writes(config, [("c", 2)], "b", "~1")
        saver.put_writes(config, [("c", 1)], "c")
        saver.put_writes(config, [("c", number) for number in range(5, 17)], "z", "~9")
        writes = newest(saver).pending_writes or []
        assert [value for _, _, value in writes] == list(range(1, 17))


class TestKeep:
    """`keep` drops what is older, in the same write."""

    def test_only_the_newest_are_kept(self, make_saver: Make) -> None:
        """keep=3 leaves three, whose values are whole, and nothing of the others."""
        saver = make_saver(keep=3)
        ask(saver, *(f"This is sentence {number}." for number in range(6)))
        found = list(saver.list(CONFIG))
        assert len(found) == 3
        assert len(found[0].checkpoint["channel_values"]["messages"]) == 12
        fields = stored(saver)
        assert sum(1 for field in fields if field[:1] == b"c") == 3
        assert sum(1 for field in fields if field[:1] == b"s") <= 13

    def test_what_was_removed_is_gone(self, make_saver: Make) -> None:
        """With keep=1 a removed message's text is in no field of the thread."""
        saver = make_saver(keep=1)
        agent = create_agent(DemoChatModel(), checkpointer=saver)
        ask(saver, "My PIN is 123456789.", "I like tea.")
        secret = [m for m in agent.get_state(CONFIG).values["messages"] if "123456789" in m.text]
        assert secret
        remove = [RemoveMessage(id=message.id) for message in secret]
        agent.update_state(CONFIG, {"messages": remove})
        assert b"123456789" not in b"".join(stored(saver).values())
        assert len(agent.get_state(CONFIG).values["messages"]) == 4 - len(secret)

    @pytest.mark.parametrize("is_late", [False, True])
    def test_a_turn_goes_on_from_a_dropped_checkpoint(
        self, make_saver: Make, is_late: bool
    ) -> None:
        """Of two turns that meet, one pushes out the checkpoint from which the other goes on."""
        saver = make_saver(keep=1)

        def put(config: Any, name: str, new: Any, **values: Any) -> Any:
            versions: Any = {"kept": 1, "list": 2} | new
            checkpoint: Checkpoint = {
                **empty_checkpoint(),
                "id": name,
                "channel_values": {"kept": "yes", **values},
                "channel_versions": versions,
            }
            return saver.put(config, checkpoint, {}, new)

        def other_turn() -> None:
            put(start, "3", {"list": 3}, list=["a", "c"])

        start = put(ROOT, "1", {"list": 1, "kept": 1}, list=["a"])
        if is_late:
            other_turn()
        ours = put(start, "2", {"list": 2}, list=["a", "b"])
        if not is_late:
            other_turn()
        saver.put_writes(ours, [("more", 1)], "task")
        put(ours, "4", {"more": 1}, list=["a", "b"], more=1)
        found = newest(saver).checkpoint["channel_values"]
        assert found == {"kept": "yes", "list": ["a", "b"], "more": 1}

    def test_an_interrupted_turn_survives(self, make_saver: Make) -> None:
        """With keep=1 a turn that waits for an answer is resumed, by another saver."""

        def confirm(state: MessagesState) -> Any:
            return {"messages": [AIMessage(interrupt("sure?"))]}

        one_node(confirm, make_saver(keep=1)).invoke({"messages": [HumanMessage("go")]}, CONFIG)
        done = one_node(confirm, make_saver(keep=1)).invoke(Command(resume="yes"), CONFIG)
        assert words(done["messages"]) == ["go", "yes"]


class TestLifetime:
    """What is written expires together and is deleted together."""

    def test_each_write_renews_the_whole_thread(
        self, client: redis.Redis, key_prefix: str, make_saver: Make
    ) -> None:
        """Put and put_writes set the time to live; reading does not; there is one key."""
        saver = make_saver(ttl=100)
        ask(saver, "My name is Ada.")
        (key,) = client.scan_iter(match=f"{key_prefix}*")
        assert 95 < client.ttl(key) <= 100
        client.expire(key, 10)
        list(saver.list(CONFIG))
        found = newest(saver)
        assert client.ttl(key) <= 10
        saver.put_writes(found.config, [("c", 1)], "task")
        assert 95 < client.ttl(key) <= 100
        make_saver().put_writes(found.config, [("c", 1)], "b")
        assert 95 < client.ttl(key) <= 100

    @pytest.mark.parametrize(
        "delete",
        [
            lambda saver: saver.delete_thread(THREAD),
            lambda saver: saver.delete_for_runs(["r"]),
            lambda saver: saver.prune([THREAD], strategy="delete"),
        ],
    )
    def test_deleting_leaves_no_key(self, saver: MemorystoreSaver, delete: Any) -> None:
        """Whatever deletes the last checkpoint deletes the key."""
        ask(saver, "My name is Ada.", config={**CONFIG, "metadata": {"run_id": "r"}})
        delete(saver)
        assert stored(saver) == {}
        assert saver.get_tuple(CONFIG) is None

    def test_beside_a_history_of_the_same_name(
        self, client: redis.Redis, key_prefix: str, saver: MemorystoreSaver
    ) -> None:
        """A session and a thread of one id and prefix do not touch each other."""
        history = MemorystoreChatMessageHistory(client, THREAD, key_prefix=key_prefix)
        history.add_user_message("hello")
        ask(saver, "My name is Ada.")
        saver.delete_thread(THREAD)
        assert len(history) == 1

    def test_a_copy_is_a_thread_of_its_own(self, target: Server | Cluster, key_prefix: str) -> None:
        """A copy goes on by itself, has the saver's time to live, and overwrites nothing."""
        with target.client() as client:
            saver = MemorystoreSaver(client, key_prefix=key_prefix, ttl=100)
            ask(saver, "My name is Ada.")
            saver.copy_thread(THREAD, "copy")
            copy: Any = {"configurable": {"thread_id": "copy"}}
            assert "Ada" in ask(saver, "What is my name?", config=copy)["messages"][-1].text
            assert 95 < client.ttl(saver._key("copy")) <= 100
            assert len(newest(saver).checkpoint["channel_values"]["messages"]) == 2
            with pytest.raises(MemorystoreChatError, match="'copy' already"):
                saver.copy_thread(THREAD, "copy")


class TestAtMostOnce:
    """A reply that is lost, a write that is sent again, turns that meet."""

    def test_lost_replies_change_nothing(self, server: Server, key_prefix: str) -> None:
        """With every third reply lost, what is stored is what was stored without losses."""
        results = []
        for lose_every in (0, 3):
            with (
                Proxy(server.host, server.port, lose_every=lose_every) as proxy,
                server.client(port=proxy.port, retry=Retry(NoBackoff(), 10)) as client,
            ):
                saver = MemorystoreSaver(client, key_prefix=f"{key_prefix}{lose_every}", keep=4)
                agent = create_agent(_Fixed(), [fixed_weather], checkpointer=saver)
                for number in range(9):
                    text = "What is the weather in Paris?" if number == 5 else f"I say {number}."
                    agent.invoke({"messages": [HumanMessage(text, id=text)]}, CONFIG)
                assert (proxy.lost > 10) is bool(lose_every)
                results.append(simple(saver.list(CONFIG)))
        assert results[0] == results[1]

    def test_putting_it_again_is_the_same(self, saver: MemorystoreSaver, make_saver: Make) -> None:
        """A checkpoint and its writes that are put twice leave what one put leaves."""
        put_versions(saver, [["a" * 300], ["a" * 300, "b"]])
        first, fresh = stored(saver), make_saver()
        for _ in range(2):
            found = newest(fresh)
            fresh.put(found.parent_config or {}, found.checkpoint, found.metadata, {"list": 1})
        assert stored(saver) | {b"#": first[b"#"]} == first

    def test_turns_that_meet(self, saver: MemorystoreSaver) -> None:
        """Eight turns at once on a thread: every write is whole, each turn ends on its branch."""
        barrier = threading.Barrier(8)

        def turn(number: int) -> list[str]:
            barrier.wait()
            return words(ask(saver, f"I am number {number}.")["messages"])

        with ThreadPoolExecutor(8) as threads:
            answers = [*threads.map(turn, range(8))]
        values = [found.checkpoint["channel_values"] for found in saver.list(CONFIG)]
        ends = [words(each.get("messages", [])) for each in values]
        assert all(answer in ends for answer in answers)

    async def test_tasks_that_meet(self, target_saver: MemorystoreSaver) -> None:
        """Turns of many threads at once through one asyncio client do not mix."""
        agent = create_agent(DemoChatModel(), checkpointer=target_saver)

        async def talk(name: str) -> str:
            config: Any = {"configurable": {"thread_id": name}}
            for text in (f"My name is {name}.", "What is my name?"):
                answer = await agent.ainvoke({"messages": [HumanMessage(text)]}, config)
            return str(answer["messages"][-1].text)

        names = [f"Ada{number}" for number in range(10)]
        replies = await asyncio.gather(*map(talk, names))
        assert all(name in reply for name, reply in zip(names, replies, strict=True))


@dataclass
class Order:
    """A type of one's own in the state."""

    number: int


CALLED: list[str] = []


class Hostile:
    """What an attacker would have made of a stored value."""

    def __init__(self, argument: str) -> None:
        CALLED.append(argument)


class Cipher:
    """A toy that refuses another key's texts, as AES does in its usual mode."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "toy", self.key + uuid4().bytes + bytes(255 - byte for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        if not ciphertext.startswith(self.key):
            raise ValueError("MAC check failed")
        return bytes(255 - byte for byte in ciphertext[32:])


def encrypted(key: bytes) -> EncryptedSerializer:
    return EncryptedSerializer(Cipher(key), JsonPlusSerializer(allowed_msgpack_modules=None))


class Odd(JsonPlusSerializer):
    """Writes the same for everything, as an attacker would."""

    def __init__(self, kind: str, data: bytes) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self.written = kind, data

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return self.written if obj in ("odd", ["odd"]) else super().dumps_typed(obj)


class TestSafe:
    """Whoever can write to the server cannot run code in the program (CVE-2026-28277)."""

    @pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5])
    def test_a_hostile_value_is_not_made(self, make_saver: Make, code: int, caplog: Any) -> None:
        """A stored value that names a class and its arguments is data; no such class is made."""
        arguments: Any = {0: "x", 1: ["x"], 3: "x"}.get(code, {"argument": "x"})
        payload = ormsgpack.packb((__name__, "Hostile", arguments, "__init__"))
        evil = ormsgpack.packb(ormsgpack.Ext(code, payload))
        put_versions(make_saver(serde=Odd("msgpack", evil)), [["odd"]])
        with caplog.at_level(logging.WARNING):
            assert listed(make_saver()) in ([arguments], [[arguments]])
        assert CALLED == []
        permissive = JsonPlusSerializer(allowed_msgpack_modules=True)
        if code != 3:  # methods are never called, whatever is allowed
            permissive.loads_typed(("msgpack", evil))
            assert CALLED, "the payload is one that LangGraph's default would run"
            CALLED.clear()

    @pytest.mark.parametrize("kind", ["pickle", "json", "unheard-of", "msgpack+aes"])
    def test_what_the_serializer_refuses_is_no_damage(self, make_saver: Make, kind: str) -> None:
        """Another format raises, names thread, checkpoint and serializer; and deletes nothing."""
        put_versions(make_saver(serde=Odd(kind, b"\x80\x04N.")), [["odd"]])
        for read in (lambda saver: saver.get_tuple(CONFIG), lambda saver: [*saver.list(CONFIG)]):
            with pytest.raises(MemorystoreChatError, match=r"'0000'.*ada/\{1\}.*serde=") as raised:
                read(make_saver())
            assert not isinstance(raised.value, CorruptCheckpointError)
            assert "elete" not in str(raised.value)

    def test_a_wrong_key_is_no_damage(self, make_saver: Make) -> None:
        """With another key, or none, the error says which to look at."""
        put_versions(make_saver(serde=encrypted(b"1" * 16)), [["a" * 300, "b"]])
        for serde in (encrypted(b"2" * 16), None):
            with pytest.raises(MemorystoreChatError, match="the same key") as raised:
                make_saver(serde=serde).get_tuple(CONFIG)
            assert not isinstance(raised.value, CorruptCheckpointError)
        assert listed(make_saver(serde=encrypted(b"1" * 16))) == [["a" * 300, "b"]]

    @pytest.mark.parametrize("value", [None, b"", b"\xc1", b"altered"])
    @pytest.mark.parametrize("kind", [b"s", b"k", b"v"])
    async def test_a_damaged_part_is_named(
        self, kind: bytes, value: bytes | None, target_saver: MemorystoreSaver
    ) -> None:
        """A value of which a part is gone, empty or altered is an error, and never shortened."""
        put_versions(target_saver, [[str(number) * 300 for number in range(40)]])
        overwrite(target_saver, next(f for f in stored(target_saver) if f[:1] == kind), value)
        with pytest.raises(CorruptCheckpointError, match=r"ada/\{1\}.*(missing|altered)") as raised:
            list(target_saver.list(CONFIG))
        assert raised.value.checkpoint_id == "0000"
        with pytest.raises(CorruptCheckpointError):
            await target_saver.aget_tuple(CONFIG)

    @pytest.mark.parametrize("kind", [b"c", b"w", b"n"])
    def test_a_damaged_record_is_named(self, kind: bytes, saver: MemorystoreSaver) -> None:
        """What ties a thread's parts together names thread and checkpoint, if it is altered."""
        config = put_versions(saver, [["a"]])
        saver.put_writes(config, [("list", ["c"])], "task")
        field = next(field for field in stored(saver) if field[:1] == kind)
        for value in (b"", stored(saver)[field][:-1] + b"x"):
            overwrite(saver, field, value)
            for call in (lambda: saver.get_tuple(CONFIG), lambda: list(saver.list(CONFIG))):
                with pytest.raises(CorruptCheckpointError, match=r"ada/\{1\}") as raised:
                    call()
                assert raised.value.checkpoint_id == ("" if kind == b"n" else "0000")
        saver.delete_thread(THREAD)
        assert stored(saver) == {}

    def test_a_missing_head_is_no_empty_thread(self, saver: MemorystoreSaver) -> None:
        """A thread whose newest checkpoint is gone without having been dropped says so."""
        put_versions(saver, [["a"], ["b"]])
        overwrite(saver, next(f for f in stored(saver) if f[:1] == b"c" and b"0001" in f), None)
        with pytest.raises(CorruptCheckpointError, match="0001"):
            saver.get_tuple(CONFIG)

    def test_types_of_ones_own_are_named(self, saver: MemorystoreSaver, make_saver: Make) -> None:
        """A dataclass comes back as itself once its type is allowed, and as data before."""
        put_versions(saver, [[Order(7)]])
        assert listed(saver) == [[{"number": 7}]]
        own = saver.with_allowlist([(__name__, "Order")])
        assert listed(own) == [[Order(7)]]
        assert listed(make_saver(allowed_msgpack_modules=[(__name__, "Order")])) == [[Order(7)]]

    def test_encrypted(self, make_saver: Make) -> None:
        """With an EncryptedSerializer nothing of the conversation can be read on the server."""
        saver = make_saver(serde=encrypted(b"1" * 16))
        ask(saver, "My name is Ada.")
        assert "Ada" in ask(saver, "What is my name?")["messages"][-1].text
        assert b"Ada" not in b"".join(stored(saver).values())


class TestErrors:
    """What goes wrong is an error that says what to do."""

    async def test_an_outage_is_no_empty_thread(self) -> None:
        """Every method raises ConnectError once the server is gone."""
        with servers.valkey() as server:
            async_client = redis.asyncio.Redis(
                port=server.port, protocol=2, retry=AsyncRetry(NoBackoff(), 0)
            )
            saver = MemorystoreSaver(server.client(retry=NO_RETRY), async_client=async_client)
            found = put_versions(saver, [["a"]])
            assert await saver.aget_tuple(ROOT) is not None
            server.kill()
            calls: list[Callable[[], Any]] = [
                lambda: saver.get_tuple(CONFIG),
                lambda: list(saver.list(CONFIG)),
                lambda: list(saver.list(None)),
                lambda: put_versions(saver, [["a"]]),
                lambda: saver.put_writes(found, [("c", 1)], "task"),
                lambda: saver.delete_thread(THREAD),
                lambda: saver.delete_for_runs(["r"]),
                lambda: saver.copy_thread(THREAD, "b"),
                lambda: saver.prune([THREAD]),
                lambda: saver.get_delta_channel_history(config=CONFIG, channels=["a"]),
            ]
            for call in calls:
                with pytest.raises(ConnectError):
                    call()
            for awaited in (saver.aget_tuple(CONFIG), saver.adelete_thread(THREAD)):
                with pytest.raises(ConnectError):
                    await awaited
            await async_client.aclose()

    def test_a_client_of_another_loop(self, server: Server, key_prefix: str) -> None:
        """An asyncio client that an earlier asyncio.run() left is refused with the way out."""
        with server.client() as client:
            async_client = redis.asyncio.Redis(port=server.port, protocol=2)
            saver = MemorystoreSaver(client, key_prefix=key_prefix, async_client=async_client)
            assert asyncio.run(saver.aget_tuple(CONFIG)) is None
            with pytest.raises(MemorystoreChatError, match=r"another event loop.*connect_async"):
                asyncio.run(saver.aget_tuple(CONFIG))

    def test_a_client_of_another_encoding(self, server: Server, key_prefix: str) -> None:
        """Keys, ids and texts are UTF-8 whatever the client encodes as."""
        with server.client(encoding="utf-16") as client, server.client() as plain:
            saver = MemorystoreSaver(client, key_prefix=key_prefix)
            ask(saver, "My name is Zoë.")
            assert len(list(MemorystoreSaver(plain, key_prefix=key_prefix).list(CONFIG))) == 3

    def test_a_key_of_another_kind(self, client: redis.Redis, saver: MemorystoreSaver) -> None:
        """A list under the thread's key is left alone, and the error names the thread."""
        client.rpush(saver._key(THREAD), "mine")
        with pytest.raises(MemorystoreChatError, match=r"ada/\{1\}.*WRONGTYPE.*another kind"):
            ask(saver, "hello")
        assert client.lrange(saver._key(THREAD), 0, -1) == [b"mine"]

    def test_a_full_server(self, key_prefix: str) -> None:
        """Nothing is half written where memory is full; the error says so."""
        with servers.valkey() as server, server.client() as client:
            saver = MemorystoreSaver(client, key_prefix=key_prefix)
            config = put_versions(saver, [["a"]])
            server.admin().config_set("maxmemory", 1)
            with pytest.raises(MemorystoreChatError, match=r"OOM.*memory is full"):
                put_versions(saver, [["a"]], config, start=1)
            assert len(list(saver.list(CONFIG))) == 1

    def test_with_few_rights(self, key_prefix: str) -> None:
        """Runs where the commands that Memorystore blocks are blocked; a missing right is named."""
        with servers.valkey(
            user=[
                "lean on >pw ~* -@all +eval +evalsha +hget +hmget +hset +hdel +hexists +hlen "
                "+hscan +ttl +expire +unlink +dump +restore +exists +scan +ping +hello",
                "poor on >pw ~* -@all +eval +evalsha +hget +hmget +ping +hello",
            ]
        ) as server:
            with server.client(username="lean", password="pw") as client:
                saver = MemorystoreSaver(client, key_prefix=key_prefix, ttl=60, keep=2)
                assert "Ada" in ask(saver, "I am Ada.", "What is my name?")["messages"][-1].text
                saver.copy_thread(THREAD, "b")
                saver.prune([THREAD, "b"])
                saver.delete_for_runs(["r"])
                saver.delete_thread(THREAD)
            with server.client(username="poor", password="pw") as client:
                saver = MemorystoreSaver(client, key_prefix=key_prefix)
                with pytest.raises(MemorystoreChatError, match="NOPERM"):
                    ask(saver, "hello")

    @pytest.mark.parametrize("start", [servers.valkey, servers.redis7])
    def test_what_is_refused_is_not_stored(self, start: Callable[[], Server]) -> None:
        """Each right is taken away in turn: a call is refused and changes nothing, or is done."""
        calls: list[Callable[[MemorystoreSaver], object]] = [
            lambda saver: put_versions(saver, [["another"]], start=9),
            lambda saver: saver.put_writes(next(saver.list(CONFIG)).config, [("a", ["b"])], "task"),
            lambda saver: saver.prune([THREAD]),
            lambda saver: saver.copy_thread(THREAD, "b{1}"),
        ]
        with start() as server, server.client() as client, server.admin() as admin:
            free = MemorystoreSaver(client, ttl=50)
            refused = set()
            for right in ("hset", "hget", "hmget", "hgetall", "hkeys", "hexists", "hdel", "expire"):
                admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", "~*", "+@all")
                admin.execute_command("ACL", "SETUSER", "u", f"-{right}")
                with server.client(username="u", password="pw") as limited:
                    for number, call in enumerate(calls):
                        client.flushdb()
                        put_versions(free, [["a"], ["a", "b"], ["a", "b", "c"]])
                        before, reason = hashes(client), ""
                        try:
                            call(MemorystoreSaver(limited, ttl=100, keep=2))
                        except MemorystoreChatError as error:
                            reason = str(error)
                        if reason:
                            assert "NOPERM" in reason
                            assert hashes(client) == before, (right, number)
                            refused.add((right, number))
                        assert all(client.ttl(key) > 0 for key in hashes(client))
            assert {("expire", 0), ("expire", 1), ("expire", 3), ("hdel", 0), ("hdel", 2)} < refused

    @pytest.mark.parametrize("thread_id", [None, "", 7, b"a", "\ud800"])
    def test_a_thread_id_that_is_none(self, saver: MemorystoreSaver, thread_id: Any) -> None:
        """What is no text or empty is refused with what is accepted."""
        config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        with pytest.raises(ValueError, match="thread_id"):
            saver.get_tuple(config)
        if thread_id is not None:
            with pytest.raises((TypeError, ValueError), match="thread_id"):
                saver.delete_thread(thread_id)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"client": "redis://"}, TypeError, "client is a str"),
            ({"async_client": redis.Redis()}, TypeError, "async_client is a redis"),
            ({"ttl": 0}, ValueError, "ttl"),
            ({"keep": 0}, ValueError, "keep"),
            ({"keep": -1}, ValueError, "keep"),
            ({"key_prefix": "\ud800"}, ValueError, "key_prefix"),
        ],
    )
    def test_options_are_checked(self, options: Any, error: Any, text: str) -> None:
        """An argument that cannot be meant is refused on entry."""
        with pytest.raises(error, match=text):
            MemorystoreSaver(**{"client": redis.Redis(), **options})

    def test_other_strategies(self, saver: MemorystoreSaver) -> None:
        """Pruning names the strategies it takes."""
        with pytest.raises(ValueError, match='"keep_latest" or "delete"'):
            saver.prune([THREAD], strategy="oldest")

    def test_nothing_secret_in_repr(self) -> None:
        """The repr names options only."""
        saver = MemorystoreSaver(redis.Redis(password="secret"), key_prefix="a:", ttl=5, keep=1)
        assert repr(saver) == "MemorystoreSaver(key_prefix='a:', ttl=5, keep=1)"


def test_beside_the_middleware(
    client: redis.Redis, key_prefix: str, saver: MemorystoreSaver
) -> None:
    """With ChatHistoryMiddleware the session has each message once, and the thread as well."""
    history = MemorystoreChatMessageHistory(client, THREAD, key_prefix=key_prefix)
    memory = ChatHistoryMiddleware(history)
    agent = create_agent(DemoChatModel(), middleware=[memory], checkpointer=saver)
    for text in ("My name is Ada.", "What is my name?"):
        answer = agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
    assert "Ada" in answer["messages"][-1].text
    assert len(history) == 4
    state = agent.get_state(CONFIG).values["messages"]
    assert words(state) == words(answer["messages"])
