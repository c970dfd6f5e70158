"""ChatHistoryMiddleware beside other middleware."""

from typing import Annotated, Any

import pytest
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command
from pydantic import BaseModel

from scripted import (
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


class Guard(AgentMiddleware[Any, Any, Any]):
    """Answers in the model's place."""

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        if "secret" in state["messages"][-1].text:
            return {"messages": [AIMessage("No.")], "jump_to": "end"}
        return None


@pytest.mark.parametrize("last", [False, True])
def test_turn_that_jumps_to_the_end_is_stored(make: Make, last: bool, checkpointer: Any) -> None:
    """A refusal without the model is a turn like any other, wherever the middleware stands."""
    agent, model = remembering(make, ["a", "b"], Guard(), last=last, saver=checkpointer)
    result = say(agent, "1")
    agent.invoke(ask("the secret", *result["messages"]), THREAD)
    say(agent, "2")
    expected = ["1", "a", "the secret", "No.", "2", "b"]
    assert words(make().messages) == expected
    assert words(model.asked[-1]) == expected[:-1]


async def test_jump_to_the_end_is_stored_async(make: Make, async_client: Any) -> None:
    """The asynchronous hook opens the turn too where the other was skipped."""
    history = make(client=nowhere(), async_client=async_client)
    agent, _ = remembering(history, [], Guard(), last=True)
    before = [HumanMessage("1", id="1"), AIMessage("a", id="2")]
    make().add_messages(before)
    await agent.ainvoke(ask("secret", *before), THREAD)
    assert words(make().messages) == ["1", "a", "secret", "No."]


class Withholds(AgentMiddleware[Any, Any, Any]):
    """Takes the question back before the model sees it, and answers in its place."""

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Any:
        taken_back = RemoveMessage(id=state["messages"][-1].id)
        return {"messages": [taken_back, AIMessage("Never mind.")], "jump_to": "end"}


def test_question_that_was_taken_back_is_not_stored(make: Make) -> None:
    """Only what replaced it is, also after messages that have no ids."""
    make().add_messages([HumanMessage("0"), AIMessage("a")])
    agent, _ = remembering(make, [], Withholds())
    say(agent, "secret")
    assert words(make().messages) == ["0", "a", "Never mind."]


class Weather(BaseModel):
    """An answer in a form."""

    city: str


def test_structured_output_is_stored_as_an_exchange(make: Make) -> None:
    """The call with the answer and its confirmation are stored, a failed first try too."""
    answers = [
        AIMessage("", tool_calls=[{"name": "Weather", "args": args, "id": f"c{number}"}])
        for number, args in enumerate([{"town": "Paris"}, {"city": "Paris"}, {"city": "Rome"}])
    ]
    agent, model = remembering(make, answers, response_format=ToolStrategy(Weather))
    assert say(agent, "1")["structured_response"] == Weather(city="Paris")
    assert [message.type for message in make().messages] == ["human", "ai", "tool", "ai", "tool"]
    assert say(agent, "2")["structured_response"] == Weather(city="Rome")
    assert len(model.asked[-1]) == 6
    assert [message.type for message in make().messages[5:]] == ["human", "ai", "tool"]


class Edits(AgentMiddleware[Any, Any, Any]):
    """Takes the model's answer back, and has a last word."""

    def after_model(self, state: Any, runtime: Any) -> Any:
        last = state["messages"][-1]
        return {"messages": [RemoveMessage(id=last.id), AIMessage("[removed]")]}

    def after_agent(self, state: Any, runtime: Any) -> Any:
        return {"messages": [AIMessage("[checked]")]}


def test_what_other_middleware_made_of_the_turn_is_stored(make: Make) -> None:
    """First in the list, it stores changed messages as changed, and not what was taken back."""
    agent, _ = remembering(make, ["rude words"], PIIMiddleware("email"), Edits())
    say(agent, "I am ada@example.com")
    assert words(make().messages) == ["I am [REDACTED_EMAIL]", "[removed]", "[checked]"]


class Replaces(AgentMiddleware[Any, Any, Any]):
    """Puts one message in the place of all, and forgets the ids."""

    def before_model(self, state: Any, runtime: Any) -> Any:
        told = " / ".join(message.text for message in state["messages"])
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage(told)]}


def test_turn_survives_a_middleware_that_replaces_every_message(make: Make) -> None:
    """Question and answer are stored as they were, though the question's id is gone."""
    make().add_user_message("0")
    agent, model = remembering(make, ["a"], Replaces())
    say(agent, "1")
    assert texts(model.asked[0]) == [("human", "0 / 1")]
    assert words(make().messages) == ["0", "1", "a"]


def summarizing(trigger: int) -> Any:
    """Puts a summary in the place of all but the last message once there are so many."""
    summaries = Scripted(replies=["SUMMARY"] * 9)
    return SummarizationMiddleware(summaries, trigger=("messages", trigger), keep=("messages", 1))


@pytest.mark.parametrize("last", [False, True])
def test_summarizing_changes_what_is_seen_not_what_is_stored(make: Make, last: bool) -> None:
    """The model gets a summary of the old turns; the session keeps them and not the summary."""
    agent, model = remembering(make, [*"abc"], summarizing(5), last=last)
    say(agent, *"123")
    assert "SUMMARY" in model.asked[-1][0].text
    assert words(model.asked[-1][1:]) == ["3"]
    assert words(make().messages) == [*"1a2b3c"]


def test_summary_within_the_turn_loses_nothing_of_it(make: Make) -> None:
    """A long turn whose own question is summarized away is stored whole."""
    replies = [call("1"), call("2", "3"), call("4"), "done"]
    agent, model = remembering(make, replies, summarizing(3))
    make().add_user_message("old")
    say(agent, "go")
    assert "go" not in words(model.asked[-1])
    assert words(make().messages) == [
        *("old", "go", "", "facts about 1", "", "facts about 2", "facts about 3"),
        *("", "facts about 4", "done"),
    ]


class Stops(AgentMiddleware[Any, Any, Any]):
    """Ends the run while a call is pending."""

    def __init__(self, *, says: bool) -> None:
        self.says = says

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: Any, runtime: Any) -> Any:
        if not state["messages"][-1].tool_calls:
            return None
        return {"jump_to": "end"} | ({"messages": [AIMessage("Stopped.")]} if self.says else {})


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("way", ["invoke", "astream"])
async def test_pending_call_is_stored_with_an_answer(
    make: Make, way: str, says: bool, checkpointer: Any
) -> None:
    """A call that was never carried out gets a result that says so, stored and replayed."""
    replies = [call("tea", "milk"), "fine"]
    agent, model = remembering(make, replies, Stops(says=says), saver=checkpointer)
    await drain(agent, way, ask("1"))
    stored = make().messages
    first = ["1", "", *["The call was not carried out."] * 2, *(["Stopped."] if says else [])]
    assert words(stored) == first
    answered = [m.tool_call_id for m in stored if isinstance(m, ToolMessage)]
    assert answered == ["call-tea", "call-milk"]
    say(agent, "2")
    assert words(model.asked[-1]) == [*first, "2"]
    assert words(make().messages) == [*first, "2", "fine"]


class Forgets(AgentMiddleware[Any, Any, Any]):
    """Replaces the conversation right after tools ran."""

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def before_model(self, state: Any, runtime: Any) -> Any:
        if state["messages"][-1].type != "tool":
            return None
        kept = [*state["messages"][: self.keep], HumanMessage("in short")]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *kept]}


@pytest.mark.parametrize("keep", [0, 1, 2])
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_result_survives_a_replacement_of_the_conversation(
    make: Make, way: str, keep: int
) -> None:
    """Results are noted when tools end, so that no call is stored without them."""
    agent, _ = remembering(make, [call("tea", "milk"), "fine"], Forgets(keep))
    await drain(agent, way, ask("1"))
    stored = [text for text in words(make().messages) if text != "in short"]
    assert stored == ["1", "", "facts about tea", "facts about milk", "fine"]


@pytest.mark.parametrize("remove", [True, False])
def test_tool_that_replaces_the_conversation(make: Make, remove: bool) -> None:
    """A tool's Command may do the same; its result is stored with its call."""

    @tool
    def start_over(tool_call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Forget what was said."""
        result = ToolMessage("forgotten", tool_call_id=tool_call_id)
        removal = [RemoveMessage(id=REMOVE_ALL_MESSAGES)] if remove else []
        return Command(update={"messages": [*removal, result]})

    asked = AIMessage("", tool_calls=[{"name": "start_over", "args": {}, "id": "c1"}])
    agent, _ = remembering(make, ["a", asked, "Let us begin."], tools=[start_over])
    say(agent, "1", "2")
    assert words(make().messages) == ["1", "a", "2", "", "forgotten", "Let us begin."]


class Redacts(AgentMiddleware[Any, Any, Any]):
    """Puts another result in the place of a tool's."""

    def before_model(self, state: Any, runtime: Any) -> Any:
        last = state["messages"][-1]
        if last.type != "tool" or last.text == "[redacted]":
            return None
        new = ToolMessage("[redacted]", tool_call_id=last.tool_call_id)
        return {"messages": [RemoveMessage(id=last.id), new]}


def test_exchanged_result_is_stored_once(make: Make) -> None:
    """A result that another middleware replaced is stored as replaced, and not twice."""
    agent, _ = remembering(make, [call("tea"), "fine"], Redacts())
    say(agent, "1")
    assert words(make().messages) == ["1", "", "[redacted]", "fine"]


@pytest.mark.parametrize("on_failure", ["continue", "error"])
def test_stand_in_of_a_failed_model(make: Make, on_failure: Any) -> None:
    """What the user was told in the model's place is stored; an error stores nothing."""
    retries = ModelRetryMiddleware(max_retries=0, on_failure=on_failure)
    agent, _ = remembering(make, [RuntimeError("quota")], retries)
    if on_failure == "error":
        with pytest.raises(RuntimeError, match="quota"):
            say(agent, "1")
        assert len(make()) == 0
    else:
        shown = say(agent, "1")["messages"][-1].text
        assert "failed" in shown
        assert texts(make().messages) == [("human", "1"), ("ai", shown)]
