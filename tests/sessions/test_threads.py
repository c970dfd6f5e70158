"""Sessions taken over into a checkpointer's thread, and threads read out."""

from typing import Any

import pytest
import redis
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.sessions.threads import messages_of, take_over
from memorystore_tutorial import DemoChatModel

CONFIG: Any = {"configurable": {"thread_id": "t"}}
TALK = [
    HumanMessage("My name is Ada."),
    AIMessage("Nice to meet you, Ada.", usage_metadata=None),
    HumanMessage("Weather?"),
    AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "1"}]),
    ToolMessage("sunny", tool_call_id="1", artifact={"degrees": 21}),
    AIMessage("It is sunny."),
]


@pytest.fixture(params=["MemorystoreSaver", "InMemorySaver"])
def saver(
    request: pytest.FixtureRequest, client: redis.Redis, key_prefix: str
) -> BaseCheckpointSaver[Any]:
    if request.param == "InMemorySaver":
        return InMemorySaver()
    return MemorystoreSaver(client, key_prefix=key_prefix)


@pytest.fixture
def history(client: redis.Redis, key_prefix: str) -> MemorystoreChatMessageHistory:
    made = MemorystoreChatMessageHistory(client, "s", key_prefix=key_prefix)
    made.add_messages(TALK)
    return made


def told(messages: Any) -> list[Any]:
    return [message.model_dump(exclude={"id"}) for message in messages]


def test_an_agent_goes_on(
    saver: BaseCheckpointSaver[Any], history: MemorystoreChatMessageHistory
) -> None:
    """An agent with the checkpointer remembers the session, and the session stays as it was."""
    assert take_over(history, saver, "t") == 6
    agent = create_agent(DemoChatModel(), checkpointer=saver)
    answer = agent.invoke({"messages": [HumanMessage("What is my name?")]}, CONFIG)
    assert "Ada" in answer["messages"][-1].text
    assert len(answer["messages"]) == 8
    assert told(history.messages) == told(TALK)


def test_twice_is_once(
    saver: BaseCheckpointSaver[Any], history: MemorystoreChatMessageHistory
) -> None:
    """Taken over again the thread gains what the session gained, and nothing is doubled."""
    take_over(history, saver, "t")
    history.add_user_message("My name is Ada.")
    for _ in range(2):
        assert take_over(history, saver, "t") == 7
    assert told(messages_of(saver, "t")) == told([*TALK, HumanMessage("My name is Ada.")])


def test_read_out(saver: BaseCheckpointSaver[Any], client: redis.Redis, key_prefix: str) -> None:
    agent = create_agent(DemoChatModel(), checkpointer=saver)
    said = agent.invoke({"messages": [HumanMessage("My name is Ada.")]}, CONFIG)["messages"]
    assert messages_of(saver, "t") == said
    history = MemorystoreChatMessageHistory(client, "new", key_prefix=key_prefix)
    history.add_messages(messages_of(saver, "t"))
    assert history.messages == said
    assert messages_of(saver, "no such thread") == []


def test_an_empty_session(
    saver: BaseCheckpointSaver[Any], client: redis.Redis, key_prefix: str
) -> None:
    nothing = MemorystoreChatMessageHistory(client, "nothing", key_prefix=key_prefix)
    assert take_over(nothing, saver, "t") == 0
    assert saver.get_tuple(CONFIG) is None


def test_other_things_are_refused(
    saver: BaseCheckpointSaver[Any], history: MemorystoreChatMessageHistory
) -> None:
    with pytest.raises(TypeError, match="takes a MemorystoreChatMessageHistory"):
        take_over([], saver, "t")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a checkpointer"):
        take_over(history, history, "t")  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match="thread_id"):
        messages_of(saver, 7)  # type: ignore[arg-type]
