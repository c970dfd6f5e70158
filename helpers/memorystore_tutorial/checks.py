"""The checks of the exercises: each says whether one is solved, or what is wrong and what to try.

A check is a generator. It yields what may be wrong: whether it is, the problem, and a hint that
fits this mistake. The first problem is the verdict. To add one, write such a function and decorate
it with ``_exercise(praise, hint)``, whose hint is for a reader who has not begun.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ParamSpec
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from redis.exceptions import RedisError

from memorystore_chat import sessions
from memorystore_chat.commands import Client
from memorystore_chat.connection import Endpoint, IamCredentials, connect
from memorystore_chat.errors import ConnectError, MemorystoreChatError
from memorystore_chat.history import MemorystoreChatMessageHistory
from memorystore_tutorial import practice
from memorystore_tutorial.text import wrapped

_Given = ParamSpec("_Given")
_Problems = Iterator[tuple[bool, str, str]]
_FAVORITE = re.compile(r"my favorite (.+?) is (.+?)[.!\s]*$")
DAY = 24 * 3600


class Verdict(str):
    """What a check says; it shows itself as text."""

    def __repr__(self) -> str:
        return wrapped(self)


def _exercise(
    praise: str, hint: str
) -> Callable[[Callable[_Given, _Problems]], Callable[_Given, Verdict]]:
    """Make a check of a function that yields whether something is wrong, what, and a hint.

    A variable of the reader's that is still None is a problem, and so is an error.
    """

    def decorate(judge: Callable[_Given, _Problems]) -> Callable[_Given, Verdict]:
        @wraps(judge)
        def check(*args: _Given.args, **kwargs: _Given.kwargs) -> Verdict:
            given = inspect.signature(judge).bind(*args, **kwargs).arguments
            for name, value in given.items():
                if value is None:
                    return _not_solved(f"{name} is still None.", hint)
            try:
                for is_wrong, problem, try_this in judge(*args, **kwargs):
                    if is_wrong:
                        return _not_solved(problem, try_this or hint)
            except (MemorystoreChatError, RedisError, TypeError, ValueError, AttributeError) as e:
                return _not_solved(f"it ended in an error, {type(e).__name__}: {e}", hint)
            return Verdict(f"Solved. {praise}")

        return check

    return decorate


def _not_solved(problem: str, hint: str) -> Verdict:
    return Verdict(f"Not solved yet: {problem}\nHint: {hint}")


@_exercise(
    "It told you what you had told it, and the server keeps both.", "Talk to the bot with ask(...)."
)
def check_favorite(history: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 1: the bot was told a favorite thing, and asked about it."""
    messages = history.messages
    said = [m.text.lower().replace("favourite", "favorite") for m in messages]
    told = dict(
        pair
        for text, message in zip(said, messages, strict=True)
        if message.type == "human"
        for pair in _FAVORITE.findall(text)
    )
    tell = 'First tell it: ask("My favorite ... is ....").'
    yield not told, "nobody has told the bot a favorite thing.", tell
    asked = [
        (found[1], reply)
        for (question, reply), message in zip(pairwise(said), messages, strict=False)
        if message.type == "human"
        if (found := re.search(r"what(?:'s| is) my favorite (.+?)[?.! ]*$", question))
    ]
    yield not asked, "the bot has not been asked for it.", ""
    thing, reply = asked[-1]
    unknown = f"the bot does not know your favorite {thing}: nobody has told it."
    same = f'Ask with the word you told it: ask("What is my favorite {[*told][-1]}?").'
    yield thing not in told, unknown, same
    yield told[thing] not in reply, "the bot does not know the answer.", tell


@_exercise("Each guest has a conversation of their own.", "Look at what names the conversation.")
def check_guests_apart(ask_for: Callable[[str, str], object]) -> _Problems:
    """Notebook 1: a function that answers each guest from that guest's conversation."""
    ada, grace = (f"{name}-{uuid4().hex[:8]}" for name in ("ada", "grace"))
    ask_for(ada, "My favorite dish is soup.")
    told = ask_for(grace, "What is my favorite dish?")
    text = "Return reply.text, as ask does."
    yield not isinstance(told, str), "ask_for does not return the text of the reply.", text
    mixed = "a second guest is told what the first one likes."
    names = "Every guest gets the session id 'guest'. Which value tells them apart?"
    yield "soup" in str(told), mixed, names
    knows = "soup" in str(ask_for(ada, "What is my favorite dish?"))
    both = "Load notes.messages before you ask, and save both messages after it."
    yield not knows, "a guest's own words are forgotten.", both


@_exercise(
    "connect() would encrypt everything on the way to 10.1.2.3.",
    "An endpoint is SCHEME://HOST:PORT.",
)
def check_endpoint(my_endpoint: str) -> _Problems:
    """Notebook 1: an endpoint for Valkey at 10.1.2.3, the usual port, with TLS."""
    yield not my_endpoint, "my_endpoint is empty.", ""
    endpoint = Endpoint.parse(my_endpoint)
    found = f"this is {endpoint.host or 'no address'}, port {endpoint.port}."
    host = "The host is the address that the colleague told you, 10.1.2.3."
    yield endpoint.host != "10.1.2.3", found, host
    port = "6378 is for TLS on Memorystore for Redis. Valkey uses 6379, with TLS and without."
    other = "The usual port is 6379; you can also leave it out."
    yield endpoint.port != 6379, found, port if endpoint.port == 6378 else other
    yield not endpoint.tls, "this one has no TLS.", "The schemes that end in s have TLS."


@_exercise(
    "A question and its answer, in one round trip.",
    "Make a history with the session id and our KEY_PREFIX.",
)
def check_turn(tea: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 2: one question and its answer, stored together."""
    yield _unprefixed(tea, "tea")
    kinds = [message.type for message in tea.messages]
    problem = f"the session holds {kinds or 'nothing'}, not ['human', 'ai']."
    add = "add_messages takes a list: tea.add_messages([HumanMessage(...), AIMessage(...)])."
    order = "The question, a HumanMessage, comes first, and the answer, an AIMessage, second."
    again = "Put tea.clear() before it: what an earlier try stored is still there."
    hint = order if kinds == ["ai", "human"] else again if len(kinds) > 2 else add
    yield kinds != ["human", "ai"], problem, hint
    stored: Any = tea.client.lrange(tea.key, 0, -1)
    appends = {json.loads(element)["id"] for element in stored}
    one = "Give both messages to one call: tea.add_messages([question, answer])."
    yield len(appends) > 1, "question and answer were stored in two calls.", one


@_exercise(
    "Each kind of page keeps what the hotel wants, and no more.",
    "The options are window, ttl, and max_messages; each page needs one of them.",
)
def check_pages(
    history_of: Callable[..., MemorystoreChatMessageHistory], pages: dict[str, dict[str, Any]]
) -> _Problems:
    """Notebook 2: the right options for three kinds of conversations."""
    wanted = {
        "chat": ({"window": 4}, "Everything is stored, and the newest 4 are read: window=4."),
        "kiosk": ({"ttl": 3600}, "How long a session lives is ttl=, in seconds."),
        "door": ({"max_messages": 6}, "How much is stored is max_messages=; a window only reads."),
    }
    for name, (options, hint) in wanted.items():
        given = pages.get(name, {})
        yield not given, f"the page {name!r} has no options.", hint
        history_of(name, **given)  # unknown options and bad values end in an error
        yield given != options, f"the page {name!r} has {given}.", hint


@_exercise("A week from now, the server deletes it by itself.", "sessions.expire does it.")
def check_week(client: Client, history: MemorystoreChatMessageHistory) -> _Problems:
    """Notebook 3: one stored session expires in a week."""
    left = client.ttl(history.key)
    yield left == -1, "the session has no TTL.", ""
    again = "Run the notebook again from the top."
    yield left < 0, "the session is gone.", again
    days = left / DAY
    seconds = "ttl= is in seconds: a week is 7 * 24 * 60 * 60."
    yield not 6.9 < days <= 7, f"the session expires in {days:.1f} days.", seconds
    key_prefix = history.key.removesuffix(history.session_id)
    found = sessions.scan(client, key_prefix=key_prefix)
    others = sorted(s.id for s in found if s.ttl is not None and s.id != history.session_id)
    one = f"{again} The second argument names the sessions: [{history.session_id!r}]."
    yield bool(others), f"{', '.join(others)} expire, too.", one


@_exercise(
    "It names those who were idle for a year, and changes nothing.",
    "Which function removes a session, and which only sets a time?",
)
def check_cleaner(report: sessions.Report) -> _Problems:
    """Notebook 3: a trial run that would delete what was idle for a year."""
    kind = type(report).__name__
    made = "Assign what sessions.delete(...) returns: report = sessions.delete(...)."
    yield not isinstance(report, sessions.Report), f"report is a {kind}.", made
    yield report.action == "expire", "it sets a time to live for everybody.", ""
    yield report.action != "delete", f"it does something else: {report.action}.", ""
    yield not report.dry_run, "it deleted at once.", "Leave out dry_run=False: look first."
    idle = "idle_for=timedelta(days=365) picks the guests who haven't written for a year."
    yield report.sessions > 0, "it would delete guests who wrote this year.", idle


@_exercise(
    "One guest, two conversations, and neither knows the other.",
    'Begin with ask("kay/room", "..."), then tell "kay/dinner" something else.',
)
def check_two_conversations(
    history_of: Callable[[str], MemorystoreChatMessageHistory], guest: str
) -> _Problems:
    """Notebook 4: one guest has told each of two conversations something."""
    first, second = (history_of(f"{guest}/{name}").messages for name in ("room", "dinner"))
    missing = f"the conversations '{guest}/room' and '{guest}/dinner' are not both there."
    name = "dinner" if first else "room"
    hint = f'ask("{guest}/{name}", "...") is missing.' if first or second else ""
    yield not first or not second, missing, hint
    # The newest questions, so that a wrong try does not stand in the way.
    same = first[-2].text == second[-2].text
    yield same, "both conversations were told the same words.", "Tell one of them something else."


@_exercise(
    "The window reads what fits, and keeps a call with its result.",
    "history_of(conversation, window=...) makes a history that reads only the newest messages.",
)
def check_recent(
    recent: Callable[[str], Sequence[BaseMessage]],
    history_of: Callable[[str], MemorystoreChatMessageHistory],
) -> _Problems:
    """Notebook 4: a function that reads at most four messages, and cuts no tool call in two."""
    name = f"check-{uuid4().hex[:8]}"
    history = history_of(name)
    call = {"name": "get_weather", "args": {"city": "Kyoto"}, "id": "1", "type": "tool_call"}
    tool = [AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id="1")]
    talk = [HumanMessage("Hello!"), AIMessage("Hello!"), HumanMessage("Thanks!"), AIMessage("Bye.")]
    turn = [HumanMessage("Is it wet?"), *tool, AIMessage("Yes, it rains.")]
    try:
        history.add_messages([*talk, *turn])
        whole = [message.type for message in recent(name)]
        history.add_messages(talk[2:])
        found = [message.type for message in recent(name)]
    finally:
        history.clear()
    show = f"of a tool's result and the three messages after it, it reads {found}."
    result = "It begins with a result whose call is cut off. Let the history cut: use its window."
    yield found[:1] == ["tool"], show, result
    middle = "It begins in the middle of a turn. Let the history cut: use its window."
    yield found[:1] not in ([], ["human"]), show, middle
    many = "At most the newest four: window=4."
    yield (
        len(found) > 4 or len(whole) > 4,
        f"it reads {max(len(found), len(whole))} messages.",
        many,
    )
    yield (
        found != ["human", "ai"],
        show,
        "It should read the guest's last question, and its answer.",
    )
    fewer = "Whole turns of four messages fit: window=4."
    yield len(whole) != 4, f"of a turn of four messages it reads {len(whole)}.", fewer


@_exercise(
    "Your function is a tool now, and its result is part of the conversation.",
    "A tool is a function with type hints and a docstring.",
)
def check_tool(history: MemorystoreChatMessageHistory, name: str) -> _Problems:
    """Notebook 5: an agent called a tool of the reader's."""
    messages = history.messages
    conversation = history.session_id
    make = f"Give the agent your function: agent = make_agent([{name}])."
    give = f'{make} Then ask("{conversation}", "...").'
    yield not messages, f"nobody has asked in the conversation '{conversation}'.", give
    calls = [c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    problem = f"the agent has not called {name}; it called {calls or 'nothing'}."
    other = f"Your function's name is {calls[-1]}; call it {name}." if calls else ""
    yield name not in calls, problem, other or give
    results = [m for m in messages if isinstance(m, ToolMessage)]
    yield not results, "the tool has not answered.", "Ask again: the call was not carried out."
    unwritten = f"Let {name} return a text, make the agent again, then ask it again."
    yield results[-1].text in ("...", ""), f"the tool answered {results[-1].text!r}.", unwritten


@_exercise(
    "The cheapest memory that does what is needed.",
    "Ask of each: what must the model still know, and does a turn have to wait?",
)
def check_memories(memories: Mapping[str, str]) -> _Problems:
    """Notebook 5: a window, a summary, or a checkpointer for each of three features."""
    wanted = {"kiosk": "window", "suite": "summary", "refunds": "checkpointer"}
    empty = [name for name in wanted if not memories.get(name)]
    yield len(empty) == len(wanted), "nothing is chosen.", ""
    yield bool(empty), f"{', '.join(empty)}: nothing is chosen.", ""
    why = {
        ("kiosk", "summary"): "A summary costs one more call of the model in each turn.",
        ("kiosk", "checkpointer"): "It stores far more than it needs, and nothing waits here.",
        ("suite", "window"): "A window forgets the first day.",
        ("suite", "checkpointer"): "It stores all, and the model still reads all.",
        ("refunds", "window"): "A window shortens what is read. It can't stop before a tool.",
        ("refunds", "summary"): "A summary shortens what is read. It can't stop before a tool.",
    }
    for name, design in wanted.items():
        is_other = memories[name] not in wanted.values()
        choices = f"Choose one of {', '.join(wanted.values())}."
        yield is_other, f"{name}: there is no {memories[name]!r}.", choices
        problem = f"{name}: a {memories[name]} does not fit."
        yield memories[name] != design, problem, why.get((name, memories[name]), "")


@_exercise(
    "The tool did not run, and the agent was told why.",
    'First ask("grace", ...), which stops before the tool.',
)
def check_rejected(agent: Any, config: dict[str, Any]) -> _Problems:
    """Notebook 6: a call that waited was rejected, and the turn went on."""
    state = agent.get_state(config)
    messages = state.values.get("messages", [])
    yield not messages, "nobody has asked the agent anything in this thread.", ""
    resume = "Resume the turn: agent.invoke(Command(resume=no), ...) with the thread of Grace."
    yield bool(state.interrupts), "the agent still waits for a decision.", resume
    results = [m for m in messages if isinstance(m, ToolMessage)]
    cancel = 'Ask it: "Please cancel booking 7."'
    yield not results, "the agent has not been asked to cancel a booking.", cancel
    decision = 'Begin again with saver.delete_thread("grace"). The decision\'s type is "reject".'
    yield results[-1].status != "error", "the booking was canceled.", decision


@_exercise(
    "Each action that waits gets its decision, whether one or two.",
    'The list of decisions needs a {"type": "approve"} for each action that waits.',
)
def check_approve_all(approve_all: Callable[[str], object], agent: Any) -> _Problems:
    """Notebook 6: a function that approves one action that waits, and two."""
    for numbers in (("7",), ("42", "7")):
        name = f"check-{uuid4().hex[:8]}"
        config = {"configurable": {"thread_id": name}}
        asked = f"Please {' and '.join(f'cancel booking {number}' for number in numbers)}."
        try:
            agent.invoke({"messages": [("user", asked)]}, config)
            approve_all(name)
            state = agent.get_state(config)
        finally:
            agent.checkpointer.delete_thread(name)
        messages = state.values.get("messages", [])
        case = f"with {len(numbers)} waiting,"
        resume = "Resume the turn: agent.invoke(Command(resume=...), thread(conversation))."
        yield bool(state.interrupts), f"{case} the agent still waits.", resume
        done = [m for m in messages if isinstance(m, ToolMessage) and m.status != "error"]
        kind = 'The decision\'s type is "approve", for each of them.'
        yield len(done) != len(numbers), f"{case} {len(done)} were canceled.", kind


@_exercise(
    "The beginners pay nothing, the test little, and the guests are safe.",
    "The table above says what each is for.",
)
def check_designs(workshop: str, load_test: str, guests: str) -> _Problems:
    """Notebook 8: a server for each of three wishes."""
    names = ("embedded", "shared-core-nano", "custom-pico")
    for answer in (workshop, load_test, guests):
        one_of = f"Write one of {', '.join(map(repr, names))}."
        yield answer not in names, f"{answer!r} is none of the three.", one_of
    account = "An instance takes an account and a project. What do beginners have already?"
    yield workshop != "embedded", "the workshop gets an instance.", account
    inside = "The server on this machine is not in the VPC, so the test would measure another one."
    dear = "It would do. But you would pay for a replica of data that may be lost."
    hint = inside if load_test == "embedded" else dear
    yield load_test != "shared-core-nano", f"the load test runs on {load_test}.", hint
    replica = "A node fails. Which one has a replica that takes over?"
    yield guests != "custom-pico", f"the guests' conversations are on {guests}.", replica


@_exercise(
    "It trusts the instance's authority, and logs in as discover() found.",
    "connect takes iam= and ca_certs=. Both are in instance.",
)
def check_tunnel(through_tunnel: Callable[[Endpoint, int], Any]) -> _Problems:
    """Notebook 8: a way through a tunnel to a server with IAM and TLS."""
    with practice.server(iam=True, tls=True) as server:
        near = Endpoint.parse(server.endpoint)
        instance = replace(
            near,
            host="127.0.0.2",  # nothing listens there
            port=6379,
            ca_certs=(str(server.ca_cert),),
            credential_provider=IamCredentials(server.credentials),
        )
        try:
            client = through_tunnel(instance, near.port)
        except ConnectError as error:
            told = str(error).partition(": ")[2].partition(". ")[0]
            yield True, f"the connection fails: {told}.", _missing(told)
            return
        yield client is None, "through_tunnel returns None.", "Return the client of connect(...)."
        with client:
            other = "Connect to 127.0.0.1, with the port that the function is given."
            there = client.get_connection_kwargs() if hasattr(client, "get_nodes") else {}
            there = there or client.connection_pool.connection_kwargs
            yield there.get("port") != near.port, "it connects to another server.", other
            client.ping()


def _missing(told: str) -> str:
    """What the call of connect lacks, by what its error says."""
    if "authority" in told:
        return "Trust the instance's own authority: ca_certs=instance.ca_certs."
    if "password" in told or "credentials" in told:
        return "Log in as discover() found: iam=instance.credential_provider."
    if "listens" in told:
        return "The tunnel begins at 127.0.0.1, at the port that the function is given."
    return "valkeys:// has TLS, which the instance asks for."


@_exercise(
    "Kay's pillow is known in every conversation.", "store.put(namespace, key, value) does it."
)
def check_pillow(store: Any) -> _Problems:
    """Notebook 7: a fact about Kay in Kay's namespace."""
    item = store.get(("guests", "kay"), "pillow")
    found = [(one.namespace, one.key) for one in store.search(("guests",)) if "pillow" in one.key]
    where = f"there is no item 'pillow' in Kay's namespace{f', but {found[0]}' if found else ''}."
    yield item is None, where, 'The namespace is ("guests", "kay"), and the key "pillow".'
    value = 'The value is {"fact": "I want a hard pillow."}.'
    yield "fact" not in item.value, f"its value is {item.value}, without a fact.", value
    yield "pillow" not in str(item.value["fact"]), "the fact says nothing of a pillow.", value


@_exercise("Each guest has facts of their own.", "Which namespace does remember use?")
def check_note(note: Callable[..., object]) -> _Problems:
    """Notebook 7: a tool that stores a fact about the guest who speaks."""
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore()
    for name in ("ada", "grace"):
        note(f"I am {name}.", SimpleNamespace(store=store, context=SimpleNamespace(name=name)))
    facts = {name: store.search(("guests", name)) for name in ("ada", "grace")}
    everywhere = bool(store.search(())) and not any(facts.values())
    yield everywhere, "the facts of all guests are in one namespace.", ""
    yield not all(facts.values()), "a fact is not where the prompt looks for it.", "Use store.put."
    apart = all(name in str(found[0].value) for name, found in facts.items())
    yield not apart, "the value doesn't hold what the guest said.", 'Store {"fact": fact}.'


@_exercise("That one turn is all that the users noticed.", "run.seconds has the time of each turn.")
def check_slowest(slowest: Any, seconds: Sequence[float]) -> _Problems:
    """Notebook 9: the longest turn of the failover, in seconds."""
    is_other = isinstance(slowest, bool) or not isinstance(slowest, int | float)
    number = "A number alone: max(...) of run.seconds, without text around it."
    yield is_other, f"slowest is a {type(slowest).__name__}, not a number.", number
    problem = "this is not the time of the longest turn."
    milliseconds = abs(slowest - 1000 * max(seconds)) < 10
    hint = "In seconds, not milliseconds." if milliseconds else "Python's max finds the largest."
    yield abs(slowest - max(seconds)) > 0.01, problem, hint


@_exercise(
    "It forgets what it should, and a dead server is no reason to.",
    "Four options of the history do it, beside the client and the session id.",
)
def check_production(
    make_history: Callable[[Client, str], MemorystoreChatMessageHistory | None], key_prefix: str
) -> _Problems:
    """Notebook 9: a history for production, tried on a cluster whose primary is killed."""
    guest = "kay"
    with practice.cluster() as cluster, connect(cluster.endpoint) as client:
        history = make_history(client, guest)
        if history is None:
            yield True, "production_history returns None.", ""
            return
        given = "Hand on the client that the function is given, not another one."
        yield history.client is not client, "the history is on another server.", given
        key = f"the session's key is {history.key!r}, not {key_prefix + guest!r}."
        prefix = "key_prefix=KEY_PREFIX, and the session id is the guest."
        yield history.key != key_prefix + guest, key, prefix
        history.add_messages([HumanMessage(f"message {n}") for n in range(1, 206)])
        yield _counts(history, 200, 20)
        days = client.ttl(history.key) / DAY
        seconds = "ttl= is in seconds: 30 * 24 * 3600."
        yield not 29 < days <= 30, "the session does not expire in 30 days.", seconds
        cluster.kill(cluster.primary_of(history.key))
        history.add_user_message("Are you still there?")
        yield _counts(history, 200, 20)


def _unprefixed(history: MemorystoreChatMessageHistory, session_id: str) -> tuple[bool, str, str]:
    """Say whether a session is stored under another key than a notebook's prefix and its name."""
    is_right = history.key.startswith("tutorial-") and history.session_id == session_id
    problem = f"its key is {history.key!r}, not KEY_PREFIX and {session_id!r}."
    return not is_right, problem, f'Make it with session_id="{session_id}", key_prefix=KEY_PREFIX.'


def _counts(
    history: MemorystoreChatMessageHistory, stored: int, read: int
) -> tuple[bool, str, str]:
    """Say whether a session holds other numbers of messages than it should."""
    found = len(history), len(history.messages)
    problem = f"{found[0]} messages are stored and {found[1]} are read, not {stored} and {read}."
    if found[0] < stored:
        hint = f"Store {stored} messages; max_messages=, if you use it, must not be smaller."
    elif found[0] > stored:
        hint = "clear() removes what an earlier try stored; max_messages= bounds what is stored."
    else:
        hint = f"How much is read is window={read}."
    return found != (stored, read), problem, hint


@_exercise(
    "Any replica can serve any guest, and none waits for what another one knows.",
    "What must a second replica know when the first one is dead?",
)
def check_where(where: Mapping[str, str]) -> _Problems:
    """Notebook 10: for each thing in a web app, the process or Memorystore."""
    why = {
        "the lock of a conversation": "Two replicas would answer at the same time.",
        "the key that signs cookies": "A guest of one replica would be a stranger to the other.",
        "the pool of connections": "A connection can't leave its process.",
        "an approval that waits": "The yes may come to the other replica.",
        "the open stream to a page": "It is a connection, which can't leave its process.",
        "how often a guest asked this minute": "With four replicas a guest could ask four times.",
    }
    empty = [name for name in why if not where.get(name)]
    yield len(empty) == len(why), "nothing is chosen.", ""
    yield bool(empty), f"{', '.join(empty)}: nothing is chosen.", ""
    for name, reason in why.items():
        choices = 'Write "process" or "Memorystore".'
        is_other = where[name] not in ("process", "Memorystore")
        yield is_other, f"{name}: there is no {where[name]!r}.", choices
        wanted = "process" if "its process" in reason else "Memorystore"
        yield where[name] != wanted, f"{name} is in the wrong place.", reason


@_exercise(
    "The concierge has a new tool, and the page shows that it was used.",
    "Change the last line of get_weather, and run the cells below it again.",
)
def check_weather(weather: str, used: Sequence[Mapping[str, Any]]) -> _Problems:
    """Notebook 10: what the app answers when it is asked for the weather in Kyoto."""
    failed = any(event["type"] == "error" for event in used)
    yield failed, "the tool raised an error.", 'Try get_weather("Kyoto") in a cell of its own.'
    tools = [event["text"] for event in used if event["type"] == "tool"]
    name = "The function is called get_weather, and its docstring speaks of the weather."
    yield "get weather" not in tools, "the concierge did not use get_weather.", name
    yield "12" not in weather, f"the answer is {weather!r}.", ""
