"""Threads of a checkpointer, many at once; sessions taken over into threads, and read out."""

import io
import json
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

import servers
from checkpoints import CONFIG, THREAD, newest
from memorystore_chat import CorruptHistoryError, MemorystoreChatMessageHistory
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.sessions import threads
from memorystore_chat.sessions.threads import messages_of, take_over
from memorystore_tutorial import DemoChatModel
from scripted import thread
from stored import UNTIMED, elements

TALK = [
    HumanMessage("My name is Ada."),
    AIMessage("Nice to meet you, Ada.", usage_metadata=None),
    HumanMessage("Weather?"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "1"}]),
    ToolMessage("sunny", tool_call_id="1", artifact={"degrees": 21}),
    AIMessage("It is sunny, Łee 😀"),
]


@pytest.fixture
def history(valkey_server: servers.Server, key_prefix: str) -> MemorystoreChatMessageHistory:
    made = MemorystoreChatMessageHistory(valkey_server.client(), "s", key_prefix=key_prefix)
    made.add_messages(TALK)
    return made


@pytest.fixture
def saver(history: Any, key_prefix: str) -> MemorystoreSaver:
    return MemorystoreSaver(history.client, key_prefix=key_prefix)


def told(messages: Any) -> list[Any]:
    return [message.model_dump(exclude={"id"}) for message in messages]


def test_scan_and_export(saver: Any, history: Any) -> None:
    """By id; the file has a message a line, for those who don't know LangGraph."""
    take_over(history, saver, "lee")
    take_over(history, saver, "ada")
    saver.put_writes(newest(saver, thread("lee")).config, [("__interrupt__", "May I?")], "task")
    found = threads.scan(saver)
    assert [(one.thread_id, one.is_waiting) for one in found] == [("ada", False), ("lee", True)]
    assert found[0].updated > found[1].updated
    file = io.BytesIO()
    report = threads.export(saver, file, ids=["lee", "nobody"])
    assert (report.sessions, report.messages, report.missing) == (1, len(TALK), 1)
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    said = [(line["thread_id"], line["type"], line["data"]["content"]) for line in lines]
    assert said == [("lee", message.type, message.content) for message in TALK]
    assert threads.export(saver, io.BytesIO()).messages == 2 * len(TALK)
    with pytest.raises(TypeError, match="ids"):
        threads.export(saver, "/no/such/folder/file", ids="lee")


def test_a_time_that_is_none_is_not_long_ago(saver: Any) -> None:
    """One that says no time zone is UTC."""
    for written, idle in (("yesterday", 0), ("2026-01-01", 1)):
        saver.put(CONFIG, empty_checkpoint() | {"ts": written}, {}, {})
        assert threads.delete(saver, all_threads=True, idle_for=timedelta(1)).sessions == idle
        saver.delete_thread(THREAD)


def test_an_agent_goes_on(saver: Any, history: Any) -> None:
    """Taken over again the thread gains what the session gained; the session stays as it was."""
    assert take_over(history, saver, "t") == 6
    history.add_user_message("My name is Ada.")
    for _ in range(2):
        assert take_over(history, saver, "t") == 7
    talk = [*TALK, HumanMessage("My name is Ada.")]
    assert told(messages_of(saver, "t")) == told(history.messages) == told(talk)
    agent = create_agent(DemoChatModel(), checkpointer=saver)
    answer = agent.invoke({"messages": [HumanMessage("What is my name?")]}, thread("t"))
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


@pytest.mark.parametrize("limits", [{}, {"window": 4}, {"max_messages": 4}])
def test_equal_texts_are_each_taken_over(history: Any, limits: Any) -> None:
    """Whatever is cut off: no message is dropped for one that says the same."""
    for numbers in product((1, 2), repeat=3):
        history = MemorystoreChatMessageHistory(history.client, "equal", **limits)
        saver, said = InMemorySaver(), list[Any]()
        for number in numbers:
            turn = [HumanMessage("Next, please"), AIMessage("ok")] * number
            history.add_messages(turn)
            said += turn
            take_over(history, saver, "t")
        history.clear()
        assert told(messages_of(saver, "t")) == told(said)


def test_inside_a_tool_call(saver: Any, history: Any) -> None:
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


def test_messages_without_and_with_equal_ids(history: Any) -> None:
    """Those of other libraries have no append; an id that is there twice is of two messages."""
    saver = InMemorySaver()
    history.clear()
    history.client.rpush(history.key, UNTIMED, UNTIMED, *elements(1))
    take_over(history, saver, "t")
    history.client.rpush(history.key, UNTIMED)
    history.add_messages([AIMessage("a", id="x"), AIMessage("b", id="x")])
    for _ in range(2):
        take_over(history, saver, "t")
    assert [m.text for m in messages_of(saver, "t")] == ["hi", "hi", "message 0", "hi", "a", "b"]


def test_other_things_are_refused(history: Any) -> None:
    given: Any = {"history": history, "saver": InMemorySaver(), "thread_id": "t"}
    for name in given:
        with pytest.raises(TypeError, match=name):
            take_over(**given | {name: 7})
    history.client.rpush(history.key, "{broken")
    with pytest.raises(CorruptHistoryError):
        take_over(**given)
