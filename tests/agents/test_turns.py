"""ChatHistoryMiddleware: what an agent reads, what it stores, and when."""

import importlib
import sys
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

import servers
from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_tutorial.demo_model import DemoChatModel
from proxy import Proxy
from scripted import OTHER, THREAD, Make, ask, call, remembering, say, texts, words
from servers import Cluster, Server


def test_second_turn_knows_the_first(make: Make) -> None:
    """Each turn's user message, tool call, result and answer are stored, and the next sees them."""
    agent, model = remembering(make, [call("tea"), "Tea is fine.", "As I said: tea."])

    say(agent, "tea?")
    first = make().messages
    say(agent, "again?")

    answered = [("ai", ""), ("tool", "facts about tea"), ("ai", "Tea is fine.")]
    assert texts(first) == [("human", "tea?"), *answered]
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
    with valkey_cluster.client(decode_responses=decode) as client:
        async with redis.asyncio.RedisCluster(
            host=first.host, port=first.port, protocol=2, decode_responses=decode
        ) as async_client:

            def make(thread_id: str) -> MemorystoreChatMessageHistory:
                return MemorystoreChatMessageHistory(
                    client, thread_id, key_prefix=key_prefix, async_client=async_client
                )

            names = [f"user-{number}" for number in range(50)]
            threads = {valkey_cluster.node_of(make(name).key).port: name for name in names}
            assert len(threads) == valkey_cluster.primaries
            for thread in threads.values():
                config: Any = {"configurable": {"thread_id": thread}}
                agent, _ = remembering(make, [call(thread), "found", "again"])
                agent.invoke(ask("1"), config)
                await agent.ainvoke(ask("2"), config)
                stored = make(thread).messages
                assert words(stored) == ["1", "", f"facts about {thread}", "found", "2", "again"]
                assert await make(thread).aget_messages() == stored


def test_answer_holds_the_whole_conversation(make: Make) -> None:
    """The agent's result is the conversation so far, as with a checkpointer."""
    agent, _ = remembering(make, ["a", "b"])
    result = say(agent, "1", "2")
    assert set(result) == {"messages"}
    assert words(result["messages"]) == ["1", "a", "2", "b"]
    assert result["messages"] == make().messages


def test_thread_id_chooses_the_session(make: Make) -> None:
    """One agent serves many conversations, and they know nothing of each other."""
    agent, model = remembering(make, ["hi Ada", "hi Grace"])
    say(agent, "I am Ada")
    agent.invoke(ask("I am Grace"), OTHER)
    assert texts(model.asked[1]) == [("human", "I am Grace")]
    assert words(make("ada/1").messages) == ["I am Ada", "hi Ada"]
    assert words(make("grace/1").messages) == ["I am Grace", "hi Grace"]


def test_one_history_needs_no_thread_id(make: Make) -> None:
    """An agent with a single conversation takes its history itself."""
    agent, _ = remembering(make("only"), ["a", "b"])
    agent.invoke(ask("1"))
    say(agent, "2")
    assert words(make("only").messages) == ["1", "a", "2", "b"]


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
    agent, model = remembering(make, ["never"])
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
    agent, _ = remembering(maker, ["a"])
    with pytest.raises(TypeError, match="returned a NoneType for the thread_id 'ada/1'"):
        say(agent, "1")


@pytest.mark.parametrize(("stored", "tools"), [(0, 0), (1, 1), (300, 12)])
def test_two_round_trips_a_turn(server: Server, key_prefix: str, stored: int, tools: int) -> None:
    """One read and one write on the wire, however long the history and the turn are."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_messages([HumanMessage("x" * 500)] * (stored or 1))
        if not stored:
            history.clear()
        replies = [*(call(str(number)) for number in range(tools)), "done"]
        agent, _ = remembering(history, replies)
        proxy.reset()
        agent.invoke(ask("go"))
        assert proxy.round_trips == 2
        assert len(history) == stored + 2 + 2 * tools


async def test_two_round_trips_a_turn_async(server: Server, key_prefix: str) -> None:
    """The asynchronous hooks cost the same."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        address: dict[str, Any] = {"host": proxy.server[0], "port": proxy.port, "protocol": 2}
        async with redis.asyncio.Redis(**address) as async_client:
            history = MemorystoreChatMessageHistory(
                client, "s", 60, key_prefix=key_prefix, async_client=async_client
            )
            await history.aadd_messages([HumanMessage("x")])
            agent, _ = remembering(history, [call("tea"), "done"])
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
        agent, _ = remembering(MemorystoreChatMessageHistory(client, "s"), ["a", "b"])
        client.ping()
        for round_trips in (3, 2):
            proxy.reset()
            say(agent, "go")
            assert proxy.round_trips == round_trips


def test_window_bounds_what_the_model_sees(make: Make) -> None:
    """At most `window` messages of the session, which begin at a user's or are none."""
    agent, model = remembering(partial(make, window=3), [call("tea", "milk"), "fine", "ok"])
    say(agent, "1", "2")
    assert texts(model.asked[-1]) == [("human", "2")]
    assert len(make().messages) == 7


@pytest.mark.parametrize("window", [None, 2])
def test_messages_passed_in_again_are_not_doubled(make: Make, window: int | None) -> None:
    """A caller may pass the result of the last call with a new message at its end."""
    agent, model = remembering(partial(make, window=window), ["a", call("tea"), "b", "c"])
    conversation: list[Any] = []
    for question in "123":
        result = agent.invoke({"messages": [*conversation, ("user", question)]}, THREAD)
        conversation = result["messages"]
    stored = words(make().messages)
    assert stored == ["1", "a", "2", "", "facts about tea", "b", "3", "c"]
    assert words(model.asked[-1]) == (stored[:-1] if window is None else ["3"])


def test_whole_conversation_of_the_caller_beside_a_window(make: Make) -> None:
    """A caller's own list that is longer than the window is recognized, and what is new in it."""
    agent, model = remembering(partial(make, window=2), [*"abcde"])
    own: list[Any] = []
    for question in "1234":
        own.append(HumanMessage(question))
        own.append(agent.invoke({"messages": own}, THREAD)["messages"][-1])
    assert words(make().messages) == [*"1a2b3c4d"]
    assert words(model.asked[-1]) == ["3", "c", "4"]
    agent.invoke({"messages": [HumanMessage("5", id="new"), *own]}, THREAD)
    assert words(make().messages) == [*"1a2b3c4d5e"]


def test_messages_without_ids_are_new(make: Make) -> None:
    """Text repeated on purpose is not taken for something passed in again."""
    agent, _ = remembering(make, ["a", "b"])
    for _ in range(2):
        agent.invoke({"messages": [{"role": "user", "content": "again"}]}, THREAD)
    assert words(make().messages) == ["again", "a", "again", "b"]


def test_no_new_message_asks_on_the_stored_ones(make: Make) -> None:
    """An empty input continues the session, and only the answer is appended."""
    make().add_user_message("anyone?")
    agent, model = remembering(make, ["me"])
    agent.invoke({"messages": []}, THREAD)
    assert texts(model.asked[0]) == [("human", "anyone?")]
    assert texts(make().messages) == [("human", "anyone?"), ("ai", "me")]


def test_system_messages_are_not_stored(make: Make) -> None:
    """Instructions reach the model in the turn that passes them, and no later one."""
    agent, model = remembering(make, ["a", "b"])
    agent.invoke(ask("1", SystemMessage("be brief")), THREAD)
    say(agent, "2")
    assert texts(model.asked[0]) == [("system", "be brief"), ("human", "1")]
    assert texts(model.asked[1]) == [("human", "1"), ("ai", "a"), ("human", "2")]


def test_demo_model_calls_a_tool_and_remembers(make: Make) -> None:
    """The tutorial's agent: offline, with a tool, across turns and agents."""

    def get_weather(city: str) -> str:
        """Look up the weather."""
        return f"It is sunny in {city}."

    def asked(text: str, config: Any = THREAD) -> str:
        middleware = [ChatHistoryMiddleware(make)]
        agent: Any = create_agent(DemoChatModel(), [get_weather], middleware=middleware)
        return str(agent.invoke(ask(text), config)["messages"][-1].text)

    asked("My name is Ada.")
    assert "sunny in Paris" in asked("What is the weather in Paris?")
    assert [message.type for message in make().messages[2:]] == ["human", "ai", "tool", "ai"]
    assert "Ada" in asked("What is my name?")
    assert "Ada" not in asked("What is my name?", OTHER)


def test_missing_langchain_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the package works, and this module says how to get it."""
    monkeypatch.delitem(sys.modules, "memorystore_chat.agents")
    monkeypatch.setitem(sys.modules, "langchain.agents", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        importlib.import_module("memorystore_chat.agents")
    assert str(raised.value) == (
        "langchain.agents is not installed. Install it with: pip install langchain"
    )
