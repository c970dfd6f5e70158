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
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)  # fmt: skip
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

_ABOUT = "the small demo model of this tutorial: a few rules, offline, no AI service."
_HELP = (
    "I remember what you tell me: say I like green tea, then ask What do I like? I know what you "
    "asked before, sum up what we said, and work out 6 x 7."
)
FALLBACKS = (
    "I have no answer to that. Tell me something about you, such as: My dog is called Rex.",
    "That is beyond my few rules. Try a small sum: What is 6 times 7?",
    "I can't say. Ask me what you told me before: What do you know about me?",
    "Hm, I don't know. Tell me what you like, and ask me for it later.",
    "I did not get that. Say help, and I will tell you what I can do.",
)

# What the guest says about himself, clause by clause: "my ... is ...", "I like ...", a name.
_CLAUSE = re.compile(
    r"(?i)(?<=[.!?;])\s+|\n|(?:[,:]\s+|(?=\s+(?:and|but)))\s*(?:(?:and|but)\s+)?(?=(?:i|my)\s)"
)
_LEAD = re.compile(
    r"(?i)(?:(?:hi|hello|hey|oh|well|so|ok|yes|please|also|and|but|actually|by the way)\b[\s,!:]*)*"
    r"((?:remember|note|keep in mind|don't forget)\b(?: that)?:?\s*)?"
)
_TAIL = re.compile(r"(?i)(?:,? (?:too|of course|by the way|you know|thanks|please))?[\s.,!;]*$")
_MET = {  # how a name is told, and what to say then
    "my name is|my name's|i am called|the name is": "Nice to meet you, {}.",
    "me llamo|mi nombre es": "Mucho gusto, {}.", "je m'appelle": "Enchanté, {}.",
    "ich heiße|ich heisse|mein name ist": "Freut mich, {}.", "mi chiamo": "Piacere, {}.",
    "меня зовут": "Очень приятно, {}.", "我叫": "很高兴认识你,{}。",
    "私は": "はじめまして,{}さん。",
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
_YOU = {"i": "you", "my": "your", "me": "you", "mine": "yours", "am": "are", "myself": "yourself"}
# What others say about the guest, in summaries and in the memories that a system prompt lists.
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
_TIRED = r"(?:tired|sad|ill|sick|hungry|thirsty|bored|cold|lost|angry)\b"
_STATES = rf"(?:{_TIRED}|(?:fine|here|good|ok|well|back|new|in|a|the|so|not|very|sorry|happy)\b)"
_TALK = {
    r"\bhow (?:are|r) you\b|\bhow(?:'s| is) it going|what's up":
        "I am fine, thank you{name}. And you?",
    r"\bhola\b|buen[oa]s (?:d[ií]as|tardes|noches)": "¡Hola{name}! ¿En qué puedo ayudarle?",
    r"\bbonjour\b|\bbonsoir\b|\bsalut\b": "Bonjour{name} ! Que puis-je faire pour vous ?",
    r"\bhallo\b|\bguten (?:tag|morgen|abend)\b": "Hallo{name}! Was kann ich für Sie tun?",
    r"\bciao\b|\bbuon(?:giorno|asera)\b": "Ciao{name}! Come posso aiutarla?",
    r"\bgracias\b": "De nada{name}.", r"\bmerci\b": "Je vous en prie{name}.",
    r"\bdanke\b": "Gern geschehen{name}.", r"\bgrazie\b": "Prego{name}.",
    r"привет|здравствуй": "Здравствуйте{name}! Чем могу помочь?", r"спасибо": "Пожалуйста{name}.",
    r"你好|您好": "你好{name}!请问需要什么?", r"谢谢": "不客气{name}。",
    r"こんにちは|こんばんは": "こんにちは{name}。", r"ありがとう": "どういたしまして{name}。",
    r"^(?!no\b).*(?:\bthank|\bthx\b|\bcheers\b)": "You are welcome{name}.",
    r"\b(?:bye|goodbye|see you|good night)\b": "Goodbye{name}. I will be here when you return.",
    r"\bsorry\b": "No problem{name}.",
    rf"\bi am (?:so |very |a bit |really )?{_TIRED}":
        "I am sorry to hear that{name}. I can't change it, but I will listen.",
    r"\b(?:i am|feeling) (?:\w+ )?(?:fine|good|great|happy|well)\b|^(?:fine|good|great)(?! \w)":
        "I am glad to hear that{name}. What can I do for you?",
    r"\bjoke\b": "Why do caches make good friends{name}? They remember you, for a while.",
    r"\bwhat (?:time|day|date)\b|\btoday's date\b": "I have no clock, so ask your own{name}.",
    r"\bi (?:love|like) you\b|\byou are (?:so |very )?(?:nice|great|kind|funny|smart|sweet)":
        "Thank you{name}, I do my best.",
    r"\bgood (?:morning|afternoon|evening)\b": "{greeting}{name}.",
    r"\b(?:hello|hi|hey|greetings)\b": "Hello{name}.",
    r"^(?:cool|nice|wow|awesome|haha|ok|okay|yes|no|sure)\b(?:,? (?:please|thank.*))?[\s!.]*$":
        "All right{name}. What else can I do for you?",
}  # fmt: skip
_WHO = (
    r"\b(?:who|what) are you\b|\byour name\b|\bwho (?:made|built)|\bare you (?:an? )?"
    r"(?:real|human|robot|bot|ai|person|machine|computer)"
)
_SHORT = {
    "wat": "what", "nme": "name", "whats": "what's", "wats": "what's", "ur": "your", "u": "you",
    "plz": "please", "pls": "please", "colour": "color", "favourite": "favorite",
    "colours": "colors", "favourites": "favorites",
}  # fmt: skip
_SPELLED = (
    "what where when which remember favorite color name know about weather summarize summary "
    "messages first asked said told like help called thanks morning hello please cancel many"
)
_COUNT = {
    word: str(n)
    for n, word in enumerate(
        ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
_SUM = re.compile(
    r"(-?\d+(?:\.\d+)?)\s*(\+|plus|-|minus|\*|x|times|/|divided by|over)\s*(-?\d+(?:\.\d+)?)"
)
_QUESTION = re.compile(
    r"(?i)\?|^\W*(?:what|which|who|whose|when|where|why|how|do|does|did|is|are|am|can|could|will"
    r"|would|tell me|know|remember (?:my|what|when|where|who)|recall)\b"
)
_REQUEST = re.compile(
    r"(?i)^\W*(?:call|check|find|get|give|look|please|run|search|show|tell|use|i want|i need"
    r"|i would like|i'd like)\b"
)
_WHICH = re.compile(r"(?:Which|How many) ([\w ]+) do you mean\?")
_NEVER_MIND = re.compile(
    r"(?i)\W*(?:never ?mind|forget (?:it|about it)|no(?:thing|ne)?|stop|leave it|skip it)"
    r"\b[\w\s,]{0,12}[.!]?$"
)
_NEXT = re.compile(
    r"(?i)(?<=[.!?])\s+|,?\s+(?:and|also|then)\s+(?=(?:when|what|what's|how|where|who|which|is|are"
    r"|does|do|can|could|please|tell|show|book|cancel|look|find)\b)"
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
        tools = [_Tool(schema["function"]) for schema in kwargs.get("tools") or ()]
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
        self.raw = [str(m.text) for m in messages if isinstance(m, HumanMessage)]
        self.last = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
        self.said: list[str] = []
        before = ""
        for message in messages:
            if isinstance(message, HumanMessage):
                text = _expanded(str(message.text))
                asked = before.endswith("What is your name?")
                if asked and re.fullmatch(rf"{_WORD}( {_WORD})?\W*", text) and not _talked(text):
                    text = f"My name is {text}"
                self.said.append(text)
            before = message.text
        self.text = self.said[-1] if self.said else ""
        listed = _MEMORIES.search(self.prompt)
        lines = re.split(r"\n|(?<=[.!?])\s|;\s", listed[1]) if listed else []
        self.memories = _facts(lines, others=True)
        self.facts = self.memories | _facts(self.said)
        self.name = self.facts.get("name", "").replace("your name is ", ", ")

    def answer(self, choice: str) -> str | list[ToolCall]:
        """Return what the model says, or the tools it calls."""
        if choice not in ("auto", "none"):
            named = [tool for tool in self.tools if choice in ("any", tool.name)]
            best = max(named, key=lambda tool: tool.match(self.text))
            return self._calls([(best, best.arguments(self.text, invent=True))])
        results = [*takewhile(lambda m: isinstance(m, ToolMessage), reversed(self.messages))]
        if results:
            return " ".join(map(self._report, reversed(results)))
        text, tools = self.text, self.tools if choice == "auto" else []
        if _WHICH.fullmatch(self.last):
            if _NEVER_MIND.match(text):
                return f"All right{self.name}. What else can I do for you?"
            if not _asks(text) and not _REQUEST.search(text) and len(text.split()) < 7:
                text = self._completed()
        reply, is_known = self._recall(_spelled(text).lower())
        if is_known:
            return reply
        news = {} if _asks(text) else _facts([text])
        if news and (keeps := [tool for tool in tools if tool.remembers]):
            return self._calls([(keeps[0], keeps[0].arguments(text, invent=True))])
        wanted = []
        for clause in _NEXT.split(text):
            clause = _spelled(clause, *(word for tool in tools for word in tool.spelled))
            if able := [tool for tool in tools if tool.is_asked_for_in(clause)]:
                best = max(able, key=lambda tool: tool.match(clause))
                wanted.append((best, best.arguments(clause)))
        if not wanted and (more := re.match(r"(?i)(?:and|(?:what|how) about)\b", text)):
            called = [call for m in self.messages for call in getattr(m, "tool_calls", ())][-1:]
            again = [tool for tool in tools if called and tool.name == called[0]["name"]]
            wanted = [(tool, tool.arguments(text[more.end() :])) for tool in again]
        if wanted:
            return self._use(wanted)
        return reply or self._small_talk(_spelled(text).lower(), _facts([text])) or self._fallback()

    def _recall(self, text: str) -> tuple[str, bool]:
        """Answer a question about what was said, and say whether the answer is known."""
        if re.search(r"\bsummar[iy]|\brecap\b", text):
            return self._summary(), True
        if "how many messages" in text:
            count = sum(m.type in ("human", "ai") and bool(m.text) for m in self.messages)
            noun = "message" if count == 1 else "messages"
            return f"We have exchanged {count} {noun} so far, counting this question.", True
        if about := re.search(
            r"\b(?:(?:did|have) i (?:\w+ )?(?:tell|told|say|said|mention\w*)|you (?:know|remember)"
            r"|i (?:said|told you))\b.*?(?: about (?:my |the |an? )?(.+?))?[\s?.!]*$",
            text,
        ):
            if about[1] in ("me", "myself") or re.search(r"\byou (?:know|remember)\W*$", text):
                told = " ".join(map(_sentence, self.facts.values()))
                return told or "You have not told me anything about you yet.", bool(told)
            if about[1]:
                return self._told_about(about[1])
        if asked := re.search(
            r"\bwhat (?:did i|have i|was (?:the|my)) .*\b(?:ask|say|said|tell|told|question|message"
            r"|thing).*",
            text,
        ):
            return _what_was_said(asked[0], self.raw[:-1]), True
        if re.search(r"\bwhat did you (?:just )?say\b|\b(?:say|repeat) that\b", text):
            return f'I said: "{self.last}"' if self.last else "I have not said anything yet.", True
        if not _asks(text):
            return "", False
        text = re.sub(r"\bwho am i\b", "what is my name", text)
        words = {*_stems(text)} - _LITTLE | {"name"} & {*_stems(text)}
        facts = list(self.facts.items())
        if asked := re.search(
            r"\bmy ([\w' -]+?)(?:'s name)?(?: (?:is|are|was|called|named|like|now|please))*\W*$",
            text,
        ):
            known = [(key, fact) for key, fact in facts if {*_stems(key)} <= {*_stems(text)}]
            what = "" if re.match("name|favorite", asked[1]) else "about "
            yours = _sentence(max(known, key=lambda each: len(each[0]))[1]) if known else ""
            return yours or f"You have not told me {what}your {asked[1]} yet.", bool(yours)
        if re.search(r"\b(?:recommend|suggest|should i|any (?:tips?|ideas?))\b", text):
            likes = [f for _, f in facts if re.match("you (?:like|love|prefer|enjoy)|your fav", f)]
            more = f"{_sentence(likes[-1])} I would start there." if likes else ""
            return more or "Tell me what you like, and I will keep it in mind.", bool(more)
        if re.search(r"\b(?:do|did|am|was|have|can|could) i\b", text):
            mine = [f for _, f in facts if f.startswith("you ") and words & {*_stems(f)}]
            return " ".join(map(_sentence, mine)) or "You have not told me that yet.", bool(mine)
        return "", False

    def _told_about(self, topic: str) -> tuple[str, bool]:
        words = {*_stems(topic)}
        lines = [line for said in self.said[:-1] for line in re.split(r"(?<=[.!?])\s+", said)]
        quotes = [f'"{line}"' for line in lines if words & {*_stems(line)} and not _asks(line)]
        if quotes:
            return f"You told me: {' '.join(quotes[-3:])}", True
        known = [_sentence(fact) for fact in self.memories.values() if words & {*_stems(fact)}]
        return " ".join(known) or f"You have not told me anything about {topic} yet.", bool(known)

    def _small_talk(self, text: str, news: dict[str, str]) -> str:
        """Answer a statement, a greeting, a small sum, or a question about the model."""
        met = next(
            (reply for how, reply in _MET.items() if re.search(how, text)), _MET[next(iter(_MET))]
        )
        noted = [met.format(self.name[2:])] if "name" in news else []
        if told := " and that ".join(fact for key, fact in news.items() if key != "name"):
            noted.append(f"I will remember that {told}.")
        if noted:
            return " ".join(noted)
        if re.search(_WHO, text):
            who = re.search(r"You are (?!told|asked|to )([^.!\n]+)", self.prompt)
            return f"I am {who[1]}, played by {_ABOUT}" if who else f"I am {_ABOUT}"
        if re.search(r"\bcan you do|\byou help|^\W*(?:help|ayuda|hilfe)\b|\bhelp me\b", text):
            able = [
                f"{' '.join(tool.spelled)} ({', '.join(tool.properties)})" for tool in self.tools
            ]
            return _HELP + (f" With my tools I can: {', '.join(able)}." if able else "")
        if found := _SUM.search(_digits(text)):
            return _worked_out(float(found[1]), found[2], float(found[3]))
        if talked := _talked(text):
            found, reply = talked
            said = reply.format(name=self.name, greeting=found[0].capitalize())
            if not reply.endswith(("Hello{name}.", "{greeting}{name}.")):
                return said
            again = " It is good to see you again." if self.memories and len(self.said) == 1 else ""
            return said + (again if self.name else " What is your name?")
        # A system prompt may hold the answer: "Breakfast is served from 7 to 10."
        words = {*_stems(text)} - _LITTLE
        lines = [
            line
            for line in re.split(r"(?<=[.!?])\s+|\n", self.prompt)
            if re.search(r"\b(?:is|are|costs?|opens?|closes?)\b", line)
            and "you" not in line.lower()
        ]
        best = max(lines, key=lambda line: len(words & {*_stems(line)}), default="")
        return best if _asks(text) and words & {*_stems(best)} else ""

    def _fallback(self) -> str:
        """Say that there is no answer, in other words than the last time, and what to try."""
        start = len(self.text) % len(FALLBACKS)
        return next(each for each in (FALLBACKS * 2)[start:] if each != self.last)

    def _summary(self) -> str:
        """Summarize the conversation, or the transcript that the text itself carries."""
        # LangChain's summarization sends the conversation as XML inside one human message.
        carried = re.findall(r'<message type="human">(.*?)</message>', self.text, re.DOTALL)
        said = [html.unescape(each) for each in carried] or self.raw[:-1]
        facts = _facts(map(_expanded, said)) if carried else self.facts
        told = " ".join(
            re.sub(
                r"^you ",
                "The user said: I ",
                re.sub(r"^your ", "The user's ", _sentence(fact, upper=False)),
            )
            for fact in facts.values()
        )
        asked = " ".join([each for each in said if "?" in each][-3:])
        if told or asked:
            return f"{told} The user asked: {asked}".strip() if asked else told
        return f'The user said: "{said[-1]}"' if said else "There is nothing to summarize yet."

    def _completed(self) -> str:
        """Return the request that was asked back about, with the answers to that."""
        spoken = [str(m.text) for m in self.messages if m.text and m.type in ("human", "ai")]
        more = ""
        while len(spoken) > 2 and (asked := _WHICH.fullmatch(spoken[-2])):
            value = re.sub(
                r"(?i)^(?:it is|it's|i mean|in|at|for|of|the) ", "", spoken[-1].strip(" .!")
            )
            more = f' with {asked[1].replace(" ", "_")} "{value}"{more}'
            spoken = spoken[:-2]
        return f"{spoken[-1].rstrip(' ?.!')}{more}"

    def _use(self, calls: list[tuple["_Tool", dict[str, Any]]]) -> str | list[ToolCall]:
        """Call tools, or ask back once for an argument that is missing."""
        for tool, arguments in calls:
            for key in tool.required:
                if self.name and key in ("guest", "guest_name", "name"):
                    arguments.setdefault(key, self.name[2:])
                if key not in arguments:
                    what = key.replace("_", " ")
                    many = _kind(tool.properties[key]) == "integer" and re.search("s$|people", what)
                    question = f"{'How many' if many else 'Which'} {what} do you mean?"
                    again = f"Let us leave that. Ask me again, and name the {what}."
                    return again if question == self.last else question
        return self._calls(calls)

    def _calls(self, calls: list[tuple["_Tool", dict[str, Any]]]) -> list[ToolCall]:
        """Return tool calls whose ids follow from the conversation."""
        said = repr([(m.type, m.text, getattr(m, "tool_calls", ())) for m in self.messages])
        ids = [hashlib.sha256(f"{n}{said}".encode()).hexdigest()[:12] for n in range(len(calls))]
        return [
            tool_call(name=tool.name, args=arguments, id=f"call_{digest}")
            for (tool, arguments), digest in zip(calls, ids, strict=True)
        ]

    def _report(self, result: Any) -> str:
        """Say what a tool answered."""
        text = str(result.text).strip()
        if result.status == "error":
            no = re.match(r"User rejected the tool call(?:.*?with reason: (.*))?", text, re.DOTALL)
            if no:
                return f"All right, I left it as it is{f': {_sentence(no[1])}' if no[1] else '.'}"
            text = _sentence(text or "the tool said nothing", upper=False)
            return f"Sorry, that did not work: {text}"
        calls = [call for m in self.messages for call in getattr(m, "tool_calls", ())]
        call: Any = next((c for c in reversed(calls) if c["id"] == result.tool_call_id), {})
        if any(tool.remembers and tool.name == call.get("name") for tool in self.tools):
            noted = self._small_talk(self.text.lower(), _facts([self.text]))
            return noted or "I will remember that."
        if not text or re.fullmatch(r"[A-Z].*\s.*[.!?]", text, re.DOTALL):
            return text or "It is done."  # many tools speak in sentences themselves
        about = next((v for v in call.get("args", {}).values() if isinstance(v, str) and v), "")
        the = "the " if about and f"the {about}".lower() in self.text.lower() else ""
        return (
            f"I looked it up{f' for {the}{about}' if about else ''}: {_sentence(text, upper=False)}"
        )


def _expanded(text: str) -> str:
    """Return a text with some short forms written out, so that the rules need only one form."""
    text = re.sub(r"(?i)\bi'?m\b", "I am", text.replace("\u2019", "'"))
    text = re.sub(r"(?i)\bi(?:'ve| have)(?: got)?\b", "I have", text)
    name = rf"(?i)^(hi|hello|hey)\b[ ,!]*(?:I am|this is) (?!{_STATES})({_WORD})[.! ]*$"
    text = re.sub(name, r"\1! My name is \2.", text)
    return re.sub(r"[a-zA-Z]+", lambda m: _SHORT.get(m[0].lower(), m[0]), text)


def _spelled(text: str, *more: str) -> str:
    """Return a text in which words that are nearly known ones are those."""
    known = [*_SPELLED.split(), *more]

    def near(match: re.Match[str]) -> str:
        word, low = match[0], match[0].lower()
        if len(word) < 4 or (match.start() and word[0].isupper()):
            return word  # short, or a name
        close = get_close_matches(low, known, 1, 0.82)
        return close[0] if close and close[0] not in low and low not in close[0] else word

    return re.sub(r"[a-zA-Z]+", near, text)


def _asks(text: str) -> bool:
    return any(_QUESTION.search(each) for each in re.split(r"(?<=[.!?])\s+", text))


def _talked(text: str) -> tuple[re.Match[str], str] | None:
    found = ((re.search(pattern, text.lower()), reply) for pattern, reply in _TALK.items())
    return next(((match, reply) for match, reply in found if match), None)


def _facts(texts: Iterable[str], *, others: bool = False) -> dict[str, str]:
    """Return what texts tell about the guest, the newest last: its subject -> "you ..."."""
    facts: dict[str, str] = {}
    for clause in (clause for text in texts for clause in _CLAUSE.split(text)):
        if others or re.match(r"(?i)the (?:guest|user)\b", clause):
            for pattern, mine in _OTHERS:
                clause = re.sub(pattern, mine, clause.strip())
        lead = _LEAD.match(clause.strip())
        said = _TAIL.sub("", clause.strip()[lead.end() if lead else 0 :])
        if not said or clause.rstrip().endswith("?"):
            continue
        if named := _NAMED.search(said) or _I_AM.search("" if said.isupper() else said):
            first, *rest = named[1].strip().removesuffix("です").split()
            if first.islower() and len(rest) < 2:
                name = " ".join([first, *rest]).title()
            else:
                name = " ".join([first, *takewhile(lambda word: not word[0].islower(), rest)])
            facts["name"] = f"your name is {name[0].upper()}{name[1:]}"
        elif my := _MY.match(said):
            facts[my[1].lower()] = _you(f"my {my[1]}{my[2] or ''} {my[3]} {my[4]}")
        elif i := _I.match(said):
            verb = i[1].split()[-1].lower()
            one = verb in ("live", "work", "born", "from", "come") or verb.isdigit()
            facts[verb if one else f"{verb} {i[2].lower()}"] = _you(said)
        elif others or (
            lead
            and lead[1]
            and not re.match(r"(?i)(?:my|what|when|where|who|me)\b(?: \w+){0,2}$", said)
        ):
            facts[said.lower()] = _you(re.sub(r"^to ", "I want to ", said))
    return facts


def _you(text: str) -> str:
    return re.sub(r"\b\w+\b", lambda m: _YOU.get(m[0].lower(), m[0]), text)


def _digits(text: str) -> str:
    return re.sub(r"[a-zA-Z]+", lambda m: _COUNT.get(m[0].lower(), m[0]), text)


def _worked_out(left: float, sign: str, right: float) -> str:
    if sign in ("/", "divided by", "over"):
        return f"That is {left / right:.10g}." if right else "Nobody can divide by zero."
    if sign in ("*", "x", "times"):
        return f"That is {left * right:.10g}."
    return f"That is {left + right if sign in ('+', 'plus') else left - right:.10g}."


def _what_was_said(asked: str, earlier: list[str]) -> str:
    question = "ask" in asked or "question" in asked
    found = [text for text in earlier if "?" in text or not question]
    verb = "asked" if question else "said"
    if not found:
        return f"You have not {verb} anything before." if earlier else "This is where we started."
    if "first" in asked:
        return f'The first thing you {verb} was: "{found[0]}"'
    return f'You {verb}: "{found[-1]}"'


def _sentence(text: str, *, upper: bool = True) -> str:
    text = text[:1].upper() + text[1:] if upper else text
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _stems(text: str) -> list[str]:
    """Return the words of a text without their endings: "open" for "opens" and "opening"."""
    words = re.findall(r"[^\W_]+", text.lower())
    stems = [re.sub(r"(?<=\w{3})(?:ing|ed|es|(?<!s)s)$", "", word) for word in words]
    return [stem.removesuffix("e") if len(stem) > 3 else stem for stem in stems]


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d|(?<!\w)\'([^\']+)\'(?!\w)')
_PHRASE = re.compile(r"(?i)\b(?:in|at|for|near|of|about|from|to|on|named|called)\s+(?:the\s+)?(.+)")
_SUBJECT = re.compile(
    r"(?i)\b(?:do|does|did|is|are|will|can)\s+(?:the\s+|an?\s+)?([\w' -]+?)\s+(\w+)\s*[?.!]*\s*$"
)
_FILLER = re.compile(
    r"(?i),?\s+(?:for\s+)?(?:today|tonight|tomorrow|now|please)\b"
    r"|\s+(?:on\s+)?(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b"
)
_VALUE = (
    r"""("[^"]+"|\u201c[^\u201d]+\u201d|'[^']+'|.+?)"""
    r"""(?=\s+and\s|\s+with\s|[,)]|[.?!]*\s*$|[.?!]\s)"""
)
_INVENTED: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
_KEEPS = {*_stems("remember memorize save store note")}
_READS = {*_stems("check count fetch find get list look lookup read report search show tell")}
_FREE = {*_stems("content fact information memory message note query question text")}
_PROPER = ("city", "town", "country", "name", "guest")
_GENERIC = {*_stems("a do for give make my of on run the to tool up")} | _READS
_LITTLE = {
    *_stems(
        "a about all am an and are at be by can could did does every from has have he how i in is"
        " it its many me much name number of on one or return she some that the their there they"
        " this town two user guest was we what when where which who why will with would you your"
    )
}


class _Tool:
    """A bound tool, as far as the rules need it."""

    def __init__(self, function: Mapping[str, Any]) -> None:
        schema = function.get("parameters") or {}
        description = str(function.get("description") or "")
        self.name = str(function["name"])
        self.properties: dict[str, dict[str, Any]] = schema.get("properties") or {}
        self.required: list[str] = schema.get("required") or []
        # The words of the name: ["get", "weather"]; those that say what it does: {"weather"}.
        self.spelled = re.sub(r"([a-z])([A-Z])|[_-]", r"\1 \2", self.name).lower().split()
        stems = _stems(" ".join(self.spelled))
        self.verb = stems[0]
        self.words = {*stems} - _GENERIC or {*stems}
        # What else it is about, by its description, apart from the names of its arguments.
        arguments = {*_stems(" ".join(self.properties).replace("_", " "))}
        self.topics = {*_stems(description)} - _GENERIC - _LITTLE - arguments
        self.remembers = bool(_KEEPS & {self.verb, *_stems(description)[:1]})

    def is_asked_for_in(self, text: str) -> bool:
        """Whether the text is a request that mentions what the tool does.

        A tool that does more than read is asked for by its verb, never by its description alone.
        """
        words = _stems(text)
        begins = bool(self.words & {*words[:1]}) or self.name in text
        if not (begins or _QUESTION.search(text) or _REQUEST.search(text)):
            return False
        if self.words & {*words} and (self.verb in _GENERIC or self.verb in words):
            return True
        # A word of the description alone may be chance; with its arguments it is none.
        has_all = {*self.required} <= {*self.arguments(text)}
        return self.verb in _READS and bool(self.topics & {*words}) and has_all

    def match(self, text: str) -> tuple[float, int]:
        """Say how well the text fits the tool; more is better."""
        found = self.words & {*_stems(text)}
        return len(found) ** 2 / len(self.words), len(self.topics & {*_stems(text)})

    def arguments(self, text: str, *, invent: bool = False) -> dict[str, Any]:
        """Find the arguments in a text; `invent` makes up the required ones it does not give."""
        digits = any(_kind(schema) in ("integer", "number") for schema in self.properties.values())
        text = _digits(text) if digits else text
        name = re.search(rf"(?i)\b{re.escape(self.name)}\b", text)
        ends = [m.end() for m in re.finditer(r"\w+", text) if self.words & {*_stems(m[0])}]
        tail = text[name.end() if name else ends[-1] if ends else 0 :]
        numbers = _NUMBER.findall(tail) or _NUMBER.findall(text)
        strings = ["".join(found) for found in _QUOTED.findall(tail) or _QUOTED.findall(text)]
        strings = strings or self._unquoted(text, tail)
        found: dict[str, Any] = {}
        for key, schema in self.properties.items():
            kind, value = _kind(schema), _named_value(key, schema, text)
            pool = {"integer": numbers, "number": numbers, "string": strings}.get(kind)
            pool = numbers if numbers and key in ("number", "id") else pool
            if value is None and "enum" in schema:
                said = [each for each in schema["enum"] if {*_stems(str(each))} <= {*_stems(text)}]
                value = next(iter(said), schema["enum"][0] if invent else None)
            elif value is None and kind == "string" and _FREE & {*_stems(key)}:
                value = re.sub(r"(?i)^.*?\b(?:remember|note|save|that)\b(?: that)?:?\s+", "", text)
            elif value is None and pool:
                value = _converted(pool.pop(0), kind)
            if value is None and invent and key in self.required:
                value = _INVENTED.get(kind, text)
            if value is not None:
                is_low = isinstance(value, str) and value.islower() and key in _PROPER
                found[key] = value.title() if is_low else value
        return found

    def _unquoted(self, text: str, tail: str) -> list[str]:
        """Return what the tool may be asked about: "Kyoto", "museum"."""
        known = self.words | self.topics
        for subject, verb in _SUBJECT.findall(_FILLER.sub("", text)):
            if known & {*_stems(verb)} and not _LITTLE.issuperset(_stems(subject)):
                return [str(subject)]
        phrase = _PHRASE.search(_FILLER.sub("", tail))
        value = phrase[1].rstrip(" .?!,") if phrase else ""
        # "in San Francisco, CA" is one value only where no other argument can follow.
        if len(self.properties) > 1:
            value = re.split(r",|\s(?:and|with)\s", value)[0]
        if not phrase and len(words := re.findall(r"[\w'-]+", text)) < 5:  # "museum hours?"
            other = known | _GENERIC | _LITTLE
            value = " ".join(word for word in words if not other.issuperset(_stems(word)))
        return [value] if value and not _QUESTION.search(value) and len(value.split()) < 7 else []


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the JSON type of an argument, or its first one where it may have several."""
    options = [schema, *schema.get("anyOf", ())]
    return next((str(each["type"]) for each in options if "type" in each), "string")


def _converted(value: str, kind: str) -> Any:
    """Return a piece of text as a value of a JSON type, None if it is no such thing."""
    value = value.strip().strip("\"'\u201c\u201d")
    if kind in ("integer", "number"):
        number = float(value) if _NUMBER.fullmatch(value) else None
        return (
            int(value)
            if number is not None and "." not in value
            else number
            if kind == "number"
            else None
        )
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
    found = (each[1] for form in forms for each in re.finditer(form, text, re.IGNORECASE))
    values = (_converted(value, _kind(schema)) for value in found)
    return next((value for value in values if value is not None), None)
