"""What the offline demo model understands, says and calls: regular expressions and no more.

Everything follows from the messages: nothing is stored, drawn by chance or read from elsewhere.
"""

import hashlib
import html
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall, tool_call

from memorystore_tutorial.demo_tools import Tool

_ABOUT = "I am the small demo model of this tutorial: a few rules, offline, no AI service."
_FALLBACK = (
    "I am only a small offline demo model, so I have no answer to that. But I remember your name "
    "and your favorite things, I know what you asked before, and I can sum up what we talked about."
)
_NAME_WORD = r"[^\W\d_][\w'\u2019-]*"
_NAME = re.compile(
    r"\b(?:(?i:my name is|my name['\u2019]s|the user's name is|i am called)\s+"
    r"|(?i:call me)\s+(?=[^a-z])"
    # "I am German" would be taken for a name too; "I am from Paris" or "I'm tired" is not.
    rf"|(?i:i am|i['\u2019]m)\s+(?=[^\Wa-z]{_NAME_WORD}\s*(?:[.,;!]|$)))"
    rf"({_NAME_WORD}(?: {_NAME_WORD})*)"
)
_FAVORITE = re.compile(
    r"(?i)\b(?:my|the user's) favou?rite ([\w' -]+?) (is|are) (?=\w)(.+?)"
    r"(?=\s+(?:and|but) (?:my|i)\b|[.,;!?\n]|$)"
)
_ASKS_NAME = re.compile(
    r"(?i)(?:\bwhat|\b(?:know|remember|recall)\b|\btell me\b)[^.!]*\bmy name\b|\bwho am i\b"
)
_ASKS_FAVORITE = re.compile(
    r"(?i)(?:\b(?:what|which|who|know|remember|recall)\b|\btell me\b)[^.!?]*"
    r"\bmy favou?rite ([\w' -]+?)(?: is| are)?\s*[.?!]*$"
)
_ASKS_BEFORE = re.compile(
    r"(?i)\bwhat (?:did i (?:just |first |last )*(?:ask|say|tell)|"
    r"was my (?:very )?(?:first|last|previous) (?:question|message))\b.*"
)
_ASKS_SUMMARY = re.compile(r"(?i)\bsummari[sz]e\b|\brecap\b|\bgive me a summary\b")
_ASKS_COUNT = re.compile(r"(?i)\bhow many messages\b")
_ASKS_ABOUT_USER = re.compile(r"(?i)\bwhat do you (?:know|remember) about me\b")
_ASKS_ABOUT_MODEL = re.compile(
    r"(?i)\b(?:who|what) are you\b|\bwhat(?: is|['\u2019]s) your name\b|\bwhat can you do\b"
)
_GREETING = re.compile(r"(?i)\W*(?:hello|hi|hey|good (?:morning|afternoon|evening))\b")
_WHICH = re.compile(r"Which ([\w ]+) do you mean\?")
_THANKS = re.compile(r"(?i)\W*(?:thanks|thank you)\b")


def answer(messages: Sequence[BaseMessage], tools: list[Tool], choice: str) -> str | list[ToolCall]:
    """Return what the model says to a conversation, or the tools it calls."""
    said = [str(message.text) for message in messages if isinstance(message, HumanMessage)]
    text = said[-1] if said else ""
    if choice not in ("auto", "none"):
        best = _best([tool for tool in tools if choice in ("any", tool.name)], text)
        return _calls({best.name: best.arguments(text, invent=True)}, messages)
    results = list(takewhile(lambda each: isinstance(each, ToolMessage), reversed(messages)))
    if results:
        return " ".join(_report(result, messages) for result in reversed(results))
    callable_tools = tools if choice == "auto" else []
    if named := [tool for tool in callable_tools if tool.is_named_in(text)]:
        return _call(named, text, messages)
    if reply := _from_memory(text, said[:-1], messages):
        return reply
    request = _request(text, messages)
    if asked := [tool for tool in callable_tools if tool.is_asked_for_in(request)]:
        return _call([_best(asked, request)], request, messages)
    return _small_talk(text, said)


def _from_memory(text: str, earlier: list[str], messages: Sequence[BaseMessage]) -> str:
    """Answer a question about the conversation or the model; "" when it is none."""
    said = [*earlier, text]
    if _ASKS_SUMMARY.search(text):
        return _summary(text, earlier)
    if _ASKS_COUNT.search(text):
        spoken = (message for message in messages if isinstance(message, HumanMessage | AIMessage))
        count = sum(1 for message in spoken if message.text)
        noun = "message" if count == 1 else "messages"
        return f"We have exchanged {count} {noun} so far, counting this question."
    if asked := _ASKS_BEFORE.search(text):
        return _what_was_said(asked[0].lower(), earlier)
    if _ASKS_NAME.search(text):
        name = _name(said)
        return f"Your name is {name}." if name else "You have not told me your name yet."
    if asked := _ASKS_FAVORITE.search(text):
        value = _favorites(said).get(_thing(asked[1]))
        if value:
            return f"Your favorite {asked[1]} {value}."
        return f"You have not told me your favorite {asked[1]} yet."
    if _ASKS_ABOUT_USER.search(text):
        return " ".join(_facts(said, "Your")) or "You have not told me anything about you yet."
    if _ASKS_ABOUT_MODEL.search(text):
        told = " ".join(message.text for message in messages if isinstance(message, SystemMessage))
        return f'{_ABOUT} I was told: "{told}"' if told else _ABOUT
    return ""


def _small_talk(text: str, said: list[str]) -> str:
    """Answer a statement or a greeting, or say what the model can do."""
    news = [f"Nice to meet you, {name}."] if (name := _name([text])) else []
    for thing, value in _favorites([text]).items():
        news.append(f"I will remember that your favorite {thing} {value}.")
    if news:
        return " ".join(news)
    name = _name(said)
    if _GREETING.match(text):
        return f"Hello, {name}." if name else "Hello. What is your name?"
    if _THANKS.match(text):
        return f"You are welcome, {name}." if name else "You are welcome."
    return _FALLBACK


def _name(said: list[str]) -> str | None:
    """Return the name that was told last."""
    told = [name for text in said for name in _NAME.findall(text)]
    if not told:
        return None
    first, *more = told[-1].split(" ")
    return " ".join([first, *takewhile(lambda word: not word[0].islower(), more)])


def _favorites(said: list[str]) -> dict[str, str]:
    """Return thing -> "is value" for each favorite thing, the newest value of each."""
    told = (found for text in said for found in _FAVORITE.findall(text))
    return {_thing(thing): f"{verb.lower()} {value.strip()}" for thing, verb, value in told}


def _thing(text: str) -> str:
    return text.strip().lower().replace("colour", "color")


def _facts(said: list[str], whose: str) -> list[str]:
    name = _name(said)
    favorites = (f"{whose} favorite {thing} {value}." for thing, value in _favorites(said).items())
    return [*([f"{whose} name is {name}."] if name else []), *favorites]


def _what_was_said(asked: str, earlier: list[str]) -> str:
    question = "ask" in asked or "question" in asked
    candidates = [text for text in earlier if "?" in text or not question]
    verb = "asked" if question else "said"
    if not candidates:
        return f"You have not {verb} anything before." if earlier else "This is where we started."
    if "first" in asked:
        return f'The first thing you {verb} was: "{candidates[0]}"'
    return f'You {verb}: "{candidates[-1]}"'


def _summary(text: str, earlier: list[str]) -> str:
    """Summarize the conversation, or the transcript that the text itself carries."""
    # LangChain's summarization sends the conversation as XML inside one human message.
    carried = re.findall(r'<message type="human">(.*?)</message>', text, re.DOTALL)
    said = [html.unescape(each) for each in carried] or earlier
    questions = [each for each in said if "?" in each]
    parts = _facts(said, "The user's")
    if questions:
        parts.append("The user asked: " + " ".join(questions[-3:]))
    if not parts:
        return f'The user said: "{said[-1]}"' if said else "There is nothing to summarize yet."
    return " ".join(parts)


def _best(tools: list[Tool], text: str) -> Tool:
    """Return the tool that a text means: named, or else sharing the most words with it."""
    return max(tools, key=lambda tool: tool.match(text))


def _request(text: str, messages: Sequence[BaseMessage]) -> str:
    """What is asked for: the text, or the question before it that the text completes."""
    asked = [message for message in messages if message.text and message.type in ("human", "ai")]
    if len(asked) < 3 or "?" in text:
        return text
    question, counter_question = asked[-3].text, _WHICH.fullmatch(asked[-2].text)
    if not counter_question:
        return text
    argument, value = counter_question[1].replace(" ", "_"), text.strip(" .!")
    return f'{question} with {argument} "{value}"'


def _call(tools: list[Tool], text: str, messages: Sequence[BaseMessage]) -> str | list[ToolCall]:
    """Call tools with what a text gives, or ask for what it does not."""
    arguments = {tool.name: tool.arguments(text) for tool in tools}
    for tool in tools:
        missing = [key for key in tool.required if key not in arguments[tool.name]]
        if missing:
            return f"Which {missing[0].replace('_', ' ')} do you mean?"
    return _calls(arguments, messages)


def _calls(arguments: dict[str, dict[str, Any]], messages: Sequence[BaseMessage]) -> list[ToolCall]:
    """Return tool calls whose ids follow from the conversation."""
    said = [(each.type, each.text, getattr(each, "tool_calls", ())) for each in messages]
    calls = []
    for name, args in arguments.items():
        number = hashlib.sha256(repr((said, name)).encode()).hexdigest()[:12]
        calls.append(tool_call(name=name, args=args, id=f"call_{number}"))
    return calls


def _report(result: Any, messages: Sequence[BaseMessage]) -> str:
    """Say what a tool answered."""
    text = str(result.text).strip()
    if result.status == "error":
        return f"Sorry, that did not work: {_sentence(text or 'the tool said nothing')}"
    if not text:
        return "It is done."
    if re.fullmatch(r"[A-Z].*\s.*[.!?]", text, re.DOTALL):
        return text  # the tool speaks in sentences itself
    calls = (call for message in messages for call in getattr(message, "tool_calls", ()))
    arguments = {call["id"]: call["args"] for call in calls}.get(result.tool_call_id, {})
    about = [value for value in arguments.values() if isinstance(value, str) and value]
    if not about:
        return f"I looked it up: {_sentence(text)}"
    question = next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")
    has_article = re.search(rf"\bthe\s+{re.escape(about[0])}\b", question, re.IGNORECASE)
    return f"I looked it up for {'the ' if has_article else ''}{about[0]}: {_sentence(text)}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
