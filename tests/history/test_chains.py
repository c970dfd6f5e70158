"""The history class in chains: LangChain's RunnableWithMessageHistory and the explicit form."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import redis
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory
from proxy import Proxy
from scripted import Make, texts
from servers import Server

ADA: Any = {"configurable": {"session_id": "ada"}}


def with_history(runnable: Any, make: Callable[..., Any]) -> Any:
    """RunnableWithMessageHistory, without the warning its construction gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return RunnableWithMessageHistory(
            runnable, make, input_messages_key="input", history_messages_key="history"
        )


async def test_streams_are_stored_as_whole_messages(place: Any, key_prefix: str) -> None:
    """What LangChain's wrapper loads and saves in two turns, streamed word by word."""

    def make(session_id: str) -> MemorystoreChatMessageHistory:
        return MemorystoreChatMessageHistory(place.client, session_id, key_prefix=key_prefix)

    model: Any = GenericFakeChatModel(messages=iter(map(AIMessage, ("hi to you", "and good bye"))))
    parts: Any = [MessagesPlaceholder("history"), ("human", "{input}")]
    chain = with_history(ChatPromptTemplate.from_messages(parts) | model, make)
    for text in ("hi", "bye"):
        if place.way == "sync":
            chunks = [*chain.stream({"input": text}, ADA)]
        else:
            chunks = [chunk async for chunk in chain.astream({"input": text}, ADA)]
        assert len(chunks) > 3
    assert texts(await place.call(make("ada"), "messages")) == [
        ("human", "hi"),
        ("ai", "hi to you"),
        ("human", "bye"),
        ("ai", "and good bye"),
    ]


def explicit(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> Any:
    question = HumanMessage("hello")
    reply = RunnableLambda(answer).invoke({"input": "hello", "history": history.messages})
    history.add_messages([question, reply])
    return reply


def managed(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> Any:
    return with_history(RunnableLambda(answer), lambda _: history).invoke({"input": "hello"}, ADA)


@pytest.mark.parametrize("form", [explicit, managed])
def test_a_turn_takes_two_round_trips(server: Server, key_prefix: str, form: Any) -> None:
    """Read, answer, write; the explicit form gives no deprecation warning."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_user_message("before")
        proxy.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            form(history, lambda given: AIMessage("hi"))
        assert proxy.round_trips == 2
        assert texts(history.messages)[1:] == [("human", "hello"), ("ai", "hi")]


@pytest.mark.parametrize("form", [explicit, managed])
def test_what_fails_stores_nothing(make: Make, client: redis.Redis, form: Any) -> None:
    def fail(given: Any) -> AIMessage:
        raise LookupError

    with pytest.raises(LookupError):
        form(make("ada"), fail)
    assert len(make("ada")) == 0
    client.set(make("ada").key, "no list")
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        form(make("ada"), lambda given: AIMessage("hi"))
