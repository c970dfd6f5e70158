"""Threads of a checkpointer, many at once; sessions taken over into threads, and read out."""

import io
import json
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

import servers
from memorystore_chat import (
    CorruptHistoryError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
)
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.sessions import threads
from memorystore_chat.sessions.threads import messages_of, take_over
from memorystore_tutorial import DemoChatModel
from scripted import nowhere
from stored import UNTIMED, elements

CONFIG: Any = {"configurable": {"thread_id": "t"}}
TALK = [
    HumanMessage("My name is Ada."),
    AIMessage("Nice to meet you, Ada.", usage_metadata=None),
    HumanMessage("Weather?"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "1"}]),
    ToolMessage("sunny", tool_call_id="1", artifact={"degrees": 21}),
    AIMessage("It is sunny."),
]


@pytest.fixture
def stored_saver(client: Any, key_prefix: str) -> MemorystoreSaver:
    return MemorystoreSaver(client, key_prefix=key_prefix)


@pytest.fixture
def history(valkey_server: servers.Server, key_prefix: str) -> MemorystoreChatMessageHistory:
    made = MemorystoreChatMessageHistory(valkey_server.client(), "s", key_prefix=key_prefix)
    made.add_messages(TALK)
    return made


@pytest.fixture(params=["MemorystoreSaver", "InMemorySaver"])
def saver(
    request: pytest.FixtureRequest, history: Any, key_prefix: str
) -> BaseCheckpointSaver[Any]:
    if request.param == "InMemorySaver":
        return InMemorySaver()
    return MemorystoreSaver(history.client, key_prefix=key_prefix)


def told(messages: Any) -> list[Any]:
    return [message.model_dump(exclude={"id"}) for message in messages]


def talk(saver: BaseCheckpointSaver[Any], *names: str) -> None:
    """Let each thread have a turn; "lee" waits for a person in it."""

    def answer(state: MessagesState, config: RunnableConfig) -> Any:
        if config["configurable"]["thread_id"] == "lee":
            interrupt("May I?")
        return {"messages": [AIMessage("Hi, Łee 😀")]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph: Any = builder.compile(checkpointer=saver)
    for name in names:
        graph.invoke({"messages": [("user", "Hello")]}, {"configurable": {"thread_id": name}})


def test_scan_delete_and_expire(stored_saver: MemorystoreSaver) -> None:
    """By default they only count; unknown ids are reported; none is not all."""
    talk(stored_saver, "ada", "lee", "eve")
    found = threads.scan(stored_saver)
    told = [(one.thread_id, one.is_waiting, one.checkpoints, one.ttl) for one in found]
    assert told == [("ada", False, 3, None), ("eve", False, 3, None), ("lee", True, 2, None)]
    assert found[0].size is None or found[0].size > 500
    assert found[0].updated < found[2].updated
    dry = threads.delete(stored_saver, all_threads=True)
    assert (dry.dry_run, dry.sessions, dry.messages) == (True, 3, 8)
    assert "3 threads (8 checkpoints" in repr(dry)
    assert threads.delete(stored_saver, [], dry_run=False).sessions == 0
    threads.expire(stored_saver, ["eve"], ttl=100)
    assert [thread.ttl for thread in threads.scan(stored_saver)] == [None] * 3
    for ttl in (100, None):
        report = threads.expire(stored_saver, ["eve", "nobody"], ttl=ttl, dry_run=False)
        assert (report.sessions, report.missing) == (1, 1)
        left = [thread.ttl for thread in threads.scan(stored_saver)]
        assert left == [None, ttl and pytest.approx(ttl, abs=9), None]
    report = threads.delete(stored_saver, iter(["ada", "ada", "eve"]), dry_run=False)
    assert (report.sessions, report.messages, report.missing) == (2, 6, 0)
    assert [thread.thread_id for thread in threads.scan(stored_saver)] == ["lee"]


def test_delete_by_age(stored_saver: MemorystoreSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that goes on between the look and its turn is kept."""
    talk(stored_saver, "ada", "eve")
    hour = timedelta(hours=1)
    assert threads.delete(stored_saver, all_threads=True, idle_for=hour).sessions == 0
    look = MemorystoreSaver.threads

    def look_and_go_on(saver: MemorystoreSaver, thread_ids: Any = None) -> Any:
        found = look(saver, thread_ids)
        if thread_ids is None:
            talk(saver, "eve")
        return found

    monkeypatch.setattr(MemorystoreSaver, "threads", look_and_go_on)
    report = threads.delete(stored_saver, all_threads=True, idle_for=1e-6, dry_run=False)
    assert (report.sessions, report.changed) == (1, 1)
    assert [thread.thread_id for thread in look(stored_saver)] == ["eve"]


def test_export(stored_saver: MemorystoreSaver) -> None:
    """A message a line, for those who don't know LangGraph."""
    talk(stored_saver, "ada", "lee")
    file = io.BytesIO()
    report = threads.export(stored_saver, file, ids=["ada", "nobody"])
    assert (report.sessions, report.messages, report.missing) == (1, 2, 1)
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    said = [(line["thread_id"], line["type"], line["data"]["content"]) for line in lines]
    assert said == [("ada", "human", "Hello"), ("ada", "ai", "Hi, Łee 😀")]
    assert threads.export(stored_saver, io.BytesIO()).messages == 3


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "ids", None),
        (TypeError, "ids", "ada"),
        (TypeError, "all_threads", 1),
        (TypeError, "saver", InMemorySaver()),
        (ValueError, "idle_for", 0),
        (ValueError, "ttl", 0),
    ],
)
def test_bad_options_are_refused(error: type[Exception], name: str, value: Any) -> None:
    """Before anything is sent; the text names the argument."""
    given: Any = {"saver": MemorystoreSaver(nowhere()), "ids": [], "ttl": 1, name: value}
    with pytest.raises(error, match=name):
        threads.expire(**given)
    del given["ttl"]
    if name != "ttl":
        with pytest.raises(error, match=name):
            threads.delete(**given)


def test_an_agent_goes_on(
    saver: BaseCheckpointSaver[Any], history: MemorystoreChatMessageHistory
) -> None:
    """Taken over again the thread gains what the session gained; the session stays as it was."""
    assert take_over(history, saver, "t") == 6
    history.add_user_message("My name is Ada.")
    for _ in range(2):
        assert take_over(history, saver, "t") == 7
    talk = [*TALK, HumanMessage("My name is Ada.")]
    assert told(messages_of(saver, "t")) == told(history.messages) == told(talk)
    agent = create_agent(DemoChatModel(), checkpointer=saver)
    answer = agent.invoke({"messages": [HumanMessage("What is my name?")]}, CONFIG)
    assert "Ada" in answer["messages"][-1].text
    assert len(answer["messages"]) == 9
    history.clear()
    assert take_over(history, saver, "nothing") == 0
    assert messages_of(saver, "nothing") == []
    history.add_messages(messages_of(saver, "t"))
    assert history.messages == answer["messages"]
    history.clear()
    history.max_messages = 5
    history.add_messages(TALK)
    assert take_over(history, saver, "cut") == 4  # from a user's message on


@settings(max_examples=30, deadline=None, database=None)
@given(
    turns=st.lists(st.integers(1, 2), min_size=2, max_size=5),
    limits=st.sampled_from([{}, {"window": 4}, {"max_messages": 4}]),
)
def test_equal_texts_are_each_taken_over(
    valkey_server: servers.Server, turns: list[int], limits: Any
) -> None:
    """Whatever is cut off: no message is dropped for one that says the same."""
    saver, said = InMemorySaver(), list[Any]()
    with valkey_server.client() as client:
        history = MemorystoreChatMessageHistory(client, "equal", **limits)
        for number in turns:
            turn = [HumanMessage("Next, please"), AIMessage("ok")] * number
            history.add_messages(turn)
            said += turn
            take_over(history, saver, "t")
        history.clear()
    assert told(messages_of(saver, "t")) == told(said)


def test_inside_a_tool_call(
    saver: BaseCheckpointSaver[Any], history: MemorystoreChatMessageHistory
) -> None:
    """One result a call: what stood in for it gives way, also if the window begins behind it."""
    history.window = 2
    for id_ in (None, "own"):
        history.clear()
        history.add_messages([HumanMessage("q"), TALK[3]])
        take_over(history, saver, f"t{id_}")
        assert [m.type for m in messages_of(saver, f"t{id_}")] == ["human", "ai", "tool"]
        for late in (ToolMessage("42", tool_call_id="1", id=id_), AIMessage("It is 42.")):
            history.add_messages([late])
            for _ in range(2):
                take_over(history, saver, f"t{id_}")
        got = [(m.type, m.text) for m in messages_of(saver, f"t{id_}")]
        assert got == [("human", "q"), ("ai", ""), ("tool", "42"), ("ai", "It is 42.")]


def test_messages_without_and_with_equal_ids(history: MemorystoreChatMessageHistory) -> None:
    """Those of other libraries have no append; an id that is there twice is of two messages."""
    client, saver = cast("Any", history.client), InMemorySaver()
    history.clear()
    client.rpush(history.key, UNTIMED, UNTIMED, *elements(1))
    take_over(history, saver, "t")
    client.rpush(history.key, UNTIMED)
    history.add_messages([AIMessage("a", id="x"), AIMessage("b", id="x")])
    for _ in range(2):
        take_over(history, saver, "t")
    assert [m.text for m in messages_of(saver, "t")] == ["hi", "hi", "message 0", "hi", "a", "b"]


def test_other_things_are_refused(history: MemorystoreChatMessageHistory) -> None:
    given: Any = {"history": history, "saver": InMemorySaver(), "thread_id": "t"}
    for name in given:
        with pytest.raises(TypeError, match=name):
            take_over(**given | {name: 7})
    client: Any = history.client
    client.rpush(history.key, "{broken")
    with pytest.raises(CorruptHistoryError):
        take_over(**given)
    client.set(history.key, "x")
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        take_over(**given)
