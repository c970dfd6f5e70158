"""The history class in chains: LangChain's RunnableWithMessageHistory and the explicit form."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

import servers
from memorystore_chat import ConnectError, MemorystoreChatError, MemorystoreChatMessageHistory
from proxy import Proxy
from scripted import NO_RETRY, Make, texts
from servers import Server

ADA: Any = {"configurable": {"session_id": "ada"}}
GRACE: Any = {"configurable": {"session_id": "grace"}}


@pytest.fixture
def make_async(make: Make, async_client: Any) -> Make:
    """Histories with an asyncio client, too."""
    return partial(make, async_client=async_client)


def with_history(runnable: Any, make: Callable[..., Any], **options: Any) -> Any:
    """RunnableWithMessageHistory, without the warning its construction gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return RunnableWithMessageHistory(runnable, make, **options)


def everything_said(messages: Sequence[BaseMessage]) -> str:
    """What an answer repeats, so that a test sees which messages arrived."""
    return "you said: " + ", ".join(m.text for m in messages if isinstance(m, HumanMessage))


def as_messages(given: Any) -> list[BaseMessage]:
    """The messages in any of the inputs below."""
    if isinstance(given, dict):
        return [*as_messages(given.get("history", [])), *as_messages(given.get("input"))]
    if isinstance(given, str):
        return [HumanMessage(given)]
    return [given] if isinstance(given, BaseMessage) else list(given)


INPUT = {"input_messages_key": "input"}
BOTH = {"input_messages_key": "input", "history_messages_key": "history"}
OUTPUT = {"output_messages_key": "output"}
INPUTS: dict[str, tuple[dict[str, str], Callable[[str], Any]]] = {
    "string": ({}, lambda text: text),
    "message": ({}, lambda text: HumanMessage(text)),
    "list": ({}, lambda text: [HumanMessage(text)]),
    "dict with input key": (INPUT, lambda text: {"input": text}),
    "dict with input key, message": (INPUT, lambda text: {"input": HumanMessage(text)}),
    "dict with input key, list": (INPUT, lambda text: {"input": [HumanMessage(text)]}),
    "dict with both keys": (BOTH, lambda text: {"input": text, "other": 1}),
    "dict with both keys, list": (BOTH, lambda text: {"input": [HumanMessage(text)]}),
}

OUTPUTS: dict[str, tuple[dict[str, str], Callable[[str], Any]]] = {
    "message": ({}, lambda text: AIMessage(text)),
    "list": ({}, lambda text: [AIMessage(text)]),
    "string": ({}, lambda text: text),
    "dict with output key": (OUTPUT, lambda text: {"output": [AIMessage(text)], "more": 1}),
    "dict with output key, string": (OUTPUT, lambda text: {"output": text}),
    "dict with output key, message": (OUTPUT, lambda text: {"output": AIMessage(text)}),
}


def chain_of(input_shape: str, output_shape: str, make: Make) -> tuple[Any, Callable[[str], Any]]:
    keys, given = INPUTS[input_shape]
    more_keys, answer = OUTPUTS[output_shape]
    chain = RunnableLambda(lambda value: answer(everything_said(as_messages(value))))
    return with_history(chain, make, **keys, **more_keys), given


FIRST_AND_SECOND = [
    ("human", "hello"),
    ("ai", "you said: hello"),
    ("human", "good bye"),
    ("ai", "you said: hello, good bye"),
]


@pytest.mark.parametrize("output_shape", OUTPUTS)
@pytest.mark.parametrize("input_shape", INPUTS)
def test_every_shape_remembers(make: Make, input_shape: str, output_shape: str) -> None:
    """All inputs and outputs that LangChain knows are stored and come back in the next turn."""
    chain, given = chain_of(input_shape, output_shape, make)
    chain.invoke(given("hello"), ADA)
    second = chain.invoke(given("good bye"), ADA)
    assert second == OUTPUTS[output_shape][1]("you said: hello, good bye")
    assert texts(make("ada").messages) == FIRST_AND_SECOND
    chain.invoke(given("I am Grace"), GRACE)
    assert texts(make("grace").messages) == [
        ("human", "I am Grace"),
        ("ai", "you said: I am Grace"),
    ]


@pytest.mark.parametrize("output_shape", OUTPUTS)
@pytest.mark.parametrize("input_shape", INPUTS)
async def test_every_shape_remembers_async(
    make_async: Make, input_shape: str, output_shape: str
) -> None:
    chain, given = chain_of(input_shape, output_shape, make_async)
    await chain.ainvoke(given("hello"), ADA)
    second = await chain.ainvoke(given("good bye"), ADA)
    assert second == OUTPUTS[output_shape][1]("you said: hello, good bye")
    assert texts(await make_async("ada").aget_messages()) == FIRST_AND_SECOND


def test_several_messages_at_once(make: Make) -> None:
    chain = with_history(RunnableLambda(lambda _: [AIMessage("a"), AIMessage("b")]), make)
    chain.invoke([SystemMessage("be brief"), HumanMessage("1"), HumanMessage("2")], ADA)
    assert [message.text for message in make("ada").messages] == ["be brief", "1", "2", "a", "b"]


async def test_batch_and_abatch(make: Make, make_async: Make) -> None:
    chain, given = chain_of("dict with both keys", "message", make)
    achain, _ = chain_of("dict with both keys", "message", make_async)
    names = [f"user {number}" for number in range(8)]
    configs = [{"configurable": {"session_id": name}} for name in names]
    chain.batch([given(name) for name in names], configs)
    await achain.abatch([given("again") for _ in names], configs)
    for name in names:
        assert [message.text for message in make(name).messages] == [
            name,
            f"you said: {name}",
            "again",
            f"you said: {name}, again",
        ]


def model(*answers: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(answer) for answer in answers]))


@pytest.mark.parametrize("keyed", [False, True])
async def test_streams_are_stored_as_whole_messages(
    make: Make, make_async: Make, keyed: bool
) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{input}")]
    )
    inner: Runnable[Any, Any] = model("hello to you", "and good bye")
    keys, given = INPUTS["dict with both keys" if keyed else "string"]
    inner = prompt | inner if keyed else inner
    chunks = [*with_history(inner, make, **keys).stream(given("hi"), ADA)]
    achain = with_history(inner, make_async, **keys)
    chunks += [chunk async for chunk in achain.astream(given("bye"), ADA)]
    assert len(chunks) > 6
    stored = make("ada").messages
    assert [type(message) for message in stored] == [HumanMessage, AIMessage] * 2
    assert [message.text for message in stored] == ["hi", "hello to you", "bye", "and good bye"]


def test_custom_factory_with_user_and_conversation(make: Make) -> None:
    """history_factory_config passes a user and a conversation to a factory of one's own."""

    def of(user_id: str, conversation_id: str) -> MemorystoreChatMessageHistory:
        return make(f"{user_id}/{conversation_id}")

    specs = [
        ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "conversation_id")
    ]
    greet: Any = RunnableLambda(lambda given: AIMessage(everything_said(as_messages(given))))
    chain = with_history(greet, of, **BOTH, history_factory_config=specs)
    one: Any = {"configurable": {"user_id": "ada", "conversation_id": "1"}}
    two: Any = {"configurable": {"user_id": "ada", "conversation_id": "2"}}
    chain.invoke({"input": "hello"}, one)
    chain.invoke({"input": "apart"}, two)
    answer = chain.invoke({"input": "again"}, one)
    assert answer.text == "you said: hello, again"
    assert texts(make("ada/2").messages) == [("human", "apart"), ("ai", "you said: apart")]


def test_missing_session_id_is_reported(make: Make) -> None:
    """LangChain's own error names the key that the config needs."""
    chain, given = chain_of("string", "string", make)
    with pytest.raises(ValueError, match="session_id"):
        chain.invoke(given("hello"))


@pytest.mark.parametrize(
    ("input_shape", "round_trips"), [("string", 3), ("dict with both keys", 2)]
)
def test_round_trips_a_turn(
    server: Server, key_prefix: str, input_shape: str, round_trips: int
) -> None:
    """The bare form reads the session twice a turn, the keyed form once; each writes once."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_user_message("before")
        chain, given = chain_of(input_shape, "message", lambda session_id: history)
        proxy.reset()
        chain.invoke(given("hello"), ADA)
        assert proxy.round_trips == round_trips
        assert len(history) == 3


def test_explicit_form_takes_two_round_trips(server: Server, key_prefix: str) -> None:
    """Read, answer, write: nothing is hidden and nothing is read twice."""
    with Proxy(server.host, server.port) as proxy, server.client(port=proxy.port) as client:
        history = MemorystoreChatMessageHistory(client, "s", 60, key_prefix=key_prefix)
        history.add_user_message("before")
        proxy.reset()
        question = HumanMessage("hello")
        reply = model("hi").invoke([*history.messages, question])
        history.add_messages([question, reply])
        assert proxy.round_trips == 2
        assert texts(history.messages)[1:] == [("human", "hello"), ("ai", "hi")]


def explicit(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> AIMessage:
    chain = RunnableLambda(answer)
    reply = chain.invoke({"input": "hello", "history": history.messages})
    history.add_messages([HumanMessage("hello"), reply])
    return AIMessage(reply.text)


def managed(history: MemorystoreChatMessageHistory, answer: Callable[[Any], Any]) -> AIMessage:
    chain = with_history(RunnableLambda(answer), lambda session_id: history, **BOTH)
    return AIMessage(chain.invoke({"input": "hello"}, ADA).text)


@pytest.fixture
def doomed() -> Iterator[tuple[Server, MemorystoreChatMessageHistory]]:
    """A server that a test may kill, and a history on it that gives up at once."""
    with servers.valkey() as server, server.client(retry=NO_RETRY) as client:
        yield server, MemorystoreChatMessageHistory(client, "s")


def dying(server: Server) -> Callable[[Any], AIMessage]:
    """An answer during which the server goes away."""

    def answer(given: Any) -> AIMessage:
        server.kill()
        return AIMessage("hi")

    return answer


def test_lost_turn_goes_unnoticed_with_runnable_with_message_history(
    doomed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """LangChain swallows the error of a failing write: the call returns, a log line is all."""
    server, history = doomed
    assert managed(history, dying(server)).text == "hi"
    assert "ConnectError" in caplog.text
    server.restart()
    assert len(history) == 0


def test_lost_turn_raises_in_the_explicit_form(doomed: Any) -> None:
    """The same outage is a ConnectError where the write is a line of one's own."""
    server, history = doomed
    with pytest.raises(ConnectError, match="appending to the session 's'"):
        explicit(history, dying(server))


@pytest.mark.parametrize("form", [explicit, managed])
def test_failing_read_raises_in_both_forms(make: Make, client: Any, form: Any) -> None:
    client.set(make("ada").key, "no list")
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        form(make("ada"), lambda given: AIMessage("hi"))


@pytest.mark.parametrize("form", [explicit, managed])
def test_failing_model_stores_nothing(make: Make, form: Any) -> None:
    """Question and answer are stored together, so a question without an answer is not."""

    def fail(given: Any) -> AIMessage:
        raise RuntimeError("quota")

    with pytest.raises(RuntimeError, match="quota"):
        form(make("ada"), fail)
    assert len(make("ada")) == 0


def test_bare_form_drops_the_question_beside_a_concurrent_writer(make: Make) -> None:
    """It tells new messages from old by counting, so a message from elsewhere displaces one.

    The keyed form stores both.
    """
    stored = {}
    for input_shape in ("list", "dict with both keys"):
        make("ada").clear()
        make("ada").add_user_message("before")
        keys, given = INPUTS[input_shape]
        written = threading.Event()

        def answer(value: Any, written: threading.Event = written) -> AIMessage:
            if not written.is_set():
                make("ada").add_user_message("from elsewhere")
                written.set()
            return AIMessage("hi")

        with_history(RunnableLambda(answer), make, **keys).invoke(given("hello"), ADA)
        stored[input_shape] = [message.text for message in make("ada").messages[1:]]
    assert stored["list"] == ["from elsewhere", "hi"]
    assert stored["dict with both keys"] == ["from elsewhere", "hello", "hi"]


def test_only_constructing_runnable_with_message_history_warns(make: Make) -> None:
    """Neither the history class nor the use of either form gives a deprecation warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Own(MemorystoreChatMessageHistory):
            """A subclass of a reader's own."""

        history = make("ada")
        explicit(history, lambda given: AIMessage("hi"))
        assert isinstance(history, MemorystoreChatMessageHistory)
        assert not [each for each in caught if issubclass(each.category, DeprecationWarning)]

    greet: RunnableLambda[Any, str] = RunnableLambda(lambda given: "hi")
    with pytest.warns(LangChainDeprecationWarning, match="RunnableWithMessageHistory"):
        chain = RunnableWithMessageHistory(greet, make)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        chain.invoke("hello", ADA)
    assert len(make("ada")) == 4
