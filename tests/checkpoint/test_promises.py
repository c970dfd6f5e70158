"""What MemorystoreSaver promises beyond LangGraph's contract: each line of its docstring."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import uuid4

import langgraph.checkpoint.base.id as ids
import numpy
import ormsgpack
import pytest
import redis
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph

import servers
from checkpoints import CONFIG, THREAD, Make, Stored, ask, at, graph_of, listed, newest, put
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.checkpoint.threads import Row
from memorystore_chat.errors import CorruptCheckpointError
from scripted import NO_RETRY, words
from servers import Server


async def test_either_client_alone_is_enough(place: Any, key_prefix: str) -> None:
    """With an asyncio client alone all is awaited, and a synchronous call names its twin."""
    saver = MemorystoreSaver(place.client, key_prefix=key_prefix, ttl=50, refresh_on_read=True)
    checkpoint = empty_checkpoint()
    config = await place.call(saver, "put", CONFIG, checkpoint, {}, {})
    key = f"{key_prefix}checkpoints:{THREAD}"
    plain = MemorystoreSaver(place.client, key_prefix=key_prefix)
    writing = MemorystoreSaver(place.client, key_prefix=key_prefix, ttl=50)
    for one, name, given, is_renewed in (
        (plain, "put_writes", (config, [("c", 1)], "task"), False),
        (writing, "get_tuple", (config,), False),
        (saver, "get_tuple", (config,), True),
        (writing, "put_writes", (config, [("c", 1)], "task"), True),
        (writing, "put", (CONFIG, checkpoint, {}, {}), True),
    ):
        place.sync_client.expire(key, 10)
        await place.call(one, name, *given)
        assert (place.sync_client.ttl(key) > 40) is is_renewed
    assert await place.call(saver, "persist", THREAD)
    assert not await place.call(saver, "persist", THREAD)
    assert place.sync_client.ttl(key) == -1
    await place.call(saver, "copy_thread", THREAD, "copy")
    with pytest.raises(MemorystoreChatError, match="'copy' already"):
        await place.call(saver, "copy_thread", THREAD, "copy")
    assert 40 < place.sync_client.ttl(f"{key_prefix}checkpoints:copy") <= 50
    assert await place.call(saver, "expire", THREAD, 30)
    assert not await place.call(saver, "expire", "nobody", 30)
    await place.call(saver, "prune", [THREAD, "copy"])
    found, _ = await place.call(saver, "threads")
    assert (found.thread_id, found.checkpoints, found.is_waiting) == (THREAD, 1, False)
    assert 0 < found.ttl <= 30
    assert found.size > 100
    assert found.updated == checkpoint["ts"]
    await place.call(saver, "delete_for_runs", ["r"])
    await place.call(saver, "delete_thread", THREAD)
    await place.call(saver, "prune", ["copy"], strategy="delete")
    assert await place.call(saver, "threads") == []
    if place.way == "async":
        with pytest.raises(TypeError, match="aget_tuple"):
            saver.get_tuple(config)


async def test_connecting_by_itself(valkey_server: Server, key_prefix: str) -> None:
    """from_conn_string connects as long as its context lasts; setup does nothing."""
    options: Any = {"endpoint": valkey_server.url, "key_prefix": key_prefix}
    with MemorystoreSaver.from_conn_string(**options) as saver:
        saver.setup()
        put(saver, CONFIG, "1", x=1)
    async with MemorystoreSaver.afrom_conn_string(**options) as again:
        await again.asetup()
        assert await again.aget_tuple(CONFIG) is not None
        await again.adelete_thread(THREAD)


class TestNewest:
    """Which checkpoint is the newest, and what is its parent."""

    def test_a_seed_of_random_changes_nothing(self, make_saver: Make) -> None:
        """Two programs with one seed go on from one checkpoint; both branches are right."""
        ask(graph_of(make_saver()), "q")
        start = newest(make_saver()).checkpoint["id"]
        branches = []
        for text in ("A", "B"):
            random.seed(1)
            saver = make_saver()
            ask(graph_of(saver), text, at(start))
            branches.append(newest(saver).config)
        for text, branch in zip(("A", "B"), branches, strict=True):
            found = newest(make_saver(), branch).checkpoint["channel_values"]["messages"]
            assert words(found) == ["q", "answer to q", text, f"answer to {text}"]

    @pytest.mark.parametrize("keep", [None, 5, 1])
    def test_a_clock_that_is_behind(
        self, make_saver: Make, keep: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next turn, taken by a machine whose clock is 2 s behind, is the newest afterwards."""
        graph = graph_of(make_saver(keep=keep))
        ask(graph, "one")
        now = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now() - 2 * 10**9)
        monkeypatch.setattr(ids, "_last_v6_timestamp", None)
        expected = ask(graph, "two")
        assert words(graph.get_state(CONFIG).values["messages"]) == expected
        first, *older = graph.get_state_history(CONFIG)
        assert words(first.values["messages"]) == expected
        assert [*graph.get_state_history(CONFIG, before=first.config)] == older
        assert ask(graph, "three")[:-2] == expected

    def test_parents_in_a_circle(self, saver: MemorystoreSaver) -> None:
        """Two that name each other are read; the first parent stays, if it was put before."""
        first = put(saver, put(saver, at("2"), "0", x=0), "1", x=1)
        second = put(saver, first, "2", x=2)
        put(saver, second, "1", x=1)
        saver.get_delta_channel_history(config=second, channels=["other"])
        assert [each.parent_config for each in saver.list(CONFIG)] == [first, at("0"), None]


def test_sub_graphs_go_with_their_turn(make_saver: Make, client: redis.Redis, key: str) -> None:
    """With keep=1, and a sub-graph in each turn, what is stored stays level."""
    inner = graph_of(None, lambda state: {"messages": [AIMessage("x" * 100, id="a")]})
    graph, sizes = graph_of(make_saver(keep=1), inner), list[Any]()
    for _ in range(60):
        graph.invoke({"messages": [HumanMessage("y", id="h")]}, CONFIG, durability="sync")
        sizes.append(client.memory_usage(key, samples=0))
    assert sizes[-1] < 1.1 * sizes[9]


class Delta(TypedDict):
    """The state of a graph with a channel of its own."""

    said: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *chain(*new)], list)]
    other: str


class Plain(TypedDict):
    """The state of another graph on the same thread."""

    other: str


def test_a_graph_without_a_delta_channel_keeps_it(make_saver: Make) -> None:
    """The checkpoints from which a DeltaChannel is computed stay until a graph that has it runs."""
    saver = make_saver(keep=1)
    graphs: list[Any] = []
    for schema in (Delta, Plain):
        builder: Any = StateGraph(schema)
        builder.add_node("node", lambda _: {"other": "x"})
        builder.add_edge(START, "node")
        graphs.append(builder.compile(checkpointer=saver))
    delta, plain = graphs
    for graph, given in ((delta, {"said": ["a"]}), (delta, {"said": ["b"]}), (plain, {})):
        graph.invoke({"other": "y", **given}, CONFIG)
    assert delta.get_state(CONFIG).values["said"] == ["a", "b"]


def test_messages_inside_a_dict_are_stored_once(saver: MemorystoreSaver, stored: Stored) -> None:
    """A sub-graph that is given the whole conversation stores no message again."""
    graph = graph_of(saver, graph_of(None))
    for turn in range(20):
        ask(graph, f"question {turn} " + "x" * 300)
    fields = stored().values()
    for message in graph.get_state(CONFIG).values["messages"]:
        assert sum(message.id.encode() in value for value in fields) == 1


def test_a_write_after_the_end_is_listed(saver: MemorystoreSaver) -> None:
    """What arrives after delete_thread is a thread without checkpoints, until it is pruned."""
    config = put(saver, CONFIG, "1", x=1)
    saver.delete_thread(THREAD)
    saver.put_writes(config, [("x", "late")], "task")
    (found,) = saver.threads()
    assert (found.thread_id, found.checkpoints) == (THREAD, 0)
    saver.prune([THREAD])
    assert saver.threads() == []


def test_keys_do_not_meet(client: redis.Redis, saver: MemorystoreSaver, key_prefix: str) -> None:
    """A session of a thread's key is left alone."""
    history = MemorystoreChatMessageHistory(client, "checkpoints:ada", key_prefix=key_prefix)
    history.add_user_message("mine")
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        saver.delete_thread("ada")
    assert [*saver.list(None), *saver.threads()] == []
    assert len(history) == 1


SURROGATE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "\ud800"}}
WITH_NUL: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "a\0b"}}


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda s: s.prune("ab"), TypeError, "thread_ids"),
        (lambda s: s.prune(["a"], strategy="oldest"), ValueError, "keep_latest"),
        (lambda s: s.delete_for_runs("ab"), TypeError, "run_ids"),
        (lambda s: s.get_tuple(SURROGATE), ValueError, "checkpoint_ns"),
        (lambda s: [*s.list(None, before=at("\ud800"))], ValueError, "checkpoint_id"),
        (lambda s: s.delete_thread(""), ValueError, "thread_id"),
        (lambda s: s.get_tuple({"configurable": {}}), ValueError, "thread_id"),
        (lambda s: s.put_writes(CONFIG, [], "task"), ValueError, "checkpoint_id"),
        (lambda s: put(s, put(s, CONFIG, "1", x=1), "1", x=1), ValueError, "parent"),
        (lambda s: MemorystoreSaver(redis.Redis(), ttl=0), ValueError, "ttl"),
        (lambda s: MemorystoreSaver(redis.Redis(), keep=0), ValueError, "keep"),
        (lambda s: MemorystoreSaver(redis.Redis(), refresh_on_read=True), ValueError, "ttl"),
        (lambda s: MemorystoreSaver(redis.Redis(), key_prefix="checkpoints:"), ValueError, "key"),
        (lambda s: s.put(WITH_NUL, empty_checkpoint(), {}, {}), ValueError, "NUL"),
    ],
)
def test_what_is_refused(
    saver: MemorystoreSaver, call: Callable[[Any], Any], error: Any, name: str
) -> None:
    """What cannot be meant is refused by its name."""
    with pytest.raises(error, match=name):
        call(saver)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (numpy.float32(1), r"messages\[1\]\.artifact is a numpy\.float32"),
        ([{"score": object()}], r"messages\[1\]\.artifact\[0\]\['score'\] is a object"),
    ],
)
def test_what_cannot_be_stored_is_named(saver: MemorystoreSaver, value: Any, where: str) -> None:
    """The error names thread, channel, path, and type."""
    message = ToolMessage("x", tool_call_id="1", artifact=value)
    with pytest.raises(TypeError, match=rf"thread 'ada.*{where}.*serde="):
        put(saver, CONFIG, "1", messages=[HumanMessage("a"), message])
    config = put(saver, CONFIG, "2", x=1)
    with pytest.raises(TypeError, match=r"thread 'ada.* x"):
        saver.put_writes(config, [("x", value)], "task")
    metadata: Any = {"x": value}
    with pytest.raises(TypeError, match=r"metadata\['x'\]"):
        saver.put(CONFIG, empty_checkpoint(), metadata, {})


@dataclass
class Order:
    """A type of one's own in the state."""

    number: int


CALLED: list[str] = []


class Hostile:
    """What an attacker would have made of a stored value."""

    def __init__(self, argument: str) -> None:
        CALLED.append(argument)


class Cipher(NamedTuple):
    """A toy that refuses another key's texts, as AES does in its usual mode."""

    key: bytes

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "toy", self.key + uuid4().bytes + plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        if not ciphertext.startswith(self.key):
            raise ValueError("MAC check failed")
        return ciphertext[32:][::-1]


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
        put(make_saver(serde=Odd("msgpack", evil)), CONFIG, "1", list=["odd"])
        with caplog.at_level(logging.WARNING):
            assert listed(make_saver()) in ([arguments], [[arguments]])
        assert CALLED == []

    def test_types_of_ones_own_are_named(self, saver: MemorystoreSaver) -> None:
        """A dataclass comes back as itself once its type is allowed, and as data before."""
        put(saver, CONFIG, "1", list=[Order(7)])
        assert listed(saver) == [[{"number": 7}]]
        assert listed(saver.with_allowlist([(__name__, "Order")])) == [[Order(7)]]

    def test_encrypted(self, make_saver: Make, stored: Stored) -> None:
        """With an EncryptedSerializer nothing is readable, and no message stored twice."""
        graph, sizes = graph_of(make_saver(serde=encrypted(b"1" * 16))), list[int]()
        for turn in range(1, 5):
            assert len(ask(graph, "secret")) == 2 * turn
            sizes.append(len(stored()))
        assert b"secret" not in b"".join(stored().values())
        assert sizes[-1] <= 4 * sizes[0]


class TestUnreadable:
    """What cannot be read is named, and never an empty or shortened thread."""

    @pytest.mark.parametrize(
        ("writer", "reader"),
        [
            (Odd("pickle", b"\x80\x04N."), None),
            (Odd("unheard-of", b""), None),
            (encrypted(b"1" * 16), encrypted(b"2" * 16)),
            (encrypted(b"1" * 16), None),
        ],
    )
    def test_what_the_serializer_refuses_is_no_damage(
        self, make_saver: Make, writer: Any, reader: Any
    ) -> None:
        """The error names thread, checkpoint, and serializer or key; and nothing to delete."""
        put(make_saver(serde=writer), CONFIG, "0001", list=["odd"])
        for read in (lambda saver: saver.get_tuple(CONFIG), lambda saver: [*saver.list(CONFIG)]):
            with pytest.raises(
                MemorystoreChatError, match=r"'0001'.*ada/\{1\}.*same key"
            ) as raised:
                read(make_saver(serde=reader))
            assert not isinstance(raised.value, CorruptCheckpointError)
            assert "elete" not in str(raised.value)

    @pytest.mark.parametrize(
        "damage",
        [
            (b"s", None, "0001"),
            (b"s", b"", "0001"),
            (b"s", b"altered", "0001"),
            (b"k", None, "0001"),
            (b"k", b"", "0001"),
            (b"k", b"itself", "0001"),
            (b"c", None, "0001"),
            (b"c", b"", "0001"),
            (b"c", b"altered record", "0001"),
            (b"w", b"altered record", "0001"),
            (b"n", b"altered record", ""),
        ],
    )
    async def test_damage_is_named(
        self, saver: MemorystoreSaver, stored: Stored, client: redis.Redis, key: str, damage: Any
    ) -> None:
        """What is gone, empty or altered is an error, and never a shorter or an empty thread."""
        kind, value, name = damage
        config = put(saver, CONFIG, "0001", list=[str(number) * 300 for number in range(40)])
        saver.put_writes(config, [("list", ["c"])], "task")
        field = next(field for field in stored() if field[:1] == kind)
        client.hdel(key, field)
        if value is not None:
            client.hset(key, field, field if value == b"itself" else value)
        calls: list[Any] = [saver.aget_tuple(CONFIG)]
        if kind in b"sk":
            calls.append(anext(saver.alist(CONFIG)))
        for call in calls:
            with pytest.raises(CorruptCheckpointError, match=r"ada/\{1\}") as raised:
                await call
            assert raised.value.checkpoint_id == name
        saver.delete_thread(THREAD)
        assert stored() == {}

    def test_what_was_not_put_anew_is_damaged(
        self, saver: MemorystoreSaver, stored: Stored, client: redis.Redis, key: str
    ) -> None:
        """A checkpoint that shares a lost part of its parent's is not stored."""
        config = put(saver, CONFIG, "1", x="x" * 99)
        client.hdel(key, *(field for field in stored() if field[:1] == b"s"))
        child: Any = {"channel_values": {}, "channel_versions": {"x": "1"}}
        with pytest.raises(CorruptCheckpointError, match="missing"):
            saver.put(config, empty_checkpoint() | child, {}, {})

    def test_what_goes_meanwhile_is_left_out(
        self, saver: MemorystoreSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint that is deleted while it is being listed is no damage."""
        put(saver, put(saver, CONFIG, "1", x=1), "2", x="x" * 99)
        names = Row.names

        def delete(row: Row) -> list[bytes]:
            saver.delete_thread(THREAD)
            return names(row)

        monkeypatch.setattr(Row, "names", delete)
        assert [*saver.list(CONFIG)] == []

    def test_trouble_is_no_empty_thread(self) -> None:
        """Nothing is half written where memory is full; an outage raises ConnectError."""
        calls: list[Callable[[MemorystoreSaver], object]] = [
            lambda saver: saver.get_tuple(CONFIG),
            lambda saver: list(saver.list(None)),
            lambda saver: put(saver, CONFIG, "1", list=["a"]),
            lambda saver: saver.prune([THREAD]),
        ]
        with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
            saver = MemorystoreSaver(client)
            config = put(saver, CONFIG, "1", list=["a"])
            server.admin().config_set("maxmemory", 1)
            with pytest.raises(MemorystoreChatError, match=r"OOM.*memory is full"):
                put(saver, config, "2", list=["a", "b"])
            assert len(list(saver.list(CONFIG))) == 1
            server.kill()
            for call in calls:
                with pytest.raises(ConnectError):
                    call(saver)
