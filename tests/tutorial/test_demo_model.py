"""What the demo model says, remembers and calls."""

from typing import Any, Literal

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool

from memorystore_tutorial.demo_model import DemoChatModel


def talk(*lines: str, system: str | None = None) -> list[str]:
    """Say each line in one conversation and return the replies."""
    messages: list[BaseMessage] = [SystemMessage(system)] if system else []
    for line in lines:
        messages.append(HumanMessage(line))
        messages.append(DemoChatModel().invoke(messages))
    return [message.text for message in messages if isinstance(message, AIMessage)]


@tool
def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def set_alarm(label: str, hour: int, unit: Literal["am", "pm"], loud: bool = False) -> str:
    """Set an alarm."""
    return f"{label} at {hour} {unit}, {loud=}"


@tool
def search_orders(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is on its way."


def asked(text: str, *tools: Any, **options: Any) -> AIMessage:
    """Ask the demo model with tools bound."""
    return DemoChatModel().bind_tools(list(tools), **options).invoke(text)


# Memory


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("My name is Ada.", "Ada"),
        ("Hello! My name is Ada Lovelace and I like tea.", "Ada Lovelace"),
        ("my name is ada", "ada"),
        ("My name's O'Neil-Smith!", "O'Neil-Smith"),
        ("Please call me José.", "José"),
        ("I am called 山田.", "山田"),
        ("Hi, I'm Bob.", "Bob"),
    ],
)
def test_remembers_a_name(statement: str, name: str) -> None:
    first, second = talk(statement, "What is my name?")
    assert first == f"Nice to meet you, {name}."
    assert second == f"Your name is {name}."


@pytest.mark.parametrize("statement", ["Hello", "I'm tired.", "Call me later.", "I am here."])
def test_takes_no_other_word_for_a_name(statement: str) -> None:
    assert talk(statement, "What is my name?")[1] == "You have not told me your name yet."


@pytest.mark.parametrize(
    "question",
    ["What's my name?", "what is my name", "Do you remember my name?", "Tell me my name."],
)
def test_recognizes_the_question_for_the_name(question: str) -> None:
    assert talk("My name is Ada.", question)[1] == "Your name is Ada."
    assert talk(f"My name is Ada. {question}") == ["Your name is Ada."]


def test_newest_fact_wins() -> None:
    replies = talk(
        "My name is Ada.",
        "My favorite color is red.",
        "My name is Grace. My favorite color is blue!",
        "What is my name?",
        "What is my favorite color?",
    )
    assert replies[2:] == [
        "Nice to meet you, Grace. I will remember that your favorite color is blue.",
        "Your name is Grace.",
        "Your favorite color is blue.",
    ]


def test_remembers_favorite_things() -> None:
    replies = talk(
        "My favourite colour is green and my favorite fruits are figs, of course.",
        "What is my favorite color?",
        "Do you know what my favourite fruits are?",
        "What is my favorite city?",
    )
    assert replies == [
        "I will remember that your favorite color is green. "
        "I will remember that your favorite fruits are figs.",
        "Your favorite color is green.",
        "Your favorite fruits are figs.",
        "You have not told me your favorite city yet.",
    ]


def test_remembers_what_was_asked_and_said() -> None:
    replies = talk(
        "My name is Ada.",
        "Where is Paris?",
        "Is it large?",
        "What did I ask before?",
        "What was my first question?",
        "What did I say first?",
        "What was my last message?",
    )
    assert replies[3:] == [
        'You asked: "Is it large?"',
        'The first thing you asked was: "Where is Paris?"',
        'The first thing you said was: "My name is Ada."',
        'You said: "What did I say first?"',
    ]
    assert talk("What did I ask before?") == ["This is where we started."]
    assert talk("Hello.", "What did I ask before?")[1] == "You have not asked anything before."


def test_counts_messages() -> None:
    replies = talk("Hello", "How many messages have we exchanged?", system="Be kind.")
    assert replies[1] == "We have exchanged 3 messages so far, counting this question."
    assert talk("How many messages have we exchanged?") == [
        "We have exchanged 1 message so far, counting this question."
    ]


def test_summarizes() -> None:
    replies = talk(
        "My name is Ada.",
        "My favorite color is green.",
        "Where is Paris?",
        "Summarize our conversation.",
        "What do you know about me?",
    )
    assert replies[3:] == [
        "The user's name is Ada. The user's favorite color is green. "
        "The user asked: Where is Paris?",
        "Your name is Ada. Your favorite color is green.",
    ]
    assert talk("Please summarize.") == ["There is nothing to summarize yet."]
    assert talk("Lunch was good.", "Recap, please.")[1] == 'The user said: "Lunch was good."'


def test_summarizes_for_the_summarization_middleware() -> None:
    from langchain.agents.middleware import SummarizationMiddleware
    from langgraph.runtime import Runtime

    summarize = SummarizationMiddleware(
        model=DemoChatModel(), trigger=("messages", 4), keep=("messages", 1)
    )
    history: list[AnyMessage] = [
        HumanMessage("My name is Ada & Co. What is my favorite color?"),
        AIMessage("Your name is Eve."),
        HumanMessage("My favorite color is green."),
        AIMessage("Noted."),
        HumanMessage("What is my favorite color?"),
    ]
    update = summarize.before_model({"messages": history}, Runtime())
    assert update is not None
    summarized = update["messages"][1:]
    assert summarized[0].text == (
        "Here is a summary of the conversation to date:\n\nThe user's name is Ada. The user's "
        "favorite color is green. The user asked: My name is Ada & Co. What is my favorite color?"
    )
    assert DemoChatModel().invoke(summarized).text == "Your favorite color is green."


def test_says_what_it_is() -> None:
    about = "I am the small demo model of this tutorial: a few rules, offline, no AI service."
    assert talk("Who are you?") == [about]
    assert talk("Who are you?", system="You are a helpful assistant.") == [
        f'{about} I was told: "You are a helpful assistant."'
    ]


def test_small_talk_and_the_honest_fallback() -> None:
    replies = talk("Hello", "My name is Ada.", "Hi again!", "Thank you.", "Prove Fermat's theorem.")
    assert replies[0] == "Hello. What is your name?"
    assert replies[2:4] == ["Hello, Ada.", "You are welcome, Ada."]
    assert replies[4].startswith("I am only a small offline demo model, so I have no answer")


def test_reads_text_in_multimodal_messages() -> None:
    picture = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    history = [
        HumanMessage([picture, {"type": "text", "text": "This is me: my name is Ada."}]),
        AIMessage([{"type": "text", "text": "Nice to meet you, Ada."}]),
        HumanMessage([{"type": "text", "text": "What is my name?"}, picture]),
    ]
    assert DemoChatModel().invoke(history).text == "Your name is Ada."
    assert "demo model" in DemoChatModel().invoke([HumanMessage([picture])]).text


@pytest.mark.parametrize("messages", [[SystemMessage("Be kind.")], [AIMessage("Hello.")]])
def test_answers_without_a_human_message(messages: list[BaseMessage]) -> None:
    assert "demo model" in DemoChatModel().invoke(messages).text


# Form


async def test_all_ways_to_call_agree() -> None:
    model = DemoChatModel()
    question = "What is my name?"
    expected = model.invoke(question)
    streamed = list(model.stream(question))
    astreamed = [chunk async for chunk in model.astream(question)]
    words = ["You", " have", " not", " told", " me", " your", " name", " yet."]
    assert [chunk.text for chunk in streamed] == words
    assert [chunk.text for chunk in astreamed] == [chunk.text for chunk in streamed]
    for reply in (
        await model.ainvoke(question),
        model.batch([question])[0],
        sum(streamed[1:], streamed[0]),
        sum(astreamed[1:], astreamed[0]),
    ):
        assert isinstance(reply, AIMessage)
        assert reply.text == expected.text
        assert reply.usage_metadata == expected.usage_metadata
        assert reply.response_metadata["model_name"] == "demo"
        assert reply.response_metadata["finish_reason"] == "stop"


def test_counts_tokens_as_words() -> None:
    reply = DemoChatModel().invoke([SystemMessage("Be kind."), HumanMessage("What is my name?")])
    assert reply.usage_metadata == {"input_tokens": 6, "output_tokens": 8, "total_tokens": 14}


def test_reports_the_model_name() -> None:
    model = DemoChatModel(model="mine", temperature=0.3)  # type: ignore[call-arg]
    assert model.invoke("Hi").response_metadata["model_name"] == "mine"
    assert model.invoke("Hi", model="other").response_metadata["model_name"] == "other"


def test_honors_stop() -> None:
    assert DemoChatModel().invoke("What is my name?", stop=["your", "told"]).text == "You have not "
    model = DemoChatModel(stop=["have"])
    assert "".join(chunk.text for chunk in model.stream("What is my name?")) == "You "
    assert model.invoke("What is my name?", stop=["name"]).text == "You have not told me your "
    stopped = list(DemoChatModel().stream("What is my name?", stop=["You"]))
    assert [chunk.text for chunk in stopped] == [""]
    assert isinstance(stopped[0], AIMessageChunk)
    assert stopped[0].chunk_position == "last"


# Tools


@pytest.mark.parametrize(
    ("text", "name", "args"),
    [
        *(
            (text, "get_weather", {"city": city})
            for text, city in {
                "What is the weather in Paris?": "Paris",
                "use get_weather with city Paris": "Paris",
                "Use get_weather with city new york, please.": "new york",
                "Tell me about the weather in San Francisco, CA?": "San Francisco, CA",
                "What is the weather like in Paris today?": "Paris",
                "get_weather('São Paulo')": "São Paulo",
                "call get_weather(city=Rome)": "Rome",
                'How is the weather in "Bosnia and Herzegovina"?': "Bosnia and Herzegovina",
                "Could you tell me the weather for tomorrow in Berlin, please?": "Berlin",
            }.items()
        ),
        ("Look up order A-17, please.", "search_orders", {"order_id": "A-17"}),
        ("Add 2 and 3.", "add", {"a": 2, "b": 3}),
        ("use add with b 5 and a -4", "add", {"a": -4, "b": 5}),
        ("add(40, 2)", "add", {"a": 40, "b": 2}),
        (
            "Set an alarm called 'wake up' with hour 7 and unit am and loud yes",
            "set_alarm",
            {"label": "wake up", "hour": 7, "unit": "am", "loud": True},
        ),
        (
            "Please set the alarm for school, unit pm, hour: 6",
            "set_alarm",
            {"label": "school", "hour": 6, "unit": "pm"},
        ),
    ],
)
def test_calls_a_tool_when_asked_plainly(text: str, name: str, args: dict[str, object]) -> None:
    reply = asked(text, get_weather, add, set_alarm, search_orders)
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [(name, args)]
    assert reply.text == ""
    assert reply.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "text", ["My name is Ada.", "The weather was nice.", "What is my name?", "I add sugar to tea."]
)
def test_calls_no_tool_when_not_asked(text: str) -> None:
    reply = asked(text, get_weather, add)
    assert not reply.tool_calls
    assert reply.text == DemoChatModel().invoke(text).text


def test_asks_for_a_missing_argument() -> None:
    model = DemoChatModel().bind_tools([get_weather, set_alarm])
    question = HumanMessage("How is the weather?")
    reply = model.invoke([question])
    assert not reply.tool_calls
    assert reply.text == "Which city do you mean?"
    [call] = model.invoke([question, reply, HumanMessage("New York.")]).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "New York"})
    other = model.invoke([question, reply, HumanMessage("What is my name?")])
    assert other.text == "You have not told me your name yet."


@tool
def get_opening_hours(place: str) -> str:
    """Tell when a place in town opens and closes."""
    return {"museum": "10 am to 6 pm"}[place]


@tool
def count_residents(city: str) -> str:
    """Tell how many people live in a city."""
    return f"{city}: 1.4 million"


@pytest.mark.parametrize(
    ("question", "name", "argument"),
    [
        ("What is the weather in Kyoto?", "get_weather", "Kyoto"),
        ("When does the museum open?", "get_opening_hours", "museum"),
        ("When does the museum close today?", "get_opening_hours", "museum"),
        ("Is the museum open?", "get_opening_hours", "museum"),
        ("What are the opening hours of the museum?", "get_opening_hours", "museum"),
        ("How many people live in Kyoto?", "count_residents", "Kyoto"),
    ],
)
def test_uses_tools_without_being_told_their_names(question: str, name: str, argument: str) -> None:
    [call] = asked(question, get_weather, get_opening_hours, count_residents, add).tool_calls
    assert (call["name"], [*call["args"].values()]) == (name, [argument])


@pytest.mark.parametrize(
    "text", ["What is the best city?", "Where is Paris?", "When do you close?"]
)
def test_a_chance_word_of_a_description_calls_nothing(text: str) -> None:
    reply = asked(text, get_weather, get_opening_hours, count_residents)
    assert not reply.tool_calls


def test_says_like_a_person_what_a_tool_found() -> None:
    model = DemoChatModel().bind_tools([get_opening_hours])
    messages: list[BaseMessage] = [HumanMessage("When does the museum open?")]
    messages.append(reply := model.invoke(messages))
    [call] = reply.tool_calls
    messages.append(get_opening_hours.invoke(call))
    assert model.invoke(messages).text == "I looked it up for the museum: 10 am to 6 pm."
    nothing = ToolMessage("", tool_call_id=call["id"])
    assert model.invoke([*messages[:2], nothing]).text == "It is done."


def test_answers_from_the_tool_result() -> None:
    model = DemoChatModel().bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage("What is the weather in Paris?")]
    messages.append(reply := model.invoke(messages))
    [call] = reply.tool_calls
    result = get_weather.invoke(call)
    assert model.invoke([*messages, result]).text == "It is sunny in Paris."
    # Without a name of its own, the result is known by the call it answers.
    failed = ToolMessage("no such city", tool_call_id=call["id"], status="error")
    assert model.invoke([*messages, failed]).text == "Sorry, that did not work: no such city."
    later = [*messages, result, AIMessage("It is sunny."), HumanMessage("What did I ask before?")]
    assert model.invoke(later).text == 'You asked: "What is the weather in Paris?"'


def test_calls_several_named_tools_at_once() -> None:
    model = DemoChatModel().bind_tools([get_weather, add])
    messages: list[BaseMessage] = [
        HumanMessage("Use add with a 1 and b 2, and get_weather with city Oslo.")
    ]
    messages.append(reply := model.invoke(messages))
    calls = reply.tool_calls
    assert [call["args"] for call in calls] == [{"city": "Oslo"}, {"a": 1, "b": 2}]
    assert len({call["id"] for call in calls}) == 2
    messages += [get_weather.invoke(calls[0]), add.invoke(calls[1])]
    assert model.invoke(messages).text == "It is sunny in Oslo. I looked it up: 3."


def test_tool_calls_are_deterministic() -> None:
    question = HumanMessage("What is the weather in Paris?")
    model = DemoChatModel().bind_tools([get_weather])
    first = model.invoke([question])
    [call] = first.tool_calls
    assert model.invoke([question]).tool_calls == [call]
    history = [question, first, get_weather.invoke(call), AIMessage("Sunny."), question]
    assert model.invoke(history).tool_calls[0]["id"] != call["id"]


async def test_streams_tool_calls() -> None:
    model = DemoChatModel().bind_tools([get_weather])
    expected = model.invoke("What is the weather in 東京?")
    chunks = list(model.stream("What is the weather in 東京?"))
    achunks = [chunk async for chunk in model.astream("What is the weather in 東京?")]
    for full in (sum(chunks[1:], chunks[0]), sum(achunks[1:], achunks[0])):
        assert full.tool_calls == expected.tool_calls
        assert full.usage_metadata == expected.usage_metadata
    assert expected.tool_calls[0]["args"] == {"city": "東京"}


def test_tool_choice() -> None:
    assert asked("Hello", get_weather, tool_choice="any").tool_calls[0]["args"] == {"city": "Hello"}
    assert asked("Hello", get_weather, tool_choice=True).tool_calls
    invented = asked("Hello", get_weather, add, tool_choice="add").tool_calls[0]["args"]
    assert invented == {"a": 0, "b": 0}
    named = {"type": "function", "function": {"name": "add"}}
    assert asked("Hello", get_weather, add, tool_choice=named).tool_calls[0]["name"] == "add"
    assert not asked("What is the weather in Paris?", get_weather, tool_choice="none").tool_calls
    words = r"must be 'auto', 'any', 'none' or one of \['get_weather'\], not 'missing'\.$"
    with pytest.raises(ValueError, match=words):
        asked("Hello", get_weather, tool_choice="missing")
