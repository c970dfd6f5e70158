"""What the demo model says, remembers and calls."""

import itertools
import re
import time
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memorystore_tutorial.demo_model import FALLBACKS, DemoChatModel

TOLD = (
    "My name is Ada. / My favorite color is green. I like pizza. / I live in Oslo, and my dog is "
    "called Rex. / I am allergic to nuts. / I love hiking and jazz, but I don't like fish. My "
    "girlfriend loves fish. / I'm vegetarian, and I'm 34 years old. / Is breakfast included? / "
)
# What a guest types, and what a good answer holds: nothing where only a fallback is left. With
# "told" it is typed after TOLD, and " / " is between what is typed one after the other.
INPUTS = {
    "Hello, I'm Ada!": "meet you, Ada",
    "Меня зовут Анна": "meet you, Анна",
    "我叫小明": "小明",
    "I live in Oslo and I work as a nurse": "live in Oslo.*work as a nurse",
    "I don't eat meat": "you don't eat meat",
    "how are you": "fine",
    "I'm tired": "sorry",
    "Good morning": "Good morning. What is your name",
    "thanks": "welcome",
    "bye": "Goodbye",
    "what can you do?": "I like green tea",
    "What is 6 times 7?": "42",
    "what's 50 minus 8": "42",
    "How much is 20 plus 22?": "^That is 42",
    "Hola": "^Hola!$",
    "Ich heiße Jörg. / Guten Morgen": "^Guten Morgen, Jörg!$",
    "ありがとう": "^どういたしまして。$",
    "您好": "^您好!$",
    "who are you?": "demo model",
    "are you a robot": "demo model",
    "tell me a joke": "caches",
    "what time is it?": "no tool of mine",
    "told wat is my name": "^Your name is Ada.$",
    "told do you remeber my name?": "Your name is Ada",
    "told whats my favrite colour": "favorite color is green",
    "told what did I tell you about my dog?": '"I live in Oslo, and my dog is called Rex."',
    "told What does my girlfriend like?": "^Your girlfriend loves fish.$",
    "told What do I like to eat?": "^You like pizza. You love hiking and jazz.$",
    "told What am I?": "allergic.*You are vegetarian",
    "told How old am I?": "^You are 34",
    "Actually I prefer coffee": "that you prefer coffee",
    "told Please forget my favorite color": "can't unsay",
    "don't forget my birthday is May 4": "your birthday is May 4",
    "Can I get a taxi to the airport tomorrow at 6?": "",
    "told what do you know about me?": "Ada.*green.*pizza.*Oslo.*Rex.*nuts",
    "told Summarize our conversation": "user's name is Ada.*said: I am allergic.*asked: Is break",
    "told Where am I?": "",
    "told Do I need a visa?": "",
    "told What do I eat?": "^You have not told me that yet.$",
    "I am 40 and I live in Rome / How old am I?": "^You are 40",
    "This is Maria.": "^Nice to meet you, Maria.$",
    "forget it": "All right",
    "Do not cancel booking 3": "leave it",
    "told Where am I from?": "^You have not told me that yet.$",
    "told I'm from Porto. / Where do I come from?": "^You are from Porto.$",
    "My train leaves at 6. / When does my train leave?": "^Your train leaves at 6.$",
    # What is taken back.
    "I love tea. / I don't like tea any more. / What do I like?": "^You don't like tea any more.$",
    "I love tea. / I hate tea. / Do I like tea?": "^You hate tea.$",
    "I live in Oslo. / I live in Bergen now. / Where do I live?": "^You live in Bergen now.$",
    "I'm Tomás / My name isn't Tomás, it's Tom / Who am I?": "^Your name is Tom.$",
    "My room is not 12 but 14. / What is my room?": "^Your room is 14.$",
    # A name that was asked for, and words that are none.
    "Hello / ada": "^Nice to meet you, Ada.$",
    "Hello / Ada here / What is my name?": "not told me your name",
    "Call me later. / What is my name?": "not told me your name",
    "My name is not Bob. / What is my name?": "not told me your name",
    # Braces are only braces.
    "I like {tea}. / I don't like {tea}. / Do I like {tea}?": "^You don't like {tea}.$",
    # What is not known.
    "I like tea, my dog's name is Rex / What is my dog called?": "^Your dog's name is Rex.$",
    "My dog is called Rex. / what\u2019s my cat called": "^You have not told me that yet.$",
    "I like you": "",
    "What did I tell you about my trip?": "^You have not said anything about your trip.$",
    # What was asked and said.
    "Trips are long. / It rains. / What did I say about my trip?": "^You said: .Trips are long.",
    "Is it large? / Is it old? / What was my first question?": "^You asked: .Is it large",
    "Is it 1? / Is it 2? / Is it 3? / Is it 4? / recap": "^The user asked: Is it 2. .* Is it 4.$",
    # LangChain's summarization, and what it makes of it.
    '<message type="human">My cat is A&amp;B.</message>': "^The user's cat is A&B.$",
    "To date: The user's cat is 1. The user said: I like tea. / What do I like?": "^You like tea.$",
}


def shown(reply: AIMessage) -> str:
    """Return what a reply says, or what it calls: get_weather city='Kyoto'."""
    calls = [
        " ".join([call["name"], *(f"{key}={value!r}" for key, value in call["args"].items())])
        for call in reply.tool_calls
    ]
    return ", ".join(calls) or str(reply.text)


def talk(lines: str, *, system: str = "", tools: Any = (), **options: Any) -> str:
    """Say lines in one conversation, and return what the last one is answered with."""
    model = DemoChatModel().bind_tools([*tools], **options)
    messages: list[BaseMessage] = [SystemMessage(system)]
    for line in re.sub("^told ", TOLD, lines).split(" / "):
        reply = model.invoke([*messages, HumanMessage(line)])
        messages += [HumanMessage(line), reply]
        messages += [ToolMessage("12 °C", tool_call_id=call["id"]) for call in reply.tool_calls]
    return shown(reply)


def test_natural_inputs_get_a_good_answer() -> None:
    for lines, holds in INPUTS.items():
        reply = talk(lines)
        assert (reply in FALLBACKS) == (not holds), (lines, reply)
        assert re.search(holds, reply), (lines, reply)


def test_fallbacks_are_short_suggest_something_and_differ() -> None:
    replies = [talk(" / ".join(["Prove Fermat's theorem."] * count)) for count in range(1, 9)]
    assert all(reply in FALLBACKS and len(reply) < 100 for reply in replies)
    assert all(before != after for before, after in itertools.pairwise(replies))
    assert DemoChatModel().invoke([SystemMessage("Be kind.")]).text in FALLBACKS


def test_uses_the_memories_of_a_system_prompt() -> None:
    system = (
        "What you know about the guest:\n- My name is Ada\n- I like green tea\n"
        "- The guest's favorite room is 12\n- Tom comes at 3\n\nBe brief."
    )
    known = "Your name is Ada. You like green tea. Your favorite room is 12. Tom comes at 3."
    assert talk("What do you know about me?", system=system) == known
    assert talk("Hello!", system=system) == "Hello, Ada. It is good to see you again."
    assert talk("Hello! / Hello!", system=system) == "Hello, Ada."
    assert talk("Hello!", system="What you know about the guest:") == "Hello. What is your name?"


def test_a_long_conversation_costs_little() -> None:
    """Each text is read once; again and again costs more than 160 ms a turn."""
    said = [HumanMessage(f"Whatever. Remember my room is {number}.") for number in range(1000)]
    seconds = []
    for _ in range(4):
        began = time.process_time()
        reply = DemoChatModel().invoke([*said, HumanMessage("What is my room?")])
        seconds.append(time.process_time() - began)
    assert reply.text == "Your room is 999."
    assert min(seconds[1:]) < 0.03


async def test_streams_at_the_pace_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_MODEL_DELAY", raising=False)
    assert DemoChatModel().delay > 0
    began = time.monotonic()
    chunks = [chunk async for chunk in DemoChatModel(delay=0.02).astream("What is my name?")]
    assert time.monotonic() - began >= 7 * 0.02
    words = ["You", " have", " not", " told", " me", " your", " name", " yet."]
    assert [chunk.text for chunk in chunks if chunk.text] == words
    began = time.monotonic()
    whole = DemoChatModel(delay=9).invoke("What is my name?")
    assert time.monotonic() - began < 5
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
    """Describe a tool, whose arguments are required unless their kind ends with "?"."""
    properties = {key: {"type": kind.strip("?")} for key, kind in kinds.items()}
    required = [key for key in kinds if "?" not in kinds[key]]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": description, "parameters": parameters}


HOTEL = [
    function("get_weather", "Tell the weather in a city.", city="string", days="integer?"),
    function("get_opening_hours", "Tell when a place in town opens and closes.", place="string"),
    function("count_residents", "Tell how many people live in a city.", city="string"),
    function("cancel_booking", "Cancel a booking.", number="integer"),
    function("get_booking", "Show a booking.", number="integer"),
    function("get_price", "Tell the price of a room.", room="string"),
    function("search_orders", "Find an order.", order_id="string"),
    function("void_order", "Void an order.", number="string"),
    function("add", "Add two numbers.", a="integer", b="number"),
    function("remember", "Remember something that the guest says.", fact="string"),
    {"name": "ping", "description": "Ping the hotel."},
]
CALLS = {
    "whats the wheather in kyoto": "get_weather city='Kyoto'",
    "use get_weather with city new york, please": "get_weather city='New York'",
    "Is the museum open on Sunday?": "get_opening_hours place='museum'",
    "When does breakfast start?": "get_opening_hours place='breakfast'",
    "Until when do you serve breakfast?": "get_opening_hours place='breakfast'",
    "I want to cancel my booking number 42": "cancel_booking number=42",
    "I need booking 7 canceled because I am ill": "cancel_booking number=7",
    "Cancel booking 7 and booking 8.": "cancel_booking number=7, cancel_booking number=8",
    "When does breakfast start and end?": "get_opening_hours place='breakfast'",
    "Cancel 7, 8 and ring me at 9": "cancel_booking number=7, cancel_booking number=8",
    "How is the weather in Kyoto and Oslo?": "get_weather city='Kyoto', get_weather city='Oslo'",
    "How much does room 12 cost?": "get_price room='12'",
    "Where is order A-17?": "search_orders order_id='A-17'",
    "Please void order 17 because I am ill": "void_order number='17'",
    "Add 40 and 2.5": "add a=40 b=2.5",
    "Ping": "ping",
    # What is no request, or not for these tools.
    "Is the pool open? / The weather was nice.": "I don't know that: no tool of mine tells me.",
    "I like tea and jazz": "remember fact='I like tea and jazz'",
    "Please remember that I have booking 7": "remember fact='I have booking 7'",
    "I'm Al. Is the pool open?": "remember fact='my name is Al.', get_opening_hours place='pool'",
    "When is my birthday?": "You have not told me that yet.",
    # What is asked back, once, and what it is answered with.
    "Look up an order": "Which order id do you mean?",
    "How is the weather? / in kyoto": "get_weather city='Kyoto'",
    "How is the weather? / How is the weather?": "Let us leave that.",
    "How is the weather? / never mind": "All right. What else?",
    "How is the weather? / How many people live in Kyoto?": "count_residents city='Kyoto'",
    "How is the weather? / I would rather hear of something else than that": FALLBACKS[3],
    "What is the weather in Oslo? / and in Kyoto?": "get_weather city='Kyoto'",
}
# A person's no comes in the words of LangChain 1.3 and 1.5, with a reason and without.
NO = "User rejected the tool call for `cancel_booking` with"
RESULTS = [
    ("When does the museum open?", "10 to 6", "success", "I looked it up for the museum: 10 to 6."),
    ("What is the weather in Oslo?", "rain", "success", "I looked it up for Oslo: Rain."),
    ("What is the weather in Oslo?", "", "success", "It is done."),
    ("Cancel booking 42.", "Error: no", "error", "Sorry, that did not work: Error: no."),
    ("Cancel booking 42.", "I need it.", "error", "All right, I left it as it is: I need it."),
    ("Cancel booking 42.", f"{NO} reason: Error", "error", "All right, I left it as it is: Error."),
    ("Cancel booking 42.", f"{NO} id 1. Do not.", "error", "All right, I left it as it is."),
    ("Add 1 and 2. Add 3 and 4.", "I see.|I do.", "success", "I see. I do."),
    ("I like tea", "Stored.", "success", "I will remember that you like tea."),
]


def test_calls_tools_and_asks_back() -> None:
    assert {lines: talk(lines, tools=HOTEL) for lines in CALLS} == CALLS
    assert "tools I can: void order (number), add (a, b)." in talk("help", tools=HOTEL[7:9])
    assert talk("Hello", tools=HOTEL[:1], tool_choice="any") == "get_weather city='Hello'"
    assert talk("Hello", tools=HOTEL, tool_choice="add") == "add a=0 b=0"


def test_says_like_a_person_what_a_tool_found() -> None:
    model = DemoChatModel().bind_tools(HOTEL)
    said = []
    for text, content, status, _ in RESULTS:
        messages: list[BaseMessage] = [HumanMessage(text), call := model.invoke(text)]
        for result, each in zip(content.split("|"), call.tool_calls, strict=True):
            messages.append(ToolMessage(result, tool_call_id=each["id"], status=status))
        said.append((text, content, status, model.invoke(messages).text))
    assert said == RESULTS


async def test_streams_tool_calls() -> None:
    question = "What's the weather in 東京 and when does the museum open?"
    chunks = [chunk async for chunk in DemoChatModel().bind_tools(HOTEL).astream(question)]
    called = sum(chunks[1:], chunks[0])
    assert shown(called) == "get_weather city='東京', get_opening_hours place='museum'"
    assert called.tool_calls[0]["id"] != called.tool_calls[1]["id"]
