"""ChatHistoryMiddleware: what an agent reads, what it stores, and when."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import redis.asyncio
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command
from pydantic import BaseModel, Field
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.storage import codec
from memorystore_chat.tutorial.models import DemoChatModel
from proxy import Proxy
from servers import Cluster, Server

Make = Callable[..., MemorystoreChatMessageHistory]
NO_RETRY = Retry(NoBackoff(), 0)


class Scripted(BaseChatModel):
    """Says what a test lists, remembers what it was asked, and streams word by word."""

    replies: list[Any]
    asked: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        self.asked.append(list(messages))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            reply = reply()
        return AIMessage(reply) if isinstance(reply, str) else reply

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages)
        for word in re.findall(r"\S+ ?", str(reply.content)) or [""]:
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        for index, call in enumerate(reply.tool_calls):
            args = str(call["args"]).replace("'", '"')
            chunk = tool_call_chunk(name=call["name"], args=args, id=call["id"], index=index)
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))


def look_up(thing: str) -> str:
    """Look something up."""
    return f"facts about {thing}"


def call(*things: str) -> AIMessage:
    """A reply that looks things up."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": "look_up", "args": {"thing": thing}, "id": f"call-{thing}"} for thing in things
        ],
    )


def ask(text: str, *before: BaseMessage) -> dict[str, Any]:
    return {"messages": [*before, HumanMessage(text)]}


def texts(messages: list[BaseMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


def nowhere() -> "redis.Redis[bytes]":
    """A client that must not be used: nothing listens where it connects to."""
    return redis.Redis(port=servers.free_port(), retry=NO_RETRY)


THREAD: Any = {"configurable": {"thread_id": "ada/1"}}
OTHER: Any = {"configurable": {"thread_id": "grace/1"}}


@pytest.fixture
def make(client: "redis.Redis[bytes]", key_prefix: str) -> Make:
    """Histories of this test's own sessions."""

    def make(thread_id: str = "ada/1", **options: Any) -> MemorystoreChatMessageHistory:
        options = {"client": client, "session_id": thread_id, "key_prefix": key_prefix} | options
        return MemorystoreChatMessageHistory(**options)

    return make


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator["redis.asyncio.Redis[bytes]"]:
    async with redis.asyncio.Redis(host=server.host, port=server.port, protocol=2) as connected:
        yield connected


def test_second_turn_knows_the_first(make: Make) -> None:
    """Each turn's user message, tool call, result and answer are stored, and the next sees them."""
    model = Scripted(replies=[call("tea"), "Tea is fine.", "As I said: tea."])
    agent = create_agent(model, [look_up], middleware=[ChatHistoryMiddleware(make)])

    agent.invoke(ask("tea?"), THREAD)
    first = make().messages
    agent.invoke(ask("again?"), THREAD)

    assert texts(first) == [
        ("human", "tea?"),
        ("ai", ""),
        ("tool", "facts about tea"),
        ("ai", "Tea is fine."),
    ]
    assert isinstance(first[1], AIMessage)
    assert first[1].tool_calls[0]["args"] == {"thing": "tea"}
    assert isinstance(first[2], ToolMessage)
    assert first[2].tool_call_id == "call-tea"
    assert texts(model.asked[-1]) == [*texts(first), ("human", "again?")]
    assert texts(make().messages) == [*texts(model.asked[-1]), ("ai", "As I said: tea.")]


@pytest.mark.parametrize("decode", [False, True])
async def test_conversations_on_a_cluster(
    valkey_cluster: Cluster, key_prefix: str, decode: bool
) -> None:
    """Sessions of every primary, sync and async: each keeps its own turns, tool calls included."""
    first = valkey_cluster.nodes[0]
    threads = [f"user-{number}" for number in range(12)]
    with valkey_cluster.client(decode_responses=decode) as client:
        async with redis.asyncio.RedisCluster(
            host=first.host, port=first.port, protocol=2, decode_responses=decode
        ) as async_client:

            def make(thread_id: str) -> MemorystoreChatMessageHistory:
                return MemorystoreChatMessageHistory(
                    client, thread_id, key_prefix=key_prefix, async_client=async_client
                )

            holders = {valkey_cluster.node_of(make(thread).key).port for thread in threads}
            assert len(holders) == valkey_cluster.primaries
            for thread in threads:
                config: Any = {"configurable": {"thread_id": thread}}
                model = Scripted(replies=[call(thread), "found", "again"])
                agent = create_agent(model, [look_up], middleware=[ChatHistoryMiddleware(make)])
                agent.invoke(ask("1"), config)
                await agent.ainvoke(ask("2"), config)
                stored = make(thread).messages
                assert texts(stored) == [
                    ("human", "1"),
                    ("ai", ""),
                    ("tool", f"facts about {thread}"),
                    ("ai", "found"),
                    ("human", "2"),
                    ("ai", "again"),
                ]
                assert await make(thread).aget_messages() == stored


def test_answer_holds_the_whole_conversation(make: Make) -> None:
    """The agent's result is the conversation so far, as with a checkpointer."""
    agent = create_agent(Scripted(replies=["a", "b"]), middleware=[ChatHistoryMiddleware(make)])
    agent.invoke(ask("1"), THREAD)
    result = agent.invoke(ask("2"), THREAD)
    assert set(result) == {"messages"}
    assert [message.text for message in result["messages"]] == ["1", "a", "2", "b"]
    assert result["messages"] == make().messages


def test_thread_id_chooses_the_session(make: Make) -> None:
    """One agent serves many conversations, and they know nothing of each other."""
    model = Scripted(replies=["hi Ada", "hi Grace"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(make)])
    agent.invoke(ask("I am Ada"), THREAD)
    agent.invoke(ask("I am Grace"), OTHER)
    assert texts(model.asked[1]) == [("human", "I am Grace")]
    assert [message.text for message in make("ada/1").messages] == ["I am Ada", "hi Ada"]
    assert [message.text for message in make("grace/1").messages] == ["I am Grace", "hi Grace"]


def test_one_history_needs_no_thread_id(make: Make) -> None:
    """An agent with a single conversation takes its history itself."""
    agent = create_agent(
        Scripted(replies=["a", "b"]), middleware=[ChatHistoryMiddleware(make("only"))]
    )
    agent.invoke(ask("1"))
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make("only").messages] == ["1", "a", "2", "b"]


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (None, "no thread_id"),
        ({"configurable": {"user": "ada"}}, "no thread_id"),
        ({"configurable": {"thread_id": ""}}, "thread_id=''"),
        ({"configurable": {"thread_id": 7}}, "thread_id=7"),
    ],
)
def test_missing_thread_id_says_what_to_pass(make: Make, config: Any, given: str) -> None:
    """Without a usable thread_id nothing runs, and the error shows the call to make."""
    model = Scripted(replies=["never"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(make)])
    with pytest.raises(ValueError, match=r'"configurable": {"thread_id": "ada/1"}') as raised:
        agent.invoke(ask("1"), config)
    assert given in str(raised.value)
    assert not model.asked


def test_wrong_histories_are_refused() -> None:
    """Neither a history nor a function, or a function that makes something else: TypeError."""
    wrong: Any = "ada/1"
    with pytest.raises(TypeError, match="history is a str; it takes a MemorystoreChatMessageHist"):
        ChatHistoryMiddleware(wrong)
    maker: Any = lambda thread_id: None  # noqa: E731
    agent = create_agent(Scripted(replies=["a"]), middleware=[ChatHistoryMiddleware(maker)])
    with pytest.raises(TypeError, match="returned a NoneType for the thread_id 'ada/1'"):
        agent.invoke(ask("1"), THREAD)


@pytest.mark.parametrize(("stored", "tools"), [(0, 0), (1, 1), (300, 12)])
def test_two_round_trips_a_turn(server: Server, key_prefix: str, stored: int, tools: int) -> None:
    """One read and one write on the wire, however long the history and the turn are."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_messages([HumanMessage("x" * 500)] * (stored or 1))
        if not stored:
            history.clear()
        replies = [*(call(str(number)) for number in range(tools)), "done"]
        agent = create_agent(
            Scripted(replies=replies), [look_up], middleware=[ChatHistoryMiddleware(history)]
        )
        proxy.reset()
        agent.invoke(ask("go"))
        assert proxy.round_trips == 2
        assert len(history) == stored + 2 + 2 * tools


async def test_two_round_trips_a_turn_async(server: Server, key_prefix: str) -> None:
    """The asynchronous hooks cost the same."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        address = {"host": proxy.server[0], "port": proxy.port, "protocol": 2}
        async with redis.asyncio.Redis(**address) as async_client:
            history = MemorystoreChatMessageHistory(
                client, "s", 60, key_prefix=key_prefix, async_client=async_client
            )
            await history.aadd_messages([HumanMessage("x")])
            agent = create_agent(
                Scripted(replies=[call("tea"), "done"]),
                [look_up],
                middleware=[ChatHistoryMiddleware(history)],
            )
            proxy.reset()
            await agent.ainvoke(ask("go"))
            assert proxy.round_trips == 2
            assert len(history) == 5


def test_new_server_costs_one_round_trip_more_once() -> None:
    """A server that does not know the script yet is told it by the first write."""
    with (
        servers.valkey() as fresh,
        Proxy(fresh.host, fresh.port) as proxy,
        fresh.client(port=proxy.port) as client,
    ):
        memory = ChatHistoryMiddleware(MemorystoreChatMessageHistory(client, "s"))
        agent = create_agent(Scripted(replies=["a", "b"]), middleware=[memory])
        client.ping()
        proxy.reset()
        agent.invoke(ask("1"))
        assert proxy.round_trips == 3
        proxy.reset()
        agent.invoke(ask("2"))
        assert proxy.round_trips == 2


def test_window_bounds_what_the_model_sees(make: Make) -> None:
    """At most `window` messages of the session, none of them a result without its call."""
    model = Scripted(replies=[call("tea", "milk"), "fine", "ok"])
    agent = create_agent(
        model, [look_up], middleware=[ChatHistoryMiddleware(lambda s: make(s, window=3))]
    )
    agent.invoke(ask("1"), THREAD)
    agent.invoke(ask("2"), THREAD)
    assert texts(model.asked[-1]) == [("ai", "fine"), ("human", "2")]
    assert len(make().messages) == 7


async def drain(agent: Any, how: str, mode: Any) -> list[Any]:
    """Run one turn in one of the four ways."""
    if how == "invoke":
        return [agent.invoke(ask("tea?"), THREAD)]
    if how == "ainvoke":
        return [await agent.ainvoke(ask("tea?"), THREAD)]
    if how == "stream":
        return [*agent.stream(ask("tea?"), THREAD, stream_mode=mode)]
    return [chunk async for chunk in agent.astream(ask("tea?"), THREAD, stream_mode=mode)]


MODES = ("messages", "updates", "values")


@pytest.mark.parametrize(
    ("how", "mode", "with_async_client"),
    [
        ("invoke", None, False),
        *(("stream", mode, False) for mode in MODES),
        *(("ainvoke", None, with_one) for with_one in (False, True)),
        *(("astream", mode, with_one) for mode in MODES for with_one in (False, True)),
    ],
)
async def test_all_ways_to_run_store_the_same(
    make: Make, async_client: Any, how: str, mode: str | None, with_async_client: bool
) -> None:
    """All leave the same whole messages behind; the async ones use the asyncio client alone."""
    options: dict[str, Any] = {}
    if with_async_client:
        options = {"client": nowhere(), "async_client": async_client}
    agent = create_agent(
        Scripted(replies=[call("tea"), "Tea is quite fine."]),
        [look_up],
        middleware=[ChatHistoryMiddleware(lambda s: make(s, **options))],
    )
    make().add_messages([HumanMessage("before", id="old")])
    await drain(agent, how, mode)
    stored = make().messages
    assert [type(message) for message in stored[1:]] == [
        HumanMessage,
        AIMessage,
        ToolMessage,
        AIMessage,
    ]
    assert [message.text for message in stored] == [
        "before",
        "tea?",
        "",
        "facts about tea",
        "Tea is quite fine.",
    ]
    assert isinstance(stored[2], AIMessage)
    assert stored[2].tool_calls == call("tea").tool_calls
    assert all(message.id for message in stored)


async def test_streamed_messages_are_those_of_the_turn(make: Make) -> None:
    """stream_mode="messages" shows the answer as it comes, and not the old conversation again."""
    for how in ("stream", "astream"):
        make().clear()
        make().add_messages([HumanMessage("old"), AIMessage("older answer")])
        agent = create_agent(
            Scripted(replies=[call("tea"), "Tea is fine."]),
            [look_up],
            middleware=[ChatHistoryMiddleware(make)],
        )
        chunks = [message for message, _ in await drain(agent, how, "messages")]
        shown = [message.text for message in chunks if message.text]
        assert shown == ["facts about tea", "Tea ", "is ", "fine."]
        assert {type(message) for message in chunks} == {AIMessageChunk, ToolMessage}


def test_updates_of_every_step_have_messages(make: Make) -> None:
    """stream_mode="updates" gives the model and the tools their usual updates."""
    agent = create_agent(
        Scripted(replies=[call("tea"), "fine"]), [look_up], middleware=[ChatHistoryMiddleware(make)]
    )
    updates = [*agent.stream(ask("1"), THREAD, stream_mode="updates")]
    said = [
        texts(update["messages"])
        for chunk in updates
        for step, update in chunk.items()
        if step in ("model", "tools")
    ]
    assert said == [[("ai", "")], [("tool", "facts about tea")], [("ai", "fine")]]


def test_outage_at_the_read_reaches_the_caller() -> None:
    """A session that cannot be read is an error, and the model is not asked without it."""
    with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
        history = MemorystoreChatMessageHistory(client, "s")
        model = Scripted(replies=["never"])
        agent = create_agent(model, middleware=[ChatHistoryMiddleware(history)])
        server.kill()
        with pytest.raises(ConnectError, match="reading the session 's'"):
            agent.invoke(ask("1"))
        assert not model.asked


def test_outage_at_the_write_reaches_the_caller() -> None:
    """A turn that cannot be stored raises, where RunnableWithMessageHistory returns as if it was.

    The server goes away while the model answers.
    """
    from langchain_core.runnables.history import RunnableWithMessageHistory

    for kind in ("agent", "chain"):
        with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
            history = MemorystoreChatMessageHistory(client, "s")

            def last_words(server: Server = server) -> str:
                server.kill()
                return "answer"

            model = Scripted(replies=[last_words])
            if kind == "agent":
                agent = create_agent(model, middleware=[ChatHistoryMiddleware(history)])
                with pytest.raises(ConnectError, match="appending to the session 's'"):
                    agent.invoke(ask("1"))
            else:
                with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
                    chain = RunnableWithMessageHistory(model, lambda _, history=history: history)
                answer = chain.invoke("1", {"configurable": {"session_id": "s"}})
                assert answer.text == "answer"


async def test_refused_write_reaches_the_caller_async(make: Make, client: Any) -> None:
    """So does a write that the server refuses, in the asynchronous hooks too."""
    agent = create_agent(
        Scripted(replies=[lambda: client.set(make().key, "no list") and "answer"]),
        middleware=[ChatHistoryMiddleware(make)],
    )
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        await agent.ainvoke(ask("1"), THREAD)


def test_model_that_raises_stores_nothing(make: Make) -> None:
    """A failed turn leaves no trace, not even its question; the next one is whole."""
    model = Scripted(replies=[call("tea"), RuntimeError("quota"), "fine"])
    agent = create_agent(model, [look_up], middleware=[ChatHistoryMiddleware(make)])
    with pytest.raises(RuntimeError, match="quota"):
        agent.invoke(ask("1"), THREAD)
    assert len(make()) == 0
    agent.invoke(ask("2"), THREAD)
    assert texts(make().messages) == [("human", "2"), ("ai", "fine")]


def test_tool_that_raises_stores_nothing(make: Make) -> None:
    """The same holds for a tool."""

    def look_up(thing: str) -> str:
        """Look something up."""
        raise RuntimeError(thing)

    agent = create_agent(
        Scripted(replies=[call("tea")]), [look_up], middleware=[ChatHistoryMiddleware(make)]
    )
    with pytest.raises(RuntimeError, match="tea"):
        agent.invoke(ask("1"), THREAD)
    assert len(make()) == 0


async def test_cancelled_turn_stores_nothing(make: Make, async_client: Any) -> None:
    """A task cancelled while a tool runs leaves the session as it was."""
    running = asyncio.Event()

    async def look_up(thing: str) -> str:
        """Look something up."""
        running.set()
        await asyncio.sleep(30)
        return thing

    agent = create_agent(
        Scripted(replies=[call("tea"), "never"]),
        [look_up],
        middleware=[ChatHistoryMiddleware(lambda s: make(s, async_client=async_client))],
    )
    task = asyncio.create_task(agent.ainvoke(ask("1"), THREAD))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(make()) == 0


def test_stream_left_early_stores_nothing(make: Make) -> None:
    """A turn is stored when its stream has been read to the end."""
    memory = ChatHistoryMiddleware(make)
    for stop_after, stored in ((1, 0), (None, 2)):
        agent = create_agent(Scripted(replies=["a b c"]), middleware=[memory])
        stream = agent.stream(ask("1"), THREAD, stream_mode="messages")
        for number, _ in enumerate(stream, start=1):
            if number == stop_after:
                break
        stream.close()
        assert len(make()) == stored


def test_two_turns_at_once_are_each_in_one_piece(make: Make) -> None:
    """Turns that overlap on a session do not mix; neither sees the other."""
    both_ask = threading.Barrier(2)
    memory = ChatHistoryMiddleware(make)

    def turn(name: str) -> Scripted:
        def answer() -> str:
            both_ask.wait(10)
            return f"{name} answered"

        model = Scripted(replies=[call(name), answer])
        create_agent(model, [look_up], middleware=[memory]).invoke(ask(name), THREAD)
        return model

    make().add_user_message("before")
    models: dict[str, Scripted] = {}
    threads = [
        threading.Thread(target=lambda name=name: models.update({name: turn(name)}))
        for name in ("tea", "milk")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    stored = [message.text for message in make().messages]
    turns = {
        name: [name, "", f"facts about {name}", f"{name} answered"] for name in ("tea", "milk")
    }
    first, second = stored[1], stored[5]
    assert stored == ["before", *turns[first], *turns[second]]
    assert [len(model.asked[-1]) for model in models.values()] == [4, 4]


@pytest.mark.parametrize("window", [None, 2])
def test_messages_passed_in_again_are_not_doubled(make: Make, window: int | None) -> None:
    """A caller may pass the result of the last call with a new message at its end."""
    model = Scripted(replies=["a", call("tea"), "b", "c"])
    agent = create_agent(
        model, [look_up], middleware=[ChatHistoryMiddleware(lambda s: make(s, window=window))]
    )
    conversation: list[Any] = []
    for question in ("1", "2", "3"):
        conversation.append(("user", question))
        result = agent.invoke({"messages": conversation}, THREAD)
        conversation += result["messages"][len(conversation) - len(result["messages"]) :]
        conversation = list(result["messages"])
    stored = [message.text for message in make().messages]
    assert stored == ["1", "a", "2", "", "facts about tea", "b", "3", "c"]
    seen = [message.text for message in model.asked[-1]]
    assert seen == ([*stored[:-1]] if window is None else ["facts about tea", "b", "3"][1:])


def test_whole_conversation_of_the_caller_beside_a_window(make: Make) -> None:
    """A caller's own list that is longer than the window is recognized all the same."""
    model = Scripted(replies=["a", "b", "c", "d"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(lambda s: make(s, window=2))])
    own: list[Any] = []
    for question in "1234":
        own.append(HumanMessage(question))
        own.append(agent.invoke({"messages": own}, THREAD)["messages"][-1])
    assert [message.text for message in make().messages] == [*"1a2b3c4d"]
    assert [message.text for message in model.asked[-1]] == ["3", "c", "4"]


def test_messages_without_ids_are_new(make: Make) -> None:
    """Text repeated on purpose is not taken for something passed in again."""
    agent = create_agent(Scripted(replies=["a", "b"]), middleware=[ChatHistoryMiddleware(make)])
    for _ in range(2):
        agent.invoke({"messages": [{"role": "user", "content": "again"}]}, THREAD)
    assert [message.text for message in make().messages] == ["again", "a", "again", "b"]


def test_no_new_message_asks_on_the_stored_ones(make: Make) -> None:
    """An empty input continues the session, and only the answer is appended."""
    make().add_user_message("anyone?")
    model = Scripted(replies=["me"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(make)])
    agent.invoke({"messages": []}, THREAD)
    assert texts(model.asked[0]) == [("human", "anyone?")]
    assert texts(make().messages) == [("human", "anyone?"), ("ai", "me")]


def test_system_messages_are_not_stored(make: Make) -> None:
    """Instructions reach the model in the turn that passes them, and no later one."""
    model = Scripted(replies=["a", "b"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(make)])
    agent.invoke(ask("1", SystemMessage("be brief")), THREAD)
    agent.invoke(ask("2"), THREAD)
    assert texts(model.asked[0]) == [("system", "be brief"), ("human", "1")]
    assert texts(model.asked[1]) == [("human", "1"), ("ai", "a"), ("human", "2")]


class Guard(AgentMiddleware[Any, Any, Any]):
    """Answers in the model's place."""

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        if "secret" in state["messages"][-1].text:
            return {"messages": [AIMessage("No.")], "jump_to": "end"}
        return None


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("first", ["memory", "guard"])
def test_turn_that_jumps_to_the_end_is_stored(make: Make, first: str, checkpointed: bool) -> None:
    """A refusal without the model is a turn like any other, wherever the middleware stands."""
    memory = ChatHistoryMiddleware(make)
    middleware: Any = [memory, Guard()] if first == "memory" else [Guard(), memory]
    model = Scripted(replies=["a", "b"])
    saver = InMemorySaver() if checkpointed else None
    agent = create_agent(model, middleware=middleware, checkpointer=saver)
    result = agent.invoke(ask("1"), THREAD)
    agent.invoke(ask("the secret", *result["messages"]), THREAD)
    agent.invoke(ask("2"), THREAD)
    expected = ["1", "a", "the secret", "No.", "2", "b"]
    assert [message.text for message in make().messages] == expected
    assert [message.text for message in model.asked[-1]] == expected[:-1]


async def test_jump_to_the_end_is_stored_async(make: Make, async_client: Any) -> None:
    """The asynchronous hook opens the turn too where the other was skipped."""
    memory = ChatHistoryMiddleware(lambda s: make(s, client=nowhere(), async_client=async_client))
    agent = create_agent(Scripted(replies=[]), middleware=[Guard(), memory])
    make().add_messages([HumanMessage("1", id="1"), AIMessage("a", id="2")])
    await agent.ainvoke(ask("secret", HumanMessage("1", id="1"), AIMessage("a", id="2")), THREAD)
    assert [message.text for message in make().messages] == ["1", "a", "secret", "No."]


class Withholds(AgentMiddleware[Any, Any, Any]):
    """Takes the question back before the model sees it, and answers in its place."""

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        taken_back = RemoveMessage(id=state["messages"][-1].id)
        return {"messages": [taken_back, AIMessage("Never mind.")], "jump_to": "end"}


def test_question_that_was_taken_back_is_not_stored(make: Make) -> None:
    """Only what replaced it is, also after messages that have no ids."""
    make().add_messages([HumanMessage("0"), AIMessage("a")])
    agent = create_agent(
        Scripted(replies=[]), middleware=[ChatHistoryMiddleware(make), Withholds()]
    )
    agent.invoke(ask("secret"), THREAD)
    assert [message.text for message in make().messages] == ["0", "a", "Never mind."]


class Weather(BaseModel):
    """An answer in a form."""

    city: str


def test_structured_output_is_stored_as_an_exchange(make: Make) -> None:
    """The call with the answer and its confirmation are stored, a failed first try too."""
    answers = [
        AIMessage("", tool_calls=[{"name": "Weather", "args": args, "id": f"c{number}"}])
        for number, args in enumerate([{"town": "Paris"}, {"city": "Paris"}, {"city": "Rome"}])
    ]
    model = Scripted(replies=answers)
    agent = create_agent(
        model, response_format=ToolStrategy(Weather), middleware=[ChatHistoryMiddleware(make)]
    )
    result = agent.invoke(ask("1"), THREAD)
    assert result["structured_response"] == Weather(city="Paris")
    assert [message.type for message in make().messages] == ["human", "ai", "tool", "ai", "tool"]
    assert agent.invoke(ask("2"), THREAD)["structured_response"] == Weather(city="Rome")
    assert len(model.asked[-1]) == 6
    assert [message.type for message in make().messages[5:]] == ["human", "ai", "tool"]


class Edits(AgentMiddleware[Any, Any, Any]):
    """Takes the model's answer back, and has a last word."""

    def after_model(self, state: Any, runtime: Any) -> Any:
        last = state["messages"][-1]
        return {"messages": [RemoveMessage(id=last.id), AIMessage("[removed]")]}

    def after_agent(self, state: Any, runtime: Any) -> Any:
        return {"messages": [AIMessage("[checked]")]}


def test_what_other_middleware_made_of_the_turn_is_stored(make: Make) -> None:
    """First in the list, it stores changed messages as changed, and not what was taken back."""
    agent = create_agent(
        Scripted(replies=["rude words"]),
        middleware=[ChatHistoryMiddleware(make), PIIMiddleware("email"), Edits()],
    )
    agent.invoke(ask("I am ada@example.com"), THREAD)
    assert texts(make().messages) == [
        ("human", "I am [REDACTED_EMAIL]"),
        ("ai", "[removed]"),
        ("ai", "[checked]"),
    ]


class Replaces(AgentMiddleware[Any, Any, Any]):
    """Puts one message in the place of all, and forgets the ids."""

    def before_model(self, state: Any, runtime: Any) -> Any:
        told = " / ".join(message.text for message in state["messages"])
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage(told)]}


def test_turn_survives_a_middleware_that_replaces_every_message(make: Make) -> None:
    """Question and answer are stored as they were, though the question's id is gone."""
    make().add_user_message("0")
    model = Scripted(replies=["a"])
    agent = create_agent(model, middleware=[ChatHistoryMiddleware(make), Replaces()])
    agent.invoke(ask("1"), THREAD)
    assert texts(model.asked[0]) == [("human", "0 / 1")]
    assert [message.text for message in make().messages] == ["0", "1", "a"]


@pytest.mark.parametrize("first", ["memory", "summary"])
def test_summarizing_changes_what_is_seen_not_what_is_stored(make: Make, first: str) -> None:
    """The model gets a summary of the old turns; the session keeps them and not the summary."""
    model = Scripted(replies=[*"abc"])
    summaries = Scripted(replies=["SUMMARY"])
    memory: Any = ChatHistoryMiddleware(make)
    summary: Any = SummarizationMiddleware(summaries, trigger=("messages", 5), keep=("messages", 1))
    agent = create_agent(
        model, middleware=[memory, summary] if first == "memory" else [summary, memory]
    )
    for question in "123":
        agent.invoke(ask(question), THREAD)
    assert "SUMMARY" in model.asked[-1][0].text
    assert [message.text for message in model.asked[-1][1:]] == ["3"]
    assert [message.text for message in make().messages] == [*"1a2b3c"]


def test_summary_within_the_turn_loses_nothing_of_it(make: Make) -> None:
    """A long turn whose own question is summarized away is stored whole."""
    model = Scripted(replies=[call("1"), call("2", "3"), call("4"), "done"])
    summaries = Scripted(replies=["S"] * 9)
    agent = create_agent(
        model,
        [look_up],
        middleware=[
            ChatHistoryMiddleware(make),
            SummarizationMiddleware(summaries, trigger=("messages", 3), keep=("messages", 1)),
        ],
    )
    make().add_user_message("old")
    agent.invoke(ask("go"), THREAD)
    assert "go" not in [message.text for message in model.asked[-1]]
    assert [message.text for message in make().messages] == [
        *("old", "go", "", "facts about 1", "", "facts about 2", "facts about 3"),
        *("", "facts about 4", "done"),
    ]


def approval(make: Make, model: Scripted, saver: InMemorySaver) -> Any:
    return create_agent(
        model,
        [look_up],
        middleware=[
            ChatHistoryMiddleware(make),
            HumanInTheLoopMiddleware(interrupt_on={"look_up": True}),
        ],
        checkpointer=saver,
    )


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        ({"type": "approve"}, "facts about tea"),
        (
            {
                "type": "edit",
                "edited_action": {"name": "look_up", "args": {"thing": "coffee"}},
            },
            "facts about coffee",
        ),
        ({"type": "reject", "message": "no tea"}, "no tea"),
    ],
)
def test_interrupted_turn_is_stored_when_it_ends(
    make: Make, client: Any, decision: Any, result: str
) -> None:
    """Nothing is stored while it waits; then all of it, as decided, by another process too."""
    saver = InMemorySaver()
    waiting = approval(make, Scripted(replies=[call("tea")]), saver).invoke(ask("1"), THREAD)
    assert "__interrupt__" in waiting
    assert len(make()) == 0

    model = Scripted(replies=["fine", "ok"])
    agent = approval(make, model, saver)
    time.sleep(0.01)
    resumed = datetime.now(UTC)
    ended = agent.invoke(Command(resume={"decisions": [decision]}), THREAD)
    stored = make().messages
    assert stored == ended["messages"]
    assert [message.type for message in stored] == ["human", "ai", "tool", "ai"]
    assert stored[2].text.endswith(result)
    appended = codec.appended_at(client.lindex(make().key, -1))
    assert appended is not None
    assert appended >= resumed.replace(microsecond=resumed.microsecond // 1000 * 1000)

    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages[4:]] == ["2", "ok"]


def test_interrupted_turn_is_dropped_by_a_new_message(make: Make) -> None:
    """No model is ever shown the call that was not answered."""
    model = Scripted(replies=[call("tea"), "never mind"])
    agent = approval(make, model, InMemorySaver())
    agent.invoke(ask("1"), THREAD)
    agent.invoke(ask("forget it"), THREAD)
    assert texts(model.asked[-1]) == [("human", "forget it")]
    assert [message.text for message in make().messages] == ["forget it", "never mind"]


@pytest.mark.parametrize("window", [None, 2])
def test_checkpointer_beside_it_doubles_nothing(make: Make, window: int | None) -> None:
    """Messages that the checkpoint has too are seen once and stored once."""
    model = Scripted(replies=["a", call("tea"), "b", "c", "d"])
    agent = create_agent(
        model,
        [look_up],
        middleware=[ChatHistoryMiddleware(lambda s: make(s, window=window))],
        checkpointer=InMemorySaver(),
    )
    for question in "1234":
        agent.invoke(ask(question), THREAD)
    stored = [message.text for message in make().messages]
    assert stored == ["1", "a", "2", "", "facts about tea", "b", "3", "c", "4", "d"]
    assert [message.text for message in model.asked[-1]] == stored[
        -window - 2 if window else 0 : -1
    ]


def test_checkpoint_that_lags_behind_gets_what_it_missed(make: Make) -> None:
    """Two processes, each with a checkpointer of its own, share the session."""
    models = [Scripted(replies=["a", "c"]), Scripted(replies=["b", "d"])]
    agents = [
        create_agent(model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver())
        for model in models
    ]
    for number, question in enumerate("1234"):
        agents[number % 2].invoke(ask(question), THREAD)
    assert [message.text for message in make().messages] == [*"1a2b3c4d"]
    assert [message.text for message in models[0].asked[-1]] == [*"1a2b3"]


def test_messages_written_beside_the_agent_are_seen(make: Make) -> None:
    """What a chain or a script appended, without ids, joins in once."""
    model = Scripted(replies=["a", "b"])
    agent = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    make().add_user_message("0")
    agent.invoke(ask("1"), THREAD)
    make().add_ai_message("by the way")
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages] == ["0", "1", "a", "by the way", "2", "b"]
    assert len(model.asked[-1]) == 5


def test_cleared_session_stays_cleared(make: Make) -> None:
    """The checkpoint does not bring back what was deleted."""
    model = Scripted(replies=["a", "b"])
    agent = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("my secret"), THREAD)
    make().clear()
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in model.asked[-1]] == ["2"]
    assert [message.text for message in make().messages] == ["2", "b"]


def test_thread_begun_without_it_is_taken_over(make: Make) -> None:
    """A checkpointed conversation moves into the session with its next turn."""
    saver = InMemorySaver()
    create_agent(Scripted(replies=["a"]), checkpointer=saver).invoke(ask("1"), THREAD)
    agent = create_agent(
        Scripted(replies=["b"]), middleware=[ChatHistoryMiddleware(make)], checkpointer=saver
    )
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages] == [*"1a2b"]


@pytest.mark.parametrize("before_it", [[], [call("tea")]])
@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_failed_turn_in_a_checkpoint_can_be_resumed_or_dropped(
    make: Make, next_call: str, before_it: list[AIMessage]
) -> None:
    """Going on from the checkpoint finishes and stores the turn; a new message drops it."""
    model = Scripted(replies=["a", *before_it, RuntimeError("quota"), "b"])
    agent = create_agent(
        model, [look_up], middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("1"), THREAD)
    with pytest.raises(RuntimeError):
        agent.invoke(ask("2"), THREAD)
    assert len(make()) == 2
    agent.invoke(None if next_call == "resume" else ask("3"), THREAD)
    failed = ["2", "", "facts about tea"] if before_it else ["2"]
    turn = failed if next_call == "resume" else ["3"]
    assert [message.text for message in model.asked[-1]] == ["1", "a", *turn]
    assert [message.text for message in make().messages] == ["1", "a", *turn, "b"]


@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_lost_reply_to_the_write_stores_the_turn_once(
    server: Server, key_prefix: str, next_call: str
) -> None:
    """After an error at the write, going on from the checkpoint neither loses nor doubles it."""
    with (
        Proxy(server.host, server.port) as proxy,
        server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_messages([HumanMessage("0", id="0")])
        model = Scripted(replies=["a", "b"])
        agent = create_agent(
            model, middleware=[ChatHistoryMiddleware(history)], checkpointer=InMemorySaver()
        )
        proxy.lose_every = 1
        with pytest.raises(ConnectError, match="appending to"):
            agent.invoke(ask("1"), THREAD)
        proxy.lose_every = 0
        assert len(history) == 3
        if next_call == "resume":
            answer = agent.invoke(None, THREAD)
            assert answer["messages"][-1].text == "a"
            assert len(model.asked) == 1
        agent.invoke(ask("2"), THREAD)
        assert [message.text for message in history.messages] == ["0", "1", "a", "2", "b"]


def test_write_that_failed_is_made_up_for_from_the_checkpoint(make: Make, client: Any) -> None:
    """agent.invoke(None) tries the write alone: the model is not asked again."""
    model = Scripted(replies=[lambda: client.set(make().key, "no list") and "a"])
    agent = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        agent.invoke(ask("1"), THREAD)
    client.unlink(make().key)
    agent.invoke(None, THREAD)
    assert [message.text for message in make().messages] == ["1", "a"]


def test_demo_model_calls_a_tool_and_remembers(make: Make) -> None:
    """The tutorial's agent: offline, with a tool, across turns and agents."""

    def get_weather(city: str) -> str:
        """Look up the weather."""
        return f"It is sunny in {city}."

    def agent() -> Any:
        return create_agent(
            DemoChatModel(), [get_weather], middleware=[ChatHistoryMiddleware(make)]
        )

    agent().invoke(ask("My name is Ada."), THREAD)
    answer = agent().invoke(ask("What is the weather in Paris?"), THREAD)
    assert "sunny in Paris" in answer["messages"][-1].text
    assert [message.type for message in make().messages[2:]] == ["human", "ai", "tool", "ai"]
    assert "Ada" in agent().invoke(ask("What is my name?"), THREAD)["messages"][-1].text
    assert "Ada" not in agent().invoke(ask("What is my name?"), OTHER)["messages"][-1].text


def test_missing_langchain_names_the_install_command() -> None:
    """Without the extra the package works, and this module says how to get it."""
    program = (
        "import sys; sys.modules['langchain'] = None; import memorystore_chat\n"
        "try: import memorystore_chat.agents\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == (
        "langchain.agents is not installed. Install it with: pip install langchain"
    )
