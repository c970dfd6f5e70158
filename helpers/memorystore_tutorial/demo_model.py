"""The chat model of the tutorial's offline mode: a few rules, and no AI service.

Everything it says follows from the messages it is given. It knows a few forms of sentences, and
doesn't understand anything. A tool's argument is a quoted text or a number, or else the words of a
request that neither the tool nor everyday English accounts for.
"""

import html
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from hashlib import sha256
from itertools import takewhile
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

FALLBACKS = (
    "I have no answer to that. Tell me something about you, such as: My dog is called Rex.",
    "That is beyond my few rules. Try a small sum: What is 6 times 7?",
    "I can't say. Ask me what you told me before: What do you know about me?",
    "I did not get that. Say help, and I will tell you what I can do.",
)
_ABOUT = "the small demo model of this tutorial: a few rules, offline, no AI service."
_HELP = (
    "I remember what you tell me: say I like green tea, then ask What do I like? I know what you "
    "asked before, sum up what we said, and work out 6 x 7."
)
# What a misspelled word may stand for; with more, words of a guest's own would be changed.
_WORDS = "called color favorite hello morning please remember summarize weather".split()  # noqa: SIM905
_WORD = r"[^\W\d_][\w'-]*"
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_ASKS = re.compile(
    r"(?i)\?|(?:^|[.!]\s)\W*(?:please )?(?:what|which|who|when|where|why|how|do|does|did|is|are|am"
    r"|can|could|will|would|call|find|get|give|look|show|tell|use|i want|i need|i would like)\b"
)
_NEXT = re.compile(r"(?i)(?<=[.!?])\s+|,?\s+(?:and|then)\s+(?=(?:what|when|how|is|cancel)\b)")
_WHICH = re.compile(r"Which ([\w ]+) do you mean\?")
_NEVER_MIND = re.compile(r"(?i)\W*(?:never ?mind|forget it|no|nothing|stop)\b[\w\s,]{0,12}[.!]?$")

# What guests say about themselves, clause by clause: a name, "my ... is ...", "I like ...".
_CLAUSE = re.compile(r"(?i)(?<=[.!?;])\s+|\n|,? (?:and|but) (?=i |my )|, (?=i |my )")
_LEAD = re.compile(
    r"(?i)(?:(?:hi|hello|hey|oh|well|ok|yes|please|the user said)\b[\s,!:]*)*"
    r"((?:remember|note|don't forget)\b(?: that)?:?\s*)?"
)
_NAMED = re.compile(
    r"(?:(?i:my name is|me llamo|je m'appelle|ich heiße|меня зовут) |我叫)"
    rf"(?!not\b)({_WORD}(?: (?=[^\Wa-z]){_WORD})*)"
)
_I_AM = re.compile(rf"(?i:i am|call me|this is)((?: (?=[^\Wa-z]){_WORD})+)$")
_MY = re.compile(r"(?i)my ((?!name\b)[\w' -]{2,40}?)(?:'s name)? (?:is|are|was|were) \w")
_I = re.compile(
    r"(?i)i ((?:really |also |do not |don't |can't |never )*(?:like|love|hate|prefer|enjoy|live"
    r"|work|play|speak|have|drink|eat|am from|am an?|am allergic)) (?!you\b|a question\b)(.+)"
)
_MINE = re.compile(r"\b(?:my ([\w' -]+?)|who am i)(?:'s name| is| are| called| named)*\W*$")
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}
_MEMORIES = re.compile(r"(?is)\bknow about [^:\n.]*:\s*(.+?)(?:\n\s*\n|$)")

# Small talk: the first pattern that is found answers; {name} is ", Ada" or nothing.
_TALK = {
    r"\bhow (?:are|r) you\b|\bhow is it going": "I am fine, thank you{name}. And you?",
    r"\bhola\b|buen[oa]s (?:d[ií]as|tardes)": "¡Hola{name}! ¿En qué puedo ayudarle?",
    r"\bbonjour\b|\bsalut\b": "Bonjour{name} ! Que puis-je faire pour vous ?",
    r"\bhallo\b|\bguten (?:tag|morgen|abend)\b": "Hallo{name}! Was kann ich für Sie tun?",
    r"\bdanke\b": "Gern geschehen{name}.", r"你好|您好": "你好{name}!请问需要什么?",
    r"привет|здравствуй": "Здравствуйте{name}! Чем могу помочь?",
    r"こんにちは|こんばんは": "こんにちは{name}。", r"ありがとう": "どういたしまして{name}。",
    r"\bthank|\bcheers\b": "You are welcome{name}.",
    r"\b(?:bye|goodbye|good night)\b": "Goodbye{name}. I will be here when you return.",
    r"\bi am (?:so |very )?(?:tired|sad|ill|hungry|bored|cold)\b": "I am sorry to hear that{name}.",
    r"\bi am (?:fine|good|great|happy|well)\b": "I am glad to hear that{name}.",
    r"\bjoke\b": "Why do caches make good friends{name}? They remember you, for a while.",
    r"\bwhat (?:time|day|date)\b": "I have no clock, so ask your own{name}.",
    r"\bgood (?:morning|afternoon|evening)\b": "{it}{name}.",
    r"\b(?:hello|hi|hey)\b": "Hello{name}.",
    r"^(?:cool|nice|wow|ok|okay|yes|no|sure)\W*$": "All right{name}. What else can I do for you?",
}  # fmt: skip
_WHO = r"\b(?:who|what) are you\b|\byour name\b|\bare you (?:an? )?(?:real|human|robot|bot|ai)\b"
_SUM = re.compile(r"(-?\d+)\s*(\+|plus|-|minus|\*|x|times)\s*(-?\d+)")


class DemoChatModel(BaseChatModel):
    """A small rule-based chat model that runs offline and reads its history.

    It remembers what it is told, in the conversation or in a system prompt's "What you know about
    the guest: ...", knows what was asked before, and summarizes. It calls a bound tool for a
    request that the tool's name or description answers, and asks back once for an argument it
    misses. It streams word by word, and reports words as tokens. Other options are ignored.

    Args:
        model: The name it reports in ``response_metadata["model_name"]``.
        stop: A reply ends before the first of these strings, or of those given to a call.
        delay: Seconds between two words of a stream; by default ``$DEMO_MODEL_DELAY``, else 0.04.

    Example:
        >>> history = [("user", "My dog is called Rex."), ("ai", "A good name.")]
        >>> DemoChatModel().invoke([*history, ("user", "What is my dog called?")]).text
        'Your dog is called Rex.'
    """

    model: str = "demo"
    stop: list[str] | None = None
    delay: float = Field(
        default_factory=lambda: float(os.environ.get("DEMO_MODEL_DELAY") or 0.04), ge=0
    )

    @property
    def _llm_type(self) -> str:
        return "memorystore-chat-demo"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools; `tool_choice` "any", or a tool's name, always calls one."""
        schemas = [convert_to_openai_tool(each) for each in tools]
        return self.bind(tools=schemas, tool_choice=tool_choice or "auto", **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> ChatResult:
        tools = [_Tool(schema["function"]) for schema in kwargs.get("tools") or ()]
        reply = _Talk(messages, tools).answer(kwargs.get("tool_choice") or "auto")
        text, calls = (reply, []) if isinstance(reply, str) else ("", reply)
        for end in filter(None, stop or self.stop or ()):
            text = text.partition(end)[0]
        read = sum(len(message.text.split()) for message in messages)
        written = len(text.split()) + sum(len(json.dumps(call["args"]).split()) for call in calls)
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        told = {"model_name": kwargs.get("model") or self.model}
        told["finish_reason"] = "tool_calls" if calls else "stop"
        message = AIMessage(text, tool_calls=calls, usage_metadata=usage, response_metadata=told)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply: Any = self._generate(messages, stop, **kwargs).generations[0].message
        *words, last = re.findall(r"\s*\S+\s*$|\s*\S+", reply.text) or [""]
        for word in words:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.delay)
        message = AIMessageChunk(
            content=last,
            tool_calls=reply.tool_calls,
            usage_metadata=reply.usage_metadata,
            response_metadata=reply.response_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=message)


class _Talk:
    """A conversation, and the rules that answer its last message."""

    def __init__(self, messages: Sequence[BaseMessage], tools: list["_Tool"]) -> None:
        self.messages, self.tools = messages, tools
        self.prompt = "\n".join(m.text for m in messages if m.type == "system")
        self.raw = [str(m.text) for m in messages if m.type == "human"]
        self.last = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
        self.called = [call for m in messages for call in getattr(m, "tool_calls", ())]
        *self.said, self.text = [*map(_spelled, self.raw)] or [""]
        if self.last.endswith("What is your name?") and re.fullmatch(rf"{_WORD}\W*", self.text):
            self.text = self.text if _small_talk(self.text) else f"My name is {self.text}"
        known = _MEMORIES.findall(self.prompt)
        self.memories = _facts(re.sub(r"(?m)^[-* ]*", "note ", lines) for lines in known)
        self.news = {} if _ASKS.search(self.text) else _facts([self.text])
        self.facts = self.memories | _facts([*self.said, self.text])
        self.name = self.facts.get("name", "").replace("your name is ", ", ")

    def answer(self, choice: str) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        if choice not in ("auto", "none"):
            named = [tool for tool in self.tools if choice in ("any", tool.name)]
            tool = max(named, key=lambda tool: tool.fit(self.text))
            return self._use([(tool, tool.arguments(self.text, invent=True))])
        if results := [*takewhile(lambda m: m.type == "tool", self.messages[::-1])]:
            return " ".join(map(self._report, results[::-1]))
        text, tools = self.text, self.tools if choice == "auto" else []
        if _WHICH.fullmatch(self.last):
            if _NEVER_MIND.match(text):
                return f"All right{self.name}. What else can I do for you?"
            if not _ASKS.search(text) and len(text.split()) < 7:
                text = f"{self.said[-1].rstrip(' .?!')} {text}"
        reply, is_known = self._recall(text.lower())
        if is_known:
            return reply
        if self.news and (keeps := [tool for tool in tools if tool.remembers]):
            return self._use([(keeps[0], keeps[0].arguments(text))])
        wanted = []
        for clause in _NEXT.split(text):
            able = [tool for tool in tools if tool.fit(clause) > (0, 0)]
            best = sorted(able, key=lambda tool: tool.fit(clause))[-1:]
            wanted += [(tool, tool.arguments(clause)) for tool in best]
        if not wanted and self.called and re.match(r"(?i)(?:and|what about|how about)\b", text):
            last = self.called[-1]["name"]
            wanted = [(tool, tool.arguments(text)) for tool in tools if tool.name == last]
        if wanted:
            return self._use(wanted)
        fallbacks = [each for each in FALLBACKS if each != self.last]
        return reply or self._chat() or fallbacks[len(text) % len(fallbacks)]

    def _recall(self, text: str) -> tuple[str, bool]:
        """Answer a question about what was said, and say whether the answer is known."""
        if re.search(r"\bsummar[iy]|\brecap\b", text):
            return self._summary(), True
        if re.search(r"\byou (?:know|remember)(?: about me)?\W*$|\btell you about me\b", text):
            told, none = [*self.facts.values()], "anything about you"
        elif about := re.search(r"\b(?:did i|you know) .*about (?:my |the )?(.+?)\W*$", text):
            lines = [line for said in self.said for line in _SENTENCES.split(said)]
            told = [f'"{line}"' for line in lines if {*_stems(about[1])} & {*_stems(line)}]
            none = f"anything about {about[1]}"
        elif re.search(r"\bwhat (?:did i|have i|was my) .*(?:ask|said|say|question)", text):
            verb = "asked" if re.search("ask|question", text) else "said"
            said = [each for each in self.raw[:-1] if "?" in each or verb == "said"]
            which = said[:1] if "first" in text else said[-1:]
            return f'You {verb}: "{which[0]}"' if which else f"You have not {verb} anything.", True
        elif _ASKS.search(text) and (mine := _MINE.search(text)):
            what = mine[1] or "name"
            told = [fact for key, fact in self.facts.items() if {*_stems(key)} <= {*_stems(what)}]
            told, none = told[-1:], f"{'' if what[:3] in ('nam', 'fav') else 'about '}your {what}"
        elif re.search(r"\b(?:do|did|am|have|can) i\b", text):
            words = {*_stems(text)} - _LITTLE | {"lik"} & {*_stems(text)}
            told = [fact for fact in self.facts.values() if words & {*_stems(fact)}]
            none = "that"
        else:
            return "", False
        known = " ".join(_sentence(fact[:1].upper() + fact[1:]) for fact in told)
        return known or f"You have not told me {none} yet.", bool(known)

    def _chat(self) -> str:
        """Answer a statement, a greeting, a small sum, or a question about the model."""
        text = self.text.lower()
        told = " and that ".join(fact for key, fact in self.news.items() if key != "name")
        noted = f"Nice to meet you{self.name}. " * ("name" in self.news)
        if noted or told:
            return (noted + f"I will remember that {told}." * bool(told)).strip()
        if re.search(_WHO, text):
            who = re.search(r"You are (?!told|asked|to )([^.!\n]+)", self.prompt)
            return f"I am {who[1]}, played by {_ABOUT}" if who else f"I am {_ABOUT}"
        if re.search(r"\bcan you do|\byou help|^\W*help\b|\bhelp me\b", text):
            tools = [f"{t.name.replace('_', ' ')} ({', '.join(t.properties)})" for t in self.tools]
            return _HELP + (f" With my tools I can: {', '.join(tools)}." if tools else "")
        if found := _SUM.search(text):
            left, right = int(found[1]), int(found[3])
            total = left + right if found[2] in ("+", "plus") else left - right
            return f"That is {left * right if found[2] in ('*', 'x', 'times') else total}."
        said = _small_talk(text)
        if said.startswith(("Hello{", "Good ")):
            again = " It is good to see you again." if self.memories and not self.said else ""
            said += again if self.name else " What is your name?"
        return said.format(name=self.name)

    def _summary(self) -> str:
        """Summarize the conversation, or the transcript that the text itself carries."""
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'<message type="human">(.*?)</message>', self.text, re.DOTALL)
        said = [html.unescape(each) for each in carried] or self.raw[:-1]
        facts = _facts(map(_spelled, said)) if carried else self.facts
        told = [re.sub("^your ", "The user's ", f"{fact}.") for fact in facts.values()]
        told = [re.sub("^you ", "The user said: I ", fact) for fact in told]
        asked = " ".join([each for each in said if "?" in each][-3:])
        told += [f"The user asked: {asked}"] if asked else []
        return " ".join(told) or "There is nothing to summarize yet."

    def _use(self, calls: list[tuple["_Tool", dict[str, Any]]]) -> str | list[ToolCall]:
        """Call tools, with ids that follow from the talk, or ask back once for what is missing."""
        for tool, arguments in calls:
            for key in (key for key in tool.required if key not in arguments):
                question = f"Which {key.replace('_', ' ')} do you mean?"
                again = f"Let us leave that. Ask me again, and name the {key}."
                return again if question == self.last else question
        talk = sha256(repr([(m.type, m.text) for m in self.messages]).encode()).hexdigest()[:12]
        return [
            tool_call(name=tool.name, args=arguments, id=f"call_{talk}_{number}")
            for number, (tool, arguments) in enumerate(calls)
        ]

    def _report(self, result: Any) -> str:
        """Say what a tool answered."""
        text = str(result.text).strip()
        if no := re.match(r"(?s)User rejected the tool call(?:.*?with reason: (.*))?", text):
            return f"All right, I left it as it is{f': {_sentence(no[1])}' if no[1] else '.'}"
        if result.status == "error":
            return f"Sorry, that did not work: {_sentence(text)}"
        call: Any = next((c for c in self.called[::-1] if c["id"] == result.tool_call_id), {})
        if any(tool.remembers and tool.name == call.get("name") for tool in self.tools):
            return self._chat() or "I will remember that."
        if not text or re.fullmatch(r"(?s)[A-Z].*\s.*[.!?]", text):
            return text or "It is done."  # many tools speak in sentences themselves
        about = next((v for v in call.get("args", {}).values() if isinstance(v, str) and v), "")
        the = "the " if about and f"the {about}".lower() in self.text.lower() else ""
        return f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text)}"


def _spelled(text: str) -> str:
    """Return a text with short forms written out and misspelled words mended."""
    for form, long in (("i'm", "I am"), ("what'?s", "what is"), ("wat", "what")):
        text = re.sub(rf"(?i)\b{form}\b", long, text.replace("\u2019", "'"))

    def near(word: re.Match[str]) -> str:
        return [*get_close_matches(word[0], _WORDS, 1, 0.87), word[0]][0]

    return re.sub(r"\b[a-z]{4,}\b", near, text)


def _small_talk(text: str) -> str:
    """Return the answer to small talk, if there is any."""
    for pattern, reply in _TALK.items():
        if found := re.search(pattern, text.lower()):
            return reply.replace("{it}", found[0].capitalize())
    return ""


def _facts(texts: Iterable[str]) -> dict[str, str]:
    """Return what texts tell about the guest, the newest last: its subject -> "you ..."."""
    facts: dict[str, str] = {}
    for clause in (each.strip() for text in texts for each in _CLAUSE.split(text)):
        _, note, said = _LEAD.split(clause.rstrip(" .,!;"), maxsplit=1)
        said = re.sub(r"(?i)^the (?:guest|user)'s\b", "my", said)
        told = re.sub(r"\w+", lambda m: _YOU.get(m[0].lower(), m[0]), said)
        if not said or clause.endswith("?"):
            continue
        if named := _NAMED.search(said) or _I_AM.search(said):
            name = named[1].strip()
            facts["name"] = f"your name is {name[0].upper()}{name[1:]}"
        elif my := _MY.match(said):
            facts[my[1].lower()] = told
        elif i := _I.match(said):
            facts[f"{i[1].split()[-1]} {i[2]}".lower()] = told
        elif note:
            facts[said.lower()] = told
    return facts


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."


def _stems(text: str) -> list[str]:
    """Return the words of a text without their endings: "open" for "opens" and "opening"."""
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    stems = [re.sub(r"(?<=\w{3})(?:ing|ed|es|(?<!s)s)$", "", word) for word in words]
    return [stem.removesuffix("e") if len(stem) > 3 else stem for stem in stems]


_READS = {*_stems("check count fetch find get list look lookup read report search show tell")}
# What says nothing about what a question is about.
_LITTLE = _READS | {*_stems("""
    a about all also am an and any anything are at be by call can could did do does every for from
    give guest has have he how i in is it its like make many me mean much my name number now of on
    one or please return run s some that thanks the their there they this to today tomorrow tool up
    use user value want was we what when where which who why will with would you your monday
    tuesday wednesday thursday friday saturday sunday
""")}  # fmt: skip


class _Tool:
    """A bound tool, as far as the rules need it."""

    def __init__(self, function: dict[str, Any]) -> None:
        schema = function.get("parameters") or {}
        self.name = str(function["name"])
        self.properties: dict[str, dict[str, Any]] = schema.get("properties") or {}
        self.required: list[str] = schema.get("required") or []
        name, described = _stems(self.name), _stems(str(function.get("description")))
        self.verb, self.words = name[0], {*name} - _LITTLE or {*name}
        # What else it is about, by its description, apart from the names of its arguments.
        self.topics = {*described} - _LITTLE - {*_stems(" ".join(self.properties))}
        self.remembers = bool({*_stems("remember save store note")} & {self.verb, described[0]})

    def fit(self, text: str) -> tuple[int, int]:
        """Say how well a text fits what the tool does: more is better, and (0, 0) not at all."""
        words = {*_stems(text)}
        named, about = len(self.words & words), len(self.topics & words)
        if self.verb not in _stems(text)[:2] and self.name not in text and not _ASKS.search(text):
            return 0, 0
        if named and (self.verb in _LITTLE or self.verb in words):
            return named, about
        # A word of the description alone may be chance, or ask for less than the tool would do.
        reads = self.verb in _READS and {*self.required} <= {*self.arguments(text)}
        return 0, about if reads else 0

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        if self.remembers:
            return {key: _LEAD.split(text, maxsplit=1)[2] for key in self.required[:1]}
        known = _LITTLE | self.words | self.topics
        words = [m for m in re.finditer(r"[\w'-]+", text) if not known.issuperset(_stems(m[0]))]
        left_over = [text[words[0].start() : words[-1].end()]] if words else []
        numbers = re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)?(?!\w)", text)
        texts = re.findall(r'"([^"]+)"', text) or left_over
        found: dict[str, Any] = {}
        for key, schema in self.properties.items():
            kind = str(schema.get("type", "string"))
            if kind in ("integer", "number") and numbers:
                found[key] = json.loads(numbers.pop(0))
            elif kind == "string" and texts:
                value = re.sub(rf"(?i)^{key} (?=.)", "", texts.pop(0))
                value = numbers.pop(0) if numbers and key in ("number", "id") else value
                found[key] = value.title() if key == "city" and value.islower() else value
            elif invent and key in self.required:
                found[key] = schema.get("enum", [0 if kind == "integer" else text])[0]
        return found
