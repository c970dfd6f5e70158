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
from collections.abc import Iterable, Iterator, Sequence, Set
from difflib import get_close_matches
from itertools import takewhile
from operator import add, mul, sub
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCall, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

FALLBACKS = (
    "I have no answer to that. Tell me something about you, such as: My dog is called Rex.",
    "That is beyond my few rules. Try a small sum: What is 6 times 7?",
    "I can't say. Ask me what you told me before: What do you know about me?",
    "I did not get that. Say help, and I will tell you what I can do.",
)
# Small talk: the first pattern that is found answers; {name} is ", Ada" or nothing.
_TALK = {
    r"\b(?:who|what) are you\b|\byour name\b|\bare you (?:an? )?(?:real|human|robot|bot|ai)\b":
        "I am {who}the small demo model of this tutorial: a few rules, offline, no AI service.",
    r"\bcan you do|\byou help|^\W*help\b|\bhelp me\b":
        "I remember what you tell me: say I like green tea, then ask What do I like? I know what "
        "you asked before, sum up what we said, and work out 6 x 7.{tools}",
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
    r"(?:^|please |you )forget (?!it\b)": "I can't unsay what is in our conversation{name}.",
    r"\bjoke\b": "Why do caches make good friends{name}? They remember you, for a while.",
    r"\bwhen is it\b|\bwhat (?:day|date)\b": "I have no clock, so ask your own{name}.",
    r"\bgood (?:morning|afternoon|evening)\b": "{it}{name}.{hello}",
    r"\b(?:hello|hi|hey)\b": "Hello{name}.{hello}",
    r"^(?:cool|nice|wow|ok|okay|yes|no|sure)\W*$": "All right{name}. What else can I do for you?",
    r"^when\b|\bweather\b|\bopen\b": "I don't know that{name}: no tool of mine tells me.",
}  # fmt: skip
_SPELLED = {
    "i'm": "I am", "what'?s": "what is", "wat": "what", "what time": "when", "dont": "don't",
    "who am i": "what is my name", r"how much (?:is|are|do|does)(?! \d)": "what is the price of",
}  # fmt: skip
# What a misspelled word may stand for; with more, words of a guest's own would be changed.
_WORDS = "called color favorite hello morning please remember summarize weather".split()  # noqa: SIM905
_ASKS = re.compile(
    r"(?i)\?|(?:^|[.!]\s)\W*(?:please )?(?:what|which|who|when|where|why|how|do|does|did|is|are|am"
    r"|can|could|will|would|call|find|get|give|look|show|tell|use|i want|i need|i would like)\b"
)
_REQUEST = re.compile(rf"{_ASKS.pattern}|^(?!.*\b(?:i|my)\b)[\w ]+ (?:#?\d+|please)\W*$")
_NEXT = re.compile(r"(?i)(?<=[.!?])\s+|,?\s+(?:and|then)\s+(?=(?:what|when|how|is|cancel)\b)")
_NEVER_MIND = re.compile(r"(?i)\W*(?:never ?mind|forget it|no|nothing|stop)\b[\w\s,]{0,12}[.!]?$")

# What guests say about themselves, clause by clause: a name, "my ... is ...", "I like ...".
_TASTE = re.compile(r"\b(?:like|love|enjoy|prefer)s?\b")
_NOT = re.compile(r"(?i)\b(?:never|not)\b|n't\b")
_CLAUSE = re.compile(r"(?i)(?<=[.!?;])\s+|\n|,? (?:and|but) (?=i |my )|, (?=i |my )")
_LEAD = re.compile(
    r"(?i)(?:(?:hi|hello|hey|oh|well|ok|yes|actually|please|the user said)\b[\s,!:]*)*"
    r"((?:remember|note|don't forget)\b(?: that)?:?\s*)?"
)
_WORD = r"[^\W\d_][\w'-]*"
_NAMED = re.compile(
    rf"(?:(?i:my name is|me llamo|je m'appelle|ich heiße|меня зовут) |我叫)(?!not\b)({_WORD}"
    rf"(?: (?=[^\Wa-z]){_WORD})*)|(?i:^i am|^call me|^this is)((?: (?=[^\Wa-z]){_WORD})+)$"
)
_ABOUT_ME = re.compile(
    r"(?i)(?:my ((?!name\b)[\w' -]{2,40}?)(?:'s name)? (?:is|are|was|were) \w|i (?:(?:really|also"
    r"|do not|don't|can't|never) )*((?:like|love|hate|prefer|enjoy|live|work|play|speak|have|drink"
    r"|eat|am from|am an?|am allergic) (?!you\b|a question\b).+|am (?:vegetarian|vegan|\d+(?: years"
    r" old)?)$)|my ([\w' -]{2,40}? (?:like|love|hate|prefer|enjoy)s?) \w)"
)
_MINE = r"\bmy ((favorite )?[\w' -]+?)(?:'s name| is| are| called| named| like| hate)*\W*$"
# A question about what the guest may have said: "I" alone doesn't make it one.
_PERSONAL = re.compile(
    r"about|\b(?:(?:wh\w+|how) (?:is|are|was|does)|tell|know|remember) .*\bmy\b|(?:what|old) am i"
    r"|\bam i (?:an? |from|allerg|veg)|\bdo(?:n't)? i (?:like|hate|live|work|eat|drink|have(?! to))"
)
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}


class DemoChatModel(BaseChatModel):
    """A small rule-based chat model that runs offline and reads its history.

    It remembers what it is told, in the conversation or in a system prompt's "What you know about
    the guest: ...", knows what was asked before, and summarizes. It calls a bound tool for a
    request that the tool's name or description answers, and asks back once for an argument it
    misses. It streams word by word. It counts no tokens, and ignores stop words and other options.

    Args:
        model: The name it reports in ``response_metadata["model_name"]``.
        delay: Seconds between two words of a stream; by default ``$DEMO_MODEL_DELAY``, else 0.04.

    Example:
        >>> history = [("user", "My dog is called Rex."), ("ai", "A good name.")]
        >>> DemoChatModel().invoke([*history, ("user", "What is my dog called?")]).text
        'Your dog is called Rex.'
    """

    model: str = "demo"
    delay: float = Field(
        default_factory=lambda: float(os.environ.get("DEMO_MODEL_DELAY") or 0.04), ge=0
    )

    @property
    def _llm_type(self) -> str:
        return "memorystore-chat-demo"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools; `tool_choice` "any", or a tool's name, always calls one."""
        schemas = [convert_to_openai_tool(each) for each in tools]
        return self.bind(tools=schemas, tool_choice=tool_choice or "auto", **kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        tools = [_Tool(schema["function"]) for schema in kwargs.get("tools") or ()]
        reply = _Talk(messages, tools).answer(kwargs.get("tool_choice") or "auto")
        text, calls = (reply, []) if isinstance(reply, str) else ("", reply)
        named = {"model_name": kwargs.get("model") or self.model}
        message = AIMessage(text, tool_calls=calls, response_metadata=named)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply: Any = self._generate(messages, **kwargs).generations[0].message
        *words, last = re.findall(r"\s*\S+\s*$|\s*\S+", reply.text) or [""]
        for word in words:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.delay)
        rest = {"tool_calls": reply.tool_calls, "response_metadata": reply.response_metadata}
        chunk = AIMessageChunk(content=last, **rest, chunk_position="last")
        yield ChatGenerationChunk(message=chunk)


class _Talk:
    """A conversation, and the rules that answer its last message."""

    def __init__(self, messages: Sequence[BaseMessage], tools: list["_Tool"]) -> None:
        self.messages, self.tools, self.unknown = messages, tools, ""
        self.raw = [str(m.text) for m in messages if m.type == "human"]
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'(?s)<message type="human">(.*?)</message>', "".join(self.raw[-1:]))
        self.raw = [*map(html.unescape, carried), "Summarize."] if carried else self.raw
        self.last = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
        self.called = [call for m in messages for call in getattr(m, "tool_calls", ())]
        *self.said, self.text = [*map(_spelled, self.raw)] or [""]
        if self.last.endswith("What is your name?") and re.fullmatch(rf"{_WORD}\W*", self.text):
            self.text = self.text if self._small_talk() else f"My name is {self.text}"
        self.prompt = "\n".join(m.text for m in messages if m.type == "system")
        known = re.findall(r"(?is)\bknow about [^:\n.]*:\s*(.+?)(?:\n\s*\n|$)", self.prompt)
        self.memories = _facts(re.sub(r"(?m)^[-* ]*", "note ", lines) for lines in known)
        self.news = {} if _ASKS.search(self.text) else _facts([self.text])
        self.facts = self.memories | _facts([*self.said, self.text])

    def answer(self, choice: str) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        tools = [] if choice == "none" else self.tools
        if named := [tool for tool in tools if choice in ("any", tool.name)]:
            tool = max(named, key=lambda tool: tool.fit(self.text))
            return self._call([(tool, tool.arguments(self.text, invent=True))])
        if results := [*takewhile(lambda m: m.type == "tool", self.messages[::-1])]:
            return " ".join(map(self._report, results[::-1]))
        if re.fullmatch(r"Which [\w ]+ do you mean\?", self.last):
            if _NEVER_MIND.match(self.text):
                return "All right. What else can I do for you?"
            if self.said and not _ASKS.search(self.text) and len(self.text.split()) < 7:
                self.text = f"{self.said[-1].rstrip(' .?!')} {self.text}"
        return self._recall() or self._use(tools) or self.unknown or self._chat()

    def _recall(self) -> str:
        """Answer a question about what was said, or note what is not known."""
        text = _TASTE.sub("like", self.text.lower())
        words, negative = _stems(text), bool(_NOT.search(text))
        if re.search(r"\bsummar[iy]|\brecap\b", text):
            return self._summary()
        if asked := re.search(r"\bwhat (?:did i|have i|was my) .*(ask|question|said|say)", text):
            verb = "asked" if asked[1] in ("ask", "question") else "said"
            said = [each for each in self.raw[:-1] if "?" in each or verb == "said"]
            which = said[:1] if "first" in text else said[-1:]
            return f'You {verb}: "{which[0]}"' if which else f"You have not {verb} anything."
        if re.search(r"\byou (?:know|remember)(?: about me)?\W*$|\btell you about me\b", text):
            told, none = [*self.facts.values()], "anything about you"
        elif about := re.search(r"\b(?:did i|you know) .*about (?:my |the )?(.+?)\W*$", text):
            lines = re.split(r"(?<=[.!?])\s+|\n", "\n".join(self.said))
            if told := [f'"{line}"' for line in lines if _stems(about[1]) & _stems(line)]:
                return " ".join(told)
            none = f"anything about {about[1]}"
        elif _ASKS.search(text) and (mine := re.search(_MINE, text)):
            told = [self.facts[key] for key in self.facts if _stems(key) <= words][-1:]
            none = f"{'' if mine[2] or mine[1] == 'name' else 'about '}your {mine[1]}"
        elif re.search(r"\b(?:do|don't|did|am|have|can) i\b", text):
            topics = (words - _LITTLE or words & {"am"}) | words & {"lik"}
            fit = {fact: len(_stems(key) & topics) for key, fact in self.facts.items()}
            best = max(fit.values(), default=0)
            told = [fact for fact in fit if fit[fact] == best > 0]
            if best == 1 and "lik" in topics:  # what they like themselves, or what they don't
                told = [f for f in told if f[0] in "Ii" and bool(_NOT.search(f)) == negative]
            none = "that"
        else:
            return ""
        self.unknown = f"You have not told me {none} yet." if _PERSONAL.search(text) else ""
        return " ".join(map(_sentence, map(_you, told)))

    def _summary(self) -> str:
        """Retell what the guest said, and asked last."""
        facts = [f"The user said: {_sentence(fact)}" for fact in self.facts.values()]
        told = [re.sub("(?i) said: my ", "'s ", fact) for fact in facts]
        asked = " ".join([each for each in self.raw[:-1] if "?" in each][-3:])
        told += [f"The user asked: {asked}"] if asked else []
        return " ".join(told) or "There is nothing to summarize yet."

    def _chat(self) -> str:
        """Answer a statement, a small sum, or small talk."""
        name, text = self.facts.get("name", "").replace("my name is ", ", "), self.text
        told = " and that ".join(_you(self.news[key]) for key in self.news if key != "name")
        if self.news:
            noted = f"Nice to meet you{name}. " if "name" in self.news else ""
            return noted + f"I will remember that {told}." if told else noted.strip()
        if found := re.search(r"(-?\d+)\s*(\+|plus|-|minus|\*|x|times)\s*(-?\d+)", text):
            work_out = {"+": add, "p": add, "-": sub, "m": sub}.get(found[2][0], mul)
            return f"That is {work_out(int(found[1]), int(found[3]))}."
        who = re.search(r"You are (?!told|asked|to )([^.!\n]+)", self.prompt)
        tools = [f"{t.name.replace('_', ' ')} ({', '.join(t.properties)})" for t in self.tools]
        again = " It is good to see you again." if self.memories and not self.said else ""
        others = [each for each in FALLBACKS if each != self.last]
        reply = self._small_talk() or others[len(text) % len(others)]
        return reply.format(
            name=name,
            who=f"{who[1]}, played by " if who else "",
            tools=f" With my tools I can: {', '.join(tools)}." if tools else "",
            hello=again if name else " What is your name?",
        )

    def _small_talk(self) -> str:
        for pattern, reply in _TALK.items():
            if found := re.search(pattern, self.text.lower()):
                return reply.replace("{it}", found[0].capitalize())
        return ""

    def _use(self, tools: list["_Tool"]) -> str | list[ToolCall]:
        """Call the tools that a request is for, if there are any."""
        if self.news and (keeps := [tool for tool in tools if tool.remembers]):
            return self._call([(keeps[0], keeps[0].arguments(self.text))])
        wanted = []
        for clause in _NEXT.split(self.text) if tools else ():
            best = max(tools, key=lambda tool: tool.fit(clause))
            wanted += [(best, best.arguments(clause))] if best.fit(clause) else []
        if not wanted and re.match(r"(?i)(?:and|what about|how about)\b", self.text):
            last = [call["name"] for call in self.called[-1:]]
            wanted = [(tool, tool.arguments(self.text)) for tool in tools if tool.name in last]
        return self._call(wanted)

    def _call(self, calls: list[tuple["_Tool", dict[str, Any]]]) -> str | list[ToolCall]:
        """Call tools, or ask back once for what is missing."""
        if missing := [key for tool, args in calls for key in tool.required if key not in args]:
            question = f"Which {missing[0].replace('_', ' ')} do you mean?"
            again = f"Let us leave that. Ask me again, and name the {missing[0]}."
            return again if question == self.last else question
        return [tool_call(name=t.name, args=args, id=f"call_{uuid4().hex}") for t, args in calls]

    def _report(self, result: Any) -> str:
        """Say what a tool answered, or a person instead of it."""
        text = str(result.text).strip()
        call: Any = next((c for c in self.called if c["id"] == result.tool_call_id), {})
        tool = next((tool for tool in self.tools if tool.name == call.get("name")), None)
        # A person's no comes as the reason alone or, from newer versions of LangChain, introduced.
        no = re.match(r"(?s)User rejected the tool call for \S+ with (?:reason: (.+)|id)", text)
        failed = not tool or tool.verb in _READS or re.search(r"(?i)\berror\b|\bfail", text)
        if result.status == "error" and failed and not no:
            return f"Sorry, that did not work: {_sentence(text)}"
        if result.status == "error":
            reason = no[1] if no else text
            return f"All right, I left it as it is{f': {_sentence(reason)}' if reason else '.'}"
        if tool and tool.remembers:
            return self._chat()
        if not text or re.fullmatch(r"(?s)[A-Z].*\s.*[.!?]", text):
            return text or "It is done."  # many tools speak in sentences themselves
        about = next((v for v in call.get("args", {}).values() if isinstance(v, str) and v), "")
        the = "the " if about and f"the {about}".lower() in self.text.lower() else ""
        return f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text)}"


def _spelled(text: str) -> str:
    """Return a text with short forms written out and misspelled words mended."""
    text = text.replace("\u2019", "'")
    for form, long in _SPELLED.items():
        text = re.sub(rf"(?i)\b{form}\b", long, text)
    near = {w: get_close_matches(w, _WORDS, 1, 0.87) for w in re.findall(r"\b[a-z]{4,}\b", text)}
    return re.sub(r"\b[a-z]{4,}\b", lambda m: [*near[m[0]], m[0]][0], text)


def _facts(texts: Iterable[str]) -> dict[str, str]:
    """Return what texts tell about the guest, the newest last: its subject -> in their words."""
    facts: dict[str, str] = {}
    for clause in (each.strip() for text in texts for each in _CLAUSE.split(text)):
        _, note, said = _LEAD.split(clause.rstrip(" .,!;"), maxsplit=1)
        said = re.sub(r"(?i)^the (?:guest|user)'s\b", "my", said)
        if clause.endswith("?"):
            continue
        if named := _NAMED.search(said):
            name = (named[1] or named[2]).strip()
            facts["name"] = f"my name is {name[0].upper()}{name[1:]}"
        elif about := _ABOUT_ME.match(said):
            facts[_TASTE.sub("like", about[about.lastindex or 1].lower())] = said
        elif note and said:
            facts[said.lower()] = said
    return facts


def _you(said: str) -> str:
    """Return the words of a guest as one says them to the guest."""
    return re.sub(r"\w+", lambda m: _YOU.get(m[0].lower(), m[0]), said)


def _sentence(text: str) -> str:
    end = "" if text.endswith((".", "!", "?")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}"


def _stems(text: str) -> Set[str]:
    """Return the words of a text, in order, without their endings: "open" for "opening"."""
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    stems = [re.sub(r"(?<=\w{3})(?:ing|ed|es|(?<!s)s)$", "", word) for word in words]
    return {stem.removesuffix("e") if len(stem) > 3 else stem: 1 for stem in stems}.keys()


_READS = _stems("check count fetch find get list look lookup read report search show tell")
# What says nothing about what a question is about.
_LITTLE = _READS | _stems("""
    a about all also am an and any anything are at be by call can could did do does every for from
    give guest has have he how i in is it its like make many me mean much my name number now of on
    one or please return run s some that thanks the their there they this to today tomorrow tool up
    use user value want was we what when where which who why will with would you your monday
    tuesday wednesday thursday friday saturday sunday cost don t
""")


class _Tool:
    """A bound tool, as far as the rules need it."""

    def __init__(self, function: dict[str, Any]) -> None:
        schema = function.get("parameters") or {}
        self.name = str(function["name"])
        self.properties: dict[str, dict[str, Any]] = schema.get("properties") or {}
        self.required: list[str] = schema.get("required") or []
        name, described = _stems(self.name), _stems(str(function.get("description")))
        self.verb, self.words = next(iter(name)), name - _LITTLE or name
        # What else it is about, by its description, apart from the names of its arguments.
        self.topics = described - (_LITTLE - {"when"}) - _stems(" ".join(self.properties))
        self.remembers = bool(_stems("remember save store note") & {self.verb, *[*described][:1]})

    def fit(self, text: str) -> int:
        """Say how well a text fits what the tool does: more is better, and 0 not at all."""
        words = _stems(text)
        if not (self.verb in [*words][:2] or self.name in text or _REQUEST.search(text)):
            return 0
        about = len(self.topics & words)
        if (named := len(self.words & words)) and (self.verb in _LITTLE or self.verb in words):
            return 100 * named + about
        # A word of the description alone may be chance, or ask for less than the tool would do.
        reads = self.verb in _READS and {*self.required} <= {*self.arguments(text)}
        return about if reads and "my" not in words else 0

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        if self.remembers:
            return {key: _LEAD.split(text, maxsplit=1)[2] for key in self.required[:1]}
        known = _LITTLE | self.words | self.topics
        words = [m for m in re.finditer(r"[\w'-]+", text) if not known >= _stems(m[0])]
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
