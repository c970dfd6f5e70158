"""Agents with ChatHistoryMiddleware as nodes of a graph, alone and in pairs."""

from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from memorystore_chat.agents import ChatHistoryMiddleware
from scripted import THREAD, Make, Scripted, ask, call, drain, look_up, remembering, words

WAYS = ["invoke", "stream", "ainvoke", "astream"]


def node(make: Make, name: str, model: Scripted) -> Any:
    """An agent whose sessions have a prefix of their own."""
    prefix = make().key.removesuffix("ada/1") + name
    memory = ChatHistoryMiddleware(lambda thread: make(thread, key_prefix=prefix))
    return create_agent(model, [look_up], middleware=[memory], name=name)


def session(make: Make, name: str) -> list[str]:
    return words(make(key_prefix=make().key.removesuffix("ada/1") + name).messages)


def graph(agents: dict[str, Any], saver: InMemorySaver | None, *, as_functions: bool) -> Any:
    """A graph that runs the agents one after the other."""
    built = StateGraph(MessagesState)
    for name, agent in agents.items():
        if as_functions:

            def run(state: MessagesState, agent: Any = agent) -> Any:
                return {"messages": agent.invoke({"messages": state["messages"]})["messages"]}

            async def arun(state: MessagesState, agent: Any = agent) -> Any:
                answer = await agent.ainvoke({"messages": state["messages"]})
                return {"messages": answer["messages"]}

            built.add_node(name, RunnableLambda(run, arun))
        else:
            built.add_node(name, agent)
    for before, after in zip([START, *agents], agents, strict=False):
        built.add_edge(before, after)
    return built.compile(checkpointer=saver)


async def turn(graph: Any, way: str, question: str) -> list[str]:
    """One call of the graph; the texts of the messages that it ends with."""
    return words((await drain(graph, way, ask(question)))[-1]["messages"])


@pytest.mark.parametrize("as_functions", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_one_agent_as_a_node(
    make: Make, checkpointer: Any, way: str, as_functions: bool
) -> None:
    """The parent graph's messages stay in order, whether it holds the session or not."""
    model = Scripted(replies=["a1", call("tea"), "a2", "a3"])
    parent = graph({"a": node(make, "a", model)}, checkpointer, as_functions=as_functions)
    turns = [await turn(parent, way, question) for question in ("q1", "q2", "q3")]
    second = ["q2", "", "facts about tea", "a2"]
    whole = ["q1", "a1", *second, "q3", "a3"]
    assert session(make, "a") == whole
    assert words(model.asked[-1]) == whole[:-1]
    assert turns[1] == (whole[:6] if checkpointer else second)
    assert turns[2] == (whole if checkpointer else ["q3", "a3"])


@pytest.mark.parametrize("as_functions", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_two_agents_as_nodes(
    make: Make, checkpointer: Any, way: str, as_functions: bool
) -> None:
    """Each agent is asked the user's question and told what the other one said, once."""
    models = {name: Scripted(replies=[f"{name}{n}" for n in (1, 2, 3)]) for name in "ab"}
    agents = {name: node(make, name, model) for name, model in models.items()}
    parent = graph(agents, checkpointer, as_functions=as_functions)
    turns = [await turn(parent, way, question) for question in ("q1", "q2", "q3")]
    both = ["q1", "a1", "b1", "q2", "a2", "b2", "q3", "a3", "b3"]
    if checkpointer:
        assert words(models["a"].asked[-1]) == both[:-2]
    else:
        # The second agent's answers reach the first one with the parent's messages only.
        assert words(models["a"].asked[-1]) == ["q1", "a1", "q2", "a2", "q3"]
    assert words(models["b"].asked[-1]) == both[:-1]
    assert session(make, "b") == both
    assert turns[2] == (both if checkpointer else both[-3:])


async def test_stream_of_a_node_shows_no_old_message(make: Make) -> None:
    """stream_mode="messages" with sub-graphs shows what is new, and each message once."""
    agent = node(make, "a", Scripted(replies=["one", "two"]))
    parent = graph({"a": agent}, None, as_functions=False)
    parent.invoke(ask("q1"), THREAD)
    chunks = parent.stream(ask("q2"), THREAD, stream_mode="messages", subgraphs=True)
    assert "".join(chunk[1][0].text for chunk in chunks) == "two"


def test_unknown_question_before_known_messages_is_asked(make: Make) -> None:
    """What is new is decided by ids: a question that stands first is asked and stored too."""
    agent, model = remembering(make, ["a1", "a2"])
    first = agent.invoke(ask("q1"), THREAD)["messages"]
    agent.invoke({"messages": [HumanMessage("q2", id="new"), *first]}, THREAD)
    assert words(model.asked[-1]) == ["q1", "a1", "q2"]
    assert words(make().messages) == ["q1", "a1", "q2", "a2"]


def test_cap_does_not_make_dropped_messages_new(make: Make) -> None:
    """What max_messages dropped from the session stays dropped if the caller still passes it."""
    agent, model = remembering(lambda s: make(s, max_messages=4), [*"abcd"])
    own: list[BaseMessage] = []
    for question in "1234":
        own = [*own, HumanMessage(question)]
        own = [*own, agent.invoke({"messages": own}, THREAD)["messages"][-1]]
    assert words(make().messages) == [*"3c4d"]
    assert words(model.asked[-1]) == [*"2b3c4"]


def test_front_end_that_resends_the_conversation(make: Make) -> None:
    """whole_conversation=True takes the messages after the last answer, ids or not."""
    replies = [call("tea"), "a1", "a2", "a3"]
    agent, model = remembering(make, replies, whole_conversation=True)
    shown: list[dict[str, str]] = []
    for question in ("q1", "again", "again"):
        shown.append({"role": "user", "content": question})
        answer = agent.invoke({"messages": shown}, THREAD)["messages"][-1]
        shown.append({"role": "assistant", "content": answer.text})
    expected = ["q1", "", "facts about tea", "a1", "again", "a2", "again", "a3"]
    assert words(make().messages) == expected
    assert words(model.asked[-1]) == expected[:-1]


@pytest.mark.parametrize("window", [None, 1])
def test_resent_instructions_are_given_anew(make: Make, window: int | None) -> None:
    """A system message at the head of what is resent reaches the model in each turn."""
    history = partial(make, window=window)
    agent, model = remembering(history, ["a1", "a2"], whole_conversation=True)
    shown = [("system", "be brief"), ("user", "q1")]
    agent.invoke({"messages": shown}, THREAD)
    agent.invoke({"messages": [*shown, ("assistant", "a1"), ("user", "q2")]}, THREAD)
    assert words(model.asked[-1])[-2:] == ["be brief", "q2"]
    assert words(make().messages) == ["q1", "a1", "q2", "a2"]


def test_resent_conversation_restores_an_empty_session(make: Make) -> None:
    """A session that has expired is taken over from the front end as a whole."""
    agent, _ = remembering(make, ["a2"], whole_conversation=True)
    shown = [("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    agent.invoke({"messages": shown}, THREAD)
    assert words(make().messages) == ["q1", "a1", "q2", "a2"]


def test_whole_conversation_is_a_bool(make: Make) -> None:
    """Another type is refused."""
    wrong: Any = "yes"
    with pytest.raises(TypeError, match="whole_conversation is a str; it takes a bool"):
        ChatHistoryMiddleware(make, whole_conversation=wrong)


def test_reused_id_is_asked(make: Make, checkpointer: Any) -> None:
    """A front end that gives the same id to each message loses none of them."""
    agent, model = remembering(make, ["a1", "a2"], saver=checkpointer)
    for question in ("q1", "q2"):
        agent.invoke({"messages": [HumanMessage(question, id="1")]}, THREAD)
    assert words(model.asked[-1]) == ["q1", "a1", "q2"]
    stored = make().messages
    assert words(stored) == ["q1", "a1", "q2", "a2"]
    assert len({message.id for message in stored}) == 4


def test_same_message_object_is_asked_again(make: Make) -> None:
    """LangGraph gives the caller's object its id, so that a loop passes a known one."""
    agent, _ = remembering(make, ["a", "b"])
    again = HumanMessage("again")
    for _ in range(2):
        agent.invoke({"messages": [again]}, THREAD)
    assert words(make().messages) == ["again", "a", "again", "b"]


def test_call_that_asks_nothing_says_so(make: Make, checkpointer: Any) -> None:
    """Passing the last result alone is an error that says what to pass, and asks no model."""
    agent, model = remembering(make, ["a"], saver=checkpointer)
    result = agent.invoke(ask("q"), THREAD)
    with pytest.raises(ValueError, match=r"asks nothing.*Pass a new message"):
        agent.invoke(result, THREAD)
    assert len(model.asked) == 1
