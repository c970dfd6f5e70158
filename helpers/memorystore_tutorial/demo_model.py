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
    delay: float = Field(default_factory=lambda: float(os.getenv("DEMO_MODEL_DELAY") or 0.04), ge=0)

    @property
    def _llm_type(self) -> str:
        return "memorystore-chat-demo"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools; `tool_choice` "any", or a tool's name, always calls one."""
        schemas = [convert_to_openai_tool(each) for each in tools]
        return self.bind(tools=schemas, tool_choice=tool_choice, **kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        tools = [{"parameters": {}, **each["function"]} for each in kwargs.get("tools") or ()]
        reply = _Talk(messages, tools).answer(kwargs.get("tool_choice"))
        text, calls = (reply, []) if isinstance(reply, str) else ("", reply)
        named = {"model_name": kwargs.get("model") or self.model}
        message = AIMessage(text, tool_calls=calls, response_metadata=named)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        reply: Any = self._generate(*args, **kwargs).generations[0].message
        for word in re.findall(r"\s*\S+\s*$|\s*\S+", reply.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.delay)
        rest = {"tool_calls": reply.tool_calls, "response_metadata": reply.response_metadata}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", **rest, chunk_position="last"))


_NAME_ASKED = "What is your name?"
# What a misspelled word may stand for; with more, words of a guest's own would be changed.
_WORDS = "called color favorite hello morning please remember summarize weather".split()  # noqa: SIM905
# How a text is spelled out, step by step, before a rule looks at it.
_SPELLED: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"\b(?-i:[a-z]){4,}": lambda found: (get_close_matches(found[0], _WORDS, 1, 0.87) or found)[0],
    "\u2019": "'",
    r"\b(i)'m\b": r"\1 am",
    r"\b(wh?at|who|where|when|how|it(?='))'?s\b": r"\1 is",
    r"\bwat\b": "what",
    r"\b(is|am|are)(?:n't| not) [^,.;?!]+?[,.;]? (?:it is|i am|but(?! i\b| my\b)) ": r"\1 ",
    r"\bi am (\d+)(?=$|[.,;!]| and | but )": r"I am \1 years old",
    r"\b(?:do you (?:know|remember)|tell me) my\b": "what is my",
    r"\bwhat time\b": "when",
    r"\bwho am i\b": "what is my name",
    r"\bthe (?:guest|user)'s\b": "my",
    r"\bhow much (?:is|are|do|does)\b(?! \d)": "what is the price of",
    r"(?:me llamo|je m'appelle|ich heiße|меня зовут) |我叫": "my name is ",
    r"\bthis is (?-i:(?=[^\Wa-z\d_]))": "I am ",
    r"\b(?:i am|call me)(?-i:((?: [^\Wa-z\d_][\w'-]*)+))(?=[.,!?;]| and |$)": r"my name is\1",
}
_REQUEST = (
    r"(?:what|which|who|when|where|why|how|do|does|did|is|are|am|can|could|will|would|should"
    r"|call|find|get|give|look|show|tell|use|i want|i need|i(?: would|'d) like)\b"
)
_ASKS = re.compile(rf"(?i)\?|(?:^|[.!]\s)\W*(?:please )?{_REQUEST}")
_CLAUSE = re.compile(rf"(?i)(?<=[.!?;])\s+|\n|(?:,|,? (?:and|but|then))+ (?=i |my |{_REQUEST})")
_LIST = re.compile(r"(?i),? and |, (?=\d)")

# What guests say about themselves in a clause: a name, "my ... is ...", "I like ...".
_NOTE = re.compile(r"(?i)^(?:please )?(?:remember|note|don't forget)\b(?: that)?:? ")
_VERBS = "like|love|hate|prefer|enjoy|live|work|play|speak|drink|eat|have(?! to)"
# The group is what a fact is about: a newer one about the same takes its place.
_ABOUT_ME = re.compile(
    r"(?i)\bmy (?:(name) is (?!not\b)[^\W\d_][\w'-]*(?-i:(?: [^\Wa-z\d_][\w'-]*)*)"
    r"|(?!name\b)([\w' -]{2,40}?)(?:'s name)? (?:is|are|was|were) .+"
    rf"|(?!name\b)([\w' -]{{2,40}}? (?:{_VERBS}|\w+s)) .+)"
    r"|\bi (?:(?:am|really|also|now|do|not|don't|can't|never|no longer) )*(?:(from|live) .+"
    rf"|((?:an?|allergic|vegetarian|vegan|\d+ years|{_VERBS})\b(?! you\b| a question\b).*?)"
    r"(?: any ?more| now| too)?$)"
)
_NOT = re.compile(r"(?i)\b(?:never|not|no longer|hates?)\b|n't\b")
_KEEPS = re.compile("remember|note|save|store")
_SAME = dict.fromkeys(("lov", "enjoy", "prefer", "hat"), "lik")
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}


class _Fit:
    """How well a tool fits a request, and its call with the numbers or unknown words in it."""

    def __init__(self, tool: dict[str, Any], text: str) -> None:
        self.tool, self.missing, args = tool, list[str](), dict[str, Any]()
        properties, required = (tool["parameters"].get(k, {}) for k in ("properties", "required"))
        words, named = _stems(text), _stems(tool["name"])
        verb, described = next(iter(named)), _stems(tool.get("description", ""))
        topics = (named | described - _stems(" ".join(properties))) - (_LITTLE - {"when"})
        rest = [m for m in re.finditer(r"[\w'-]+", text) if _stems(m[0]) - _LITTLE - topics]
        left_over = text[rest[0].start() : rest[-1].end()] if rest else ""
        # What is called remember, or the like, takes all that guests say about themselves.
        keeps = _KEEPS.match(tool["name"])
        texts = [_NOTE.sub("", text)] if keeps else [left_over] * bool(left_over)
        numbers = re.findall(r"(?<![\w.-])-?\d+(?:\.\d+)?(?!\w)", text)
        for key, schema in properties.items():
            kind = schema.get("type", "string")
            if found := numbers if key in ("number", "id") or kind != "string" else texts:
                value = re.sub(rf"(?i)^{key} (?=.)", "", found.pop(0))
                value = value.title() if key == "city" and value.islower() else value
                args[key] = value if kind == "string" else json.loads(value)
            elif key in required:
                self.missing.append(key)
                args[key] = "?" if kind == "string" else 0
        self.call = ToolCall(name=tool["name"], args=args, id=f"call_{uuid4().hex}")
        # Nothing is left but one value: "booking 7" after "cancel booking 42 and".
        self.is_value = [left_over.lower()] == [str(value).lower() for value in args.values()]
        asked = (verb in [*words][:2] or _ASKS.search(text)) and verb in _LITTLE | words
        # What the name doesn't say may be chance: it has to be all there, and not the guest's own.
        chance = not (words - _LITTLE) & named and (self.missing or "my" in words)
        self.score = len(topics & words) if asked and not chance else 0
        self.score = 1000 * bool(_facts(text)) if keeps else self.score


class _Talk:
    """A conversation, and the ways of answering its last message that `_RULES` names."""

    def __init__(self, messages: Sequence[BaseMessage], tools: list[dict[str, Any]]) -> None:
        self.tools = tools
        self.called = {call["id"]: call for m in messages for call in getattr(m, "tool_calls", ())}
        self.results, said = list[BaseMessage](), list[str]()
        self.last = before = ""
        for message in messages:
            if message.type == "human":
                said.append(_meant(str(message.text), before, said[-1] if said else ""))
                self.last = before
            before = str(message.text)
            self.results = [*self.results, message] if message.type == "tool" else []
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'(?s)<message type="human">(.*?)</message>', "".join(said[-1:]))
        said = [*map(html.unescape, carried), "Summarize."] if carried else said
        *self.said, self.text = said or [""]
        prompt = "\n".join(m.text for m in messages if m.type == "system")
        known = re.findall(r"(?is)\bknow about [^:\n.]*:\s*(.+?)(?:\n\s*\n|$)", prompt)
        memories = [_meant(re.sub(r"(?m)^[-* ]*", "note ", lines), "", "") for lines in known]
        self.news = {} if _ASKS.search(self.text) else _facts(self.text)
        self.facts: dict[str, str] = {}
        for text in (*memories, *self.said, self.text):
            self.facts |= _facts(text)
        # What the rules fill in.
        self.name = re.sub("(?i)^my name is ", ", ", self.facts.get("name", ""))
        again = " It is good to see you again." if not self.said else ""
        self.hello = again if self.name else f" {_NAME_ASKED}"
        can = [f"{t['name']} ({', '.join(t['parameters'].get('properties', ()))})" for t in tools]
        self.can = f" With my tools I can: {', '.join(can)}.".replace("_", " ") if can else ""

    def answer(self, choice: str | None) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        if named := [tool for tool in self.tools if choice in ("any", tool["name"])]:
            return [max((_Fit(tool, self.text) for tool in named), key=lambda fit: fit.score).call]
        if self.results:
            return " ".join(map(self._report, self.results))
        for pattern, rule in _RULES:
            if found := re.search(pattern, self.text, re.IGNORECASE):
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

    def recall(self, found: re.Match[str]) -> str | list[ToolCall]:
        """Tell all facts, or those that share the most words with a question, and its yes or no."""
        words, denied = _stems(self.text), bool(_NOT.search(self.text))
        topics = words - (_LITTLE - {"lik", "from"}) or words & _stems("name am eat")
        everything = not re.search(r"(?i)\b(?:i|my)\b", found[0])
        fit = {
            fact: (len(_stems(fact) & topics), denied == bool(_NOT.search(fact)))
            for key, fact in self.facts.items()
            if _stems(key) <= words or everything or not fact.lower().startswith("my ")
        }
        best = max([(1, False), *fit.values()])
        told = " ".join(_sentence(_you(fact)) for fact in fit if fit[fact] == best or everything)
        what = re.search(r"(?<=\bis )my (?:name|favorite [\w ]+)(?=\W*$)", self.text)
        unknown = _you(what[0]) if what else "anything about you" if everything else "that"
        return told or self.use(found) or f"You have not told me {unknown} yet."

    def use(self, _: re.Match[str]) -> str | list[ToolCall]:
        """Call the tools that a request is for, or ask back once for what is missing."""
        more = re.match(r"(?i)(?:and|what about|how about)\b", self.text)
        last = [call["name"] for call in self.called.values() if more][-1:]
        wanted: list[_Fit] = []
        for clause in [self.text] if self.news else _CLAUSE.split(self.text):
            fits = [_Fit(tool, clause) for tool in self.tools]
            fits = [fit for fit in fits if fit.score or fit.tool["name"] in last]
            for best in sorted(fits, key=lambda fit: -fit.score)[:1]:
                each = [_Fit(best.tool, part) for part in _LIST.split(clause)]
                each = [best] if each[0].missing or _KEEPS.match(best.tool["name"]) else each
                wanted += [each[0], *(fit for fit in each[1:] if fit.is_value)]
        if missing := [key for fit in wanted for key in fit.missing]:
            question = f"Which {missing[0].replace('_', ' ')} do you mean?"
            return "Let us leave that." if question == self.last else question
        return [fit.call for fit in wanted]

    def note(self, _: re.Match[str] | None = None) -> str:
        told = " and that ".join(_you(self.news[key]) for key in self.news if key != "name")
        greeting = f"Nice to meet you{self.name}. " if "name" in self.news else ""
        return (greeting + (f"I will remember that {told}." if told else "")).strip()

    def work_out(self, found: re.Match[str]) -> str:
        one, sign, other = int(found[1]), found[2][0], int(found[3])
        result = one + other if sign in "+p" else one - other if sign in "-m" else one * other
        return f"That is {result}."

    def _report(self, result: Any) -> str:
        """Say what a tool answered, or a person instead of it."""
        text = str(result.text).strip()
        call: Any = self.called.get(result.tool_call_id, {"name": "tool", "args": {}})
        if result.status == "error":
            # A person's no is the reason alone or, from newer versions of LangChain, introduced.
            reason = re.sub(r"(?s)^User rejected .+? with (?:reason: |id .*)", "", text)
            failed = reason == text and re.search(r"(?i)\berror\b|\bfail", text)
            begin = "Sorry, that did not work" if failed else "All right, I left it as it is"
            return f"{begin}: {_sentence(reason)}" if reason else f"{begin}."
        if _KEEPS.match(call["name"]) and self.news:
            return self.note()
        if not text or re.fullmatch(r"(?s)[A-Z].*\s.*[.!?]", text):
            return text or "It is done."  # many tools speak in sentences themselves
        about = next((v for v in call["args"].values() if isinstance(v, str)), "")
        the = "the " if f"the {about}".lower() in self.text.lower() else ""
        return f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text)}"


_PERSONAL = (
    r"\b(?:wh\w+|how) (?:is|are|was|does)\b.* my\b|\b(?:what|old) am i\b"
    rf"|\bam i (?:an? |from|allerg|veg)|\b(?:do|ca)(?:n't)? i (?:{_VERBS}|come)\b"
)
# What answers what: the first rule whose pattern is found, and that has something to say. A text
# is filled in with the pattern's groups and with what _Talk knows: {name} is ", Ada" or nothing.
_RULES: list[tuple[str, str | Callable[[_Talk, re.Match[str]], str | list[ToolCall]]]] = [
    (r"\bsummar[iy]|\brecap\b", _Talk.summarize),
    (r"\b(?:about me|what do you (?:know|remember))\W*$", _Talk.recall),
    (r"\b(?:did i|was my) .*?(ask|question|say|tell).*?( about .+?)?\W*$", _Talk.repeat),
    (_PERSONAL, _Talk.recall),
    (r"^\W*(?:please )?(?:don't|do not) (?!you\b|forget)", "All right, I leave it as it is."),
    ("", _Talk.use),
    ("", _Talk.note),
    (r"(-?\d+)\s*(\+|plus|-|minus|\*|x|times)\s*(-?\d+)", _Talk.work_out),
    (r"\bwho are you\b|\bare you an? ", "I am the tutorial's demo model: rules, and no AI."),
    (
        r"\bcan you do|\byou help|^\W*help\b|\bhelp me\b",
        "I remember what you tell me: say I like green tea, then ask What do I like? I know what "
        "you asked before, sum up what we said, and work out 6 x 7.{can}",
    ),
    (r"\bhow (?:are|r) you\b|\bhow is it going", "I am fine, thank you{name}. And you?"),
    (
        r"^(?:never\w*|forget it|nothing|stop|ok(?:ay)?|no|yes|cool|nice|wow|sure)\b.{,12}$",
        "All right. What else?",
    ),
    (r"\bthank|\bcheers\b|\bgracias\b|\bmerci\b|спасибо|谢谢", "You are welcome{name}."),
    (r"\b(?:good)?bye\b|\bgood night\b", "Goodbye{name}. I will be here when you return."),
    (r"\bi am (?:so )?(?:tired|sad|ill|hungry|bored|cold)\b", "I am sorry to hear that{name}."),
    (r"\bi am (?:fine|good|great|happy|well)\b", "I am glad to hear that{name}."),
    (r"(?:^|please |you )forget\b", "I can't unsay what is in our conversation{name}."),
    (r"\bjoke\b", "Why do caches make good friends{name}? They remember you, for a while."),
    (r"\b(hello|hi|hey|good (?:morning|afternoon|evening))\b", "{0}{name}.{hello}"),
    # A few words of other languages, which it says as well.
    (r"\bdanke\b", "Gern geschehen{name}."),
    (r"ありがとう", "どういたしまして{name}。"),
    (r"\b(hola|buen[oa]s \w+|bonjour|salut|hallo|guten \w+|ciao)\b", "{0}{name}!"),
    (r"(привет|здравствуйте|[你您]好|こんにちは|こんばんは)", "{0}{name}!"),
    (
        r"^when\b|\bwhat (?:day|date)\b|\bweather\b|\bopen\b",
        "I don't know that{name}: no tool of mine tells me.",
    ),
]


@lru_cache(10_000)
def _meant(text: str, asked: str, before: str) -> str:
    """Return a text spelled out; one that only answers what the model asked is completed."""
    for form, long in _SPELLED.items():
        text = re.sub(f"(?i){form}", long, text)
    small = any(isinstance(rule, str) and re.search(each, text.lower()) for each, rule in _RULES)
    is_answer = not (small or _ASKS.search(text)) and len(text.split()) < 7
    begun = before.rstrip(" .?!") if asked.endswith(" do you mean?") else ""
    if asked.endswith(_NAME_ASKED) and re.fullmatch(r"[^\W\d_][\w'-]*\W*", text):
        begun = "My name is"
    return f"{begun} {text}" if is_answer and begun else text


@lru_cache(10_000)
def _facts(text: str) -> dict[str, str]:
    """Return what a text tells about the guest: what it is about -> in their words."""
    facts: dict[str, str] = {}
    for clause in map(str.strip, _CLAUSE.split(text)):
        said, is_note = _NOTE.subn("", clause.rstrip(" .,!;"))
        if about := not _ASKS.search(clause) and _ABOUT_ME.search(said):
            key = "name" if about[1] else " ".join(_stems(about[about.lastindex or 0]))
            facts[key] = re.sub("(?i)^(my name is )(.)", lambda m: m[1] + m[2].upper(), about[0])
        elif is_note:
            facts[said.lower()] = said
    return facts


def _you(said: str) -> str:
    """Return the words of a guest as one says them to the guest."""
    return re.sub(r"\w+", lambda m: _YOU.get(m[0].lower(), m[0]), said)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "。")) else ".")


@lru_cache(10_000)
def _stems(text: str) -> Set[str]:
    """Return the words of a text, in order, without their endings: "open" for "opening"."""
    text = re.sub(r"(?<=\w{3})(?:ing|ed|es?|(?<!s)s)\b", "", text.lower().replace("_", " "))
    return {_SAME.get(word, word): 1 for word in re.findall(r"\w+", text)}.keys()


# What says nothing about what a question is about.
_LITTLE = _stems("""
    a about all also am an and any anything are at be begin by call can check come cost could count
    day did do does don eat end every fetch find finish for from get give guest has have he how i in
    is it its know like list look lookup make many me mean much my name now of on one or please read
    remember report run s search serve should show shut some start stop t tell thanks that the their
    there they this to today tomorrow until up use user want was we what when where which who why
    will with would you your monday tuesday wednesday thursday friday saturday sunday
""")
