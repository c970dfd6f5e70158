"""The chat model of the tutorial's offline mode: one file of rules, and no AI service.

Everything it says follows from the messages it is given; `_RULES` lists what answers what. It knows
a few forms of sentences, and doesn't understand anything.
"""

import html
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence, Set
from difflib import get_close_matches
from functools import lru_cache
from itertools import takewhile
from operator import add, mul, sub
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
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
        choice = kwargs.get("tool_choice")
        tools = [{"parameters": {}, **each["function"]} for each in kwargs.get("tools") or ()]
        reply = _Talk(messages, tools if choice != "none" else []).answer(choice)
        text, calls = (reply, []) if isinstance(reply, str) else ("", reply)
        named = {"model_name": kwargs.get("model") or self.model}
        message = AIMessage(text, tool_calls=calls, response_metadata=named)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        reply: Any = self._generate(messages, **kwargs).generations[0].message
        for word in re.findall(r"\s*\S+\s*$|\s*\S+", reply.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.delay)
        rest = {"tool_calls": reply.tool_calls, "response_metadata": reply.response_metadata}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", **rest, chunk_position="last"))


_NAME_ASKED = "What is your name?"
_SPELLED = {
    "i'm": "I am",
    "what'?s|wat is": "what is",
    "what time": "when",
    "who am i": "what is my name",
    r"how much (?:is|are|do|does)(?! \d)": "what is the price of",
}
# What a misspelled word may stand for; with more, words of a guest's own would be changed.
_WORDS = "called color favorite hello morning please remember summarize weather".split()  # noqa: SIM905
_ASKS = re.compile(
    r"(?i)\?|(?:^|[.!]\s)\W*(?:please )?(?:what|which|who|when|where|why|how|do|does|did|is|are|am"
    r"|can|could|will|would|call|find|get|give|look|show|tell|use|i want|i need|i would like)\b"
)
_NEXT = re.compile(r"(?i)(?<=[.!?])\s+|,?\s+(?:and|then)\s+(?=(?:what|when|how|is|cancel)\b)")

# What guests say about themselves, clause by clause: a name, "my ... is ...", "I like ...".
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
_VERBS = "like|love|hate|prefer|enjoy|live|work|play|speak|drink|eat|have(?! to)"
_ABOUT_ME = re.compile(
    r"(?i)my ((?!name\b)[\w' -]{2,40}?)(?:'s name)? (?:is|are|was|were) \w"
    r"|my ([\w' -]{2,40}? (?:like|love|hate|prefer|enjoy)s?) \w"
    r"|i (?:(?:really|also|do not|don't|can't|never) )*((?:am (?:from|an?|allergic)|"
    rf"{_VERBS}) (?!you\b|a question\b).+|am (?:vegetarian|vegan|\d+(?: years old)?)$)"
)
_NOT = re.compile(r"(?i)\b(?:never|not)\b|n't\b")
_KEEPS = re.compile("remember|note|save|store")
_SAME = {"lov": "lik", "enjoy": "lik", "prefer": "lik"}
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}
# How well a tool fits a request, its name, the arguments found, and makeshift ones for the others.
_Fit = tuple[int, str, dict[str, Any], dict[str, Any]]


class _Talk:
    """A conversation, and the ways of answering its last message that `_RULES` names."""

    def __init__(self, messages: Sequence[BaseMessage], tools: list[dict[str, Any]]) -> None:
        self.messages, self.tools = messages, tools
        self.called = {call["id"]: call for m in messages for call in getattr(m, "tool_calls", ())}
        said: list[str] = []
        self.last = before = ""
        for message in messages:
            if message.type == "human":
                said.append(_meant(str(message.text), before, said[-1] if said else ""))
                self.last = before
            before = str(message.text)
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'(?s)<message type="human">(.*?)</message>', "".join(said[-1:]))
        said = [*map(html.unescape, carried), "Summarize."] if carried else said
        *self.said, self.text = said or [""]
        prompt = "\n".join(m.text for m in messages if m.type == "system")
        known = re.findall(r"(?is)\bknow about [^:\n.]*:\s*(.+?)(?:\n\s*\n|$)", prompt)
        memories = [re.sub(r"(?m)^[-* ]*", "note ", lines) for lines in known]
        self.news = {} if _ASKS.search(self.text) else _facts(self.text)
        self.facts: dict[str, str] = {}
        for text in (*memories, *self.said, self.text):
            self.facts |= _facts(text)
        # What the rules fill in.
        self.name = self.facts.get("name", "").replace("my name is ", ", ")
        again = " It is good to see you again." if not self.said else ""
        self.hello = again if self.name else f" {_NAME_ASKED}"
        can = [f"{t['name']} ({', '.join(t['parameters'].get('properties', ()))})" for t in tools]
        self.can = f" With my tools I can: {', '.join(can)}.".replace("_", " ") if can else ""

    def answer(self, choice: str | None) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        if named := [tool for tool in self.tools if choice in ("any", tool["name"])]:
            score, name, args, makeshift = max(_fit(tool, self.text) for tool in named)
            return self._call([(score, name, args | makeshift, {})])
        if results := [*takewhile(lambda m: m.type == "tool", self.messages[::-1])]:
            return " ".join(map(self._report, results[::-1]))
        for pattern, rule in _RULES:
            if found := re.search(pattern, self.text.lower()):
                if isinstance(rule, str):
                    return _sentence(rule.format(*map(_you, found.groups("")), **vars(self)))
                if reply := rule(self, found):
                    return reply
        others = [each for each in FALLBACKS if each != self.last]
        return others[len(self.text) % len(others)]

    def summarize(self, _: re.Match[str]) -> str:
        told = [f"The user said: {_sentence(fact)}" for fact in self.facts.values()]
        asked = " ".join([each for each in self.said if "?" in each][-3:])
        told += [f"The user asked: {asked}"] if asked else []
        return re.sub("(?i) said: my ", "'s ", " ".join(told)) or "Nothing was said yet."

    def repeat(self, found: re.Match[str]) -> str:
        """Repeat what the guest asked or said last, or first, or about something."""
        verb, about = "asked" if found[1] in ("ask", "question") else "said", found[2] or ""
        words = _stems(about) - _LITTLE
        said = [e for e in self.said if (verb == "said" or "?" in e) and words <= _stems(e)]
        if not said:
            return f"You have not {verb} anything{_you(about)}."
        return f'You {verb}: "{said[0 if "first" in found[0] else -1]}"'

    def tell_all(self, _: re.Match[str]) -> str:
        told = " ".join(_sentence(_you(fact)) for fact in self.facts.values())
        return told or "You have not told me anything about you yet."

    def recall(self, _: re.Match[str]) -> str:
        """Tell the facts that share the most words with a question, and its yes or no."""
        words, denied = _stems(self.text), bool(_NOT.search(self.text))
        topics = (words - _LITTLE or words & {"am"}) | words & _stems("like name")
        fit = {
            fact: (len(_stems(key) & topics), denied == bool(_NOT.search(fact)))
            for key, fact in self.facts.items()
            if _stems(key) <= words or not fact.lower().startswith("my ")
        }
        best = max([(1, False), *fit.values()])
        return " ".join(_sentence(_you(fact)) for fact in fit if fit[fact] == best)

    def use(self, _: re.Match[str]) -> str | list[ToolCall]:
        """Call the tools that a request is for, if there are any."""
        clauses = [self.text] if self.news else _NEXT.split(self.text)
        fits = [max(_fit(tool, clause) for tool in self.tools) for clause in clauses if self.tools]
        wanted = [fit for fit in fits if fit[0]]
        if not wanted and re.match(r"(?i)(?:and|what about|how about)\b", self.text):
            last = [call["name"] for call in [*self.called.values()][-1:]]
            wanted = [_fit(tool, self.text) for tool in self.tools if tool["name"] in last]
        return self._call(wanted)

    def note(self, _: re.Match[str] | None = None) -> str:
        told = " and that ".join(_you(self.news[key]) for key in self.news if key != "name")
        greeting = f"Nice to meet you{self.name}. " if "name" in self.news else ""
        return (greeting + (f"I will remember that {told}." if told else "")).strip()

    def work_out(self, found: re.Match[str]) -> str:
        operator = {"+": add, "p": add, "-": sub, "m": sub}.get(found[2][0], mul)
        return f"That is {operator(int(found[1]), int(found[3]))}."

    def _call(self, fits: list[_Fit]) -> str | list[ToolCall]:
        """Call tools, or ask back once for what is missing."""
        if missing := [key for *_, makeshift in fits for key in makeshift]:
            question = f"Which {missing[0].replace('_', ' ')} do you mean?"
            return "Let us leave that." if question == self.last else question
        return [ToolCall(name=fit[1], args=fit[2], id=f"call_{uuid4().hex}") for fit in fits]

    def _report(self, result: Any) -> str:
        """Say what a tool answered, or a person instead of it."""
        text = str(result.text).strip()
        call: Any = self.called.get(result.tool_call_id, {"name": "tool", "args": {}})
        verb = next(iter(_stems(call["name"])))
        if result.status == "error":
            # A person's no is the reason alone or, from newer versions of LangChain, introduced.
            no = r"(?s)User rejected the tool call for \S+ with (?:reason: |id.*)"
            reason = re.sub(no, "", text)
            if reason == text and (verb in _LITTLE or re.search(r"(?i)\berror\b|\bfail", text)):
                return f"Sorry, that did not work: {_sentence(text)}"
            return f"All right, I left it as it is{f': {_sentence(reason)}' if reason else '.'}"
        if _KEEPS.match(call["name"]) and self.news:
            return self.note()
        if not text or re.fullmatch(r"(?s)[A-Z].*\s.*[.!?]", text):
            return text or "It is done."  # many tools speak in sentences themselves
        about = next((v for v in call["args"].values() if isinstance(v, str)), "")
        the = "the " if f"the {about}".lower() in self.text.lower() else ""
        return f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text)}"


_PERSONAL = (
    r"\b(?:(?:wh\w+|how) (?:is|are|was|does)|tell me|you know|you remember)\b.* my\b"
    rf"|\b(?:what|old) am i\b|\bam i (?:an? |from|allerg|veg)|\bdo(?:n't)? i (?:{_VERBS})\b"
)
# What answers what: the first rule whose pattern is found, and that has something to say. A text
# is filled in with the pattern's groups and with what _Talk knows: {name} is ", Ada" or nothing.
_RULES: list[tuple[str, str | Callable[[_Talk, re.Match[str]], str | list[ToolCall]]]] = [
    (r"\bsummar[iy]|\brecap\b", _Talk.summarize),
    (r"\b(?:about me|what do you (?:know|remember))\W*$", _Talk.tell_all),
    (_PERSONAL, _Talk.recall),
    (r"\b(?:did i|was my) .*?(ask|question|say|tell).*?( about .+?)?\W*$", _Talk.repeat),
    ("", _Talk.use),
    (r"\bis (my (?:name|favorite [\w ]+))\W*$", "You have not told me {0} yet."),
    (_PERSONAL, "You have not told me that yet."),
    ("", _Talk.note),
    (r"(-?\d+)\s*(\+|plus|-|minus|\*|x|times)\s*(-?\d+)", _Talk.work_out),
    (r"\bwho are you\b|\bare you an? ", "I am the tutorial's demo model: rules, and no AI."),
    (
        r"\bcan you do|\byou help|^\W*help\b|\bhelp me\b",
        "I remember what you tell me: say I like green tea, then ask What do I like? I know what "
        "you asked before, sum up what we said, and work out 6 x 7.{can}",
    ),
    (r"\bhow (?:are|r) you\b|\bhow is it going", "I am fine, thank you{name}. And you?"),
    (r"\bhola\b|\bbuen[oa]s (?:d[ií]as|tardes)\b", "¡Hola{name}! ¿En qué puedo ayudarle?"),
    (r"\bbonjour\b|\bsalut\b", "Bonjour{name} ! Que puis-je faire pour vous ?"),
    (r"\bhallo\b|\bguten (?:tag|morgen|abend)\b", "Hallo{name}! Was kann ich für Sie tun?"),
    (r"\bdanke\b", "Gern geschehen{name}."),
    (r"你好|您好", "你好{name}。"),
    (r"привет|здравствуй", "Здравствуйте{name}! Чем могу помочь?"),
    (r"こんにちは|こんばんは", "こんにちは{name}。"),
    (r"ありがとう", "どういたしまして{name}。"),
    (r"^(?:never ?mind|forget it|no|nothing|stop)\b[\w\s,]{0,12}\W*$", "All right. What else?"),
    (r"\bthank|\bcheers\b", "You are welcome{name}."),
    (r"\b(?:good)?bye\b|\bgood night\b", "Goodbye{name}. I will be here when you return."),
    (r"\bi am (?:so )?(?:tired|sad|ill|hungry|bored|cold)\b", "I am sorry to hear that{name}."),
    (r"\bi am (?:fine|good|great|happy|well)\b", "I am glad to hear that{name}."),
    (r"(?:^|please |you )forget\b", "I can't unsay what is in our conversation{name}."),
    (r"\bjoke\b", "Why do caches make good friends{name}? They remember you, for a while."),
    (r"\bwhen is it\b|\bwhat (?:day|date)\b", "I have no clock, so ask your own{name}."),
    (r"\b(good (?:morning|afternoon|evening))\b", "{0}{name}.{hello}"),
    (r"\b(?:hello|hi|hey)\b", "Hello{name}.{hello}"),
    (r"^(?:cool|nice|wow|ok|okay|yes|sure)\W*$", "All right{name}. What else can I do for you?"),
    (r"^when\b|\bweather\b|\bopen\b", "I don't know that{name}: no tool of mine tells me."),
]


def _fit(tool: dict[str, Any], text: str) -> _Fit:
    """Say how well a tool fits a request, and find its arguments.

    An argument is a number, a quoted text, or the words that nothing else accounts for. A tool
    that is called remember, or the like, takes all that a guest says about themselves.
    """
    properties, required = (tool["parameters"].get(key, {}) for key in ("properties", "required"))
    if _KEEPS.match(tool["name"]):
        told = _LEAD.split(text, maxsplit=1)[2]
        return 1000 if _facts(text) else 0, tool["name"], dict.fromkeys(required, told), {}
    words, named = _stems(text), _stems(tool["name"])
    verb = next(iter(named))
    described = _stems(tool.get("description", "")) - _stems(" ".join(properties))
    topics = (named | described) - (_LITTLE - {"when"})
    known = _LITTLE | topics
    rest = [m for m in re.finditer(r"[\w'-]+", text) if not known >= _stems(m[0])]
    left_over = [text[rest[0].start() : rest[-1].end()]] if rest else []
    texts = re.findall(r'"([^"]+)"', text) or left_over
    numbers = re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)?(?!\w)", text)
    args: dict[str, Any] = {}
    makeshift: dict[str, Any] = {}
    for key, schema in properties.items():
        kind = schema.get("type", "string")
        if numbers and (kind in ("integer", "number") or key in ("number", "id")):
            args[key] = numbers.pop(0) if kind == "string" else json.loads(numbers.pop(0))
        elif texts and kind == "string":
            value = re.sub(rf"(?i)^{key} (?=.)", "", texts.pop(0))
            args[key] = value.title() if key == "city" and value.islower() else value
        elif key in required:
            makeshift[key] = 0 if kind == "integer" else text
    asked = (verb in [*words][:2] or _ASKS.search(text)) and verb in _LITTLE | words
    # What the name doesn't say may be chance: it has to be all there, and not the guest's own.
    chance = not (words - _LITTLE) & named and (makeshift or "my" in words)
    return len(topics & words) if asked and not chance else 0, tool["name"], args, makeshift


@lru_cache(10_000)
def _meant(text: str, asked: str, before: str) -> str:
    """Return a text spelled out; one that only answers what the model asked is completed."""
    text = text.replace("\u2019", "'")
    for form, long in _SPELLED.items():
        text = re.sub(rf"(?i)\b(?:{form})\b", long, text)
    near = {w: get_close_matches(w, _WORDS, 1, 0.87) for w in re.findall(r"\b[a-z]{4,}\b", text)}
    text = re.sub(r"\b[a-z]{4,}\b", lambda m: [*near[m[0]], m[0]][0], text)
    small = any(isinstance(rule, str) and re.search(each, text.lower()) for each, rule in _RULES)
    if small or _ASKS.search(text) or len(text.split()) > 6:
        return text
    if asked.endswith(_NAME_ASKED) and re.fullmatch(rf"{_WORD}\W*", text):
        return f"My name is {text}"
    return f"{before.rstrip(' .?!')} {text}" if asked.endswith(" do you mean?") else text


@lru_cache(10_000)
def _facts(text: str) -> dict[str, str]:
    """Return what a text tells about the guest: its subject -> in their words."""
    facts: dict[str, str] = {}
    for clause in map(str.strip, _CLAUSE.split(text)):
        _, note, said = _LEAD.split(clause.rstrip(" .,!;"), maxsplit=1)
        said = re.sub(r"(?i)^the (?:guest|user)'s\b", "my", said)
        if clause.endswith("?"):
            continue
        if named := _NAMED.search(said):
            name = (named[1] or named[2]).strip()
            facts["name"] = f"my name is {name[0].upper()}{name[1:]}"
        elif about := _ABOUT_ME.match(said):
            facts[about[about.lastindex or 1].lower()] = said
        elif note and said:
            facts[said.lower()] = said
    return facts


def _you(said: str) -> str:
    """Return the words of a guest as one says them to the guest."""
    return re.sub(r"\w+", lambda m: _YOU.get(m[0].lower(), m[0]), said)


def _sentence(text: str) -> str:
    end = "" if text.endswith((".", "!", "?", "。")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}"


@lru_cache(10_000)
def _stems(text: str) -> Set[str]:
    """Return the words of a text, in order, without their endings: "open" for "opening"."""
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    stems = [re.sub(r"(?<=\w{3})(?:ing|ed|(?<!s)s)$", "", word) for word in words]
    stems = [stem.removesuffix("e") if len(stem) > 3 else stem for stem in stems]
    return {_SAME.get(stem, stem): 1 for stem in stems}.keys()


# What says nothing about what a question is about.
_LITTLE = _stems("""
    a about all also am an and any anything are at be by call can check could count did do does
    every fetch find for from get give guest has have he how i in is it its like list look lookup
    make many me mean much my name now number of on one or please read report return run s search
    show some tell that thanks the their there they this to today tomorrow tool up use user value
    want was we what when where which who why will with would you your monday tuesday wednesday
    thursday friday saturday sunday cost don t
""")
