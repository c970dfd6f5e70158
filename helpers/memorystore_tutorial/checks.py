"""The checks of the exercises: each says whether one is solved, or what is wrong and what to try.

A check is a generator of mistakes. It yields whether one was made, the problem, and a hint, or ""
for the exercise's own hint. The first mistake that was made is the verdict and ends the check.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from inspect import signature
from itertools import chain
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import redis
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from memorystore_chat import ConnectError, Endpoint, connect, sessions
from memorystore_chat.arguments import type_name
from memorystore_chat.codec import id_of_append
from memorystore_chat.commands import Client
from memorystore_chat.connection import IamCredentials
from memorystore_chat.history import MemorystoreChatMessageHistory as History
from memorystore_tutorial import practice
from memorystore_tutorial.text import wrapped

DAY = 24 * 3600
_Mistakes = Iterator[tuple[object, str, str]]


class Verdict(str):
    """What a check says; it shows itself as text."""

    __repr__ = wrapped


def _exercise(praise: str, hint: str) -> Callable[..., Callable[..., Verdict]]:
    """Make a check of a generator of mistakes; None for an answer is one, and so is an error."""

    def decorate(judge: Callable[..., _Mistakes]) -> Callable[..., Verdict]:
        @wraps(judge)
        def check(*given: Any) -> Verdict:
            named = zip(signature(judge).parameters, given, strict=True)
            unset = ((value is None, f"{name} is still None.", "") for name, value in named)
            try:
                for is_made, problem, better in chain(unset, judge(*given)):
                    if is_made:
                        return Verdict(f"Not solved yet: {problem}\nHint: {better or hint}")
            except Exception as error:  # noqa: BLE001 - of the reader's function
                problem = f"it ended in an error, {type(error).__name__}: {error}"
                return Verdict(f"Not solved yet: {problem}\nHint: {hint}")
            return Verdict(f"Solved. {praise}")

        return check

    return decorate


def _choices(chosen: Mapping[str, Any], right: Mapping[str, tuple[str, str]]) -> _Mistakes:
    """Compare choices with the right ones, each of which has a hint for another choice."""
    yield not any(chosen.get(name) for name in right), "nothing is chosen.", ""
    answers = [*dict.fromkeys(answer for answer, _ in right.values())]
    for name, (answer, hint) in right.items():
        given = chosen.get(name)
        yield given not in answers, f"{name}: {given!r} is unknown.", f"Write one of {answers}."
        yield given != answer, f"{name}: {given!r} does not fit.", hint


@_exercise("Each guest has a conversation of their own.", "Load, ask, save, return reply.text.")
def check_guests_apart(ask_for: Callable[[str, str], str]) -> _Mistakes:
    """Notebook 1: a function that answers each guest from that guest's conversation."""
    ada, grace = (f"{name}-{uuid4().hex[:8]}" for name in ("ada", "grace"))
    ask_for(ada, "My favorite dish is soup.")
    told = ask_for(grace, "What is my favorite dish?")
    kind = f"ask_for returns no text, but {type_name(told)}."
    yield not isinstance(told, str), kind, "Its last line is return reply.text: all three words."
    apart = "Every guest gets the session id 'guest'. Which value tells them apart?"
    yield "soup" in told, "a second guest is told what the first one likes.", apart
    yield "soup" not in ask_for(ada, "What is my favorite dish?"), "it forgets.", ""


@_exercise("It would encrypt all that is sent.", "An endpoint is SCHEME://HOST:PORT.")
def check_endpoint(my_endpoint: str) -> _Mistakes:
    """Notebook 1: an endpoint for Valkey at 10.1.2.3, the usual port, with TLS."""
    yield my_endpoint == "", "my_endpoint is empty.", ""
    endpoint = Endpoint.parse(my_endpoint)
    yield endpoint.host != "10.1.2.3", f"its host is {endpoint.host!r}.", "It is 10.1.2.3."
    yield endpoint.port != 6379, f"its port is {endpoint.port}.", "Valkey has 6379, also with TLS."
    yield not endpoint.tls, "this one has no TLS.", "The schemes that end in s have TLS."


@_exercise("All in one call.", "Make a history with the session id and our KEY_PREFIX.")
def check_turn(tea: History) -> _Mistakes:
    """Notebook 2: one question and its answer, stored together."""
    is_ours = tea.key.startswith("tutorial-") and tea.session_id == "tea"
    yield not is_ours, f"its key is {tea.key!r}.", 'Use session_id="tea", key_prefix=KEY_PREFIX.'
    kinds = [message.type for message in tea.messages]
    once = "Begin with tea.clear(). Then tea.add_messages([HumanMessage(...), AIMessage(...)])."
    yield kinds != ["human", "ai"], f"it holds {kinds}, not ['human', 'ai'].", once
    stored: Any = tea.client.lrange(tea.key, 0, -1)
    yield len({*map(id_of_append, stored)}) > 1, "it took two calls.", once


@_exercise("Each page keeps what the hotel wants.", "Each needs a window, ttl, or max_messages.")
def check_pages(history_of: Callable[..., History], pages: dict[str, dict[str, Any]]) -> _Mistakes:
    """Notebook 2: the right options for three kinds of conversations."""
    for name, right, hint in (
        ("chat", {"window": 4}, "Everything is stored, and the newest 4 are read: window=4."),
        ("kiosk", {"ttl": 3600}, "How long a session lives is ttl=, in seconds."),
        ("door", {"max_messages": 6}, "How much is stored is max_messages=; a window only reads."),
    ):
        given = pages[name]
        history_of(name, **given)  # an unknown option or a bad value ends in an error
        yield given != right, f"the page {name!r} has {given or 'no options'}.", hint


@_exercise("A week from now, the server deletes it by itself.", "sessions.expire does it.")
def check_week(client: Client, history: History) -> _Mistakes:
    """Notebook 3: one stored session expires in a week."""
    prefix = history.key.removesuffix(history.session_id)
    ttls = {session.id: session.ttl for session in sessions.scan(client, key_prefix=prefix)}
    left: Any = ttls.pop(history.session_id)
    how = 'sessions.expire takes ["grace"], key_prefix=KEY_PREFIX, ttl=..., and dry_run=False.'
    yield left is None, "the session has no TTL.", how
    yield not 6.9 < left / DAY <= 7, f"it expires in {left} seconds.", "ttl= takes 7 * DAY."
    yield any(ttls.values()), "others expire, too.", "Store all again, and name only Grace."


@_exercise("It changes nothing.", "Which function removes a session, and which only sets a time?")
def check_cleaner(report: sessions.Report) -> _Mistakes:
    """Notebook 3: a trial run that would delete what was idle for a year."""
    yield report.action != "delete", "it sets a time to live for everybody.", ""
    yield not report.dry_run, "it deleted at once.", "Leave out dry_run=False: look first."
    prefix, idle_for = report.asked
    yield not prefix.startswith("tutorial-"), f"its prefix is {prefix!r}.", "It is KEY_PREFIX."
    idle = idle_for if isinstance(idle_for, timedelta) else timedelta(seconds=idle_for or 0)
    is_year = 360 < idle.days < 370
    yield not is_year, f"idle_for is {idle.days} days.", "A year is idle_for=timedelta(days=365)."


@_exercise("Neither knows the other.", 'Begin with ask("kay/room", "..."), then ask "kay/dinner".')
def check_two_conversations(history_of: Callable[[str], History], guest: str) -> _Mistakes:
    """Notebook 4: one guest has told each of two conversations something."""
    room, dinner = (history_of(f"{guest}/{name}").messages for name in ("room", "dinner"))
    both = f"the conversations '{guest}/room' and '{guest}/dinner' are not both there."
    yield not (room and dinner), both, ""
    # The newest questions, so that earlier tries don't count.
    yield room[-2].text == dinner[-2].text, "both were told the same.", "Tell one something else."


@_exercise("It keeps a call with its result.", "Return history_of(..., window=4).messages.")
def check_recent(recent: Callable[[str], Any], history_of: Callable[[str], History]) -> _Mistakes:
    """Notebook 4: a function that reads at most four messages, and cuts no tool call in two."""
    history = history_of(f"check-{uuid4().hex[:8]}")
    call = AIMessage("", tool_calls=[{"name": "get_weather", "args": {}, "id": "1"}])
    turn = [HumanMessage("Rain?"), call, ToolMessage("rain", tool_call_id="1"), AIMessage("Yes.")]
    history.add_messages([HumanMessage("Hello?"), *turn])
    whole = recent(history.session_id)
    history.add_messages([HumanMessage("Thanks!"), AIMessage("Bye.")])
    read = recent(history.session_id)
    history.clear()
    found = [message.type for message in read]
    show = f"of a tool's result and the three messages after it, it reads {found}."
    cut = "It begins with a result whose call is cut off. Let the history cut: use its window."
    yield found != ["human", "ai"], show, cut if found[:1] == ["tool"] else ""
    yield len(whole) != 4, f"of a turn of four it reads {len(whole)}.", ""


@_exercise("Your function is a tool now.", "A tool is a function with type hints and a docstring.")
def check_tool(history: History, name: str) -> _Mistakes:
    """Notebook 5: an agent called a tool of the reader's."""
    messages = history.messages
    give = f"Give the agent your function: agent = make_agent([*tools, {name}])."
    give += f' Then ask("{history.session_id}", "...").'
    yield not messages, f"nobody has asked in the conversation '{history.session_id}'.", give
    calls = [call["name"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    yield name not in calls, f"the agent has not called {name}; it called {calls}.", give
    result = [message.text for message in messages if message.type == "tool"][-1]
    yield result in ("...", "", "null"), f"it returned {result!r}.", "Return a text, and ask again."


@_exercise("Each is the cheapest.", "Ask of each: what must the model know, and must a turn wait?")
def check_memories(memories: Mapping[str, str]) -> _Mistakes:
    """Notebook 5: a window, a summary, or a checkpointer for each of three features."""
    right = {
        "kiosk": ("window", "Nothing waits here, and a summary costs one more call in each turn."),
        "suite": ("summary", "A window forgets the first day, and a checkpointer reads it all."),
        "refunds": ("checkpointer", "It shortens what is read. It can't stop before a tool."),
    }
    yield from _choices(memories, right)


@_exercise("The tool did not run.", 'First ask("grace", ...), which stops before the tool.')
def check_rejected(agent: Any, config: dict[str, Any]) -> _Mistakes:
    """Notebook 6: a call that waited was rejected, and the turn went on."""
    state = agent.get_state(config)
    messages = state.values.get("messages", [])
    yield not messages, "nobody has asked the agent anything in this thread.", ""
    again = 'Delete the thread, ask, and resume with {"decisions": [{"type": "reject"}]}.'
    yield state.interrupts, "the agent still waits.", again
    results = [message.status for message in messages if message.type == "tool"]
    yield results[-1:] != ["error"], "no cancellation was rejected.", again


@_exercise("All is decided.", 'The list needs a {"type": "approve"} for each action that waits.')
def check_approve_all(approve_all: Callable[[str], object], agent: Any) -> _Mistakes:
    """Notebook 6: a function that approves one action that waits, and two."""
    for wish in ("cancel booking 7", "cancel booking 42 and cancel booking 7"):
        name = f"check-{uuid4().hex[:8]}"
        config = {"configurable": {"thread_id": name}}
        try:
            agent.invoke({"messages": [("user", f"Please {wish}.")]}, config)
            returned = approve_all(name)
            state = agent.get_state(config)
        finally:
            agent.checkpointer.delete_thread(name)
        yield state.interrupts, "the agent still waits.", ""
        results = [message.status for message in state.values["messages"] if message.type == "tool"]
        yield "error" in results, "not all were canceled.", ""
        yield returned is None, "it returns None.", "Return the text of the last message."


@_exercise("Each wish gets what it needs.", "The table above says what each is for.")
def check_designs(workshop: str, load_test: str, guests: str) -> _Mistakes:
    """Notebook 8: a server for each of three wishes."""
    right = {
        "workshop": ("embedded", "An instance takes an account. What do beginners have already?"),
        "load_test": ("shared-core-nano", "What is in the VPC, with no replica to pay for?"),
        "guests": ("custom-pico", "A node fails. Which one has a replica that takes over?"),
    }
    yield from _choices({"workshop": workshop, "load_test": load_test, "guests": guests}, right)


@_exercise("The tunnel is safe.", "Take valkeys://127.0.0.1, and iam= and ca_certs= from instance.")
def check_tunnel(through_tunnel: Callable[[Endpoint, int], Any]) -> _Mistakes:
    """Notebook 8: a way through a tunnel to a server with IAM and TLS."""
    with practice.server(iam=True, tls=True) as server:
        near, login = Endpoint.parse(server.endpoint), IamCredentials(server.credentials)
        far = replace(near, host="127.0.0.2", port=6379)  # nothing listens there
        instance = replace(far, ca_certs=(str(server.ca_cert),), credential_provider=login)
        try:
            with through_tunnel(instance, near.port) as client:
                port = client.get_connection_kwargs().get("port")
                client.ping()
        except ConnectError as error:
            told = str(error).partition(": ")[2].partition(". ")[0]
            trust = "Trust the instance's own authority: ca_certs=instance.ca_certs."
            yield True, f"the connection fails: {told}.", trust if "authority" in told else ""
        yield port != near.port, "it connects to another server.", "Use the port it is given."


@_exercise("Every thread knows it.", 'The namespace is ("guests", "kay"), and the key "pillow".')
def check_pillow(store: Any) -> _Mistakes:
    """Notebook 7: a fact about Kay in Kay's namespace."""
    item = store.get(("guests", "kay"), "pillow")
    yield item is None, "there is no item 'pillow' in Kay's namespace.", ""
    fact = item.value.get("fact")
    yield "pillow" not in str(fact), f"its fact is {fact!r}.", 'Use {"fact": "A hard pillow."}.'


@_exercise("Each guest has facts of their own.", "Which namespace does remember use?")
def check_note(note: Callable[..., object]) -> _Mistakes:
    """Notebook 7: a tool that stores a fact about the guest who speaks."""
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore()
    said = {"ada": {"I am Ada.", "I like tea."}, "grace": {"I am Grace.", "I like soup."}}
    for guest, facts in said.items():
        for fact in facts:
            note(fact, SimpleNamespace(store=store, context=SimpleNamespace(name=guest)))
    used = {item.namespace for item in store.search(())}
    yield len(used) == 1, f"the facts of all guests are in {', '.join(map(str, used))}.", ""
    for guest, facts in said.items():
        found = {item.value.get("fact") for item in store.search(("guests", guest))}
        show = f"of {facts}, {found or 'nothing'} is in ('guests', {guest!r})."
        yield found != facts, show, 'Each goes there as {"fact": fact}, under the key fact[:80].'


@_exercise("That one turn is all that the users noticed.", "run.seconds has the time of each turn.")
def check_slowest(slowest: Any, seconds: Sequence[float]) -> _Mistakes:
    """Notebook 9: the longest turn of the failover, in seconds."""
    yield abs(slowest - max(seconds)) > 0.05, "this is not the longest turn.", "Take Python's max."


@_exercise("It survived the kill of a node.", "Four options of the history do it.")
def check_production(make_history: Callable[[Client, str], History], key_prefix: str) -> _Mistakes:
    """Notebook 9: a history for production, tried on a cluster whose primary is killed."""
    unused = redis.Redis()  # it connects when it is used
    history = make_history(unused, "kay")
    hand_on = "Hand on the client that the function is given, not another one."
    yield history.client is not unused, "the history is on another server.", hand_on
    yield history.key != f"{key_prefix}kay", f"its key is {history.key!r}.", "Add key_prefix=."
    yield history.ttl != 30 * DAY, "it does not expire in 30 days.", "ttl= is in seconds."
    yield history.max_messages != 200, "it doesn't keep 200 messages.", "Use max_messages=200."
    yield history.window != 20, "it doesn't read 20 messages.", "Use window=20."
    with practice.cluster() as cluster, connect(cluster.endpoint) as client:
        history = make_history(client, "kay")
        history.add_user_message("Hello!")
        cluster.kill(cluster.primary_of(history.key))
        history.add_user_message("Are you still there?")
        yield len(history) != 2, "it lost a message.", ""


@_exercise("Any replica serves.", "What must a second replica know when the first one is dead?")
def check_where(where: Mapping[str, str]) -> _Mistakes:
    """Notebook 10: for each thing in a web app, the process or Memorystore."""
    right = {
        "the lock of a conversation": ("Memorystore", "Two replicas would answer at once."),
        "the key that signs cookies": ("Memorystore", "The other replica would know no guest."),
        "the pool of connections": ("process", "A connection can't leave its process."),
        "an approval that waits": ("Memorystore", "The yes may come to the other replica."),
        "the open stream to a page": ("process", "A connection can't leave its process."),
        "how often a guest asked this minute": ("Memorystore", "Each replica would count alone."),
    }
    yield from _choices(where, right)


@_exercise("The concierge used it.", "Change the last line of get_weather, and run both cells.")
def check_weather(weather: str, used: Sequence[Mapping[str, Any]]) -> _Mistakes:
    """Notebook 10: what the app answers when it is asked for the weather in Kyoto."""
    tools = [event["text"] for event in used if event["type"] == "tool"]
    yield "get weather" not in tools, "get_weather was not used.", 'Try get_weather("Kyoto").'
    yield "12" not in weather, f"the answer is {weather!r}.", ""
