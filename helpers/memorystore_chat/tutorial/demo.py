"""What the offline demo model understands, says and calls: regular expressions and no more.

Everything follows from the messages: nothing is stored, drawn by chance or read from elsewhere.
"""

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import ToolCall, tool_call

_ABOUT = "I am the offline demo model of this tutorial: a few rules, no AI service."
_FALLBACK = (
    "I am a small offline demo model, so I have no answer to that. I can remember your name and "
    "your favorite things, tell you what you asked before, count our messages, summarize our "
    "conversation, and call a tool when you ask for it plainly."
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
    r"\b(?:my|the user's) favou?rite ([\w' -]+?) (is|are) (?=\w)(.+?)"
    r"(?=\s+(?:and|but) (?:my|i)\b|[.,;!?\n]|$)",
    re.IGNORECASE,
)
_ASKS_NAME = re.compile(
    r"(?:\bwhat|\b(?:know|remember|recall)\b|\btell me\b)[^.!]*\bmy name\b|\bwho am i\b",
    re.IGNORECASE,
)
_ASKS_FAVORITE = re.compile(
    r"(?:\b(?:what|which|who|know|remember|recall)\b|\btell me\b)[^.!?]*"
    r"\bmy favou?rite ([\w' -]+?)(?: is| are)?\s*[.?!]*$",
    re.IGNORECASE,
)
_ASKS_BEFORE = re.compile(
    r"\bwhat (?:did i (?:just |first |last )*(?:ask|say|tell)|"
    r"was my (?:very )?(?:first|last|previous) (?:question|message))\b.*",
    re.IGNORECASE,
)
_ASKS_SUMMARY = re.compile(r"\bsummari[sz]e\b|\brecap\b|\bgive me a summary\b", re.IGNORECASE)
_ASKS_COUNT = re.compile(r"\bhow many messages\b", re.IGNORECASE)
_ASKS_ABOUT_USER = re.compile(r"\bwhat do you (?:know|remember) about me\b", re.IGNORECASE)
_ASKS_ABOUT_MODEL = re.compile(
    r"\b(?:who|what) are you\b|\bwhat(?: is|['\u2019]s) your name\b|\bwhat can you do\b",
    re.IGNORECASE,
)
_GREETING = re.compile(r"\W*(?:hello|hi|hey|good (?:morning|afternoon|evening))\b", re.IGNORECASE)
_THANKS = re.compile(r"\W*(?:thanks|thank you)\b", re.IGNORECASE)


def answer(
    messages: Sequence[BaseMessage], tools: list["Tool"], choice: str
) -> str | list[ToolCall]:
    """Return what the model says to a conversation, or the tools it calls."""
    said = [str(message.text) for message in messages if isinstance(message, HumanMessage)]
    text = said[-1] if said else ""
    if choice not in ("auto", "none"):
        best = _best([tool for tool in tools if choice in ("any", tool.name)], text)
        return _calls({best.name: best.arguments(text, invent=True)}, messages)
    if results := _trailing_results(messages):
        return " ".join(_report(result, messages) for result in results)
    callable_tools = tools if choice == "auto" else []
    if named := [tool for tool in callable_tools if tool.is_named_in(text)]:
        return _call(named, text, messages)
    if reply := _from_memory(text, said[:-1], messages):
        return reply
    if asked := [tool for tool in callable_tools if tool.is_asked_for_in(text)]:
        return _call([_best(asked, text)], text, messages)
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
    news = [f"Nice to meet you, {name}." for name in [_name([text])] if name]
    news += [
        f"Noted: your favorite {thing} {value}." for thing, value in _favorites([text]).items()
    ]
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
    for number, word in enumerate(more):
        if word[0].islower():
            more = more[:number]
            break
    return " ".join([first, *more])


def _favorites(said: list[str]) -> dict[str, str]:
    """Return thing -> "is value" for each favorite thing, the newest value of each."""
    told = (found for text in said for found in _FAVORITE.findall(text))
    return {_thing(thing): f"{verb.lower()} {value.strip()}" for thing, verb, value in told}


def _thing(text: str) -> str:
    return text.strip().lower().replace("colour", "color")


def _facts(said: list[str], whose: str) -> list[str]:
    name = _name(said)
    facts = [f"{whose} name is {name}."] if name else []
    return facts + [
        f"{whose} favorite {thing} {value}." for thing, value in _favorites(said).items()
    ]


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


_GENERIC_WORDS = set(
    re.findall(r"\w+", "a do fetch find for get look lookup make my of run search the to tool up")
)
_REQUEST_WORDS = set(
    re.findall(
        r"\w+",
        "call can check could find get give how look please run search show tell use what when "
        "where which who will would",
    )
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d|(?<!\w)\'([^\']+)\'(?!\w)')
_PHRASE = re.compile(
    r"\b(?:in|at|for|near|of|about|from|to|on|named|called)\s+(?:the\s+)?(.+)", re.IGNORECASE
)
_FILLER = re.compile(
    r",?\s+(?:for\s+)?(?:today|tonight|tomorrow|(?:right )?now|please)\b", re.IGNORECASE
)
_VALUE = r"""("[^"]+"|\u201c[^\u201d]+\u201d|'[^']+'|.+?)(?=\s+and\s|[,)]|[.?!]*\s*$|[.?!]\s)"""
_INVENTED: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}


class Tool(NamedTuple):
    """A bound tool, as far as the rules need it."""

    name: str
    parameters: dict[str, dict[str, Any]]
    required: list[str]

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any]) -> "Tool":
        """Read a tool's JSON schema."""
        function = schema["function"]
        parameters = function.get("parameters") or {}
        return cls(
            function["name"], parameters.get("properties") or {}, parameters.get("required") or []
        )

    @property
    def words(self) -> set[str]:
        """The words of the name that say what it does: ``{"weather"}`` for ``get_weather``."""
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name).replace("_", " ").replace("-", " ")
        words = {_singular(word) for word in spaced.lower().split()}
        return words - _GENERIC_WORDS or words

    def is_named_in(self, text: str) -> bool:
        """Whether the text says the tool's own name, as code or after "use"."""
        name = re.escape(self.name)
        forms = [rf"\b{name}\s*\(", rf"\b(?:use|call|run)\s+(?:the\s+)?(?:tool\s+)?{name}\b"]
        if "_" in self.name:
            forms.append(rf"\b{name}\b")
        return any(re.search(form, text, re.IGNORECASE) for form in forms)

    def is_asked_for_in(self, text: str) -> bool:
        """Whether the text is a request that mentions what the tool does."""
        words = _words(text)
        request = "?" in text or bool(words[:1] and words[0] in _REQUEST_WORDS | self.words)
        return request and not self.words.isdisjoint(words)

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        tail = self._after_mention(text)
        call = re.match(r"\s*\((.*?)\)", tail)
        written = [part.strip() for part in call[1].split(",")] if call else []
        positional = [part for part in written if part and "=" not in part]
        numbers = _NUMBER.findall(tail) or _NUMBER.findall(text)
        strings = ["".join(found) for found in _QUOTED.findall(tail) or _QUOTED.findall(text)]
        if not strings and (phrase := _PHRASE.search(_FILLER.sub("", tail))):
            # "in San Francisco, CA" is one value only where no other argument can follow.
            alone = len(self.parameters) == 1
            value = phrase[1].rstrip(" .?!,")
            strings = [value if alone else re.split(r",|\s(?:and|with)\s", value)[0]]
        found: dict[str, Any] = {}
        for key, schema in self.parameters.items():
            kind = _kind(schema)
            value = _named_value(key, schema, text)
            pool = positional or (numbers if kind in ("integer", "number") else strings)
            if value is None and "enum" in schema:
                value = next(
                    (
                        each
                        for each in schema["enum"]
                        if _singular(str(each).lower()) in _words(text)
                    ),
                    None,
                )
            elif value is None and pool and kind in ("integer", "number", "string"):
                value = _converted(pool.pop(0), schema)
            if value is None and invent and key in self.required:
                value = schema.get("enum", [_INVENTED.get(kind, text)])[0]
            if value is not None:
                found[key] = value
        return found

    def _after_mention(self, text: str) -> str:
        mentions = [re.escape(self.name), *map(re.escape, sorted(self.words))]
        for mention in mentions:
            if places := list(
                re.finditer(rf"(?<![^\W_]){mention}s?(?![^\W_])", text, re.IGNORECASE)
            ):
                return text[places[-1].end() :]
        return text


def _words(text: str) -> list[str]:
    return [_singular(word) for word in re.findall(r"\w+", text.lower())]


def _singular(word: str) -> str:
    """Return "order" for "orders"; the same for a tool's name and for the text."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the JSON type of an argument, or its first one where it may have several."""
    options = [schema, *schema.get("anyOf", ())]
    return next((str(each["type"]) for each in options if "type" in each), "string")


def _converted(value: str, schema: Mapping[str, Any]) -> Any:
    """Return a piece of text as an argument's type, None if it is no such thing."""
    kind = _kind(schema)
    value = value.strip().strip("\"'\u201c\u201d")
    if kind in ("integer", "number"):
        if not _NUMBER.fullmatch(value) or (kind == "integer" and "." in value):
            return None
        return float(value) if "." in value else int(value)
    if kind == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    return value if kind == "string" and value else None


def _named_value(key: str, schema: Mapping[str, Any], text: str) -> Any:
    """Return the value that follows an argument's name: "city Paris", "city=Paris"."""
    stem, _, suffix = key.rpartition("_")
    name = re.escape(key).replace("_", "[ _]")
    if stem and suffix in ("id", "name", "number"):
        name = rf"{re.escape(stem)}(?:[ _]{suffix})?"
    forms = (
        rf"\b{name}\s*(?:=|:|\bis\b|\bof\b)\s*{_VALUE}",
        rf"\b(?:with|and|using)\s+(?:the\s+|an?\s+)?{name}\s+{_VALUE}",
        rf"\b{name}\s+(?-i:(?=[\"\u201c'\dA-Z-])){_VALUE}",
    )
    for form in forms:
        for found in re.finditer(form, text, re.IGNORECASE):
            if (value := _converted(found[1], schema)) is not None:
                return value
    return None


def _best(tools: list[Tool], text: str) -> Tool:
    """Return the tool that a text means: named, or else sharing the most words with it."""
    words = set(_words(text))
    return max(tools, key=lambda tool: (tool.is_named_in(text), len(tool.words & words)))


def _call(tools: list[Tool], text: str, messages: Sequence[BaseMessage]) -> str | list[ToolCall]:
    """Call tools with what a text gives, or ask for what it does not."""
    arguments = {tool.name: tool.arguments(text) for tool in tools}
    for tool in tools:
        missing = [key for key in tool.required if key not in arguments[tool.name]]
        if missing:
            example = " and ".join(f"{key} ..." for key in missing)
            return (
                f"I can call {tool.name} when you tell me its {' and '.join(missing)}, for "
                f'example: "use {tool.name} with {example}".'
            )
    return _calls(arguments, messages)


def _calls(arguments: dict[str, dict[str, Any]], messages: Sequence[BaseMessage]) -> list[ToolCall]:
    """Return tool calls whose ids follow from the conversation."""
    conversation = [
        (
            message.type,
            message.text,
            [(call["id"], call["name"]) for call in getattr(message, "tool_calls", ())],
        )
        for message in messages
    ]
    return [
        tool_call(
            name=name,
            args=args,
            id="call_" + hashlib.sha256(repr((conversation, name)).encode()).hexdigest()[:12],
        )
        for name, args in arguments.items()
    ]


def _trailing_results(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        results.insert(0, message)
    return results


def _report(result: ToolMessage, messages: Sequence[BaseMessage]) -> str:
    """Say what a tool answered."""
    names = {
        call["id"]: call["name"]
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    name = result.name or names.get(result.tool_call_id, "The tool")
    verb = "failed" if result.status == "error" else "says"
    return f"{name} {verb}: {result.text or 'nothing'}"
