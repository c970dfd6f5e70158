"""The checks of the exercises: they say whether one is solved, and give a bigger hint each time."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import pairwise
from typing import Any, ParamSpec

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from redis.exceptions import RedisError

from memorystore_chat import sessions
from memorystore_chat.commands import Client
from memorystore_chat.connection import Endpoint
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_tutorial.text import wrapped

_Given = ParamSpec("_Given")
_Problems = Iterator[tuple[bool, str]]
_failed: Counter[str] = Counter()
_FAVORITE = re.compile(r"my favorite (.+?) is (.+?)[.!\s]*$")
DAY = 24 * 3600


class Verdict(str):
    """What a check says; it shows itself as text."""

    def __repr__(self) -> str:
        return wrapped(self)


def _exercise(
    praise: str, *hints: str
) -> Callable[[Callable[_Given, _Problems]], Callable[_Given, Verdict]]:
    """Make a check of a function that yields what may be wrong: whether it is, and the words.

    It is asked no further than the first problem. A variable of the reader's that is still None
    is a problem, and so is an error. Each time there is one, the next hint is given.
    """

    def decorate(judge: Callable[_Given, _Problems]) -> Callable[_Given, Verdict]:
        name = judge.__name__

        @wraps(judge)
        def check(*args: _Given.args, **kwargs: _Given.kwargs) -> Verdict:
            given = inspect.signature(judge).bind(*args, **kwargs).arguments
            empty = (f"{name} is still None." for name, value in given.items() if value is None)
            try:
                found = (words for is_wrong, words in judge(*args, **kwargs) if is_wrong)
                problem = next(empty, None) or next(found, None)
            except (MemorystoreChatError, RedisError, TypeError, ValueError, AttributeError) as e:
                problem = f"it ended in an error, {type(e).__name__}: {e}"
            if problem is None:
                _failed.pop(name, None)
                return Verdict(f"Solved. {praise}")
            hint = hints[min(_failed[name], len(hints) - 1)]
            _failed[name] += 1
            return Verdict(f"Not solved yet: {problem}\nHint: {hint}")

        return check

    return decorate


@_exercise(
    "It told you what you had told it, and the server keeps both.",
    "Talk to the bot with ask(...).",
    "First tell it: My favorite ... is ....",
    'Then ask it with the same word: "What is my favorite ...?"',
)
def check_favorite(history: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 1: the bot was told a favorite thing, and asked about it."""
    messages = history.messages
    said = [m.text.lower() for m in messages if m.type == "human"]
    told = dict(pair for text in said for pair in _FAVORITE.findall(text))
    yield not told, "nobody has told the bot a favorite thing."
    asked = [
        (question.text.lower().partition("what is my favorite ")[2].strip("?.! "), reply.text)
        for question, reply in pairwise(messages)
        if question.type == "human" and "what is my favorite " in question.text.lower()
    ]
    yield not asked, "the bot has not been asked for it."
    thing, reply = asked[-1]
    unknown = f"the bot does not know your favorite {thing}: nobody has told it."
    yield thing not in told, unknown
    yield told[thing] not in reply.lower(), "the bot does not know the answer."


@_exercise(
    "connect() would encrypt everything on the way to 10.1.2.3.",
    "An endpoint is SCHEME://HOST:PORT.",
    "The scheme says whether there is TLS.",
    "The schemes that end in s have TLS.",
)
def check_endpoint(my_endpoint: str) -> _Problems:
    """Notebook 1: an endpoint for Valkey at 10.1.2.3, the usual port, with TLS."""
    yield not my_endpoint, "my_endpoint is empty."
    endpoint = Endpoint.parse(my_endpoint)
    is_other = (endpoint.host, endpoint.port) != ("10.1.2.3", 6379)
    yield is_other, f"this is {endpoint.host or 'no address'}, port {endpoint.port}."
    yield not endpoint.tls, "this one has no TLS."


@_exercise(
    "A question and its answer, in one round trip.",
    "Make a history with the session id and our KEY_PREFIX.",
    "Clear it first if you have tried before.",
    "add_messages takes a list: [HumanMessage(...), AIMessage(...)].",
)
def check_turn(tea: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 2: one question and its answer, stored together."""
    kinds = [message.type for message in tea.messages]
    words = f"the session holds {kinds or 'nothing'}, not ['human', 'ai']."
    yield kinds != ["human", "ai"], words


@_exercise(
    "Your chatbot remembers two exchanges, and forgets after an hour.",
    "Two options of the history do it, and clear() starts over.",
    "How much is read is the window. How long it lives is the ttl, in seconds.",
    "window=4 and ttl=3600; then add_messages three times, two messages each.",
)
def check_short_memory(client: Client, short_memory: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 2: six messages stored, four read, gone after an hour."""
    yield _counts(short_memory, 6, 4)
    left = client.ttl(short_memory.key)
    yield not 3500 < left <= 3600, "the session does not expire in one hour."


@_exercise(
    "A week from now, the server deletes it by itself.",
    "sessions.expire does it.",
    "It takes a list of session ids as its second argument.",
    "ttl= is in seconds, and dry_run=False makes it real.",
)
def check_week(client: Client, history: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 3: one stored session expires in a week."""
    left = client.ttl(history.key)
    yield left == -1, "the session has no TTL."
    yield left < 0, "the session is gone."
    days = left / DAY
    yield not 6.9 < days <= 7, f"the session expires in {days:.1f} days."
    key_prefix = history.key.removesuffix(history.session_id)
    found = sessions.scan(client, key_prefix=key_prefix)
    others = sorted(s.id for s in found if s.ttl is not None and s.id != history.session_id)
    yield bool(others), f"{', '.join(others)} expire, too. Run the notebook again from the top."


@_exercise(
    "Only the short conversations are left.",
    "sessions.scan knows how many messages each session has.",
    "Make a list of the ids whose session has four messages or more.",
    "Give the list to sessions.delete as its second argument, with key_prefix and dry_run.",
)
def check_chatty(client: Client, key_prefix: str) -> _Problems:
    """Notebook 3: only the sessions of four messages or more are deleted."""
    counts = {s.id: s.messages for s in sessions.scan(client, key_prefix=key_prefix)}
    yield max(counts.values(), default=0) >= 4, "there are sessions with four messages or more."
    words = "a short conversation is gone, too. Run the notebook again from the top."
    yield not {"alan", "grace"} <= counts.keys(), words


@_exercise(
    "One user, two conversations, and neither knows the other.",
    "history_of(user, conversation) makes the history.",
    'Use ask(history_of("kay", "work"), ...), then the same with "home".',
)
def check_two_conversations(
    history_of: Callable[[str, str], MemorystoreChatMessageHistory], user: str
) -> _Problems:
    """Notebook 4: one user has told each of two conversations something."""
    first, second = (history_of(user, name).messages for name in ("work", "home"))
    missing = f"{user}'s conversations 'work' and 'home' are not both there."
    yield not first or not second, missing
    # The newest questions, so that a wrong try does not stand in the way.
    yield first[-2].text == second[-2].text, "both conversations were told the same words."


@_exercise(
    "It remembers one exchange, and no more.",
    "Make a history inside the function, then use ask from above.",
    'The session id is f"brief/{user_id}", under our KEY_PREFIX.',
    "window=2 loads the newest two messages.",
)
def check_briefly(
    ask: Callable[[str, str], object],
    history_of: Callable[[str], MemorystoreChatMessageHistory],
) -> _Problems:
    """Notebook 4: a chain that remembers one exchange."""
    test = history_of("brief/tester")
    test.clear()
    questions = ["My name is Kay.", "My favorite fruit is plum.", "What is my name?"]
    replies = [ask("tester", question) for question in questions]
    is_other = not all(isinstance(reply, str) for reply in replies)
    yield is_other, "ask_briefly should return the text of the reply."
    stored = [message.content for message in test.messages[::2]]
    yield stored != questions, "all three turns should be stored in the session 'brief/tester'."
    knows = "it still knows the name, so it loads more than two messages."
    yield "Kay" in str(replies[2]), knows


@_exercise(
    "Your function is a tool now, and its result is part of the conversation.",
    "A tool is a function with type hints and a docstring.",
    "Give create_agent a list with your function, and the middleware as above.",
    "Ask a question that only your function can answer.",
)
def check_tool(history: MemorystoreChatMessageHistory, name: str) -> _Problems:
    """Notebook 5: an agent called a tool of the reader's."""
    messages = history.messages
    yield not messages, "the agent has not been asked in this thread."
    calls = [c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    words = f"the agent has not called {name}; it called {calls or 'nothing'}."
    yield name not in calls, words
    results = [m for m in messages if isinstance(m, ToolMessage)]
    yield not results, "the tool has not answered."


@_exercise(
    "One agent, two conversations, no mix-up.",
    "ask(agent, thread_id, question) is all you need.",
    "Tell each thread its name before you ask for it.",
)
def check_two_threads(
    answers: Sequence[str], history_of: Callable[[str], MemorystoreChatMessageHistory]
) -> _Problems:
    """Notebook 5: one agent, two threads, no mix-up."""
    yield len(answers) != 2, f"answers holds {len(answers)}, not two."
    counts = [len(history_of(thread)) for thread in ("kay", "lee")]
    yield min(counts) < 4, f"the threads 'kay' and 'lee' hold {counts} messages, not 4 each."
    named = "Kay" in answers[0] and "Lee" in answers[1]
    yield not named, "the answers should name Kay and Lee, in this order."


@_exercise(
    "The tool did not run, and the agent was told why.",
    'First ask(agent, "grace", ...), which stops before the tool.',
    "Then resume as approve() does, in the thread of Grace.",
    'The decision is {"type": "reject", "message": "..."}.',
)
def check_rejected(agent: Any, config: dict[str, Any]) -> _Problems:
    """Notebook 6: a call that waited was rejected, and the turn went on."""
    state = agent.get_state(config)
    messages = state.values.get("messages", [])
    yield not messages, "nobody has asked the agent anything in this thread."
    yield bool(state.interrupts), "the agent still waits for a decision."
    results = [m for m in messages if isinstance(m, ToolMessage)]
    yield not results, "the agent has not been asked to cancel a booking."
    yield results[-1].status != "error", "the booking was canceled."


@_exercise(
    "It stores little more than the conversation, for a day.",
    "make_saver takes the options of MemorystoreSaver.",
    "They are keep, and ttl in seconds.",
    "make_agent(my_saver) makes an agent that uses it.",
)
def check_keep(client: Client, my_saver: Any, key_prefix: str) -> _Problems:
    """Notebook 6: the thread "lee" keeps one checkpoint, for a day."""
    is_other = not hasattr(my_saver, "get_tuple")
    yield is_other, f"my_saver is a {type(my_saver).__name__}, not a checkpointer."
    count = len(list(my_saver.list({"configurable": {"thread_id": "lee"}})))
    yield count == 0, "the thread 'lee' is empty."
    yield count > 1, f"the thread 'lee' has {count} checkpoints."
    left = client.ttl(f"{key_prefix}checkpoints:lee")
    yield not 0 < left <= DAY, "the thread does not expire in a day."


@_exercise(
    "That one turn is all that the users noticed.",
    "run.seconds has the time of each turn.",
    "Python's max finds the largest.",
)
def check_slowest(slowest: Any, seconds: Sequence[float]) -> _Problems:
    """Notebook 7: the longest turn of the fail-over, in seconds."""
    is_other = isinstance(slowest, bool) or not isinstance(slowest, int | float)
    yield is_other, f"slowest is a {type(slowest).__name__}, not a number."
    yield abs(slowest - max(seconds)) > 0.01, "this is not the time of the longest turn."


@_exercise(
    "It forgets what it should, and a dead server is no reason to.",
    "Four options of the history do it, beside the client and the session id.",
    "They are key_prefix, ttl in seconds, window, and max_messages.",
)
def check_production(
    make_history: Callable[[str], MemorystoreChatMessageHistory | None],
    client: Client,
    cluster: Any,
    key_prefix: str,
) -> _Problems:
    """Notebook 7: a history for production, tried with one more node killed."""
    # Nodes 1 to 3 begin as primaries: one that still is one has its replica.
    names = ("kay", "edsger", "linus", "grace", "ada")
    users = [user for user in names if cluster.primary_of(key_prefix + user) <= 3]
    words = "the cluster has no replica left: run the notebook again from *A cluster* on."
    yield not users, words
    history = make_history(users[0])
    if history is None:
        yield True, "production_history returns None."
        return
    history.clear()
    history.add_messages([HumanMessage(f"message {n}") for n in range(1, 206)])
    if cluster.running >= 5:
        cluster.kill(cluster.primary_of(history.key))
    history.add_user_message("Are you still there?")
    yield _counts(history, 200, 20)
    days = client.ttl(history.key) / DAY
    yield not 29 < days <= 30, "the session does not expire in 30 days."


def _counts(history: MemorystoreChatMessageHistory, stored: int, read: int) -> tuple[bool, str]:
    """Whether a session holds other numbers of messages than it should."""
    found = len(history), len(history.messages)
    words = f"{found[0]} messages are stored and {found[1]} are read, not {stored} and {read}."
    return found != (stored, read), words
