"""ChatHistoryMiddleware beside a checkpointer."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from memorystore_chat import (
    ConnectError,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    codec,
)
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_tutorial import DemoChatModel
from proxy import Proxy
from scripted import (
    NO_RETRY,
    THREAD,
    Make,
    Scripted,
    ask,
    call,
    drain,
    nowhere,
    remembering,
    say,
    texts,
    words,
)
from servers import Server


def approval() -> Any:
    return HumanInTheLoopMiddleware(interrupt_on={"look_up": True})


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        ({"type": "approve"}, "facts about tea"),
        (
            {"type": "edit", "edited_action": {"name": "look_up", "args": {"thing": "coffee"}}},
            "facts about coffee",
        ),
        ({"type": "reject", "message": "no tea"}, "no tea"),
    ],
)
def test_interrupted_turn_is_stored_when_it_ends(
    make: Make, client: Any, decision: Any, result: str
) -> None:
    """Nothing is stored while it waits; then all of it, as decided, by another process too."""
    saver = InMemorySaver()
    first, _ = remembering(make, [call("tea")], approval(), saver=saver)
    assert "__interrupt__" in say(first, "1")
    assert len(make()) == 0

    agent, _ = remembering(make, ["fine", "ok"], approval(), saver=saver)
    time.sleep(0.01)
    resumed = datetime.now(UTC)
    ended = agent.invoke(Command(resume={"decisions": [decision]}), THREAD)
    stored = make().messages
    assert stored == ended["messages"]
    assert [message.type for message in stored] == ["human", "ai", "tool", "ai"]
    assert stored[2].text.endswith(result)
    appended = codec.appended_at(client.lindex(make().key, -1))
    assert appended is not None
    assert appended >= resumed.replace(microsecond=resumed.microsecond // 1000 * 1000)

    say(agent, "2")
    assert words(make().messages[4:]) == ["2", "ok"]


def test_interrupted_turn_is_dropped_by_a_new_message(make: Make) -> None:
    """No model is ever shown the call that was not answered."""
    replies = [call("tea"), "never mind"]
    agent, model = remembering(make, replies, approval(), saver=InMemorySaver())
    say(agent, "1", "forget it")
    assert texts(model.asked[-1]) == [("human", "forget it")]
    assert words(make().messages) == ["forget it", "never mind"]


@pytest.mark.parametrize("window", [None, 2])
def test_checkpointer_beside_it_doubles_nothing(make: Make, window: int | None) -> None:
    """Messages that the checkpoint has too are seen once and stored once."""
    agent, model = remembering(
        partial(make, window=window), ["a", call("tea"), "b", "c", "d"], saver=InMemorySaver()
    )
    say(agent, *"1234")
    stored = words(make().messages)
    assert stored == ["1", "a", "2", "", "facts about tea", "b", "3", "c", "4", "d"]
    assert words(model.asked[-1]) == stored[-window - 2 if window else 0 : -1]


def test_checkpoint_that_lags_behind_gets_what_it_missed(make: Make) -> None:
    """Two processes, each with a checkpointer of its own, share the session."""
    one, model = remembering(make, [*"ac"], saver=InMemorySaver())
    other, _ = remembering(make, [*"bd"], saver=InMemorySaver())
    for agent, question in zip((one, other, one, other), "1234", strict=True):
        say(agent, question)
    assert words(make().messages) == [*"1a2b3c4d"]
    assert words(model.asked[-1]) == [*"1a2b3"]


def test_messages_written_beside_the_agent_are_seen(make: Make) -> None:
    """What a chain or a script appended, without ids, joins in once."""
    agent, model = remembering(make, ["a", "b"], saver=InMemorySaver())
    make().add_user_message("0")
    say(agent, "1")
    make().add_ai_message("by the way")
    say(agent, "2")
    assert words(make().messages) == ["0", "1", "a", "by the way", "2", "b"]
    assert len(model.asked[-1]) == 5


def test_cleared_session_stays_cleared(make: Make) -> None:
    """The checkpoint does not bring back what was deleted."""
    agent, model = remembering(make, ["a", "b"], saver=InMemorySaver())
    say(agent, "my secret")
    make().clear()
    say(agent, "2")
    assert words(model.asked[-1]) == ["2"]
    assert words(make().messages) == ["2", "b"]


def test_thread_begun_without_it_is_taken_over(make: Make) -> None:
    """A checkpointed conversation moves into the session with its next turn."""
    saver = InMemorySaver()
    bare: Any = create_agent(Scripted(replies=["a"]), checkpointer=saver)
    bare.invoke(ask("1"), THREAD)
    agent, _ = remembering(make, ["b"], saver=saver)
    say(agent, "2")
    assert words(make().messages) == [*"1a2b"]


@pytest.mark.parametrize("before_it", [[], [call("tea")]])
@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_failed_turn_in_a_checkpoint_can_be_resumed_or_dropped(
    make: Make, next_call: str, before_it: list[AIMessage]
) -> None:
    """Going on from the checkpoint finishes and stores the turn; a new message drops it."""
    replies = ["a", *before_it, RuntimeError("quota"), "b"]
    agent, model = remembering(make, replies, saver=InMemorySaver())
    say(agent, "1")
    with pytest.raises(RuntimeError):
        say(agent, "2")
    assert len(make()) == 2
    agent.invoke(None if next_call == "resume" else ask("3"), THREAD)
    failed = ["2", "", "facts about tea"] if before_it else ["2"]
    turn = failed if next_call == "resume" else ["3"]
    assert words(model.asked[-1]) == ["1", "a", *turn]
    assert words(make().messages) == ["1", "a", *turn, "b"]


@contextmanager
def write_with_lost_reply(make: Make, server: Server, reply: str) -> Iterator[tuple[Any, Scripted]]:
    """An agent whose first turn was stored while its caller got an error."""
    with (
        Proxy(server.host, server.port) as proxy,
        server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        history = make(client=client)
        history.add_messages([HumanMessage("0", id="0")])
        agent, model = remembering(history, [reply, "b"], saver=InMemorySaver())
        proxy.lose_every = 1
        with pytest.raises(ConnectError, match="appending to"):
            say(agent, "1")
        proxy.lose_every = 0
        assert len(history) == 3
        yield agent, model


@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_lost_reply_to_the_write_stores_the_turn_once(
    make: Make, server: Server, next_call: str
) -> None:
    """After an error at the write, going on from the checkpoint neither loses nor doubles it."""
    with write_with_lost_reply(make, server, "a") as (agent, model):
        if next_call == "resume":
            answer = agent.invoke(None, THREAD)
            assert answer["messages"][-1].text == "a"
            assert len(model.asked) == 1
        say(agent, "2")
        assert words(make().messages) == ["0", "1", "a", "2", "b"]


def test_write_that_failed_is_made_up_for_from_the_checkpoint(make: Make, client: Any) -> None:
    """agent.invoke(None) tries the write alone: the model is not asked again."""
    replies = [lambda: client.set(make().key, "no list") and "a"]
    agent, _ = remembering(make, replies, saver=InMemorySaver())
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        say(agent, "1")
    client.unlink(make().key)
    agent.invoke(None, THREAD)
    assert words(make().messages) == ["1", "a"]


class Flaky:
    """A history that fails as often as a test says, at the read."""

    def __init__(self, make: Make) -> None:
        self.make, self.failures = make, 0

    def __call__(self, thread_id: str) -> MemorystoreChatMessageHistory:
        if self.failures:
            self.failures -= 1
            return self.make(thread_id, client=nowhere())
        return self.make(thread_id)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("turns_before", [0, 1])
@pytest.mark.parametrize("outages", [1, 3])
def test_turn_lost_to_an_outage_leaves_nothing_behind(
    make: Make, outages: int, turns_before: int, durability: Any
) -> None:
    """The input of calls that could not load the session is not stored with the next turn."""
    histories = Flaky(make)
    agent, model = remembering(histories, ["a", "b"][-1 - turns_before :], saver=InMemorySaver())
    if turns_before:
        agent.invoke(ask("1"), THREAD, durability=durability)
    histories.failures = outages
    for number in range(outages):
        with pytest.raises(ConnectError):
            agent.invoke(ask(f"lost {number}"), THREAD, durability=durability)
    agent.invoke(ask("2"), THREAD, durability=durability)
    stored = [*"1a2b"][-2 - 2 * turns_before :]
    assert words(make().messages) == stored
    assert words(model.asked[-1]) == stored[:-1]


def test_outage_at_the_read_can_be_resumed(make: Make) -> None:
    """Going on from the checkpoint asks the question of the last call, and no earlier one's."""
    histories = Flaky(make)
    agent, _ = remembering(histories, ["a", "b"], saver=InMemorySaver())
    say(agent, "1")
    histories.failures = 2
    for question in ("lost", "2"):
        with pytest.raises(ConnectError):
            agent.invoke(ask(question), THREAD)
    agent.invoke(None, THREAD)
    assert words(make().messages) == [*"1a2b"]


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_turn_cancelled_before_it_was_loaded_leaves_nothing_behind(
    make: Make, async_client: Any, turns_before: int
) -> None:
    """A call that times out while it loads the session is forgotten."""
    slow = False

    class Slow(MemorystoreChatMessageHistory):
        async def aget_messages(self) -> list[BaseMessage]:
            await asyncio.sleep(30)
            return []

    def histories(thread_id: str) -> MemorystoreChatMessageHistory:
        history = make(thread_id, async_client=async_client)
        if slow:
            history.__class__ = Slow
        return history

    agent, _ = remembering(histories, ["a", "b"][-1 - turns_before :], saver=InMemorySaver())
    if turns_before:
        await agent.ainvoke(ask("1"), THREAD)
    slow = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.ainvoke(ask("lost"), THREAD), 0.2)
    slow = False
    await agent.ainvoke(ask("2"), THREAD)
    stored = [*"1a2b"][-2 - 2 * turns_before :]
    assert words(make().messages) == stored


def test_turn_begun_meanwhile_does_not_answer_the_other(make: Make) -> None:
    """Two calls at once on a thread: each asks and stores its own question."""
    loading, go_on = threading.Event(), threading.Event()

    def histories(thread_id: str) -> MemorystoreChatMessageHistory:
        if not loading.is_set():
            loading.set()
            go_on.wait(10)
        return make(thread_id)

    agent, model = remembering(histories, ["fast", "slow", "c"], saver=InMemorySaver())
    thread = threading.Thread(target=agent.invoke, args=(ask("1"), THREAD))
    thread.start()
    loading.wait(10)
    say(agent, "2")
    go_on.set()
    thread.join(20)
    assert words(model.asked[0]) == ["2"]
    say(agent, "3")
    assert words(make().messages) == ["2", "fast", "1", "slow", "3", "c"]


def test_message_put_into_the_checkpoint_by_hand_is_kept(make: Make) -> None:
    """What update_state() adds between calls belongs to the next turn."""
    agent, _ = remembering(make, ["a", "b"], saver=InMemorySaver())
    say(agent, "1")
    agent.update_state(THREAD, {"messages": [AIMessage("by the way")]})
    say(agent, "2")
    assert words(make().messages) == ["1", "a", "by the way", "2", "b"]


def test_repeated_append_with_a_lone_surrogate_is_not_doubled(make: Make, server: Server) -> None:
    """A checkpoint changes such text; the turn is recognized all the same."""
    with write_with_lost_reply(make, server, "half a smile: \ud83d") as (agent, _):
        agent.invoke(None, THREAD)
        assert len(make()) == 3


@pytest.mark.parametrize("at", ["ChatHistoryMiddleware.before_agent", "model"])
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("way", ["invoke", "astream"])
async def test_time_travel_is_refused(make: Make, way: str, turn: int, at: str) -> None:
    """Going back to an earlier checkpoint says why it cannot be, and stores nothing."""
    agent, _ = remembering(make, ["a", "b", "other"], saver=InMemorySaver())
    say(agent, *"12")
    old = [state for state in agent.get_state_history(THREAD) if state.next == (at,)][turn]
    with pytest.raises(ValueError, match="goes back to an earlier checkpoint"):
        await drain(agent, way, None, config=old.config)
    assert words(make().messages) == [*"1a2b"]


def test_new_question_at_an_old_checkpoint_is_refused(make: Make) -> None:
    """So is another way from there, which would follow the one that was left."""
    agent, _ = remembering(make, ["a", "b", "other"], saver=InMemorySaver())
    say(agent, *"12")
    old = next(
        s for s in agent.get_state_history(THREAD) if not s.next and len(s.values["messages"]) == 2
    )
    with pytest.raises(ValueError, match="goes back to an earlier checkpoint"):
        agent.invoke(ask("other"), old.config)
    say(agent, "3")
    assert words(make().messages) == [*"1a2b3", "other"]


def test_newest_checkpoint_may_be_named(make: Make) -> None:
    """A call that names the checkpoint from which it would go on anyway is no time travel."""
    agent, _ = remembering(make, ["a", "b"], saver=InMemorySaver())
    say(agent, "1")
    agent.invoke(ask("2"), next(agent.get_state_history(THREAD)).config)
    assert words(make().messages) == [*"1a2b"]


def test_what_the_state_holds_is_not_written_again(make: Make) -> None:
    """Beside a checkpointer the beginning of a turn writes no message that is there already."""
    agent, _ = remembering(make, [*"abc"], saver=InMemorySaver())
    say(agent, *"12")
    updates = [*agent.stream(ask("3"), THREAD, stream_mode="updates")]
    begun = updates[0]["ChatHistoryMiddleware.before_agent"]
    assert "messages" not in begun
    assert words(begun["memorystore_turn"]["messages"]) == ["3"]


def test_thirty_turns_add_little_to_the_checkpoints(make: Make) -> None:
    """The middleware adds a tenth to the values that are stored, and no conversation to writes."""
    used = []
    for middleware in ([], [ChatHistoryMiddleware(make)]):
        saver = InMemorySaver()
        agent = create_agent(DemoChatModel(), middleware=middleware, checkpointer=saver)
        say(agent, *(f"My favorite number is {n}, said at a usual length." for n in range(30)))
        writes = sum(len(w[2][1]) for task in saver.writes.values() for w in task.values())
        used.append((writes, sum(len(value) for _, value in saver.blobs.values())))
    (writes, values), (writes_beside, values_beside) = used
    assert values_beside <= 1.1 * values
    assert writes_beside <= 5 * writes


def test_langgraph_names_its_settings_as_expected() -> None:
    """The two settings of a task that have no public name are still called so."""
    from langgraph._internal import _constants

    from memorystore_chat import _middleware

    changed = "LangGraph has renamed a setting that is read here: see _middleware.py"
    assert _middleware.CHECKPOINTER == _constants.CONFIG_KEY_CHECKPOINTER, changed
    assert _middleware.RESUMING == _constants.CONFIG_KEY_RESUMING, changed
