"""The history with clients of every kind: encodings, event loops, interrupts, missing rights."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

import servers
from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
    commands,
    connect_async,
)
from memorystore_chat.errors import explaining
from scripted import Make
from stored import said, texts

if TYPE_CHECKING:
    from servers import Cluster, Server


ENCODINGS: list[dict[str, Any]] = [
    {"encoding": "latin-1"},
    {"encoding": "ascii", "encoding_errors": "ignore"},
    {"encoding": "utf-16"},
    {"encoding": "utf-16", "decode_responses": True},
    {"encoding": "latin-1", "decode_responses": True},
]


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
async def test_the_encoding_of_the_client_changes_no_session(
    server: "Server", client: redis.Redis, key_prefix: str, options: dict[str, Any], make: Make
) -> None:
    """Keys and scripts are bytes: everybody uses the same session, and no two become one."""
    client.script_flush()
    async with server.async_client(**options) as async_client:
        with server.client(**options) as odd:
            for session_id in ("é1", "1", "Zürich 🌧"):
                usual = make(session_id)
                other = MemorystoreChatMessageHistory(
                    odd, session_id, 100, key_prefix=key_prefix, async_client=async_client
                )
                usual.add_messages(said(session_id))
                other.add_messages(said("sync"))
                await other.aadd_messages(said("async"))
                client.rpush(other.key, b"\xff")
                assert [error.index for error in other.repair(dry_run=False)] == [3]
                assert texts(other.messages) == [session_id, "sync", "async"]
                assert await other.aget_messages() == usual.messages == other.messages
                assert len(other) == 3
                assert 0 < client.ttl(usual.key) <= 100
                assert client.llen(f"{usual.key}:corrupt".encode()) == 1
            other.clear()
            assert usual.messages == []
            usual.add_messages(said("again"))
            await other.aclear()
            assert usual.messages == []
            assert client.exists(f"{usual.key}:corrupt".encode()) == 0


async def test_one_message_is_added_asynchronously(async_client: Any, make: Make) -> None:
    """aadd_message, which histories of other packages have, with and without an async client."""
    for used in (None, async_client):
        history = make(async_client=used)
        await history.aadd_message(HumanMessage("hi"))
    assert texts(history.messages) == ["hi", "hi"]


@pytest.mark.parametrize("kind", ["server", "cluster", "connect", "connect to a cluster"])
def test_a_second_event_loop_is_noticed_before_anything_is_sent(
    valkey_server: "Server", valkey_cluster: "Cluster", key_prefix: str, kind: str
) -> None:
    """The error says what to do, nothing is stored, and a client that was closed works again."""
    target: Any = valkey_cluster if "cluster" in kind else valkey_server

    async def opened() -> Any:
        if "connect" in kind:
            return await connect_async(target.url)
        made = target.async_client()
        await made.get(f"{key_prefix}x")
        return made

    with target.client() as client:
        async_client = asyncio.run(opened())
        history = MemorystoreChatMessageHistory(
            client, "A to Z", key_prefix=key_prefix, async_client=async_client
        )
        for use in (
            lambda: history.aadd_messages(said("lost?")),
            history.aget_messages,
            history.aclear,
        ):
            with pytest.raises(
                MemorystoreChatError, match=r"A to Z.*another event loop.*connect_async"
            ):
                asyncio.run(use())
        assert len(history) == 0
        asyncio.run(history.aadd_messages([]))  # sends nothing
        with pytest.raises(TypeError, match="takes a list of LangChain messages"):
            asyncio.run(history.aadd_messages("x"))  # type: ignore[arg-type]

        async def closing() -> Any:
            made = await opened()
            await made.aclose()
            return made

        history = MemorystoreChatMessageHistory(
            client, "s", key_prefix=key_prefix, async_client=asyncio.run(closing())
        )

        async def use_and_close() -> None:
            await history.aadd_messages(said("stored"))
            await async_client.aclose()

        asyncio.run(use_and_close())
        assert texts(history.messages) == ["stored"]


def counted(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(f"{len(messages)} messages")


@pytest.mark.parametrize("kind", ["server", "cluster", "no async client"])
async def test_nothing_blocks_the_event_loop(
    valkey_server: "Server", valkey_cluster: "Cluster", key_prefix: str, kind: str
) -> None:
    """LangChain's wrapper swallows an error of the append, so the session shows what arrived."""
    target = valkey_cluster if kind == "cluster" else valkey_server
    async_client = None if kind == "no async client" else await connect_async(target.url)
    with target.client() as client:
        commands.script.cache_clear()
        with blockbuster_ctx():
            history = MemorystoreChatMessageHistory(
                client, "s", 100, key_prefix=key_prefix, async_client=async_client
            )
            chain = RunnableWithMessageHistory(RunnableLambda(counted), lambda session_id: history)
            config: Any = {"configurable": {"session_id": "s"}}
            await chain.ainvoke([HumanMessage("1")], config)
            async for _ in chain.astream([HumanMessage("2")], config):
                pass
            await chain.abatch([[HumanMessage("3")]], [config])
            await asyncio.gather(*(history.aget_messages() for _ in range(10)))
            read = await history.aget_messages()
        assert texts(read) == ["1", "1 messages", "2", "3 messages", "3", "5 messages"]
        with blockbuster_ctx():
            await history.aclear()
    if async_client:
        await async_client.aclose()


class _AlarmError(Exception):
    """What a job runner's time limit raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """The interval timer raises an _AlarmError."""

    def raise_alarm(*_: object) -> None:
        raise _AlarmError

    before = signal.signal(signal.SIGALRM, raise_alarm)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_an_interrupted_call_does_not_answer_the_next_one() -> None:
    """A plain redis-py client, interrupted in the middle of reading: another session's messages.

    The server is paused, so that the reply is still to come when the interrupt does.
    """
    with servers.valkey() as server, server.client() as client:
        ada = MemorystoreChatMessageHistory(client, "ada")
        grace = MemorystoreChatMessageHistory(client, "grace")
        ada.add_messages(said("ada's secret"))
        grace.add_messages(said("hello from grace"))
        for use in (lambda: ada.messages, lambda: ada.add_messages(said("x")), ada.clear):
            server.pause()
            threading.Timer(0.2, server.resume).start()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(_AlarmError):
                use()
            # At once, before the old reply can be there to be seen.
            assert texts(grace.messages) == ["hello from grace"]
            assert len(grace) == 1


def test_an_answer_that_cannot_be_its_own_is_an_error(client: redis.Redis, make: Make) -> None:
    """A connection that is one reply behind, as an interrupt of other code leaves it."""
    history = make()
    history.add_messages(said("1"))
    uses = (
        ("PING", lambda: history.messages),
        ("PING", lambda: len(history)),
        ("PING", lambda: history.add_messages(said("2"))),
        ("LLEN", lambda: history.messages),
    )
    for command, use in uses:
        connection: Any = client.connection_pool.get_connection()
        client.connection_pool.release(connection)
        send = connection.send_command

        def send_two(*args: Any, send: Any = send, command: str = command, **options: Any) -> None:
            """Have a reply come after the pool has looked whether one is there."""
            send(*([command] if command == "PING" else [command, history.key]))
            send(*args, **options)

        connection.send_command = send_two
        with pytest.raises(ConnectError, match=r"an answer to something else.*Do it again"):
            use()
        del connection.send_command
        assert texts(history.messages)[0] == "1", "the connection was dropped"


RIGHTS = ("evalsha", "eval", "lrange", "rpush", "ltrim", "expire", "lpos")


@pytest.mark.own_server
@pytest.mark.parametrize("removed", RIGHTS)
@pytest.mark.parametrize("stored", [0, 2])
def test_what_is_refused_is_not_stored(server: "Server", removed: str, stored: int) -> None:
    """Each right that the append uses is taken away in turn: it is refused whole, or done whole."""
    append_id = codec.new_append_id()
    rights = [f"+{right}" for right in RIGHTS if right != removed]
    with server.client() as other, server.limited("-@all", "+@connection", *rights) as client:
        other.script_flush()
        history = MemorystoreChatMessageHistory(other, f"refused-{removed}-{stored}", 50)
        history.add_messages(said("1", "2")[:stored])
        before = other.lrange(history.key, 0, -1), other.ttl(history.key)
        limited = MemorystoreChatMessageHistory(client, history.key, 100, max_messages=2)
        outcomes = []
        for _ in range(2):
            try:
                limited.add_messages(said("3"), append_id=append_id)
                outcomes.append("done")
            except MemorystoreChatError as error:
                outcomes.append(str(error))
        after = texts(history.messages), other.ttl(history.key)
        if outcomes == ["done", "done"]:
            assert removed in ("eval", "lpos"), "the script was there, or has another way"
            assert after == (["2", "3"] if stored else ["3"], 100)
        else:
            assert all("NOPERM" in outcome for outcome in outcomes)
            assert (other.lrange(history.key, 0, -1), other.ttl(history.key)) == before
        history.clear()


@pytest.mark.own_server
@pytest.mark.parametrize("rights", [["-unlink"], ["resetkeys", "~s"]], ids=["command", "key"])
async def test_a_clearing_that_is_refused_deletes_nothing(
    server: "Server", rights: list[str]
) -> None:
    """On one server it is one command: what repair() moved away goes together with the rest."""
    login: Any = {"username": "limited", "password": "pw"}
    with server.limited(*rights) as client:
        async with server.async_client(**login) as async_client:
            history = MemorystoreChatMessageHistory(client, "s", async_client=async_client)
            history.add_messages(said("1"))
            with pytest.raises(MemorystoreChatError, match="clearing the session 's': NOPERM"):
                history.clear()
            with pytest.raises(MemorystoreChatError, match="clearing the session 's': NOPERM"):
                await history.aclear()
            assert len(history) == 1
    with server.client() as client:
        client.unlink("s")


@pytest.mark.own_server
async def test_an_error_out_of_a_pipeline_says_what_others_say(server: "Server") -> None:
    """redis-py puts the command before it, which may hold what was to be stored."""
    login: Any = {"username": "limited", "password": "pw"}
    with server.limited("-set") as client:
        pipe: Any = client.pipeline()
        pipe.set("k\nx", "a secret")
        async_pipe: Any = server.async_client(**login).pipeline()
        async_pipe.set("k\nx", "a secret")
        with pytest.raises(MemorystoreChatError) as alone, explaining("storing"):
            client.set("k", "a secret")
        with pytest.raises(MemorystoreChatError) as first, explaining("storing"):
            pipe.execute()
        with pytest.raises(MemorystoreChatError) as second, explaining("storing"):
            await async_pipe.execute()
        await async_pipe.connection_pool.disconnect()
    assert str(first.value) == str(second.value) == str(alone.value)


@pytest.mark.own_server
@pytest.mark.parametrize("removed", ["pttl", "pexpire", "rpush"])
def test_a_repair_that_is_refused_moves_nothing(
    server: "Server", client: redis.Redis, removed: str, make: Make
) -> None:
    """No copy of a broken element is left without the session's time to live."""
    history = make("s", 50)
    history.add_messages(said("1"))
    client.rpush(history.key, b"\xff")
    before = client.lrange(history.key, 0, -1)
    with server.limited(f"-{removed}") as limited:
        mended = MemorystoreChatMessageHistory(limited, history.key)
        with pytest.raises(MemorystoreChatError, match="NOPERM"):
            mended.repair(dry_run=False)
    assert client.lrange(history.key, 0, -1) == before
    assert not client.exists(f"{history.key}:corrupt")


def test_a_message_that_the_server_finds_too_large_is_explained() -> None:
    """A server that was set up with a lower limit than 512 MB."""
    with servers.valkey(proto_max_bulk_len="1mb") as server, server.client() as client:
        history = MemorystoreChatMessageHistory(client, "s")
        with pytest.raises(
            MemorystoreChatError, match=r"larger than the server takes.*Storage|reset|closed|Broken"
        ):
            history.add_user_message("x" * 1_500_000)
        history.add_user_message("x")
        assert texts(history.messages) == ["x"]


@pytest.mark.usefixtures("alarm")
def test_many_interrupts_leave_every_reply_with_its_question() -> None:
    """Alarms at random times in a plain client's calls: no answer belongs to another session."""
    with servers.valkey() as server, server.client() as client:
        histories = {
            name: MemorystoreChatMessageHistory(client, name) for name in ("ada", "grace", "alan")
        }
        for name, history in histories.items():
            history.add_messages(said(name))
        interrupts = 0
        end = time.monotonic() + 30
        while interrupts < 100 and time.monotonic() < end:
            for name, history in histories.items():
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + (interrupts % 40) * 0.00002)
                    read = texts(history.messages)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except _AlarmError:
                    interrupts += 1
                else:
                    assert read == [name]
        assert interrupts > 50
