"""ChatHistoryMiddleware: what an agent reads, what it stores and when, alone and beside others."""

import importlib
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from memorystore_chat import ConnectError, MemorystoreChatMessageHistory, codec
from memorystore_chat.agents import ChatHistoryMiddleware
from proxy import Proxy
from scripted import (
    NO_RETRY,
    THREAD,
    DeepState,
    Make,
    Scripted,
    ask,
    call,
    drain,
    hooks,
    look_up,
    nowhere,
    remembering,
    say,
    words,
)

TEA = ["tea?", "", "facts about tea", "Tea is fine."]


async def test_second_turn_knows_the_first(place: Any, key_prefix: str) -> None:
    """Question, call, result and answer are stored on every server, and the next turn sees them."""
    history = MemorystoreChatMessageHistory(place.client, "ada/1", key_prefix=key_prefix)
    agent, model = remembering(lambda _: history, [call("tea"), "Tea is fine.", "As I said."])
    await place.call(agent, "invoke", ask("tea?"), THREAD)
    stored = await place.call(history, "messages")
    assert words(stored) == TEA
    assert stored[1].tool_calls == call("tea").tool_calls
    result = await place.call(agent, "invoke", ask("again?"), THREAD)
    assert words(model.asked[-1]) == [*TEA, "again?"]
    assert set(result) == {"messages"}
    assert result["messages"] == await place.call(history, "messages")


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_stream_shows_and_stores_whole_messages(make: Make, saver: Any, way: str) -> None:
    """A stream shows those of the turn, each once."""
    make().add_messages([HumanMessage("old"), AIMessage("older answer")])
    agent, _ = remembering(make, [call("tea"), "Tea is fine."], saver=saver)
    chunks = await drain(agent, way, ask("tea?"), "messages")
    assert words(make().messages) == ["old", "older answer", *TEA]
    assert {type(message) for message in make().messages} <= {HumanMessage, AIMessage, ToolMessage}
    shown = [message.text for message, _ in chunks if message.text]
    assert shown == ["facts about tea", "Tea ", "is ", "fine."]


def test_threads_and_histories_that_are_none_are_refused(make: Make) -> None:
    agent, model = remembering(make, ["never"])
    for given in (None, {}, {"thread_id": ""}, {"thread_id": 7}):
        with pytest.raises(ValueError, match="thread_id"):
            agent.invoke(ask("1"), given and {"configurable": given})
    wrong: Any = "ada/1"
    with pytest.raises(TypeError, match="MemorystoreChatMessageHistory"):
        ChatHistoryMiddleware(wrong)
    maker: Any = lambda thread_id: None  # noqa: E731
    other, _ = remembering(maker, ["a"])
    with pytest.raises(TypeError, match="NoneType"):
        say(other, "1")
    assert not model.asked


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_two_round_trips_a_turn(make: Make, valkey_server: Any, way: str) -> None:
    """One read and one write on the wire, however long the history and the turn are."""
    with (
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client(port=proxy.port) as client,
    ):
        history = make(client=client, ttl=60)
        history.add_messages([HumanMessage("x" * 500)] * 300)
        agent, _ = remembering(history, [*(call(str(number)) for number in range(12)), "done"])
        proxy.reset()
        await drain(agent, way, ask("go"))
        assert proxy.round_trips == 2
        assert len(history) == 300 + 2 + 2 * 12


@pytest.mark.parametrize(
    ("options", "stored", "asked"),
    [({}, 8, 7), ({"window": 2}, 8, 1), ({"max_messages": 4}, 2, 5)],
    ids=str,
)
def test_messages_passed_in_again_are_not_doubled(
    make: Make, options: dict[str, int], stored: int, asked: int
) -> None:
    """A caller may pass all with a new message, also what a window hides or the cap dropped."""
    agent, model = remembering(partial(make, **options), ["a", call("tea"), "b", "c"])
    own: list[BaseMessage] = []
    for question in "123":
        result = agent.invoke({"messages": [*own, ("user", question)]}, THREAD)["messages"]
        own += [message for message in result if message not in own]
    told = ["1", "a", "2", "", "facts about tea", "b", "3", "c"]
    assert words(make().messages) == told[-stored:]
    assert words(model.asked[-1]) == told[:-1][-asked:]


def test_question_with_a_known_id_is_asked_again(make: Make) -> None:
    """LangGraph gives the caller's object its id, and some front ends reuse one."""
    agent, model = remembering(make, [*"abc"])
    again = HumanMessage("again")
    for question in (again, again, HumanMessage("new", id=again.id)):
        agent.invoke({"messages": [question]}, THREAD)
    assert words(model.asked[-1]) == ["again", "a", "again", "b", "new"]
    assert len({message.id for message in make().messages}) == 6


def test_call_that_asks_nothing_is_refused(make: Make, saver: Any) -> None:
    agent, model = remembering(make, ["a"], saver=saver)
    [result] = say(agent, "q")
    with pytest.raises(ValueError, match="asks nothing"):
        agent.invoke(result, THREAD)
    assert len(model.asked) == 1


def test_stream_that_is_left_stores_nothing(make: Make, saver: Any) -> None:
    agent, _ = remembering(make, ["a b c", "c"], saver=saver)
    stream = agent.stream(ask("1"), THREAD, stream_mode="messages")
    next(stream)
    stream.close()
    assert len(make()) == 0
    say(agent, "2")
    assert words(make().messages) == ["2", "c"]


def test_pending_call_gets_its_result_in_the_next_call(make: Make, saver: Any) -> None:
    """A call for the front end ends the turn; its result follows it, before what is said beside."""
    pending = hooks(after_model=lambda m: {"jump_to": "end"} if m[-1].tool_calls else None)
    agent, model = remembering(make, [call("tea"), "fine"], pending, saver=saver)
    say(agent, "tea?")
    assert "No result" in make().messages[-1].text
    result = ToolMessage("from the browser", tool_call_id="call-tea")
    agent.invoke({"messages": [HumanMessage("quick"), result]}, THREAD)
    expected = ["tea?", "", "from the browser", "quick", "fine"]
    assert words(model.asked[-1]) == expected[:-1]
    assert words(make().messages) == expected


def test_malformed_call_is_kept_with_its_error(make: Make, saver: Any) -> None:
    """The model learns that its call failed, in the next turn too."""
    bad = {"name": "look_up", "args": "{thing", "id": "c1", "error": "no JSON", "type": "invalid"}
    malformed = AIMessage("", invalid_tool_calls=[bad | {"type": "invalid_tool_call"}])
    agent, model = remembering(make, [malformed, "sorry", "ok"], saver=saver)
    say(agent, "1", "2", "3")
    assert [message.type for message in model.asked[1]] == ["human", "ai", "tool", "human"]
    assert [m.type for m in make().messages] == [m.type for m in model.asked[-1]] + ["ai"]
    assert "malformed" in model.asked[-1][2].text


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "memorystore_chat.agents")
    monkeypatch.setitem(sys.modules, "langchain.agents", None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[agents\]"):
        importlib.import_module("memorystore_chat.agents")


async def called(agent: Any, state: MessagesState) -> Any:
    return {"messages": (await agent.ainvoke(dict(state)))["messages"]}


@pytest.mark.parametrize("as_functions", [False, True])
async def test_agents_as_nodes(make: Make, saver: Any, as_functions: bool) -> None:
    """Each is asked once and told what the other said; the parent's messages stay in order."""
    models = {name: Scripted(replies=[f"{name}{n}" for n in (1, 2, 3)]) for name in "ab"}
    models["a"].replies.insert(1, call("tea"))
    agents: dict[str, Any] = {}
    for name, model in models.items():
        memory = ChatHistoryMiddleware(partial(lambda name, thread: make(thread + name), name))
        agents[name] = create_agent(model, [look_up], middleware=[memory], name=name)
    if as_functions:
        agents = {name: RunnableLambda(partial(called, agent)) for name, agent in agents.items()}
    parent: Any = StateGraph(MessagesState).add_sequence([*agents.items()]).add_edge(START, "a")
    parent = parent.compile(checkpointer=saver)
    turns = [
        words((await drain(parent, "astream", ask(q)))[-1]["messages"]) for q in ("q1", "q2", "q3")
    ]
    second = ["q2", "", "facts about tea", "a2", "b2"]
    both = ["q1", "a1", "b1", *second, "q3", "a3", "b3"]
    # Without a checkpointer the second agent's answers reach the first one only within a turn.
    own = both if saver else [text for text in both if not text.startswith("b")]
    assert words(models["a"].asked[-1]) == own[: own.index("a3")]
    assert words(make("ada/1a").messages) == own[: own.index("a3") + 1]
    assert words(make("ada/1b").messages) == both
    assert turns[1:] == ([both[:8], both] if saver else [second, both[-3:]])


def test_result_instead_of_a_decision_goes_on_with_the_turn(
    make: Make, client: Any, checkpointer: Any
) -> None:
    """A front end that carried out the waiting call itself hands in the result."""
    approval = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent, model = remembering(make, [call("tea"), "fine"], approval, saver=checkpointer)
    assert "__interrupt__" in say(agent, "1")[0]
    assert len(make()) == 0
    before = codec.new_append_id()
    agent.invoke({"messages": [ToolMessage("mine", tool_call_id="call-tea")]}, THREAD)
    assert words(model.asked[-1]) == ["1", "", "mine"]
    assert words(make().messages) == ["1", "", "mine", "fine"]
    assert str(codec.id_of_append(client.lindex(make().key, -1))) > before  # it tells the time


@pytest.mark.parametrize("fault", ["outage", "no history"])
@pytest.mark.parametrize("turns_before", [0, 1])
@pytest.mark.parametrize(("schema", "durability"), [(None, "exit"), (DeepState, "async")])
def test_question_that_a_failure_took_is_not_asked_again(
    make: Make, checkpointer: Any, schema: Any, turns_before: int, durability: Any, fault: str
) -> None:
    """Also where the messages are a DeltaChannel, as in a deep agent."""
    now = ""

    def histories(name: str) -> Any:
        if now == "no history":
            raise LookupError
        return make(name, **({"client": nowhere()} if now else {}))

    agent, model = remembering(histories, [*"abcd"], saver=checkpointer, state_schema=schema)
    say(agent, *"1"[:turns_before])
    now = fault
    with pytest.raises((ConnectError, LookupError)):
        agent.invoke(ask("lost"), THREAD, durability=durability)
    now = ""
    agent.invoke(ask("2"), THREAD, durability=durability)
    say(agent, "3")
    assert "lost" not in words(model.asked[-1])
    assert "lost" not in words(make().messages)
    # Once the thread has begun, an outage shows at the write, when the model has answered already.
    assert len(model.asked) == 2 + turns_before * (1 + (fault == "outage"))


@pytest.mark.parametrize("fault", [{"lose_reply_to": b"smile"}, {"cut_append_at": 0.5}], ids=str)
def test_write_that_failed_is_made_up_for(
    make: Make, valkey_server: Any, checkpointer: Any, fault: dict[str, Any]
) -> None:
    """agent.invoke(None) tries the write alone, and a lone surrogate makes no second turn of it."""
    with (
        Proxy(valkey_server.host, valkey_server.port, **fault) as proxy,
        valkey_server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        smile = "half a smile: \ud83d"
        agent, model = remembering(make(client=client), [smile], saver=checkpointer)
        with pytest.raises(ConnectError):
            say(agent, "1")
        agent.invoke(None, THREAD)
        assert words(make().messages) == ["1", "half a smile: ?"]
        assert len(model.asked) == 1


def test_thread_begun_without_it_is_recorded(make: Make) -> None:
    checkpointer = InMemorySaver()
    bare: Any = create_agent(Scripted(replies=["a"]), checkpointer=checkpointer)
    bare.invoke(ask("1"), THREAD)
    agent, _ = remembering(make, ["b"], saver=checkpointer)
    say(agent, "2")
    assert words(make().messages) == [*"1a2b"]


def test_thread_is_the_memory(make: Make, checkpointer: Any) -> None:
    """It begins with the session; what is done to the session then does not reach the agent.

    The record keeps what was taken out of the thread, and what was said before going back.
    """
    make().add_messages([HumanMessage("0"), AIMessage("z")])
    agent, model = remembering(make, [*"abcdef"], saver=checkpointer)
    say(agent, "1")
    make().add_user_message("by the way")
    *_, ended = say(agent, *"23")
    newest = [RemoveMessage(id=message.id) for message in ended["messages"][-4:]]
    agent.update_state(THREAD, {"messages": newest})
    say(agent, "4")
    assert words(model.asked[-1]) == [*"0z1a4"]
    assert words(make().messages) == [*"0z1a", "by the way", *"2b3c4d"]
    make().clear()
    say(agent, "5")
    assert words(model.asked[-1]) == [*"0z1a4d5"]
    assert words(make().messages) == [*"5e"]
    make().clear()
    checkpointer.delete_thread("ada/1")
    say(agent, "6")
    assert words(model.asked[-1]) == ["6"]


def test_going_back_makes_the_record_grow(make: Make) -> None:
    """The other way is recorded behind the one that was left."""
    agent, model = remembering(make, ["a", "b", "other"], saver=InMemorySaver())
    say(agent, *"12")
    old = next(s for s in agent.get_state_history(THREAD) if not s.values["messages"][2:])
    agent.invoke(ask("3"), old.config)
    assert words(model.asked[-1]) == [*"1a3"]
    assert words(make().messages) == [*"1a2b", "3", "other"]


class Echo(Scripted):
    """Answers the question it was asked."""

    replies: list[Any] = []  # noqa: RUF012

    def _next(self, messages: Any) -> AIMessage:
        return AIMessage(f"answer to {messages[-1].text}")


def pairs(make: Make) -> Counter[tuple[str, str]]:
    stored = words(make().messages)
    return Counter(zip(stored[::2], stored[1::2], strict=True))


def test_question_of_a_call_at_the_same_time_is_left_to_it(make: Make) -> None:
    """The second call finds the first one's question in the thread, before its turn began."""

    def let_the_first_end(messages: Any) -> None:
        if messages[-1].text == "2":
            assert [*first]

    middleware: Any = [hooks(before_model=let_the_first_end), ChatHistoryMiddleware(make)]
    agent: Any = create_agent(Echo(), middleware=middleware, checkpointer=InMemorySaver())
    first = agent.stream(ask("1"), THREAD, stream_mode="values", durability="sync")
    next(first)
    say(agent, "2")
    assert pairs(make) == {(q, f"answer to {q}"): 1 for q in "12"}


@pytest.mark.parametrize(
    ("schema", "turns_before", "durability"),
    [(None, 0, "async"), (DeepState, 1, "async"), (DeepState, 1, "exit")],
)
def test_eight_streams_at_once(
    make: Make, checkpointer: Any, schema: Any, turns_before: int, durability: Any
) -> None:
    """Each question is recorded once, before its own answer."""
    options = {"middleware": [ChatHistoryMiddleware(make)], "state_schema": schema}
    agent: Any = create_agent(Echo(), checkpointer=checkpointer, **options)
    asked = ["before"] * turns_before + [f"q{number}" for number in range(8)]
    say(agent, *asked[:turns_before])
    stream = lambda q: [*agent.stream(ask(q), THREAD, durability=durability)]  # noqa: E731
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(stream, asked[turns_before:]))
    say(agent, "after")
    assert pairs(make) == {(q, f"answer to {q}"): 1 for q in [*asked, "after"]}
