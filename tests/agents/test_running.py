"""ChatHistoryMiddleware: all ways to run an agent, and what happens when one fails."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

import servers
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from scripted import (
    MODES,
    NO_RETRY,
    THREAD,
    Make,
    Scripted,
    ask,
    call,
    drain,
    nowhere,
    remembering,
    say,
    texts,
    words,
)
from servers import Server


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
    agent, _ = remembering(lambda s: make(s, **options), [call("tea"), "Tea is quite fine."])
    make().add_messages([HumanMessage("before", id="old")])
    await drain(agent, how, ask("tea?"), mode)
    stored = make().messages
    assert texts(stored) == [
        *(("human", "before"), ("human", "tea?"), ("ai", "")),
        *(("tool", "facts about tea"), ("ai", "Tea is quite fine.")),
    ]
    assert isinstance(stored[2], AIMessage)
    assert stored[2].tool_calls == call("tea").tool_calls
    assert all(message.id for message in stored)


async def test_streamed_messages_are_those_of_the_turn(make: Make) -> None:
    """stream_mode="messages" shows the answer as it comes, and not the old conversation again."""
    for how in ("stream", "astream"):
        make().clear()
        make().add_messages([HumanMessage("old"), AIMessage("older answer")])
        agent, _ = remembering(make, [call("tea"), "Tea is fine."])
        chunks = [message for message, _ in await drain(agent, how, ask("tea?"), "messages")]
        shown = [message.text for message in chunks if message.text]
        assert shown == ["facts about tea", "Tea ", "is ", "fine."]
        assert {type(message) for message in chunks} == {AIMessageChunk, ToolMessage}


def test_updates_of_every_step_have_messages(make: Make) -> None:
    """stream_mode="updates" gives the model and the tools their usual updates."""
    agent, _ = remembering(make, [call("tea"), "fine"])
    updates = [*agent.stream(ask("1"), THREAD, stream_mode="updates")]
    steps = [step for chunk in updates for step in chunk.items()]
    said = [texts(update["messages"]) for name, update in steps if name in ("model", "tools")]
    assert said == [[("ai", "")], [("tool", "facts about tea")], [("ai", "fine")]]


def test_outage_at_the_read_reaches_the_caller() -> None:
    """A session that cannot be read is an error, and the model is not asked without it."""
    with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
        history = MemorystoreChatMessageHistory(client, "s")
        agent, model = remembering(history, ["never"])
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
                agent: Any = create_agent(model, middleware=[ChatHistoryMiddleware(history)])
                with pytest.raises(ConnectError, match="appending to the session 's'"):
                    agent.invoke(ask("1"))
            else:
                with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
                    chain = RunnableWithMessageHistory(model, lambda _, history=history: history)
                answer = chain.invoke("1", {"configurable": {"session_id": "s"}})
                assert answer.text == "answer"


async def test_refused_write_reaches_the_caller_async(make: Make, client: Any) -> None:
    """So does a write that the server refuses, in the asynchronous hooks too."""
    agent, _ = remembering(make, [lambda: client.set(make().key, "no list") and "answer"])
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        await agent.ainvoke(ask("1"), THREAD)


def test_model_that_raises_stores_nothing(make: Make) -> None:
    """A failed turn leaves no trace, not even its question; the next one is whole."""
    agent, _ = remembering(make, [call("tea"), RuntimeError("quota"), "fine"])
    with pytest.raises(RuntimeError, match="quota"):
        say(agent, "1")
    assert len(make()) == 0
    say(agent, "2")
    assert texts(make().messages) == [("human", "2"), ("ai", "fine")]


def test_tool_that_raises_stores_nothing(make: Make) -> None:
    """The same holds for a tool."""

    def look_up(thing: str) -> str:
        """Look something up."""
        raise RuntimeError(thing)

    agent, _ = remembering(make, [call("tea")], tools=[look_up])
    with pytest.raises(RuntimeError, match="tea"):
        say(agent, "1")
    assert len(make()) == 0


async def test_cancelled_turn_stores_nothing(make: Make, async_client: Any) -> None:
    """A task cancelled while a tool runs leaves the session as it was."""
    running = asyncio.Event()

    async def look_up(thing: str) -> str:
        """Look something up."""
        running.set()
        await asyncio.sleep(30)
        return thing

    history = make(async_client=async_client)
    agent, _ = remembering(history, [call("tea"), "never"], tools=[look_up])
    task = asyncio.create_task(agent.ainvoke(ask("1"), THREAD))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(make()) == 0


def test_stream_left_early_stores_nothing(make: Make) -> None:
    """A turn is stored when its stream has been read to the end."""
    for stop_after, stored in ((1, 0), (None, 2)):
        agent, _ = remembering(make, ["a b c"])
        stream: Any = agent.stream(ask("1"), THREAD, stream_mode="messages")
        for number, _ in enumerate(stream, start=1):
            if number == stop_after:
                break
        stream.close()
        assert len(make()) == stored


def test_two_turns_at_once_are_each_in_one_piece(make: Make) -> None:
    """Turns that overlap on a session do not mix; neither sees the other."""
    both_ask = threading.Barrier(2)

    def turn(name: str) -> Scripted:
        def answer() -> str:
            both_ask.wait(10)
            return f"{name} answered"

        agent, model = remembering(make, [call(name), answer])
        say(agent, name)
        return model

    make().add_user_message("before")
    with ThreadPoolExecutor() as threads:
        models = [*threads.map(turn, ("tea", "milk"))]
    stored = words(make().messages)
    assert stored[0] == "before"
    for name, *turn_of in (stored[1:5], stored[5:]):
        assert turn_of == ["", f"facts about {name}", f"{name} answered"]
    assert {stored[1], stored[5]} == {"tea", "milk"}
    assert [len(model.asked[-1]) for model in models] == [4, 4]
