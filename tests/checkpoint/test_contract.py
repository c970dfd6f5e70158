"""MemorystoreSaver: LangGraph's contract, on one server and on a cluster, and what it survives."""

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
from langchain_core.messages import HumanMessage, RemoveMessage
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
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from memorystore_chat import ConnectError, MemorystoreChatError
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.errors import CorruptCheckpointError
from memorystore_tutorial import DemoChatModel
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


class TestThreads:
    """All of them, and one of another saver."""

    def test_all_threads(self, saver: MemorystoreSaver) -> None:
        """Listing without a config reads every thread under the prefix, and no other key."""
        for number in range(20):
            config: Any = {"configurable": {"thread_id": f"t{number}", "checkpoint_ns": ""}}
            saver.put(config, empty_checkpoint(), {"step": number}, {})
        found = {each.config["configurable"]["thread_id"] for each in saver.list(None)}
        assert found == {f"t{number}" for number in range(20)}
        assert [each.metadata["step"] for each in saver.list(None, filter={"step": 7})] == [7]

    def test_a_thread_of_another_saver_goes_on(self, saver: MemorystoreSaver) -> None:
        """Checkpoints copied from InMemorySaver are read, and the conversation continues."""
        other = InMemorySaver()
        ask(other, "My name is Ada.")
        for found in reversed(list(other.list(CONFIG))):
            versions = found.checkpoint["channel_versions"]
            saver.put(found.parent_config or ROOT, found.checkpoint, found.metadata, versions)
        assert "Ada" in ask(saver, "What is my name?")["messages"][-1].text


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


class TestAtOnce:
    """Turns that meet."""

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

    def test_an_outage_is_no_empty_thread(self) -> None:
        """Every method raises ConnectError once the server is gone."""
        calls: list[Callable[[MemorystoreSaver], object]] = [
            lambda saver: saver.get_tuple(CONFIG),
            lambda saver: list(saver.list(None)),
            lambda saver: put_versions(saver, [["a"]]),
            lambda saver: saver.put_writes(found, [("c", 1)], "task"),
            lambda saver: saver.delete_thread(THREAD),
            lambda saver: saver.prune([THREAD]),
        ]
        with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
            found = put_versions(MemorystoreSaver(client), [["a"]])
            server.kill()
            for call in calls:
                with pytest.raises(ConnectError):
                    call(MemorystoreSaver(client))

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
