"""What the demo model says, remembers and calls."""

import itertools
import re
import time
from typing import Any

import pytest
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.runtime import Runtime

from memorystore_tutorial.demo_model import FALLBACKS, DemoChatModel

TOLD = (
    "My name is Ada.",
    "My favorite color is green. I like pizza.",
    "I live in Oslo, and my dog is called Rex.",
    "I am allergic to nuts.",
    "I love hiking and jazz, but I don't like fish. My girlfriend hates fish.",
    "I'm vegetarian, and I'm 34 years old.",
    "Is breakfast included?",
)
# What a guest types, and what a good answer holds; with "told" after what TOLD says.
INPUTS = [
    ("Hi! My name is Ada.", "meet you, Ada"),
    ("my name is ada", "meet you, Ada"),
    ("Hello, I'm Ada!", "meet you, Ada"),
    ("I am Ada Lovelace", "Ada Lovelace"),
    ("Меня зовут Анна", "meet you, Анна"),
    ("我叫小明", "小明"),
    ("My name is José and I like tea", "José.*like tea"),
    ("I like pizza", "you like pizza"),
    ("I love hiking in the mountains.", "you love hiking in the mountains"),
    ("My dog is called Rex", "your dog is called Rex"),
    ("my dog's name is Rex and my cat is called Tom", "Rex.*your cat is called Tom"),
    ("Remember that I am allergic to nuts.", "that you are allergic to nuts"),
    ("remember that the meeting is at 3", "the meeting is at 3"),
    ("I live in Oslo and I work as a nurse", "live in Oslo.*work as a nurse"),
    ("My favourite colour is green", "favorite color is green"),
    ("I'm from Brazil", "you are from Brazil"),
    ("I don't eat meat", "you don't eat meat"),
    ("how are you", "fine"),
    ("How are you doing today?", "fine"),
    ("I am fine, and you?", "glad"),
    ("I'm tired", "sorry"),
    ("Good morning", "Good morning. What is your name"),
    ("thanks", "welcome"),
    ("Thank you so much!", "welcome"),
    ("bye", "Goodbye"),
    ("good night", "Goodbye"),
    ("help", "I like green tea"),
    ("what can you do?", "I like green tea"),
    ("What can you help me with", "I like green tea"),
    ("What is 6 times 7?", "42"),
    ("12 + 30", "42"),
    ("what's 50 minus 8", "42"),
    ("How much is 2 plus 2?", "4"),
    ("Hola", "¡Hola!"),
    ("Bonjour!", "Bonjour"),
    ("Danke", "Gern"),
    ("Guten Morgen", "Hallo!"),
    ("Je m'appelle Luc.", "meet you, Luc"),
    ("こんにちは", "こんにちは"),
    ("Привет", "Здравствуйте"),
    ("who are you?", "demo model"),
    ("are you a robot", "demo model"),
    ("tell me a joke", "caches"),
    ("what time is it?", "clock"),
    ("ok", "else"),
    ("told what is my name", "Your name is Ada"),
    ("told wat is my name", "Your name is Ada"),
    ("told do you remeber my name?", "Your name is Ada"),
    ("told Who am I?", "Your name is Ada"),
    ("told whats my favrite colour", "favorite color is green"),
    ("told what did I tell you about my dog?", '"I live in Oslo, and my dog is called Rex."'),
    ("told what's my dog called?", "Your dog is called Rex"),
    ("told Where do I live?", "You live in Oslo"),
    ("told what do I like?", "^You like pizza. You love hiking and jazz.$"),
    ("told What don't I like?", "^You don't like fish.$"),
    ("told Do I like fish?", "^You don't like fish."),
    ("My girlfriend hates fish", "that your girlfriend hates fish"),
    ("told What does my girlfriend hate?", "^Your girlfriend hates fish.$"),
    ("told What do I like to eat?", "^You like pizza. You love hiking and jazz.$"),
    ("I'm vegetarian", "that you are vegetarian"),
    ("told What am I?", "allergic.*You are vegetarian"),
    ("I'm 34 years old", "that you are 34 years old"),
    ("told How old am I?", "^You are 34"),
    ("Actually I prefer coffee", "that you prefer coffee"),
    ("told Please forget my favorite color", "can't unsay"),
    ("don't forget my birthday is May 4", "your birthday is May 4"),
    ("Can I get a taxi to the airport tomorrow at 6?", ""),
    ("what can I eat?", ""),
    ("Am I allowed to smoke?", ""),
    ("Can I cancel my booking?", ""),
    ("What am I allergic to?", "not told me that"),
    ("told am i allergic to anything", "allergic to nuts"),
    ("Can you recommend something to eat?", ""),
    ("told what do you know about me?", "Ada.*green.*pizza.*Oslo.*Rex.*nuts"),
    ("told What did I ask?", "Is breakfast included"),
    ("told Summarize our conversation", "user's name is Ada.*said: I am allergic.*asked: Is break"),
    ("When is breakfast?", "no tool of mine"),
    ("What is the weather in Kyoto?", "no tool of mine"),
    ("told What was my first question?", "Is breakfast included"),
    ("What is the meaning of life?", ""),
    ("write me a poem", ""),
]


def talk(*lines: str, system: str | None = None) -> list[str]:
    """Say each line in one conversation and return the replies."""
    messages: list[BaseMessage] = [SystemMessage(system)] if system else []
    for line in lines:
        messages.append(HumanMessage(line))
        messages.append(DemoChatModel().invoke(messages))
    return [message.text for message in messages if isinstance(message, AIMessage)]


def test_natural_inputs_get_a_good_answer() -> None:
    bad = {}
    for line, holds in INPUTS:
        told = TOLD if line.startswith("told ") else ()
        reply = talk(*told, line.removeprefix("told "))[-1]
        if not re.search(holds, reply) or (reply in FALLBACKS) != (not holds):
            bad[line] = reply
    assert bad == {}
    assert sum(bool(holds) for _, holds in INPUTS) >= 50


def test_fallbacks_are_short_suggest_something_and_differ() -> None:
    replies = talk(*["Prove Fermat's theorem."] * 8)
    assert all(reply in FALLBACKS and len(reply) < 100 for reply in replies)
    assert all(before != after for before, after in itertools.pairwise(replies))


def test_takes_a_name_that_was_asked_for_and_no_other_word() -> None:
    for statement in ("Hello", "I'm tired.", "Call me later.", "This is it."):
        assert talk(statement, "What is my name?")[1] == "You have not told me your name yet."
    assert talk("Hello", "ada") == ["Hello. What is your name?", "Nice to meet you, Ada."]
    assert talk("Hello", "Thanks")[1] == "You are welcome."


def test_newest_fact_wins() -> None:
    replies = talk(
        "My name is Ada. My favorite color is red. I like tea.",
        "My name is Grace. My favorite color is blue! I don't like tea.",
        "What is my name? What is my favorite color?",
        "Do I like tea?",
    )
    assert replies[2:] == ["Your favorite color is blue.", "You don't like tea."]


def test_says_what_it_does_not_know() -> None:
    for question, unknown in {
        "What is my name?": "your name",
        "what's my cat called": "about your cat",
        "What did I tell you about my trip?": "trip",
        "What do you know about me?": "anything about you",
        "Where do I live?": "that",
        "What did I ask before?": "asked anything",
        "Please summarize.": "nothing to summarize",
    }.items():
        assert re.search(rf"ou have not.*{unknown}|There is {unknown}", talk(question)[0])


def test_remembers_what_was_asked_and_said() -> None:
    lines = ("My name is Ada.", "Where is Paris?", "Is it large?", "What did I ask before?")
    asked, first, said = talk(*lines, "What was my first question?", "What did I say first?")[3:]
    assert "Is it large?" in asked
    assert "Where is Paris?" in first
    assert "My name is Ada." in said


def test_uses_the_memories_of_a_system_prompt() -> None:
    system = (
        "You are Lou, the concierge of a small hotel.\n\nWhat you know about the guest:\n"
        "- My name is Ada.\n- I like green tea.\n- The guest's favorite room is 12.\n\nBe brief."
    )
    questions = "Hello!", "What do I like?", "Who are you?", "What do you know about me?"
    hello, likes, who, known = talk(*questions, system=system)
    assert hello == "Hello, Ada. It is good to see you again."
    assert likes == "You like green tea."
    assert who.startswith("I am Lou, the concierge of a small hotel")
    assert known == "Your name is Ada. You like green tea. Your favorite room is 12."
    assert talk("Hello!", system="What you know about the guest:") == ["Hello. What is your name?"]


def test_summarizes_for_the_summarization_middleware() -> None:
    summarize = SummarizationMiddleware(
        model=DemoChatModel(), trigger=("messages", 4), keep=("messages", 1)
    )
    history: list[Any] = [
        HumanMessage("My name is Ada & Co. What is my favorite color?"),
        AIMessage("Your name is Eve."),
        HumanMessage("My favorite color is green."),
        AIMessage("Noted."),
        HumanMessage("What is my favorite color?"),
    ]
    update = summarize.before_model({"messages": history}, Runtime())
    assert update is not None
    summarized = update["messages"][1:]
    assert "The user's favorite color is green." in summarized[0].text
    assert "Ada & Co" in summarized[0].text
    assert DemoChatModel().invoke(summarized).text == "Your favorite color is green."


def test_answers_without_words_of_the_guest() -> None:
    assert DemoChatModel().invoke([SystemMessage("Be kind.")]).text in FALLBACKS
    asked: list[BaseMessage] = [AIMessage("Which city do you mean?"), HumanMessage("Kyoto")]
    assert DemoChatModel().invoke(asked).text in FALLBACKS


async def test_streams_at_the_pace_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_MODEL_DELAY", raising=False)
    assert DemoChatModel().delay > 0
    question, model = "What is my name?", DemoChatModel(delay=0.02)
    began = time.monotonic()
    chunks = [chunk async for chunk in model.astream(question)]
    assert time.monotonic() - began >= 7 * 0.02
    words = ["You", " have", " not", " told", " me", " your", " name", " yet."]
    assert [chunk.text for chunk in chunks] == words
    began = time.monotonic()
    whole = DemoChatModel(delay=1).invoke(question)
    assert time.monotonic() - began < 0.5
    streamed: Any = sum(chunks[1:], chunks[0])
    assert (streamed.text, streamed.response_metadata) == (whole.text, whole.response_metadata)


class TestDemoChatModelUnit(ChatModelUnitTests):
    """LangChain's suite that only builds and binds the model."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DemoChatModel


class TestDemoChatModelIntegration(ChatModelIntegrationTests):
    """LangChain's suite that talks to the model."""

    chat_model_class = TestDemoChatModelUnit.chat_model_class
    model_override_value = "another-demo"
    returns_usage_metadata = False


def function(name: str, description: str, **kinds: str) -> dict[str, Any]:
    """Describe a tool whose arguments are all required."""
    properties = {key: {"type": kind} for key, kind in kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": [*kinds]}
    return {"name": name, "description": description, "parameters": parameters}


WEATHER = function("get_weather", "Tell the weather in a city.", city="string")
REMEMBER = function("remember", "Remember something that the guest says.", fact="string")
ADD = function("add", "Add two numbers.", a="integer", b="integer")
ORDERS = function("search_orders", "Find an order.", order_id="string")
HOTEL = [
    WEATHER,
    function("get_opening_hours", "Tell when a place in town opens and closes.", place="string"),
    function("count_residents", "Tell how many people live in a city.", city="string"),
    function("cancel_booking", "Cancel a booking.", number="integer"),
    function("get_booking", "Show a booking.", number="integer"),
    function("get_price", "Tell the price of a room.", room="string"),
]
KYOTO = {"city": "Kyoto"}
CALLS: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
    ("What is the weather in Kyoto?", [("get_weather", KYOTO)]),
    ("whats the wheather in kyoto", [("get_weather", KYOTO)]),
    ("What is the weather like in Kyoto today?", [("get_weather", KYOTO)]),
    ("tell me about the weather in San Francisco, CA?",
     [("get_weather", {"city": "San Francisco, CA"})]),
    ('How is the weather in "Bosnia and Herzegovina"?',
     [("get_weather", {"city": "Bosnia and Herzegovina"})]),
    ("use get_weather with city new york, please", [("get_weather", {"city": "New York"})]),
    ("What is the weather in Mexico City?", [("get_weather", {"city": "Mexico City"})]),
    ("When does the museum open?", [("get_opening_hours", {"place": "museum"})]),
    ("museum opening hours?", [("get_opening_hours", {"place": "museum"})]),
    ("What are the opening hours of the museum?", [("get_opening_hours", {"place": "museum"})]),
    ("How many people live in Kyoto?", [("count_residents", KYOTO)]),
    ("What's the weather in Kyoto and when does the museum open?",
     [("get_weather", KYOTO), ("get_opening_hours", {"place": "museum"})]),
    ("My name is Ada. What is the weather in Kyoto?", [("get_weather", KYOTO)]),
    ("Please cancel booking 42.", [("cancel_booking", {"number": 42})]),
    ("I want to cancel my booking number 42", [("cancel_booking", {"number": 42})]),
    ("Cancel booking 7 because I am ill", [("cancel_booking", {"number": 7})]),
    ("Show me booking 42", [("get_booking", {"number": 42})]),
    ("What is booking 42?", [("get_booking", {"number": 42})]),
    ("What is my name?", []),
    ("The weather was nice.", []),
    ("What is the best city?", []),
    ("When do you close?", []),
    ("When is breakfast?", [("get_opening_hours", {"place": "breakfast"})]),
    ("what time is breakfast", [("get_opening_hours", {"place": "breakfast"})]),
    ("When is my birthday?", []),
    ("Is the museum open on Sunday?", [("get_opening_hours", {"place": "museum"})]),
    ("I like the museum", []),
    ("booking 7", [("get_booking", {"number": 7})]),
    ("I had booking 7", []),
    ("museum hours please", [("get_opening_hours", {"place": "museum"})]),
    ("How much is room 12?", [("get_price", {"room": "12"})]),
    ("How much does room 12 cost?", [("get_price", {"room": "12"})]),
    ("What can I eat?", []),
]  # fmt: skip


def calls(text: str, *tools: Any, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Ask with tools bound, and return the names and arguments it calls."""
    reply = DemoChatModel().bind_tools([*(tools or HOTEL)], **options).invoke(text)
    return [(call["name"], call["args"]) for call in reply.tool_calls]


def test_uses_a_hotels_tools() -> None:
    assert [(text, calls(text)) for text, _ in CALLS] == CALLS


def test_uses_any_other_tool() -> None:
    order = [("search_orders", {"order_id": "A-17"})]
    assert calls("Look up order A-17, please.", ADD, ORDERS) == order
    for text in ("Add 40 and 2.", "add(40, 2)"):
        assert calls(text, ADD, ORDERS) == [("add", {"a": 40, "b": 2})]


def with_tools(*lines: str) -> list[Any]:
    """Say each line, and return for each what was replied or called."""
    model = DemoChatModel().bind_tools(HOTEL)
    messages: list[BaseMessage] = []
    said: list[Any] = []
    for line in lines:
        reply = model.invoke([*messages, HumanMessage(line)])
        messages += [HumanMessage(line), reply]
        said.append([call["args"] for call in reply.tool_calls] or reply.text)
        messages += [ToolMessage("12 °C", tool_call_id=call["id"]) for call in reply.tool_calls]
    return said


def test_asks_back_once_and_takes_never_mind() -> None:
    asked = "Which city do you mean?"
    assert with_tools("How is the weather?", "New York.") == [asked, [{"city": "New York"}]]
    assert with_tools("How is the weather?", "in kyoto") == [asked, [KYOTO]]
    assert with_tools("Cancel my booking", "it's 42")[1] == [{"number": 42}]
    assert with_tools("What is the weather in Oslo?", "and in Kyoto?")[1] == [KYOTO]
    for line in ("never mind", "Nothing, thanks", "forget it"):
        assert with_tools("How is the weather?", line)[1].startswith("All right")
    again = with_tools("How is the weather?", "How is the weather?")[1]
    assert again.startswith("Let us leave that")


def test_a_question_is_never_an_argument() -> None:
    asked = "How is the weather?"
    assert with_tools(asked, "What is my name?")[1] == "You have not told me your name yet."
    assert with_tools(asked, "When does the museum open?")[1] == [{"place": "museum"}]
    other = "Thanks, but I would rather hear something else about your town"
    assert isinstance(with_tools(asked, other)[1], str)


def test_keeps_what_it_is_told_with_a_tool_that_remembers() -> None:
    kept = [("remember", {"fact": "I like green tea"})]
    assert calls("Please remember that I like green tea", REMEMBER, *HOTEL) == kept
    assert calls("I like green tea", REMEMBER, *HOTEL) == kept
    assert calls("What do I like?", REMEMBER, *HOTEL) == []


def report(text: str, content: str, **fields: Any) -> str:
    """Ask, answer the call, and return what the model makes of it."""
    model = DemoChatModel().bind_tools([*HOTEL, REMEMBER])
    reply = model.invoke(text)
    result = ToolMessage(content, tool_call_id=reply.tool_calls[0]["id"], **fields)
    return model.invoke([HumanMessage(text), reply, result]).text


def test_says_like_a_person_what_a_tool_found() -> None:
    museum, kyoto = "When does the museum open?", "What is the weather in Kyoto?"
    assert report(museum, "10 to 6") == "I looked it up for the museum: 10 to 6."
    assert report(kyoto, "It is sunny in Kyoto.") == "It is sunny in Kyoto."
    assert report(kyoto, "") == "It is done."
    assert report(kyoto, "no such city", status="error").endswith("not work: No such city.")
    # A person's no, in the words of LangChain 1.3 and 1.5, with a reason and without.
    cancel, told = "Please cancel booking 42.", "User rejected the tool call for `cancel_booking`"
    left = "All right, I left it as it is"
    assert report(cancel, "Ada needs it.", status="error") == f"{left}: Ada needs it."
    no = f"{told} with reason: Ada needs it."
    assert report(cancel, no, status="error") == f"{left}: Ada needs it."
    assert report(cancel, f"{told} with id 1. Do not.", status="error") == f"{left}."
    failed = "Error: ValueError('no 42')"
    assert report(cancel, failed, status="error").startswith("Sorry, that did not work: Error")
    assert report("I like tea", "Stored.").startswith("I will remember that you like tea")


async def test_streams_tool_calls() -> None:
    model = DemoChatModel().bind_tools(HOTEL)
    question = "What's the weather in 東京 and when does the museum open?"
    chunks = [chunk async for chunk in model.astream(question)]
    called = sum(chunks[1:], chunks[0]).tool_calls
    assert [(call["name"], call["args"]) for call in called] == [
        ("get_weather", {"city": "東京"}), ("get_opening_hours", {"place": "museum"}),
    ]  # fmt: skip
    assert called[0]["id"] != called[1]["id"]


def test_tool_choice() -> None:
    assert calls("Hello", WEATHER, tool_choice="any") == [("get_weather", {"city": "Hello"})]
    assert calls("Hello", WEATHER, ADD, tool_choice="add") == [("add", {"a": 0, "b": 0})]
    assert calls("What is the weather in Paris?", WEATHER, tool_choice="none") == []
