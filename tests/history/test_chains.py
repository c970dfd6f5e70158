"""The history class in chains: LangChain's RunnableWithMessageHistory and the explicit form."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import redis
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

import servers
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from proxy import Proxy
from scripted import NO_RETRY, Make, texts
from servers import Server

ADA: Any = {"configurable": {"session_id": "ada"}}
KEYED = {"input_messages_key": "input", "history_messages_key": "history"}
SHAPES: dict[str, tuple[dict[str, str], Callable[[str], Any], Callable[[str], Any]]] = {
    "text": ({}, lambda text: text, lambda text: text),
    "list": ({}, lambda text: [HumanMessage(text)], lambda text: [AIMessage(text)]),
    "keyed": (KEYED, lambda text: {"input": text}, lambda text: AIMessage(text)),
    "keyed, output key": (
        {**KEYED, "output_messages_key": "output"},
        lambda text: {"input": [HumanMessage(text)], "other": 1},
        lambda text: {"output": [AIMessage(text)], "more": 1},
    ),
}


def with_history(runnable: Any, make: Callable[..., Any], **options: Any) -> Any:
    """RunnableWithMessageHistory, without the warning its construction gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return RunnableWithMessageHistory(runnable, make, **options)


def heard(given: Any) -> list[BaseMessage]:
    """The messages in any of the inputs above."""
    if isinstance(given, dict):
        return [*heard(given.get("history", [])), *heard(given["input"])]
    return [HumanMessage(given)] if isinstance(given, str) else list(given)


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape_remembers(place: Any, key_prefix: str, shape: str) -> None:
    """What LangChain's inputs and outputs hold is stored, and comes back in the next turn."""
    keys, given, answered = SHAPES[shape]

    def make(session_id: str) -> MemorystoreChatMessageHistory:
        return MemorystoreChatMessageHistory(place.client, session_id, key_prefix=key_prefix)

    def answer(value: Any) -> Any:
        return answered("heard: " + ", ".join(m.text for m in heard(value) if m.type == "human"))

    chain = with_history(RunnableLambda(answer), make, **keys)
    for text in ("hello", "good bye"):
        said = await place.call(chain, "invoke", given(text), ADA)
    assert said == answered("heard: hello, good bye")
    assert texts(await place.call(make("ada"), "messages")) == [
        ("human", "hello"),
        ("ai", "heard: hello"),
        ("human", "good bye"),
        ("ai", "heard: hello, good bye"),
    ]


@pytest.mark.parametrize("keyed", [False, True])
async def test_streams_are_stored_as_whole_messages(
    make: Make, async_client: Any, keyed: bool
) -> None:
    parts: Any = [MessagesPlaceholder("history"), ("human", "{input}")]
    inner: Any = GenericFakeChatModel(messages=iter(map(AIMessage, ("hi to you", "and good bye"))))
    inner = ChatPromptTemplate.from_messages(parts) | inner if keyed else inner
    keys, given, _ = SHAPES["keyed" if keyed else "text"]
    chunks = [*with_history(inner, make, **keys).stream(given("hi"), ADA)]
    achain = with_history(inner, lambda name: make(name, async_client=async_client), **keys)
    chunks += [chunk async for chunk in achain.astream(given("bye"), ADA)]
    assert len(chunks) > 6
    stored = make("ada").messages
    assert [type(message) for message in stored] == [HumanMessage, AIMessage] * 2
    assert [message.text for message in stored] == ["hi", "hi to you", "bye", "and good bye"]


def explicit(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> Any:
    question = HumanMessage("hello")
    reply = RunnableLambda(answer).invoke({"input": "hello", "history": history.messages})
    history.add_messages([question, reply])
    return reply


def managed(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> Any:
    chain = with_history(RunnableLambda(answer), lambda session_id: history, **KEYED)
    return chain.invoke({"input": "hello"}, ADA)


@pytest.mark.parametrize("form", [explicit, managed])
def test_a_turn_takes_two_round_trips(server: Server, key_prefix: str, form: Any) -> None:
    """Read, answer, write; the bare form of LangChain's wrapper reads once more."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_user_message("before")
        proxy.reset()
        form(history, lambda given: AIMessage("hi"))
        assert proxy.round_trips == 2
        assert texts(history.messages)[1:] == [("human", "hello"), ("ai", "hi")]


@pytest.mark.parametrize("form", [explicit, managed])
def test_what_fails_stores_nothing(
    make: Make, client: redis.Redis, form: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing read or model raises; a failing write is swallowed by LangChain's wrapper."""

    def fail(given: Any) -> AIMessage:
        raise LookupError

    with pytest.raises(LookupError):
        form(make("ada"), fail)
    assert len(make("ada")) == 0
    client.set(make("ada").key, "no list")
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        form(make("ada"), lambda given: AIMessage("hi"))
    with servers.valkey() as server, server.client(retry=NO_RETRY) as doomed:
        history = MemorystoreChatMessageHistory(doomed, "s")

        def die(given: Any) -> AIMessage:
            server.kill()
            return AIMessage("hi")

        if form is explicit:
            with pytest.raises(ConnectError, match="appending"):
                form(history, die)
        else:
            assert form(history, die).text == "hi"
            assert "ConnectError" in caplog.text
        server.restart()
        assert len(history) == 0


def test_the_class_and_its_subclasses_give_no_deprecation_warning(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)

        class Own(MemorystoreChatMessageHistory):
            """A subclass of a reader's own."""

        explicit(make("ada"), lambda given: AIMessage("hi"))
        assert issubclass(Own, MemorystoreChatMessageHistory)
