"""Threads of a checkpointer, many at once; sessions taken over into threads, and read out."""

import io
import json
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

import servers
from checkpoints import CONFIG, THREAD, newest
from memorystore_chat import CorruptHistoryError, MemorystoreChatMessageHistory, codec
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.conversation import sendable
from memorystore_chat.sessions import threads
from memorystore_chat.sessions.threads import messages_of, take_over
from memorystore_tutorial import DemoChatModel
from scripted import thread
from stored import UNTIMED

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


TURN, HI = [HumanMessage("Next, please"), AIMessage("ok")], codec.decode(UNTIMED)
LATE = [ToolMessage("42", tool_call_id="1", id=id_) for id_ in (None, "own")]
# What a session gains between calls, and its limits.
GROWTHS: list[Any] = [
    *(
        ([TURN * number for number in numbers], limits)
        for numbers in product((1, 2), repeat=3)
        for limits in ({}, {"window": 4}, {"max_messages": 4})
    ),
    *(([[TALK[0], TALK[3]], [late], [TALK[5]]], {"window": 2}) for late in LATE),
    ([[HI, HI], TURN, [HI], [AIMessage("a", id="x"), AIMessage("b", id="x")]], {}),
]


def test_a_thread_grows_with_its_session(history: Any) -> None:
    """Whatever is cut off: equal messages stay apart, and a late result is a call's only one.

    What other libraries wrote tells no append, and an id that is there twice is of two messages.
    """
    for growth, limits in GROWTHS:
        history = MemorystoreChatMessageHistory(history.client, "grows", **limits)
        saver, said = InMemorySaver(), list[BaseMessage]()
        for gained in growth:
            if HI in gained:
                history.client.rpush(history.key, *[UNTIMED] * len(gained))
            else:
                history.add_messages(gained)
            said += gained
            for _ in range(2):
                take_over(history, saver, "t")
                assert told(messages_of(saver, "t")) == told(sendable(said, cut=False))
        history.clear()


def test_other_things_are_refused(history: Any) -> None:
    given: Any = {"history": history, "saver": InMemorySaver(), "thread_id": "t"}
    for name in given:
        with pytest.raises(TypeError, match=name):
            take_over(**given | {name: 7})
    history.client.rpush(history.key, "{broken")
    with pytest.raises(CorruptHistoryError):
        take_over(**given)
