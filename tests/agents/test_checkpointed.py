"""ChatHistoryMiddleware beside a checkpointer: the session is the record."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
)
from memorystore_chat.agents import ChatHistoryMiddleware
from proxy import Proxy
from scripted import (
    NO_RETRY,
    THREAD,
    DeepState,
    Hooks,
    Make,
    Scripted,
    ask,
    call,
    nowhere,
    remembering,
    say,
    words,
)


def test_decision_of_a_person_is_stored(make: Make, client: Any, checkpointer: Any) -> None:
    """One of two calls waits; the session has what the state has, when the turn ended."""
    tea: Any = {
        "allowed_decisions": ["approve", "reject"],
        "when": lambda request: request.tool_call["args"]["thing"] == "tea",
    }
    approval = HumanInTheLoopMiddleware(interrupt_on={"look_up": tea})
    replies = [call("tea", "milk"), "fine", "because"]
    agent, model = remembering(make, replies, approval, saver=checkpointer)
    assert "__interrupt__" in say(agent, "1")
    assert len(make()) == 0
    before = codec.new_append_id()
    decision = {"type": "reject", "message": "the boss forbids it"}
    ended = agent.invoke(Command(resume={"decisions": [decision]}), THREAD)
    assert make().messages == ended["messages"]
    assert str(codec.id_of_append(client.lindex(make().key, -1))) > before
    assert "the boss forbids it" in ended["messages"][2].text
    say(agent, "why?")
    assert words(model.asked[-1]) == [*words(ended["messages"]), "why?"]


def test_result_instead_of_a_decision_goes_on_with_the_turn(make: Make, checkpointer: Any) -> None:
    """A front end that carried out the waiting call itself hands in the result."""
    approval = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent, model = remembering(make, [call("tea"), "fine"], approval, saver=checkpointer)
    say(agent, "1")
    agent.invoke({"messages": [ToolMessage("mine", tool_call_id="call-tea")]}, THREAD)
    assert words(model.asked[-1]) == ["1", "", "mine"]
    assert words(make().messages) == ["1", "", "mine", "fine"]


@pytest.mark.parametrize(
    ("schema", "turns_before", "durability"),
    [(None, 0, "sync"), (None, 1, "exit"), (DeepState, 0, "exit"), (DeepState, 1, "async")],
)
def test_question_that_an_outage_took_is_not_asked_again(
    make: Make, checkpointer: Any, schema: Any, turns_before: int, durability: Any
) -> None:
    """Also where the messages are a DeltaChannel, as in a deep agent."""
    down = False
    histories = lambda name: make(name, **({"client": nowhere()} if down else {}))  # noqa: E731
    agent, model = remembering(histories, [*"abcd"], saver=checkpointer, state_schema=schema)
    say(agent, *"1"[:turns_before])
    down = True
    with pytest.raises(ConnectError):
        agent.invoke(ask("lost"), THREAD, durability=durability)
    down = False
    agent.invoke(ask("2"), THREAD, durability=durability)
    say(agent, "3")
    assert "lost" not in words(model.asked[-1])
    assert "lost" not in words(make().messages)
    # Once the thread has begun, it shows at the write, when the model has answered already.
    assert len(model.asked) == 2 + 2 * turns_before


def test_turn_whose_history_cannot_be_made_asks_no_model(make: Make) -> None:
    """The call fails before a model is paid for, and the next one goes on without its question."""
    makers = [make] * 4
    agent, model = remembering(lambda n: makers.pop(0)(n), [*"ab"], saver=InMemorySaver())
    say(agent, "1")
    makers.clear()
    with pytest.raises(IndexError):
        say(agent, "lost")
    makers += [make] * 4
    say(agent, "2")
    assert [words(asked) for asked in model.asked] == [["1"], [*"1a2"]]


@pytest.mark.parametrize("fault", ["refused", "lost reply"])
def test_write_that_failed_is_made_up_for(
    make: Make, client: Any, valkey_server: Any, checkpointer: Any, fault: str
) -> None:
    """agent.invoke(None) tries the write alone, and a lone surrogate makes no second turn of it."""
    with (
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client(port=proxy.port, retry=NO_RETRY) as proxied,
    ):
        agent, model = remembering(
            make(client=proxied), ["half a smile: \ud83d"], saver=checkpointer
        )
        if fault == "refused":
            # The first call reads the session, so the key is spoiled when the model answers.
            model.replies = [lambda: client.set(make().key, "") and "half a smile: \ud83d"]
        else:
            proxy.lose_every = 1
        with pytest.raises(MemorystoreChatError):
            say(agent, "1")
        proxy.lose_every = 0
        if fault == "refused":
            client.unlink(make().key)
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
    """It begins with the session, and then neither additions nor clear() reach the agent."""
    make().add_messages([HumanMessage("0"), AIMessage("z")])
    agent, model = remembering(make, [*"abcd"], saver=checkpointer)
    say(agent, "1")
    make().add_user_message("by the way")
    say(agent, "2")
    assert words(model.asked[-1]) == [*"0z1a2"]
    assert words(make().messages) == [*"0z1a", "by the way", *"2b"]
    make().clear()
    say(agent, "3")
    assert words(model.asked[-1]) == [*"0z1a2b3"]
    make().clear()
    checkpointer.delete_thread("ada/1")
    say(agent, "4")
    assert words(model.asked[-1]) == ["4"]


def test_what_update_state_removed_stays_recorded(make: Make, checkpointer: Any) -> None:
    agent, model = remembering(make, [*"abc"], saver=checkpointer)
    ended = say(agent, *"12")
    newest = [RemoveMessage(id=message.id) for message in ended["messages"][-2:]]
    agent.update_state(THREAD, {"messages": newest})
    say(agent, "3")
    assert words(model.asked[-1]) == [*"1a3"]
    assert words(make().messages) == [*"1a2b3c"]


def test_going_back_makes_the_record_grow(make: Make) -> None:
    """The other way is recorded behind the one that was left."""
    agent, model = remembering(make, ["a", "b", "other"], saver=InMemorySaver())
    say(agent, *"12")
    old = next(s for s in agent.get_state_history(THREAD) if not s.values["messages"][2:])
    agent.invoke(ask("3"), old.config)
    assert words(model.asked[-1]) == [*"1a3"]
    assert words(make().messages) == [*"1a2b", "3", "other"]


async def test_turn_canceled_while_it_loads_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(_: Any) -> Any:
        await asyncio.sleep(30)

    agent, _ = remembering(make, ["b"], saver=InMemorySaver())
    with monkeypatch.context() as patched:
        patched.setattr(MemorystoreChatMessageHistory, "aget_messages", forever)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.ainvoke(ask("lost"), THREAD), 0.3)
    await agent.ainvoke(ask("2"), THREAD)
    assert words(make().messages) == ["2", "b"]


class Echo(Scripted):
    """Answers the question it was asked."""

    replies: list[Any] = []  # noqa: RUF012

    def _next(self, messages: Any) -> AIMessage:
        return AIMessage(f"answer to {messages[-1].text}")


def pairs(make: Make) -> Counter[tuple[str, str]]:
    stored = words(make().messages)
    return Counter(zip(stored[::2], stored[1::2], strict=True))


class Later(Hooks):
    """Hooks behind the middleware."""


def test_question_of_a_call_at_the_same_time_is_left_to_it(make: Make) -> None:
    """The second call finds the first one's question in the thread, before its turn began."""
    held, go_on, begun = threading.Event(), threading.Event(), threading.Event()

    def hold(messages: Any) -> None:
        if messages[-1].text == "1":
            held.set()
            go_on.wait(10)

    def meet(messages: Any) -> None:
        (begun if messages[-1].text == "1" else go_on).set()
        begun.wait(10)

    before, after = Hooks(before_agent=hold), Later(before_model=meet)
    middleware: Any = [before, ChatHistoryMiddleware(make), after]
    agent: Any = create_agent(Echo(), middleware=middleware, checkpointer=InMemorySaver())
    first = threading.Thread(target=agent.invoke, args=(ask("1"), THREAD))
    first.start()
    held.wait(10)
    say(agent, "2")
    first.join(20)
    assert pairs(make) == {(q, f"answer to {q}"): 1 for q in "12"}


@pytest.mark.parametrize(("schema", "turns_before"), [(None, 0), (None, 1), (DeepState, 1)])
def test_eight_streams_at_once(
    make: Make, checkpointer: Any, schema: Any, turns_before: int
) -> None:
    """Each question is recorded once, before its own answer."""
    options = {"middleware": [ChatHistoryMiddleware(make)], "state_schema": schema}
    agent: Any = create_agent(Echo(), checkpointer=checkpointer, **options)
    asked = ["before"] * turns_before + [f"q{number}" for number in range(8)]
    say(agent, *asked[:turns_before])
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda q: [*agent.stream(ask(q), THREAD)], asked[turns_before:]))
    say(agent, "after")
    assert pairs(make) == {(q, f"answer to {q}"): 1 for q in [*asked, "after"]}
