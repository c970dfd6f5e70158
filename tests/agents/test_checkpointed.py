"""ChatHistoryMiddleware beside a checkpointer: the session is the record."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ToolCallLimitMiddleware,
)
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command

from memorystore_chat import ConnectError, MemorystoreChatError, codec
from memorystore_chat.checkpoint import MemorystoreSaver
from proxy import Proxy
from scripted import NO_RETRY, THREAD, Make, Scripted, ask, call, nowhere, remembering, say, words


class DeepState(AgentState[Any]):
    """The state of a deep agent."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=50)]


@pytest.fixture(params=["memory", "all", "keep=1", "keep=2", "keep=3"])
def saver(request: pytest.FixtureRequest, client: Any, key_prefix: str) -> Any:
    if request.param == "memory":
        return InMemorySaver()
    keep = None if request.param == "all" else int(request.param[-1])
    return MemorystoreSaver(client, key_prefix=key_prefix, keep=keep)


def approval() -> Any:
    return HumanInTheLoopMiddleware(interrupt_on={"look_up": {"when": asked_for_tea} | DECISIONS})


DECISIONS: Any = {"allowed_decisions": ["approve", "edit", "reject", "respond"]}


def asked_for_tea(request: Any) -> bool:
    return bool(request.tool_call["args"]["thing"] == "tea")


EDITED = {"name": "look_up", "args": {"thing": "coffee"}}


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        ({"type": "approve"}, "facts about tea"),
        ({"type": "edit", "edited_action": EDITED}, "facts about coffee"),
        ({"type": "reject", "message": "the boss forbids it"}, "the boss forbids it"),
        ({"type": "respond", "message": "ask me"}, "ask me"),
    ],
)
def test_decision_of_a_person_is_stored(
    make: Make, client: Any, decision: Any, result: str, saver: Any
) -> None:
    """One of two calls waits; the session has what the state has, by another process too."""
    first, _ = remembering(make, [call("tea", "milk")], approval(), saver=saver)
    assert "__interrupt__" in say(first, "1")
    assert len(make()) == 0
    agent, model = remembering(make, ["fine", "because"], approval(), saver=saver)
    ended = agent.invoke(Command(resume={"decisions": [decision]}), THREAD)
    assert make().messages == ended["messages"]
    assert any(result in text for text in words(ended["messages"][2:4]))
    say(agent, "why?")
    assert words(model.asked[-1]) == [*words(ended["messages"]), "why?"]


def test_reason_of_a_limit_is_stored(make: Make) -> None:
    """The reason is the call's result, also without a checkpointer."""
    for saver in (None, InMemorySaver()):
        make().clear()
        limit = ToolCallLimitMiddleware(run_limit=1, exit_behavior="continue")
        agent, _ = remembering(make, [call("tea", "milk"), "done"], limit, saver=saver)
        ended = say(agent, "1")
        assert "limit exceeded" in str(words(ended["messages"]))
        assert make().messages == ended["messages"]


def test_interrupted_turn_is_dropped_by_a_new_message(make: Make, saver: Any) -> None:
    """No model is ever shown the call that was not answered."""
    agent, model = remembering(make, [call("tea"), "never mind"], approval(), saver=saver)
    say(agent, "1", "forget it")
    assert words(model.asked[-1]) == ["forget it"]
    assert words(make().messages) == ["forget it", "never mind"]


@pytest.mark.parametrize("next_call", ["resume", "new message"])
@pytest.mark.parametrize("before_it", [[], [call("tea")]])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_failed_turn_can_be_resumed_or_dropped(
    make: Make, next_call: str, before_it: list[AIMessage], durability: Any
) -> None:
    """Going on from the checkpoint finishes and stores the turn; a new message drops it."""
    replies = ["a", *before_it, RuntimeError("quota"), "b"]
    agent, model = remembering(make, replies, saver=InMemorySaver())
    say(agent, "1")
    with pytest.raises(RuntimeError):
        agent.invoke(ask("2"), THREAD, durability=durability)
    agent.invoke(None if next_call == "resume" else ask("3"), THREAD, durability=durability)
    failed = ["2", "", "facts about tea"] if before_it else ["2"]
    turn = failed if next_call == "resume" else ["3"]
    assert words(model.asked[-1]) == ["1", "a", *turn]
    assert words(make().messages) == ["1", "a", *turn, "b"]


@pytest.mark.parametrize("schema", [None, DeepState])
@pytest.mark.parametrize("turns_before", [0, 1])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_question_that_an_outage_took_is_not_asked_again(
    make: Make, schema: Any, turns_before: int, durability: Any, saver: Any
) -> None:
    """Also where the messages are a DeltaChannel, as in a deep agent."""
    down = False

    def histories(thread_id: str) -> Any:
        return make(thread_id, client=nowhere()) if down else make(thread_id)

    agent, model = remembering(histories, [*"abcd"], saver=saver, state_schema=schema)
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


def test_write_that_failed_is_made_up_for(make: Make, client: Any, saver: Any) -> None:
    """agent.invoke(None) tries the write alone: the model is not asked again."""
    reply = AIMessage("half a smile: \ud83d")
    agent, model = remembering(
        make, [lambda: client.set(make().key, "no list") and reply], saver=saver
    )
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        say(agent, "1")
    client.unlink(make().key)
    agent.invoke(None, THREAD)
    assert words(make().messages) == ["1", "half a smile: ?"]
    assert len(model.asked) == 1


@pytest.mark.parametrize("text", ["a", "half a smile: \ud83d"])
def test_lost_reply_to_the_write_stores_the_turn_once(
    make: Make, valkey_server: Any, text: str
) -> None:
    """A checkpoint changes a lone surrogate; the repeated append is the same all the same."""
    with (
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        agent, _ = remembering(make(client=client), [text], saver=InMemorySaver())
        proxy.lose_every = 1
        with pytest.raises(ConnectError):
            say(agent, "1")
        proxy.lose_every = 0
        agent.invoke(None, THREAD)
        assert len(make()) == 2


def test_thread_begun_without_it_is_recorded(make: Make) -> None:
    """A checkpointed conversation moves into the session with its next turn."""
    saver = InMemorySaver()
    bare: Any = create_agent(Scripted(replies=["a"]), checkpointer=saver)
    bare.invoke(ask("1"), THREAD)
    agent, _ = remembering(make, ["b"], saver=saver)
    say(agent, "2")
    assert words(make().messages) == [*"1a2b"]


def test_empty_thread_goes_on_with_the_session(make: Make, saver: Any) -> None:
    """The session is loaded once; what is written into it later is not seen, and stays."""
    make().add_messages([HumanMessage("0"), AIMessage("z")])
    agent, model = remembering(make, [*"ab"], saver=saver)
    say(agent, "1")
    make().add_user_message("by the way")
    say(agent, "2")
    assert words(model.asked[-1]) == [*"0z1a2"]
    assert words(make().messages) == [*"0z1a", "by the way", *"2b"]


def test_cleared_session_is_not_forgotten_by_the_thread(make: Make, saver: Any) -> None:
    """To forget, the thread is deleted too."""
    agent, model = remembering(make, [*"abc"], saver=saver)
    say(agent, "1")
    make().clear()
    say(agent, "2")
    assert words(model.asked[-1]) == [*"1a2"]
    assert words(make().messages) == [*"2b"]
    make().clear()
    saver.delete_thread("ada/1")
    say(agent, "3")
    assert words(model.asked[-1]) == ["3"]


@pytest.mark.parametrize("schema", [None, DeepState])
def test_what_update_state_added_is_recorded(make: Make, saver: Any, schema: Any) -> None:
    """It belongs to the next turn, whatever the saver keeps; what it removed stays recorded."""
    agent, model = remembering(make, [*"abc"], saver=saver, state_schema=schema)
    say(agent, "1")
    by_hand = [HumanMessage("from the desk"), AIMessage("its answer")]
    agent.update_state(THREAD, {"messages": by_hand})
    ended = say(agent, "2")
    expected = ["1", "a", "from the desk", "its answer", "2", "b"]
    assert words(make().messages) == expected
    newest = [RemoveMessage(id=message.id) for message in ended["messages"][-2:]]
    agent.update_state(THREAD, {"messages": newest})
    say(agent, "3")
    assert words(model.asked[-1]) == [*expected[:4], "3"]
    assert words(make().messages) == [*expected, "3", "c"]


def test_going_back_makes_the_record_grow(make: Make) -> None:
    """The other way is recorded behind the one that was left."""
    agent, model = remembering(make, ["a", "b", "other"], saver=InMemorySaver())
    say(agent, *"12")
    old = next(s for s in agent.get_state_history(THREAD) if s.values["messages"][2:] == [])
    agent.invoke(ask("3"), old.config)
    assert words(model.asked[-1]) == [*"1a3"]
    assert words(make().messages) == [*"1a2b", "3", "other"]


async def test_turn_canceled_while_it_loads_leaves_nothing(make: Make) -> None:
    """A call that times out in its first read is forgotten."""
    slow = True

    class Slow(type(make())):  # type: ignore[misc]
        async def aget_messages(self) -> Any:
            await asyncio.sleep(30 if slow else 0)
            return self.messages

    def histories(thread_id: str) -> Any:
        history = make(thread_id)
        history.__class__ = Slow
        return history

    agent, _ = remembering(histories, ["b"], saver=InMemorySaver())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.ainvoke(ask("lost"), THREAD), 0.3)
    slow = False
    await agent.ainvoke(ask("2"), THREAD)
    assert words(make().messages) == ["2", "b"]


class Waits(AgentMiddleware[Any, Any, Any]):
    """Holds the first call up before its turn begins."""

    def __init__(self, first: threading.Event, go_on: threading.Event) -> None:
        self.first, self.go_on = first, go_on

    def before_agent(self, state: Any, runtime: Any) -> None:
        if not self.first.is_set():
            self.first.set()
            self.go_on.wait(10)


class Echo(Scripted):
    """Answers the question it was asked."""

    replies: list[Any] = []  # noqa: RUF012
    wait: Callable[[], object] = int

    def _next(self, messages: Any) -> AIMessage:
        self.wait()
        self.asked.append(list(messages))
        return AIMessage(f"answer to {messages[-1].text}")


def pairs(stored: list[str]) -> Counter[tuple[str, str]]:
    return Counter(zip(stored[::2], stored[1::2], strict=True))


@pytest.mark.parametrize("begun", [0, 1])
def test_calls_at_once_store_each_question_once(make: Make, begun: int) -> None:
    """A call that finds another's question in the thread leaves it to that call."""
    from memorystore_chat.agents import ChatHistoryMiddleware

    first, go_on = threading.Event(), threading.Event()
    memory, model = ChatHistoryMiddleware(make), Echo()
    if not begun:
        first.set()
    saver = InMemorySaver()
    agent: Any = create_agent(model, middleware=[Waits(first, go_on), memory], checkpointer=saver)
    if not begun:
        say(agent, "0")
        first.clear()
    thread = threading.Thread(target=agent.invoke, args=(ask("1"), THREAD))
    thread.start()
    first.wait(10)
    holding = threading.Thread(target=agent.invoke, args=(ask("2"), THREAD))
    holding.start()
    go_on.set()
    thread.join(20)
    holding.join(20)
    questions = ["1", "2"] if begun else ["0", "1", "2"]
    assert pairs(words(make().messages)) == {(q, f"answer to {q}"): 1 for q in questions}


@pytest.mark.parametrize("schema", [None, DeepState])
@pytest.mark.parametrize("turns_before", [0, 1])
def test_eight_streams_at_once(make: Make, saver: Any, schema: Any, turns_before: int) -> None:
    """Each question is recorded once, before its own answer."""
    from memorystore_chat.agents import ChatHistoryMiddleware

    agent: Any = create_agent(
        Echo(),
        middleware=[ChatHistoryMiddleware(make)],
        checkpointer=saver,
        state_schema=schema,
    )
    say(agent, *(f"before {n}" for n in range(turns_before)))
    questions = [f"q{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda q: [*agent.stream(ask(q), THREAD)], questions))
    say(agent, "after")
    asked = [*(f"before {n}" for n in range(turns_before)), *questions, "after"]
    assert pairs(words(make().messages)) == {(q, f"answer to {q}"): 1 for q in asked}


def test_append_tells_when_the_turn_ended(make: Make, client: Any) -> None:
    """An approval can take days, so the id of the append is made anew."""
    agent, _ = remembering(make, [call("tea"), "fine"], approval(), saver=InMemorySaver())
    say(agent, "1")
    before = codec.new_append_id()
    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    appended = codec.id_of_append(client.lindex(make().key, -1))
    assert str(appended) > before
