"""The checks of the exercises: each says whether one is solved, or what is wrong and what to try.

A check is a generator. It yields what is wrong, a problem and a hint that fits this mistake; the
first is the verdict, and what yields nothing is solved. To add one, write such a function and
decorate it with ``_exercise(praise, hint)``, whose hint is for a reader who has not begun.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from redis.exceptions import RedisError

from memorystore_chat import sessions
from memorystore_chat.commands import Client
from memorystore_chat.connection import Endpoint, IamCredentials, connect
from memorystore_chat.errors import ConnectError, MemorystoreChatError
from memorystore_chat.history import MemorystoreChatMessageHistory as History
from memorystore_tutorial import practice
from memorystore_tutorial.text import wrapped

_Problems = Iterator[tuple[str, str]]
_Judge = Callable[..., _Problems]
_MISTAKES = (TypeError, ValueError, AttributeError, LookupError, NameError)
DAY = 24 * 3600


class Verdict(str):
    """What a check says; it shows itself as text."""

    def __repr__(self) -> str:
        return wrapped(self)


def _exercise(praise: str, hint: str) -> Callable[[_Judge], Callable[..., Verdict]]:
    """Make a check of a function that yields what is wrong; an empty hint stands for `hint`.

    A variable of the reader's that is still None is a problem, and so is an error.
    """

    def decorate(judge: _Judge) -> Callable[..., Verdict]:
        @wraps(judge)
        def check(*given: Any) -> Verdict:
            names = inspect.signature(judge).bind(*given).arguments.items()
            unset = [(f"{name} is still None.", "") for name, value in names if value is None]
            try:
                problem, try_this = next(iter(unset or judge(*given)), ("", ""))
            except (MemorystoreChatError, RedisError, *_MISTAKES) as e:
                problem, try_this = f"it ended in an error, {type(e).__name__}: {e}", ""
                if isinstance(e, NameError):
                    try_this = "Is the name spelled right? If so, run the cell that defines it."
            if problem:
                return Verdict(f"Not solved yet: {problem}\nHint: {try_this or hint}")
            return Verdict(f"Solved. {praise}")

        return check

    return decorate


def _choices(chosen: Mapping[str, Any], right: dict[str, str], why: dict[str, str]) -> _Problems:
    """Compare choices with the right ones; `why` has a hint for a name, or a name and a choice."""
    one_of = f"Write one of {', '.join(map(repr, dict.fromkeys(right.values())))}."
    if not any(chosen.get(name) for name in right):
        yield "nothing is chosen.", ""
    for name, answer in right.items():
        given = chosen.get(name)
        if given not in right.values():
            yield f"{name}: {given!r} is not one of them.", one_of
        if given != answer:
            yield f"{name}: {given!r} does not fit.", why.get(f"{name}, {given}") or why[name]


@_exercise("Each guest has a conversation of their own.", "Look at what names the conversation.")
def check_guests_apart(ask_for: Callable[[str, str], object]) -> _Problems:
    """Notebook 1: a function that answers each guest from that guest's conversation."""
    ada, grace = (f"{name}-{uuid4().hex[:8]}" for name in ("ada", "grace"))
    ask_for(ada, "My favorite dish is soup.")
    told = ask_for(grace, "What is my favorite dish?")
    if not isinstance(told, str):
        yield "ask_for does not return the text of the reply.", "Return reply.text, as ask does."
    if "soup" in str(told):
        why = "Every guest gets the session id 'guest'. Which value tells them apart?"
        yield "a second guest is told what the first one likes.", why
    if "soup" not in str(ask_for(ada, "What is my favorite dish?")):
        yield "it forgets.", "Load notes.messages before you ask, and save both messages after it."


@_exercise("It would encrypt all that is sent.", "An endpoint is SCHEME://HOST:PORT.")
def check_endpoint(my_endpoint: str) -> _Problems:
    """Notebook 1: an endpoint for Valkey at 10.1.2.3, the usual port, with TLS."""
    if not my_endpoint:
        yield "my_endpoint is empty.", ""
    endpoint = Endpoint.parse(my_endpoint)
    if endpoint.host != "10.1.2.3":
        yield f"its host is {endpoint.host!r}.", "The colleague told you the host: 10.1.2.3."
    if endpoint.port == 6378:
        yield "its port is 6378.", "Memorystore for Redis has it for TLS; Valkey has 6379 for all."
    if endpoint.port != 6379:
        yield f"its port is {endpoint.port}.", "The usual port is 6379; you can also leave it out."
    if not endpoint.tls:
        yield "this one has no TLS.", "The schemes that end in s have TLS."


@_exercise("All in one call.", "Make a history with the session id and our KEY_PREFIX.")
def check_turn(tea: History) -> _Problems:
    """Notebook 2: one question and its answer, stored together."""
    if not (tea.key.startswith("tutorial-") and tea.session_id == "tea"):
        yield f"its key is {tea.key!r}.", 'It takes session_id="tea", key_prefix=KEY_PREFIX.'
    kinds = [message.type for message in tea.messages]
    if kinds != ["human", "ai"]:
        hint = "add_messages takes a list: tea.add_messages([HumanMessage(...), AIMessage(...)])."
        if kinds == ["ai", "human"]:
            hint = "The question, a HumanMessage, comes first, and the answer second."
        elif len(kinds) > 2:
            hint = "Put tea.clear() before it: what an earlier try stored is still there."
        yield f"the session holds {kinds or 'nothing'}, not ['human', 'ai'].", hint
    stored: Any = tea.client.lrange(tea.key, 0, -1)
    if len({json.loads(element)["id"] for element in stored}) > 1:
        yield "it took two calls.", "Use one call: tea.add_messages([question, answer])."


@_exercise("Each page keeps what the hotel wants.", "Each needs a window, ttl, or max_messages.")
def check_pages(history_of: Callable[..., History], pages: dict[str, dict[str, Any]]) -> _Problems:
    """Notebook 2: the right options for three kinds of conversations."""
    wanted = {
        "chat": ({"window": 4}, "Everything is stored, and the newest 4 are read: window=4."),
        "kiosk": ({"ttl": 3600}, "How long a session lives is ttl=, in seconds."),
        "door": ({"max_messages": 6}, "How much is stored is max_messages=; a window only reads."),
    }
    for name, (options, hint) in wanted.items():
        given = pages.get(name, {})
        history_of(name, **given)  # unknown options and bad values end in an error
        if given != options:
            yield f"the page {name!r} has {given or 'no options'}.", hint


@_exercise("A week from now, the server deletes it by itself.", "sessions.expire does it.")
def check_week(client: Client, history: History) -> _Problems:
    """Notebook 3: one stored session expires in a week."""
    left, again = client.ttl(history.key), "Run the cell that stores the three guests again."
    if left == -1:
        how = 'sessions.expire takes ["grace"], key_prefix=KEY_PREFIX, ttl=..., and dry_run=False.'
        yield "the session has no TTL.", how
    if left < 0:
        yield "the session is gone.", again
    if not 6.9 * DAY < left <= 7 * DAY:
        yield f"it expires in {left / DAY:.1f} days.", "ttl= is in seconds: 7 * 24 * 60 * 60."
    key_prefix = history.key.removesuffix(history.session_id)
    for session in sessions.scan(client, key_prefix=key_prefix):
        if session.ttl is not None and session.id != history.session_id:
            yield f"{session.id} expires, too.", f"{again} The second argument names the sessions."


@_exercise("It changes nothing.", "Which function removes a session, and which only sets a time?")
def check_cleaner(report: sessions.Report) -> _Problems:
    """Notebook 3: a trial run that would delete what was idle for a year."""
    if not isinstance(report, sessions.Report):
        yield f"report is {report!r}.", "Assign a report: report = sessions.delete(...)."
    if report.action == "expire":
        yield "it sets a time to live for everybody.", ""
    if not report.dry_run:
        yield "it deleted at once.", "Leave out dry_run=False: look first."
    if report.sessions > 0:
        yield "it would delete guests who wrote this year.", "idle_for=timedelta(days=365)."


@_exercise("Neither knows the other.", 'Begin with ask("kay/room", "..."), then ask "kay/dinner".')
def check_two_conversations(history_of: Callable[[str], History], guest: str) -> _Problems:
    """Notebook 4: one guest has told each of two conversations something."""
    room, dinner = (history_of(f"{guest}/{name}").messages for name in ("room", "dinner"))
    if not room or not dinner:
        missing = f'ask("{guest}/{"dinner" if room else "room"}", "...") is missing.'
        both = f"the conversations '{guest}/room' and '{guest}/dinner' are not both there."
        yield both, missing if room or dinner else ""
    if room[-2].text == dinner[-2].text:  # the newest questions, so that wrong tries don't count
        yield "both were told the same words.", "Tell one of them something else."


@_exercise("It keeps a call with its result.", "history_of(conversation, window=...) reads less.")
def check_recent(
    recent: Callable[[str], Sequence[BaseMessage]], history_of: Callable[[str], History]
) -> _Problems:
    """Notebook 4: a function that reads at most four messages, and cuts no tool call in two."""
    history = history_of(f"check-{uuid4().hex[:8]}")
    call = {"name": "get_weather", "args": {"city": "Kyoto"}, "id": "1", "type": "tool_call"}
    thanks = [HumanMessage("Thanks!"), AIMessage("Bye.")]
    turn = [HumanMessage("Is it wet?"), AIMessage("", tool_calls=[call])]
    turn += [ToolMessage("rain", tool_call_id="1"), AIMessage("Yes, it rains.")]
    try:
        history.add_messages([*thanks, *thanks, *turn])
        whole = recent(history.session_id)
        history.add_messages(thanks)
        read = recent(history.session_id)
    finally:
        history.clear()
    if missing := {type(None): "return", History: ".messages"}.get(type(read)):
        yield f"{missing} is missing.", "Its last line is: return history_of(...).messages."
    found = [message.type for message in read]
    show = f"of a tool's result and the three messages after it, it reads {found}."
    begins = {"tool": "with a result whose call is cut off", "ai": "in the middle of a turn"}
    if found and found[0] in begins:
        yield show, f"It begins {begins[found[0]]}. Let the history cut: use its window."
    if len(found) > 4 or len(whole) > 4:
        yield "it reads more than four messages.", "At most the newest four: window=4."
    if found != ["human", "ai"]:
        yield show, "It should read the guest's last question, and its answer."
    if len(whole) != 4:
        yield f"of a turn of four it reads {len(whole)}.", "Four messages fit: window=4."


@_exercise("Your function is a tool now.", "A tool is a function with type hints and a docstring.")
def check_tool(history: History, name: str) -> _Problems:
    """Notebook 5: an agent called a tool of the reader's."""
    messages = history.messages
    make = f"Give the agent your function: agent = make_agent([*tools, {name}])."
    give = f'{make} Then ask("{history.session_id}", "...").'
    if not messages:
        yield f"nobody has asked in the conversation '{history.session_id}'.", give
    calls = [c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    if name not in calls:
        other = f"Your function's name is {calls[-1]}; call it {name}." if calls else give
        yield f"the agent has not called {name}; it called {calls or 'nothing'}.", other
    result = [m for m in messages if isinstance(m, ToolMessage)][-1].text
    if result in ("...", ""):
        yield f"it returned {result!r}.", "Return a text, make the agent again, then ask it again."


@_exercise("Each is the cheapest.", "Ask of each: what must the model know, and must a turn wait?")
def check_memories(memories: Mapping[str, str]) -> _Problems:
    """Notebook 5: a window, a summary, or a checkpointer for each of three features."""
    right = {"kiosk": "window", "suite": "summary", "refunds": "checkpointer"}
    why = {
        "kiosk, summary": "A summary costs one more call of the model in each turn.",
        "kiosk": "A checkpointer stores far more than it needs, and nothing waits here.",
        "suite, window": "A window forgets the first day.",
        "suite": "A checkpointer stores all, and the model still reads all.",
        "refunds": "It only shortens what is read. It can't stop before a tool.",
    }
    yield from _choices(memories, right, why)


@_exercise("The tool did not run.", 'First ask("grace", ...), which stops before the tool.')
def check_rejected(agent: Any, config: dict[str, Any]) -> _Problems:
    """Notebook 6: a call that waited was rejected, and the turn went on."""
    state = agent.get_state(config)
    messages = state.values.get("messages", [])
    if not messages:
        yield "nobody has asked the agent anything in this thread.", ""
    if state.interrupts:
        no = 'Resume with {"decisions": [{"type": "reject"}]}. After another decision, begin again:'
        yield "the agent still waits.", f'{no} saver.delete_thread("grace"), then ask.'
    results = [m for m in messages if isinstance(m, ToolMessage)]
    if not results:
        yield "no booking was to be canceled.", 'Ask it: "Please cancel booking 7."'
    if results[-1].status != "error":
        yield "it was canceled.", 'Delete the thread and begin again. The type is "reject".'


@_exercise("All is decided.", 'The list needs a {"type": "approve"} for each action that waits.')
def check_approve_all(approve_all: Callable[[str], object], agent: Any) -> _Problems:
    """Notebook 6: a function that approves one action that waits, and two."""
    for numbers in (("7",), ("42", "7")):
        name = f"check-{uuid4().hex[:8]}"
        config = {"configurable": {"thread_id": name}}
        asked = f"Please {' and '.join(f'cancel booking {number}' for number in numbers)}."
        try:
            agent.invoke({"messages": [("user", asked)]}, config)
            returned = approve_all(name)
            state = agent.get_state(config)
        finally:
            agent.checkpointer.delete_thread(name)
        if state.interrupts:
            yield "the agent still waits.", "Call agent.invoke(Command(resume=...), thread(...))."
        results = [m for m in state.values["messages"] if isinstance(m, ToolMessage)]
        done = sum(result.status != "error" for result in results)
        if done != len(numbers):
            yield f"{done} of {len(numbers)} were canceled.", 'The type is "approve", for each.'
        if returned is None:
            yield "it returns None.", "Return the text of the last message."


@_exercise("Each wish gets what it needs.", "The table above says what each is for.")
def check_designs(workshop: str, load_test: str, guests: str) -> _Problems:
    """Notebook 8: a server for each of three wishes."""
    chosen = {"workshop": workshop, "load_test": load_test, "guests": guests}
    right = {"workshop": "embedded", "load_test": "shared-core-nano", "guests": "custom-pico"}
    why = {
        "workshop": "An instance takes an account and a project. What do beginners have already?",
        "load_test, embedded": "The server on this machine is not in the VPC.",
        "load_test": "It would do. But you would pay for a replica of data that may be lost.",
        "guests": "A node fails. Which one has a replica that takes over?",
    }
    yield from _choices(chosen, right, why)


@_exercise("The tunnel is safe.", "connect takes iam= and ca_certs=. Both are in instance.")
def check_tunnel(through_tunnel: Callable[[Endpoint, int], Any]) -> _Problems:
    """Notebook 8: a way through a tunnel to a server with IAM and TLS."""
    missing = {
        "authority": "Trust the instance's own authority: ca_certs=instance.ca_certs.",
        "token": "Use the login in instance: iam=instance.credential_provider.",
        "password": "Log in as discover() found: iam=instance.credential_provider.",
        "listens": "The tunnel begins at 127.0.0.1, at the port that the function is given.",
        "": "valkeys:// has TLS, which the instance asks for.",
    }
    with practice.server(iam=True, tls=True) as server:
        near, login = Endpoint.parse(server.endpoint), IamCredentials(server.credentials)
        far = replace(near, host="127.0.0.2", port=6379)  # nothing listens there
        try:
            instance = replace(far, ca_certs=(str(server.ca_cert),), credential_provider=login)
            client = through_tunnel(instance, near.port)
        except ConnectError as error:
            told = str(error).partition(": ")[2].partition(". ")[0]
            hint = next(hint for word, hint in missing.items() if word in told)
            yield f"the connection fails: {told}.", hint
            return
        with client:
            if client.connection_pool.connection_kwargs.get("port") != near.port:
                yield "it connects to another server.", "Connect to 127.0.0.1, and the port given."
            client.ping()


@_exercise("All conversations know it.", "store.put(namespace, key, value) does it.")
def check_pillow(store: Any) -> _Problems:
    """Notebook 7: a fact about Kay in Kay's namespace."""
    item = store.get(("guests", "kay"), "pillow")
    if item is None:
        found = [(one.namespace, one.key) for one in store.search(("guests",))]
        other = "".join(f", but {at}" for at in found if "pillow" in at[1].lower())
        where = 'The namespace is ("guests", "kay"), and the key "pillow".'
        yield f"there is no item 'pillow' in Kay's namespace{other}.", where
    if "pillow" not in str(item.value.get("fact")):
        yield f"{item.value} has no fact about it.", 'Use {"fact": "I want a hard pillow."}.'


@_exercise("Each guest has facts of their own.", "Which namespace does remember use?")
def check_note(note: Callable[..., object]) -> _Problems:
    """Notebook 7: a tool that stores a fact about the guest who speaks."""
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore()
    for name in ("ada", "grace"):
        runtime = SimpleNamespace(store=store, context=SimpleNamespace(name=name))
        for fact in (f"I am {name}.", f"My name is {name}."):
            note(fact, runtime)
    facts = {name: store.search(("guests", name)) for name in ("ada", "grace")}
    used = {item.namespace for item in store.search(())}
    if any(namespace[0] != "guests" for namespace in used):
        yield f"it stores in {min(used)}.", 'Begin with "guests": ("guests", runtime.context.name).'
    if len(used) == 1:
        fixed = "The name is fixed. Take it from runtime.context.name."
        yield f"the facts of all guests are in {min(used)}.", fixed if min(used)[1:] else ""
    if not all(facts.values()):
        yield "a fact is not where the prompt looks for it.", "Use store.put, for each guest."
    if not all(len(found) > 1 for found in facts.values()):
        yield "a second fact overwrites the first.", "Each fact needs a key of its own: fact[:80]."
    if not all(name in str(found[0].value.get("fact")) for name, found in facts.items()):
        yield "the value doesn't hold what the guest said.", 'Store {"fact": fact}.'


@_exercise("That one turn is all that the users noticed.", "run.seconds has the time of each turn.")
def check_slowest(slowest: Any, seconds: Sequence[float]) -> _Problems:
    """Notebook 9: the longest turn of the failover, in seconds."""
    if not isinstance(slowest, int | float):
        yield f"a {type(slowest).__name__} is no number.", "A number alone: max of run.seconds."
    if abs(slowest - max(seconds)) > 0.01 and slowest != round(max(seconds), 1):
        hint = "Python's max does it." if slowest < 100 * max(seconds) else "Not in milliseconds."
        yield "this is not the time of the longest turn.", hint


@_exercise("It survived the kill of a node.", "Four options of the history do it.")
def check_production(make_history: Callable[[Client, str], History], key_prefix: str) -> _Problems:
    """Notebook 9: a history for production, tried on a cluster whose primary is killed."""
    with practice.cluster() as cluster, connect(cluster.endpoint) as client:
        history = make_history(client, "kay")
        if history.client is not client:
            why = "Hand on the client that the function is given, not another one."
            yield "the history is on another server.", why
        if history.key != key_prefix + "kay":
            yield f"its key is {history.key!r}.", "It takes key_prefix=KEY_PREFIX, and the guest."
        history.add_messages([HumanMessage(f"message {n}") for n in range(1, 206)])
        if not 29 < client.ttl(history.key) / DAY <= 30:
            yield "it does not expire in 30 days.", "ttl= is in seconds: 30 * 24 * 3600."
        cluster.kill(cluster.primary_of(history.key))
        history.add_user_message("Are you still there?")
        if len(history) != 200:
            yield f"{len(history)} messages are stored, not 200.", "Use max_messages=200."
        if len(history.messages) != 20:
            yield f"{len(history.messages)} messages are read, not 20.", "Use window=20."


@_exercise("Any replica serves.", "What must a second replica know when the first one is dead?")
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
    places = {name: "process" if "process" in why[name] else "Memorystore" for name in why}
    yield from _choices(where, places, why)


@_exercise("The concierge used it.", "Change the last line of get_weather, and run both cells.")
def check_weather(weather: str, used: Sequence[Mapping[str, Any]]) -> _Problems:
    """Notebook 10: what the app answers when it is asked for the weather in Kyoto."""
    if any(event["type"] == "error" for event in used):
        yield "the tool raised an error.", 'Try get_weather("Kyoto") in a cell of its own.'
    if "get weather" not in [event["text"] for event in used if event["type"] == "tool"]:
        yield "get_weather was not used.", "It is called so, and its docstring says what it does."
    if "12" not in weather:
        yield f"the answer is {weather!r}.", ""
