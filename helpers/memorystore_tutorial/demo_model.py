# ruff: noqa: E501
"""The chat model of the tutorial's offline mode: a few rules, and no AI service.

Everything it says follows from the messages it is given. It knows English sentences of a few
forms, and a greeting in some other languages; it doesn't understand anything.
"""

import hashlib
import html
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

_ABOUT = "the small demo model of this tutorial: a few rules, offline, no AI service."
FALLBACKS = (
    "I have no answer to that. Tell me something about you, such as: My dog is called Rex.",
    "That is beyond my few rules. Try a small sum: What is 6 times 7?",
    "I can't say. Ask me what you told me before: What do you know about me?",
    "Hm, I don't know. Tell me what you like, and ask me for it later.",
    "I did not get that. Say help, and I will tell you what I can do.",
)
_MEMORY_HELP = "I remember what you tell me (try: I like green tea), and what you asked before"

# What the guest says of himself, clause by clause.
_CLAUSE = re.compile(
    r"(?i)(?<=[.!?;])\s+|\n|(?:,\s*|:\s+|,?\s+)(?:(?:and|but)\s+)?(?=(?:i|my|i'm|i've)\s)"
)
_LEAD = re.compile(
    r"(?i)(?:(?:hi|hello|hey|oh|well|so|ok|yes|please|also|and|but|actually|by the way|you should"
    r" know|this is me)\b[\s,!:]*)*((?:remember|note|keep in mind|don't forget)\b(?: that)?:?\s+)?"
)
_MET = {  # how a name is told, and what to say then
    "my name is|my name's|i am called|the name is": "Nice to meet you, {}.",
    "me llamo|mi nombre es": "Mucho gusto, {}.", "je m'appelle": "Enchanté, {}.",
    "ich heiße|ich heisse|mein name ist": "Freut mich, {}.", "mi chiamo": "Piacere, {}.",
    "меня зовут": "Очень приятно, {}.", "我叫": "很高兴认识你,{}。", "私は": "はじめまして、{}さん。",
}  # fmt: skip
_WORD = r"[^\W\d_][\w'-]*"
_NAMED = re.compile(rf"(?:(?i:{'|'.join(_MET)}))\s*(?!not\b)({_WORD}(?: {_WORD}){{0,3}})")
_I_AM = re.compile(rf"(?i:i am|call me|this is)((?: (?=[^\Wa-z]){_WORD})+)[\s.,!]*$")
_MY = re.compile(r"(?i)my ((?!name\b)[\w' -]{2,40}?)('s name)? (is|are|was|were) (?=\w)(.+)")
_I = re.compile(
    r"(?i)i ((?:really |also |just |do not |don't |can't |cannot |never )*(?:like|love|hate|prefer|"
    r"enjoy|live|work|come|collect|play|speak|study|have|drink|eat|own|was born|am from|am an?|"
    r"am allergic|am \d+))\b (?!you\b|it\b|(?:a |an )?(?:question|problem|idea)s?\b)(.+)"
)
_TAIL = re.compile(r"(?i)(?:,? (?:too|of course|by the way|you know|thanks|please))?[\s.,!;]*$")
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}
# What others say of the guest, in summaries and in the memories that a system prompt lists.
_MEMORIES = re.compile(
    r"(?is)\b(?:(?:known?|remember(?:ed)?) (?:about|of|from)|memory|memories|facts)\b[^:\n.]*:"
    r"\s*(.+?)(?:\n\s*\n|$)"
)
_OTHERS = (
    (r"^[-*\u2022\s\"]+|\"$", ""),
    (r"(?i)\b(?:the )?(?:guest|user)'s\b|^(?:her|his|their)\b", "my"),
    (r"^(?!(?i:my|i|the guest|the user)\b)([\w ]{3,25}): (.+)", r"my \1 is \2"),
    (r"(?i)^(?:the )?(?:guest|user) (?=\w)|^(?:she|he|they) (?=\w)", "I "),
    (rf"^{_WORD} (?=(?:like|love|prefer|hate|enjoy|live|work|eat|drink)s\b|(?:is|has|was) )|"
     r"^(?=(?:like|love|prefer|hate|enjoy|live)s\b)", "I "),
    (r"^I (?:is|are)\b", "I am"), (r"^I has\b", "I have"), (r"^I does(?: not|n't)", "I do not"),
    (r"^I (?!was\b)(\w+[^s\W])s\b", r"I \1"),
)  # fmt: skip

# Small talk: the first pattern that is found answers; {name} is ", Ada" or nothing.
_STATES = r"(?:fine|here|good|ok|well|tired|sad|ill|sick|hungry|thirsty|bored|cold|lost|angry|back|new|in|at|a|an|the|so|not|very|sorry|happy|looking|from)\b"
_TALK = [(re.compile(pattern, re.IGNORECASE), reply) for pattern, reply in {
    r"\bhow (?:are|r) you\b|\bhow(?:'s| is) it going|what's up": "I am fine, thank you{name}. And you?",
    r"\bhola\b|buen[oa]s (?:d[ií]as|tardes|noches)": "¡Hola{name}! ¿En qué puedo ayudarle?",
    r"\bbonjour\b|\bbonsoir\b|\bsalut\b": "Bonjour{name} ! Que puis-je faire pour vous ?",
    r"\bhallo\b|\bguten (?:tag|morgen|abend)\b|\bmoin\b": "Hallo{name}! Was kann ich für Sie tun?",
    r"\bciao\b|\bbuon(?:giorno|asera)\b": "Ciao{name}! Come posso aiutarla?",
    r"\bgracias\b": "De nada{name}.", r"\bmerci\b": "Je vous en prie{name}.",
    r"\bdanke\b": "Gern geschehen{name}.", r"\bgrazie\b": "Prego{name}.",
    r"привет|здравствуй": "Здравствуйте{name}! Чем могу помочь?", r"спасибо": "Пожалуйста{name}.",
    r"你好|您好": "你好{name}!请问需要什么?", r"谢谢": "不客气{name}。",
    r"こんにちは|こんばんは": "こんにちは{name}。ご用件は何でしょうか。", r"ありがとう": "どういたしまして{name}。",
    r"\bthank|\bthx\b|\bcheers\b": "You are welcome{name}.",
    r"\b(?:bye|goodbye|see you|good night|farewell)\b": "Goodbye{name}. I will be here when you return.",
    r"\bsorry\b": "No problem{name}.",
    r"\bi am (?:so |very |a bit |really )?(?:tired|sad|ill|sick|hungry|thirsty|bored|cold|lost|angry)":
        "I am sorry to hear that{name}. I can't change it, but I will listen.",
    r"\b(?:i am|i'm|feeling) (?:\w+ )?(?:fine|good|great|happy|well|glad)\b|^(?:fine|good|great)(?! \w)":
        "I am glad to hear that{name}. What can I do for you?",
    r"\bjoke\b": "Why do caches make good friends{name}? They remember you, for a while.",
    r"\bwhat (?:time|day|date)\b|\btoday's date\b": "I have no clock, so ask your own. But I do "
        "remember what you tell me.",
    r"\bi (?:love|like) you\b|\byou are (?:so |very )?(?:nice|great|kind|funny|smart|sweet)":
        "Thank you{name}, I do my best.",
    r"\bgood (?:morning|afternoon|evening)\b": "{greeting}{name}.",
    r"\b(?:hello|hi|hey|greetings)\b": "Hello{name}.",
    r"^(?:cool|nice|wow|awesome|perfect|lol|haha|ok|okay|yes|no|sure|great)\b[\s!.]*$":
        "All right{name}. What else can I do for you?",
}.items()]  # fmt: skip
_SHORT = {
    "wat": "what", "nme": "name", "whats": "what's", "wats": "what's", "ur": "your", "u": "you", "im": "I'm",
    "plz": "please", "pls": "please", "colour": "color", "favourite": "favorite",
    "colours": "colors", "favourites": "favorites",
}  # fmt: skip
_SPELLED = [
    "what",
    "where",
    "when",
    "which",
    "remember",
    "favorite",
    "color",
    "name",
    "know",
    "about",
    "weather",
    "summarize",
    "summary",
    "messages",
    "first",
    "asked",
    "said",
    "told",
    "like",
    "help",
    "called",
    "thanks",
    "morning",
    "hello",
    "please",
    "cancel",
    "many",
]
_COUNT = dict(
    zip(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        range(1, 11),
        strict=False,
    )
)
_SUM = re.compile(
    r"(-?\d+(?:\.\d+)?)\s*(\+|plus|-|minus|\*|x|times|/|divided by|over)\s*(-?\d+(?:\.\d+)?)"
)
_QUESTION = re.compile(
    r"(?i)\?|^\W*(?:what|which|who|whose|when|where|why|how|do|does|did|is|are|am|can|could|will|would"
    r"|tell me|know|remember (?:my|what|when|where|who)|recall)\b"
)
_REQUEST = re.compile(
    r"(?i)^\W*(?:call|check|find|get|give|look|please|run|search|show|tell|use|i (?:want|need|would like)"
    r"|i'd like)\b"
)
_WHICH = re.compile(r"Which ([\w ]+) do you mean\?")
_NEVER_MIND = re.compile(
    r"(?i)\W*(?:never ?mind|forget (?:it|about it)|no(?:thing|ne)?|stop|leave it|skip it|cancel(?: that)?)\b[\w\s,]{0,12}[.!]?$"
)
_CONJUNCTION = re.compile(
    r"(?i)(?<=[.!?])\s+|,?\s+(?:and|also|then)\s+(?=(?:when|what|what's|how|where|who|which|is|are|does|do|can"
    r"|could|please|tell|show|book|cancel|look|find)\b)"
)


class DemoChatModel(BaseChatModel):
    """A small rule-based chat model that runs offline and reads its history.

    It answers from the messages it is given and from nothing else. It remembers what it is told,
    in the conversation or in a system prompt's "What you know about the guest: ...", knows what was
    asked before, counts and summarizes. It calls a bound tool for a request that the tool's name or
    description answers, and asks back once for an argument it misses. It streams word by word and
    reports usage, with words for tokens. Options that it has no use for, such as ``temperature``,
    are ignored.

    Args:
        model: The name it reports in ``response_metadata["model_name"]``.
        stop: A reply ends before the first of these strings, or of those given to a call.
        delay: Seconds between two words of a stream; by default ``$DEMO_MODEL_DELAY``, else 0.04.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> history = [HumanMessage("My dog is called Rex."), AIMessage("A good name.")]
        >>> DemoChatModel().invoke([*history, HumanMessage("What is my dog called?")]).text
        'Your dog is called Rex.'
        >>> DemoChatModel().invoke("What is my name?").text
        'You have not told me your name yet.'
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
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools it may call.

        Args:
            tools: Functions, LangChain tools, pydantic classes, typed dicts or JSON schemas.
            tool_choice: ``None`` or ``"auto"``: a call if the question is one for a tool.
                ``"any"``, ``"required"`` or ``True``: always a call, with arguments made up if
                need be. A tool's name: always that tool. ``"none"``: never.
            **kwargs: Bound as they are.

        Raises:
            ValueError: `tool_choice` names none of the tools.
        """
        schemas = [convert_to_openai_tool(each) for each in tools]
        if isinstance(tool_choice, dict):
            tool_choice = str(tool_choice.get("function", tool_choice).get("name"))
        choice = {None: "auto", False: "auto", True: "any", "required": "any"}.get(
            tool_choice, tool_choice
        )
        names = [schema["function"]["name"] for schema in schemas]
        if choice not in ("auto", "any", "none", *names):
            raise ValueError(
                f"tool_choice must be 'auto', 'any', 'none' or one of {names}, not {choice!r}."
            )
        return self.bind(tools=schemas, tool_choice=choice, **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **kwargs: Any
    ) -> ChatResult:
        tools = [_Tool.of(schema["function"]) for schema in kwargs.get("tools") or ()]
        reply = _Talk(messages, tools).answer(kwargs.get("tool_choice") or "auto")
        text, calls = (reply, []) if isinstance(reply, str) else ("", reply)
        for end in stop or self.stop or ():
            text = text.partition(end)[0] if end else text
        read = sum(len(message.text.split()) for message in messages)
        written = len(text.split()) + sum(len(json.dumps(call["args"]).split()) for call in calls)
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        told = {
            "model_name": kwargs.get("model") or self.model,
            "finish_reason": "tool_calls" if calls else "stop",
        }
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
        calls = [
            tool_call_chunk(
                name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
            )
            for index, call in enumerate(reply.tool_calls)
        ]
        whole = AIMessageChunk(
            content=last,
            tool_call_chunks=calls,
            usage_metadata=reply.usage_metadata,
            response_metadata=reply.response_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=whole)


class _Talk:
    """A conversation, and the rules that answer its last message."""

    def __init__(self, messages: Sequence[BaseMessage], tools: list["_Tool"]) -> None:
        self.messages, self.tools = messages, tools
        self.prompt = "\n".join(m.text for m in messages if isinstance(m, SystemMessage))
        self.said: list[str] = []
        last = ""
        for message in messages:
            if isinstance(message, HumanMessage):
                text = _expanded(str(message.text))
                if last.endswith("What is your name?") and re.fullmatch(
                    rf"{_WORD}( {_WORD})?\W*", text
                ):
                    text = text if any(p.search(text) for p, _ in _TALK) else f"My name is {text}"
                self.said.append(text)
            last = message.text
        self.text = self.said[-1] if self.said else ""
        self.last = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
        known = _MEMORIES.search(self.prompt)
        self.memories = (
            _facts(re.split(r"\n|(?<=[.!?])\s|;\s", known[1]), others=True) if known else {}
        )
        self.facts = self.memories | _facts(self.said)

    @property
    def name(self) -> str:
        """Return a comma and the guest's name, or nothing."""
        return self.facts.get("name", "").replace("your name is ", ", ")

    def answer(self, choice: str) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        results = list(
            takewhile(lambda each: isinstance(each, ToolMessage), reversed(self.messages))
        )
        if choice not in ("auto", "none"):
            named = [tool for tool in self.tools if choice in ("any", tool.name)]
            best = max(named, key=lambda tool: tool.match(self.text))
            return self._calls([(best, best.arguments(self.text, invent=True))])
        if results:
            return " ".join(self._report(result) for result in reversed(results))
        text, tools = self.text, self.tools if choice == "auto" else []
        if named := [tool for tool in tools if tool.is_named_in(text)]:
            return self._use([(tool, text) for tool in named])
        if _WHICH.fullmatch(self.last):
            if _NEVER_MIND.match(text):
                return f"All right{self.name}. What else can I do for you?"
            if not _asks(text) and not _REQUEST.search(text) and len(text.split()) < 7:
                text = self._completed()
        reply, is_known = self._recall(_spelled(text))
        if reply and is_known:
            return reply
        news = _facts([text]) if not _asks(text) else {}
        if news and (keeps := [tool for tool in tools if tool.remembers]):
            return self._calls([(keeps[0], keeps[0].arguments(text, invent=True))])
        wanted = []
        for clause in _CONJUNCTION.split(text):
            clause = _spelled(clause, *(word for tool in tools for word in tool.spelled))
            if able := [tool for tool in tools if tool.is_asked_for_in(clause)]:
                wanted.append((max(able, key=lambda tool: tool.match(clause)), clause))
        if wanted:
            return self._use(wanted)
        return reply or self._small_talk(_spelled(text), _facts([text])) or self._fallback()

    def _recall(self, text: str) -> tuple[str, bool]:
        """Answer a question about what was said, and say whether the answer is known."""
        low, earlier = text.lower(), self.said[:-1]
        if re.search(r"\bsummari[sz]e\b|\brecap\b|\bsummary\b", low):
            return self._summary(), True
        if "how many messages" in low:
            spoken = (
                m for m in self.messages if isinstance(m, HumanMessage | AIMessage) and m.text
            )
            count = sum(1 for _ in spoken)
            noun = "message" if count == 1 else "messages"
            return f"We have exchanged {count} {noun} so far, counting this question.", True
        about = re.search(
            r"\b(?:did|have) i (?:\w+ )?(?:tell|told|say|said|mention\w*)\b.* about (.+)"
            r"|\byou (?:know|remember)\b.* about (.+)|\bi (?:said|told you) about (.+)",
            low,
        )
        topic = next((each for each in (about.groups() if about else ()) if each), "").strip(" ?.!")
        if topic in ("me", "myself") or re.search(r"\bdo you (?:know|remember)\W*$", low):
            told = " ".join(_sentence(fact) for fact in self.facts.values())
            return told or "You have not told me anything about you yet.", bool(told)
        if topic:
            topic = re.sub(r"^(?:my|the|a|an) ", "", topic)
            words = {*_stems(topic)}
            lines = [line for said in earlier for line in re.split(r"(?<=[.!?])\s+", said)]
            quotes = [line for line in lines if not _asks(line) and words & {*_stems(line)}]
            if quotes:
                return "You told me: " + " ".join(f'"{quote}"' for quote in quotes[-3:]), True
            known = [_sentence(fact) for fact in self.memories.values() if words & {*_stems(fact)}]
            return " ".join(known) or f"You have not told me anything about {topic} yet.", bool(
                known
            )
        if asked := re.search(
            r"\bwhat (?:did i|have i|was (?:the|my)) .*\b(?:ask|sa[iy]|tell|told|question|message|thing)",
            low,
        ):
            return _what_was_said(low[asked.start() :], self._raw()[:-1]), True
        if re.search(r"\bwhat did you (?:just )?say\b|\bsay that again\b|\brepeat that\b", low):
            return (
                f'I said: "{self.last}"' if self.last else "I have not said anything yet."
            ), True
        if not _asks(text):
            return "", False
        if re.search(r"\bwho am i\b", low):
            low = "what is my name?"
        if asked := re.search(
            r"\bmy ([\w' -]+?)(?:'s name)?(?: (?:is|are|was|called|named|like|again|now|please))*\W*$",
            low,
        ):
            words = {*_stems(low)}
            keys = [key for key in self.facts if key and {*_stems(key)} <= words]
            if keys:
                return _sentence(self.facts[max(keys, key=len)]), True
            return f"You have not told me your {asked[1]} yet.", False
        if re.search(r"\b(?:recommend|suggest|should i|any (?:tips?|ideas?))\b", low):
            likes = [
                f
                for f in self.facts.values()
                if re.match("you (?:like|love|prefer|enjoy)|your fav", f)
            ]
            told = "Tell me what you like, and I will keep it in mind."
            return (f"{_sentence(likes[-1])} I would start there." if likes else told), bool(likes)
        if re.search(r"\b(?:do|did|am|was|have|can|could) i\b", low):
            words = {*_stems(low)} - _LITTLE
            known = [
                f for f in self.facts.values() if f.startswith("you ") and words & {*_stems(f)}
            ]
            told = " ".join(map(_sentence, known)) or "You have not told me that yet."
            return told, bool(known)
        return "", False

    def _small_talk(self, text: str, news: dict[str, str]) -> str:
        """Answer a statement, a greeting, a small sum, or a question about the model."""
        low = text.lower()
        who = re.search(r"You are (?!told|asked|to )([^.!\n]+)", self.prompt)
        told = [fact for key, fact in news.items() if key != "name"]
        if "name" in news:
            met = next((r for p, r in _MET.items() if re.search(p, low)), _MET[next(iter(_MET))])
            told = [met.format(self.name[2:]), *told[:0]] + (
                [f"I will remember that {' and that '.join(told)}."] if told else []
            )
            return " ".join(told)
        if told:
            return f"I will remember that {' and that '.join(told)}."
        if re.search(
            r"\b(?:who|what) are you\b|\byour name\b|\bwho (?:made|built)|\bare you (?:an? )?"
            r"(?:real|human|robot|bot|ai|person|machine|computer)",
            low,
        ):
            return f"I am {who[1]}, played by {_ABOUT}" if who else f"I am {_ABOUT}"
        if re.search(
            r"\bwhat (?:else )?(?:can|could|do) you (?:do|help)|^\W*(?:help|ayuda|hilfe)\b|\bhelp me\b",
            low,
        ):
            tools = ", ".join(
                f"{t.name.replace('_', ' ')} ({', '.join(t.properties)})" for t in self.tools
            )
            return (
                "I remember what you tell me: say I like green tea, then ask What do I like? I know what you "
                "asked before, sum up what we said, and work out 6 x 7."
                + (f" With my tools I can: {tools}." if tools else "")
            )
        if found := _SUM.search(_digits(low)):
            return _worked_out(float(found[1]), found[2], float(found[3]))
        for pattern, reply in _TALK:
            if found := pattern.search(low.replace("i'm", "i am")):
                said = reply.format(name=self.name, greeting=found[0].capitalize())
                greets = reply in ("Hello{name}.", "{greeting}{name}.")
                asks = " What is your name?" if greets and not self.name else ""
                back = greets and self.memories and len(self.said) == 1 and not asks
                return f"{said}{asks}{' It is good to see you again.' if back else ''}"
        words = {*_stems(low)} - _LITTLE
        lines = [
            line
            for line in re.split(r"(?<=[.!?])\s+|\n", self.prompt)
            if " you " not in f" {line.lower()} "
        ]
        told = [line for line in lines if re.search(r"\b(?:is|are|costs?|opens?|closes?)\b", line)]
        best = max(told, key=lambda line: len(words & {*_stems(line)}), default="")
        return best if _asks(text) and words & {*_stems(best)} else ""

    def _fallback(self) -> str:
        """Say that there is no answer, in other words than the last time, and what to try."""
        start = len(self.text) % len(FALLBACKS)
        return next(each for each in (FALLBACKS * 2)[start:] if each != self.last)

    def _raw(self) -> list[str]:
        return [str(m.text) for m in self.messages if isinstance(m, HumanMessage)]

    def _summary(self) -> str:
        """Summarize the conversation, or the transcript that the text itself carries."""
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'<message type="human">(.*?)</message>', self.text, re.DOTALL)
        said = [html.unescape(each) for each in carried] or self._raw()[:-1]
        yours = _facts(map(_expanded, said)) if carried else self.facts
        parts = [
            re.sub(r"^You (?=\w)", "The user said: I ", _sentence(fact)).replace(
                "Your ", "The user's ", 1
            )
            for fact in yours.values()
        ]
        if questions := [each for each in said if "?" in each]:
            parts.append("The user asked: " + " ".join(questions[-3:]))
        if not parts:
            return f'The user said: "{said[-1]}"' if said else "There is nothing to summarize yet."
        return " ".join(parts)

    def _completed(self) -> str:
        """Return the request that was asked back about, with the answers to that."""
        spoken = [m for m in self.messages if m.text and m.type in ("human", "ai")]
        more = ""
        while len(spoken) > 2 and (asked := _WHICH.fullmatch(spoken[-2].text)):
            value = re.sub(
                r"(?i)^(?:it is|it's|i mean|in|at|for|of|the) ", "", spoken[-1].text.strip(" .!")
            )
            more = f' with {asked[1].replace(" ", "_")} "{value}"{more}'
            spoken = spoken[:-2]
        return f"{spoken[-1].text.rstrip(' ?.!')}{more}"

    def _use(self, wanted: list[tuple["_Tool", str]]) -> str | list[ToolCall]:
        """Call tools with what a text gives, or ask back once for what it does not."""
        calls = [(tool, tool.arguments(text)) for tool, text in wanted]
        for tool, arguments in calls:
            for key in tool.required:
                if key not in arguments:
                    question = f"Which {key.replace('_', ' ')} do you mean?"
                    again = (
                        f"Let us leave that. Ask me again, and name the {key.replace('_', ' ')}."
                    )
                    return again if question == self.last else question
        return self._calls(calls)

    def _calls(self, calls: list[tuple["_Tool", dict[str, Any]]]) -> list[ToolCall]:
        """Return tool calls whose ids follow from the conversation."""
        said = [(each.type, each.text, getattr(each, "tool_calls", ())) for each in self.messages]
        return [
            tool_call(
                name=tool.name,
                args=arguments,
                id=f"call_{hashlib.sha256(repr((said, tool.name, place)).encode()).hexdigest()[:12]}",
            )
            for place, (tool, arguments) in enumerate(calls)
        ]

    def _report(self, result: Any) -> str:
        """Say what a tool answered."""
        text = str(result.text).strip()
        if result.status == "error":
            if refused := re.match(
                r"User rejected the tool call(?:.*?with reason: (.*))?", text, re.DOTALL
            ):
                return f"All right, I left it as it is{': ' + _sentence(refused[1]) if refused[1] else '.'}"
            return f"Sorry, that did not work: {_sentence(text or 'the tool said nothing', upper=False)}"
        calls = (call for message in self.messages for call in getattr(message, "tool_calls", ()))
        call = {call["id"]: call for call in calls}.get(result.tool_call_id, {})
        if any(tool.remembers for tool in self.tools if tool.name == call.get("name")):
            return self._small_talk(self.text, _facts([self.text])) or "I will remember that."
        if not text:
            return "It is done."
        if re.fullmatch(r"[A-Z].*\s.*[.!?]", text, re.DOTALL):
            return text  # the tool speaks in sentences itself
        about = next((v for v in call.get("args", {}).values() if isinstance(v, str) and v), "")
        the = "the " if re.search(rf"(?i)\bthe\s+{re.escape(about)}\b", self.text) and about else ""
        return (
            f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text, upper=False)}"
        )


def _expanded(text: str) -> str:
    """Return a text with some short forms written out, so that the rules need only one form."""
    text = re.sub(r"(?i)\bi'?m\b", "I am", text.replace("\u2019", "'"))
    text = re.sub(r"(?i)\bi've(?: got)?\b|\bi have got\b", "I have", text)
    text = re.sub(
        rf"(?i)^(hi|hello|hey)\b[ ,!]*(?:I am|this is) (?!{_STATES})({_WORD})[.! ]*$",
        r"\1! My name is \2.",
        text,
    )
    return re.sub(r"[a-zA-Z]+", lambda m: _SHORT.get(m[0].lower(), m[0]), text)


def _spelled(text: str, *more: str) -> str:
    """Return a text in which words that are nearly known ones are those."""
    known = [*_SPELLED, *more]

    def near(match: re.Match[str]) -> str:
        word = match[0]
        is_name = match.start() and word[0].isupper()
        close = [] if len(word) < 4 or is_name else get_close_matches(word.lower(), known, 1, 0.82)
        low = word.lower()
        return close[0] if close and close[0] not in low and low not in close[0] else word

    return re.sub(r"[a-zA-Z]+", near, text)


def _asks(text: str) -> bool:
    """Return whether a sentence of a text is a question."""
    return any(_QUESTION.search(each) for each in re.split(r"(?<=[.!?])\s+", text))


def _facts(texts: Iterable[str], *, others: bool = False) -> dict[str, str]:
    """Return what texts tell of the guest, the newest last: what it is about -> "you ..."."""
    facts: dict[str, str] = {}
    for clause in (clause for text in texts for clause in _CLAUSE.split(text)):
        if others or re.match(r"(?i)the (?:guest|user)\b", clause):
            for pattern, mine in _OTHERS:
                clause = re.sub(pattern, mine, clause.strip())
        lead = _LEAD.match(clause)
        said = _TAIL.sub("", clause[lead.end() if lead else 0 :].strip())
        if not said or clause.rstrip().endswith("?"):
            continue
        if named := _NAMED.search(said) or _I_AM.search("" if said.isupper() else said):
            first, *rest = named[1].strip().removesuffix("です").split()
            if first.islower() and len(rest) < 2:
                name = " ".join([first, *rest]).title()
            else:
                name = " ".join([first, *takewhile(lambda word: not word[0].islower(), rest)])
            facts["name"] = f"your name is {name[0].upper() + name[1:]}"
        elif my := _MY.match(said):
            facts[my[1].lower()] = _you(f"my {my[1]}{my[2] or ''} {my[3]} {my[4]}")
        elif i := _I.match(said):
            verb = i[1].split()[-1].lower()
            alone = verb in ("live", "work", "born", "from", "come") or verb.isdigit()
            facts[verb if alone else f"{verb} {i[2].lower()}"] = _you(f"i {i[1]} {i[2]}")
        elif others or (
            lead and lead[1] and not re.match(r"(?i)(?:my|what|when|where|who|me)\b", said)
        ):
            facts[said.lower()] = _you(re.sub(r"^to ", "I want to ", said))
    return facts


def _you(text: str) -> str:
    return re.sub(r"\b\w+\b", lambda m: _YOU.get(m[0].lower(), m[0]), text)


def _digits(text: str) -> str:
    return re.sub(
        r"\b[a-z]+\b", lambda m: str(_COUNT.get(m[0].lower(), m[0])), text, flags=re.IGNORECASE
    )


def _worked_out(left: float, sign: str, right: float) -> str:
    sign = {"plus": "+", "minus": "-", "x": "*", "times": "*", "divided by": "/", "over": "/"}.get(
        sign, sign
    )
    if sign == "/" and not right:
        return "Nobody can divide by zero."
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or 1)}[
        sign
    ]
    return f"That is {value:.10g}."


def _what_was_said(asked: str, earlier: list[str]) -> str:
    question = "ask" in asked or "question" in asked
    candidates = [text for text in earlier if "?" in text or not question]
    verb = "asked" if question else "said"
    if not candidates:
        return f"You have not {verb} anything before." if earlier else "This is where we started."
    if "first" in asked:
        return f'The first thing you {verb} was: "{candidates[0]}"'
    return f'You {verb}: "{candidates[-1]}"'


def _sentence(text: str, *, upper: bool = True) -> str:
    text = text[:1].upper() + text[1:] if upper else text
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _stems(text: str) -> list[str]:
    """Return the words of a text without their endings: "open" for "opens" and "opening"."""
    return [_stem(word) for word in re.findall(r"\w+", text.lower())]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and not word.endswith("ss"):
            return rest.removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d|(?<!\w)\'([^\']+)\'(?!\w)')
_PHRASE = re.compile(r"(?i)\b(?:in|at|for|near|of|about|from|to|on|named|called)\s+(?:the\s+)?(.+)")
_SUBJECT = re.compile(
    r"(?i)\b(?:do|does|did|is|are|will|can)\s+(?:the\s+|an?\s+)?([\w' -]+?)\s+(\w+)\s*[?.!]*\s*$"
)
_FILLER = re.compile(r"(?i),?\s+(?:for\s+)?(?:today|tonight|tomorrow|(?:right )?now|please)\b")
_VALUE = r"""("[^"]+"|\u201c[^\u201d]+\u201d|'[^']+'|.+?)(?=\s+and\s|\s+with\s|[,)]|[.?!]*\s*$|[.?!]\s)"""
_INVENTED: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
_KEEPS = {*_stems("remember memorize save store note")}
_READS = {*_stems("check count fetch find get list look lookup read report search show tell")}
_FREE = {*_stems("content fact information memory message note query question text")}
_GENERIC = {*_stems("a do for give make my of on run the to tool up")} | _READS
_LITTLE = {
    *_stems(
        "a about all am an and are at be by can could did does every from has have he how i in is it"
        " its many me much name number of on one or return she some that the their there they this"
        " town two user guest was we what when where which who why will with would you your"
    )
}


class _Tool(NamedTuple):
    """A bound tool, as far as the rules need it."""

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    required: list[str]

    @classmethod
    def of(cls, function: Mapping[str, Any]) -> "_Tool":
        schema = function.get("parameters") or {}
        return cls(
            function["name"],
            function.get("description") or "",
            schema.get("properties") or {},
            schema.get("required") or [],
        )

    @property
    def spelled(self) -> list[str]:
        """The words of the name: ``["get", "weather"]``."""
        return re.sub(r"([a-z])([A-Z])|[_-]", r"\1 \2", self.name).lower().split()

    @property
    def words(self) -> set[str]:
        """The words of the name that say what it does: ``{"weather"}`` for ``get_weather``."""
        words = {*_stems(" ".join(self.spelled))}
        return words - _GENERIC or words

    @property
    def topics(self) -> set[str]:
        """What else it is about, by its description, apart from the names of its arguments."""
        arguments = {*_stems(" ".join(self.properties).replace("_", " "))}
        return {*_stems(self.description)} - _GENERIC - _LITTLE - arguments

    @property
    def remembers(self) -> bool:
        """Whether it keeps what the guest says."""
        return bool(
            _KEEPS & {*_stems(" ".join([*self.spelled[:1], *self.description.split()[:1]]))}
        )

    def is_named_in(self, text: str) -> bool:
        """Whether the text says the tool's own name, as code or after "use"."""
        name = re.escape(self.name)
        form = rf"\b{name}\s*\(|\b(?:use|call|run)\s+(?:the\s+)?(?:tool\s+)?{name}\b"
        return bool(re.search(rf"\b{name}\b" if "_" in self.name else form, text, re.IGNORECASE))

    def is_asked_for_in(self, text: str) -> bool:
        """Whether the text is a request that mentions what the tool does.

        A tool that does more than read is asked for by its verb, never by a word of its description.
        """
        words = _stems(text)
        if not (_asks(text) or _REQUEST.search(text) or self.words & {*words[:1]}):
            return False
        verb = _stem(self.spelled[0])
        if self.words & {*words} and (verb in _GENERIC or verb in words or len(self.spelled) == 1):
            return True
        # A word of the description alone may be chance; with its arguments it is none.
        return (
            verb in _READS
            and bool(self.topics & {*words})
            and {*self.required} <= {*self.arguments(text)}
        )

    def match(self, text: str) -> tuple[bool, float, int]:
        """Say how well the text fits the tool; more is better."""
        found = self.words & {*_stems(text)}
        share = len(found) / len(self.words) if self.words else 0
        return self.is_named_in(text), share * len(found), len(self.topics & {*_stems(text)})

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        text = (
            _digits(text)
            if any(_kind(s) in ("integer", "number") for s in self.properties.values())
            else text
        )
        name = re.search(rf"(?<![^\W_]){re.escape(self.name)}(?![^\W_])", text, re.IGNORECASE)
        ends = [
            found.end()
            for found in re.finditer(r"\w+", text)
            if _stem(found[0].lower()) in self.words
        ]
        tail = text[name.end() :] if name else text[ends[-1] :] if ends else text
        call = re.match(r"\s*\((.*?)\)", tail)
        written = [part.strip() for part in call[1].split(",")] if call else []
        positional = [part for part in written if part and "=" not in part]
        numbers = _NUMBER.findall(tail) or _NUMBER.findall(text)
        strings = ["".join(found) for found in _QUOTED.findall(tail) or _QUOTED.findall(text)]
        if not strings:
            strings = self._unquoted(text, tail)
        found: dict[str, Any] = {}
        for key, schema in self.properties.items():
            kind = _kind(schema)
            value = _named_value(key, schema, text)
            pool = positional or (numbers if kind in ("integer", "number") else strings)
            if value is None and "enum" in schema:
                value = next(
                    (o for o in schema["enum"] if _stem(str(o).lower()) in _stems(text)), None
                )
            elif value is None and _FREE & {*_stems(key)} and kind == "string" and not positional:
                value = re.sub(
                    r"(?i)^.*?\b(?:remember|note|save|that)\b(?: that)?:?\s+", "", text
                ).strip()
            elif value is None and pool and kind in ("integer", "number", "string"):
                value = _converted(pool.pop(0), schema)
            if value is None and invent and key in self.required:
                value = (
                    schema.get("enum", [_INVENTED.get(kind, text)])[0]
                    if "enum" in schema
                    else _INVENTED.get(kind, text)
                )
            if (
                isinstance(value, str)
                and value.islower()
                and key in ("city", "town", "country", "name", "guest")
            ):
                value = value.title()
            if value is not None:
                found[key] = value
        return found

    def _unquoted(self, text: str, tail: str) -> list[str]:
        """What the tool may be asked about: "Kyoto", "museum"."""
        known = self.words | self.topics
        for subject, verb in _SUBJECT.findall(_FILLER.sub("", text)):
            if known & {*_stems(verb)} and not _LITTLE.issuperset(_stems(subject)):
                return [str(subject)]
        if phrase := _PHRASE.search(_FILLER.sub("", tail)):
            # "in San Francisco, CA" is one value only where no other argument can follow.
            value = phrase[1].rstrip(" .?!,")
            value = (
                value if len(self.properties) == 1 else re.split(r",|\s(?:and|with)\s", value)[0]
            )
            return [] if _asks(value) or len(value.split()) > 6 else [value]
        return []


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
