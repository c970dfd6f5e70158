"""ChatHistoryMiddleware beside a checkpointer."""

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
)
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from memorystore_chat import (
    ConnectError,
    DemoChatModel,
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
)
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.storage import codec
from proxy import Proxy
from scripted import (
    NO_RETRY,
    THREAD,
    Make,
    Scripted,
    ask,
    call,
    look_up,
    nowhere,
    texts,
)
from servers import Server


def approval(make: Make, model: Scripted, saver: InMemorySaver) -> Any:
    return create_agent(
        model,
        [look_up],
        middleware=[
            ChatHistoryMiddleware(make),
            HumanInTheLoopMiddleware(interrupt_on={"look_up": True}),
        ],
        checkpointer=saver,
    )


@pytest.mark.parametrize(
    ("decision", "result"),
    [
        ({"type": "approve"}, "facts about tea"),
        (
            {
                "type": "edit",
                "edited_action": {"name": "look_up", "args": {"thing": "coffee"}},
            },
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
    waiting = approval(make, Scripted(replies=[call("tea")]), saver).invoke(ask("1"), THREAD)
    assert "__interrupt__" in waiting
    assert len(make()) == 0

    model = Scripted(replies=["fine", "ok"])
    agent = approval(make, model, saver)
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

    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages[4:]] == ["2", "ok"]


def test_interrupted_turn_is_dropped_by_a_new_message(make: Make) -> None:
    """No model is ever shown the call that was not answered."""
    model = Scripted(replies=[call("tea"), "never mind"])
    agent = approval(make, model, InMemorySaver())
    agent.invoke(ask("1"), THREAD)
    agent.invoke(ask("forget it"), THREAD)
    assert texts(model.asked[-1]) == [("human", "forget it")]
    assert [message.text for message in make().messages] == ["forget it", "never mind"]


@pytest.mark.parametrize("window", [None, 2])
def test_checkpointer_beside_it_doubles_nothing(make: Make, window: int | None) -> None:
    """Messages that the checkpoint has too are seen once and stored once."""
    model = Scripted(replies=["a", call("tea"), "b", "c", "d"])
    agent: Any = create_agent(
        model,
        [look_up],
        middleware=[ChatHistoryMiddleware(lambda s: make(s, window=window))],
        checkpointer=InMemorySaver(),
    )
    for question in "1234":
        agent.invoke(ask(question), THREAD)
    stored = [message.text for message in make().messages]
    assert stored == ["1", "a", "2", "", "facts about tea", "b", "3", "c", "4", "d"]
    assert [message.text for message in model.asked[-1]] == stored[
        -window - 2 if window else 0 : -1
    ]


def test_checkpoint_that_lags_behind_gets_what_it_missed(make: Make) -> None:
    """Two processes, each with a checkpointer of its own, share the session."""
    models = [Scripted(replies=["a", "c"]), Scripted(replies=["b", "d"])]
    agents: list[Any] = [
        create_agent(model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver())
        for model in models
    ]
    for number, question in enumerate("1234"):
        agents[number % 2].invoke(ask(question), THREAD)
    assert [message.text for message in make().messages] == [*"1a2b3c4d"]
    assert [message.text for message in models[0].asked[-1]] == [*"1a2b3"]


def test_messages_written_beside_the_agent_are_seen(make: Make) -> None:
    """What a chain or a script appended, without ids, joins in once."""
    model = Scripted(replies=["a", "b"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    make().add_user_message("0")
    agent.invoke(ask("1"), THREAD)
    make().add_ai_message("by the way")
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages] == ["0", "1", "a", "by the way", "2", "b"]
    assert len(model.asked[-1]) == 5


def test_cleared_session_stays_cleared(make: Make) -> None:
    """The checkpoint does not bring back what was deleted."""
    model = Scripted(replies=["a", "b"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("my secret"), THREAD)
    make().clear()
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in model.asked[-1]] == ["2"]
    assert [message.text for message in make().messages] == ["2", "b"]


def test_thread_begun_without_it_is_taken_over(make: Make) -> None:
    """A checkpointed conversation moves into the session with its next turn."""
    saver = InMemorySaver()
    bare: Any = create_agent(Scripted(replies=["a"]), checkpointer=saver)
    bare.invoke(ask("1"), THREAD)
    agent: Any = create_agent(
        Scripted(replies=["b"]), middleware=[ChatHistoryMiddleware(make)], checkpointer=saver
    )
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages] == [*"1a2b"]


@pytest.mark.parametrize("before_it", [[], [call("tea")]])
@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_failed_turn_in_a_checkpoint_can_be_resumed_or_dropped(
    make: Make, next_call: str, before_it: list[AIMessage]
) -> None:
    """Going on from the checkpoint finishes and stores the turn; a new message drops it."""
    model = Scripted(replies=["a", *before_it, RuntimeError("quota"), "b"])
    agent: Any = create_agent(
        model, [look_up], middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("1"), THREAD)
    with pytest.raises(RuntimeError):
        agent.invoke(ask("2"), THREAD)
    assert len(make()) == 2
    agent.invoke(None if next_call == "resume" else ask("3"), THREAD)
    failed = ["2", "", "facts about tea"] if before_it else ["2"]
    turn = failed if next_call == "resume" else ["3"]
    assert [message.text for message in model.asked[-1]] == ["1", "a", *turn]
    assert [message.text for message in make().messages] == ["1", "a", *turn, "b"]


@pytest.mark.parametrize("next_call", ["resume", "new message"])
def test_lost_reply_to_the_write_stores_the_turn_once(
    server: Server, key_prefix: str, next_call: str
) -> None:
    """After an error at the write, going on from the checkpoint neither loses nor doubles it."""
    with (
        Proxy(server.host, server.port) as proxy,
        server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        history.add_messages([HumanMessage("0", id="0")])
        model = Scripted(replies=["a", "b"])
        agent: Any = create_agent(
            model, middleware=[ChatHistoryMiddleware(history)], checkpointer=InMemorySaver()
        )
        proxy.lose_every = 1
        with pytest.raises(ConnectError, match="appending to"):
            agent.invoke(ask("1"), THREAD)
        proxy.lose_every = 0
        assert len(history) == 3
        if next_call == "resume":
            answer = agent.invoke(None, THREAD)
            assert answer["messages"][-1].text == "a"
            assert len(model.asked) == 1
        agent.invoke(ask("2"), THREAD)
        assert [message.text for message in history.messages] == ["0", "1", "a", "2", "b"]


def test_write_that_failed_is_made_up_for_from_the_checkpoint(make: Make, client: Any) -> None:
    """agent.invoke(None) tries the write alone: the model is not asked again."""
    model = Scripted(replies=[lambda: client.set(make().key, "no list") and "a"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    with pytest.raises(MemorystoreChatError, match="WRONGTYPE"):
        agent.invoke(ask("1"), THREAD)
    client.unlink(make().key)
    agent.invoke(None, THREAD)
    assert [message.text for message in make().messages] == ["1", "a"]


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
    model = Scripted(replies=["a", "b"][-1 - turns_before :])
    histories = Flaky(make)
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(histories)], checkpointer=InMemorySaver()
    )
    if turns_before:
        agent.invoke(ask("1"), THREAD, durability=durability)
    histories.failures = outages
    for number in range(outages):
        with pytest.raises(ConnectError):
            agent.invoke(ask(f"lost {number}"), THREAD, durability=durability)
    agent.invoke(ask("2"), THREAD, durability=durability)
    stored = [*"1a2b"][-2 - 2 * turns_before :]
    assert [message.text for message in make().messages] == stored
    assert [message.text for message in model.asked[-1]] == stored[:-1]


def test_outage_at_the_read_can_be_resumed(make: Make) -> None:
    """Going on from the checkpoint asks the question of the last call, and no earlier one's."""
    model = Scripted(replies=["a", "b"])
    histories = Flaky(make)
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(histories)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("1"), THREAD)
    histories.failures = 2
    for question in ("lost", "2"):
        with pytest.raises(ConnectError):
            agent.invoke(ask(question), THREAD)
    agent.invoke(None, THREAD)
    assert [message.text for message in make().messages] == [*"1a2b"]


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_turn_cancelled_before_it_was_loaded_leaves_nothing_behind(
    make: Make, async_client: Any, turns_before: int
) -> None:
    """A call that times out while it loads the session is forgotten."""
    model = Scripted(replies=["a", "b"][-1 - turns_before :])
    slow = False

    def histories(thread_id: str) -> MemorystoreChatMessageHistory:
        return Slow(make(thread_id, async_client=async_client)) if slow else make(thread_id)

    class Slow(MemorystoreChatMessageHistory):
        def __init__(self, history: MemorystoreChatMessageHistory) -> None:
            self.__dict__.update(vars(history))

        async def aget_messages(self) -> list[BaseMessage]:
            await asyncio.sleep(30)
            return []

    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(histories)], checkpointer=InMemorySaver()
    )
    if turns_before:
        await agent.ainvoke(ask("1"), THREAD)
    slow = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.ainvoke(ask("lost"), THREAD), 0.2)
    slow = False
    await agent.ainvoke(ask("2"), THREAD)
    stored = [*"1a2b"][-2 - 2 * turns_before :]
    assert [message.text for message in make().messages] == stored


def test_turn_begun_meanwhile_does_not_answer_the_other(make: Make) -> None:
    """Two calls at once on a thread: each asks and stores its own question."""
    loading, go_on = threading.Event(), threading.Event()
    first = True

    def histories(thread_id: str) -> MemorystoreChatMessageHistory:
        nonlocal first
        if first:
            first = False
            loading.set()
            go_on.wait(10)
        return make(thread_id)

    model = Scripted(replies=["fast", "slow", "c"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(histories)], checkpointer=InMemorySaver()
    )
    thread = threading.Thread(target=agent.invoke, args=(ask("1"), THREAD))
    thread.start()
    loading.wait(10)
    agent.invoke(ask("2"), THREAD)
    go_on.set()
    thread.join(20)
    assert [message.text for message in model.asked[0]] == ["2"]
    agent.invoke(ask("3"), THREAD)
    assert [message.text for message in make().messages] == ["2", "fast", "1", "slow", "3", "c"]


def test_message_put_into_the_checkpoint_by_hand_is_kept(make: Make) -> None:
    """What update_state() adds between calls belongs to the next turn."""
    model = Scripted(replies=["a", "b"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("1"), THREAD)
    agent.update_state(THREAD, {"messages": [AIMessage("by the way")]})
    agent.invoke(ask("2"), THREAD)
    assert [message.text for message in make().messages] == ["1", "a", "by the way", "2", "b"]


def test_repeated_append_with_a_lone_surrogate_is_not_doubled(
    server: Server, key_prefix: str
) -> None:
    """A checkpoint changes such text; the turn is recognized all the same."""
    with (
        Proxy(server.host, server.port) as proxy,
        server.client(port=proxy.port, retry=NO_RETRY) as client,
    ):
        history = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
        agent: Any = create_agent(
            Scripted(replies=["half a smile: \ud83d"]),
            middleware=[ChatHistoryMiddleware(history)],
            checkpointer=InMemorySaver(),
        )
        history.add_user_message("0")
        proxy.lose_every = 1
        with pytest.raises(ConnectError, match="appending to"):
            agent.invoke(ask("1"), THREAD)
        proxy.lose_every = 0
        assert len(history) == 3
        agent.invoke(None, THREAD)
        assert len(history) == 3


async def go_on(agent: Any, way: str, config: Any) -> None:
    if way == "invoke":
        agent.invoke(None, config)
    else:
        [each async for each in agent.astream(None, config)]


@pytest.mark.parametrize("at", ["ChatHistoryMiddleware.before_agent", "model"])
@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("way", ["invoke", "astream"])
async def test_time_travel_is_refused(make: Make, way: str, turn: int, at: str) -> None:
    """Going back to an earlier checkpoint says why it cannot be, and stores nothing."""
    model = Scripted(replies=["a", "b", "other"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    for question in "12":
        agent.invoke(ask(question), THREAD)
    old = [state for state in agent.get_state_history(THREAD) if state.next == (at,)][turn]
    with pytest.raises(ValueError, match="goes back to an earlier checkpoint"):
        await go_on(agent, way, old.config)
    assert [message.text for message in make().messages] == [*"1a2b"]


def test_new_question_at_an_old_checkpoint_is_refused(make: Make) -> None:
    """So is another way from there, which would follow the one that was left."""
    model = Scripted(replies=["a", "b", "other"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    for question in "12":
        agent.invoke(ask(question), THREAD)
    old = next(
        s for s in agent.get_state_history(THREAD) if not s.next and len(s.values["messages"]) == 2
    )
    with pytest.raises(ValueError, match="goes back to an earlier checkpoint"):
        agent.invoke(ask("other"), old.config)
    agent.invoke(ask("3"), THREAD)
    assert [message.text for message in make().messages] == [*"1a2b3", "other"]


def test_newest_checkpoint_may_be_named(make: Make) -> None:
    """A call that names the checkpoint from which it would go on anyway is no time travel."""
    model = Scripted(replies=["a", "b"])
    agent: Any = create_agent(
        model, middleware=[ChatHistoryMiddleware(make)], checkpointer=InMemorySaver()
    )
    agent.invoke(ask("1"), THREAD)
    agent.invoke(ask("2"), next(agent.get_state_history(THREAD)).config)
    assert [message.text for message in make().messages] == [*"1a2b"]


def test_what_the_state_holds_is_not_written_again(make: Make) -> None:
    """Beside a checkpointer the beginning of a turn writes no message that is there already."""
    agent: Any = create_agent(
        Scripted(replies=[*"abc"]),
        middleware=[ChatHistoryMiddleware(make)],
        checkpointer=InMemorySaver(),
    )
    for question in "12":
        agent.invoke(ask(question), THREAD)
    updates = [*agent.stream(ask("3"), THREAD, stream_mode="updates")]
    begun = updates[0]["ChatHistoryMiddleware.before_agent"]
    assert "messages" not in begun
    assert [message.text for message in begun["memorystore_turn"]["messages"]] == ["3"]


def test_thirty_turns_add_little_to_the_checkpoints(make: Make) -> None:
    """The middleware adds a tenth to the values that are stored, and no conversation to writes."""
    used = []
    for middleware in ([], [ChatHistoryMiddleware(make)]):
        saver = InMemorySaver()
        agent: Any = create_agent(
            DemoChatModel(), [look_up], middleware=middleware, checkpointer=saver
        )
        for turn in range(30):
            agent.invoke(ask(f"My favorite number is {turn}, said at a usual length."), THREAD)
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
