"""The checks of the exercises: right, not begun, and the mistakes that learners make."""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Command

import servers
from memorystore_chat import connect, sessions
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.history import MemorystoreChatMessageHistory as History
from memorystore_chat.store import MemorystoreStore
from memorystore_tutorial import DemoChatModel, checks

SOLVED = "Solved. "
DAY = 24 * 3600
TURN = [HumanMessage("q"), AIMessage("a")]


def ask(history: History, question: str) -> str:
    reply = DemoChatModel().invoke([*history.messages, HumanMessage(question)])
    history.add_messages([HumanMessage(question), reply])
    return reply.text


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def say(agent: Any, name: str, text: str) -> None:
    agent.invoke({"messages": [("user", text)]}, thread(name))


def decide(agent: Any, name: str, kind: str, count: int | None = None) -> str:
    """Resume a turn with this decision for all that waits, or for `count` of it."""
    (pause,) = agent.get_state(thread(name)).interrupts
    decisions = [{"type": kind}] * (count or len(pause.value["action_requests"]))
    found = agent.invoke(Command(resume={"decisions": decisions}), thread(name))
    return str(found["messages"][-1].text)


def cancel_booking(number: str) -> str:
    """Cancel a booking."""
    return f"Booking {number} is canceled."


def names_of(client: Any, prefix: str) -> dict[str, Any]:
    """The names that the readers' cells use."""
    history = partial(History, client, key_prefix=prefix)
    gate = HumanInTheLoopMiddleware({"cancel_booking": True})
    saver = MemorystoreSaver(client, key_prefix=prefix)
    make_agent = partial(create_agent, DemoChatModel())
    for guest in ("ada", "grace", "alan"):
        history(guest).add_messages(TURN)
    return globals() | {
        "year": timedelta(days=365),
        "connect": connect,
        "client": client,
        "prefix": prefix,
        "history": history,
        "store": MemorystoreStore(client, key_prefix=prefix),
        "agent": make_agent([cancel_booking], middleware=[gate], checkpointer=saver),
        "make_agent": partial(make_agent, middleware=[ChatHistoryMiddleware(history)]),
        "expire": partial(sessions.expire, client, key_prefix=prefix, dry_run=False),
        "delete": partial(sessions.delete, client, key_prefix=prefix),
    }


PRICE = '''
def {}(room: str) -> str:
    """Tell the price of a room."""
    return {!r}
say(make_agent([{}]), "price", "What is the price of room 12?")
'''
CANCEL = "say(agent, 'grace', 'Please cancel booking 7.')"
TUNNEL = "f = lambda i, port: connect(f'valkeys://127.0.0.1:{{port}}', {})"
NOTE = "note = lambda f, r: r.store.put({})"
MAKE = "f = lambda c, g: History(c, g, 30 * DAY, key_prefix=prefix, window=20, max_messages=200)"
KEPT = "the lock of a conversation", "the key that signs cookies", "an approval that waits"
WHERE = {**dict.fromkeys(KEPT, "Memorystore"), "how often a guest asked this minute": "Memorystore"}
WHERE |= {"the pool of connections": "process", "the open stream to a page": "process"}
# Each check: what readers write in the cell before it, and a word of its verdict on that.
CELLS = {
    "check_endpoint(e)": {
        "e = 'valkeys://10.1.2.3:6379'": SOLVED,
        "e = 'rediss://10.1.2.3'": SOLVED,
        "e = ''": "is empty",
        "e = None": "still None",
        "e = 'valkey://10.1.2.3:6379'": "end in s",
        "e = 'valkeys://10.1.2.3:6378'": "Valkey has 6379",
        "e = 'valkeys://10.1.2.4'": "It is 10.1.2.3",
    },
    "check_turn(tea)": {
        "tea = history('tea'); tea.add_messages(TURN)": SOLVED,
        "tea = history('tea')": "tea.add_messages",
        "tea = history('tea', key_prefix=''); tea.add_messages(TURN)": "key_prefix=KEY_PREFIX",
        "tea = history('tea'); [tea.add_message(one) for one in TURN]": "two calls",
        "tea = history('tea'); tea.add_messages(TURN[::-1])": "HumanMessage(...), AIMessage(...)",
    },
    "check_guests_apart(ask_for)": {
        "ask_for = lambda guest, text: ask(history(guest), text)": SOLVED,
        "ask_for = lambda guest, text: ask(history('guest'), text)": "tells them apart",
        "ask_for = lambda guest, text: DemoChatModel().invoke(text)": "AIMessage",
        "ask_for = lambda guest, text: print(ask(history(guest), text))": "NoneType",
        "ask_for = lambda guest, text: DemoChatModel().invoke(text).text": "it forgets",
        "ask_for = lambda guest, text: reply_to(guest, text)": "NameError: name 'reply_to'",
    },
    "check_pages(history, {'chat': c, 'kiosk': k, 'door': d})": {
        "c, k, d = {'window': 4}, {'ttl': 3600}, {'max_messages': 6}": SOLVED,
        "c, k, d = {}, {}, {}": "window=4",
        "c, k, d = {'windows': 4}, {}, {}": "'windows'",
        "c, k, d = {'window': 4}, {'ttl': 60}, {}": "in seconds",
        "c, k, d = {'window': 4}, {'ttl': 3600}, {'window': 6}": "only reads",
    },
    "check_cleaner(report)": {
        "report = delete(idle_for=year)": SOLVED,
        "report = delete(idle_for=timedelta(weeks=52))": SOLVED,
        "report = expire(ttl=365 * DAY)": "removes",
        "report = delete()": "idle_for",
        "report = delete(idle_for=timedelta(days=200))": "timedelta(days=365)",
        "report = delete(idle_for=year, key_prefix='chat:')": "KEY_PREFIX",
        "report = delete(idle_for=year, dry_run=False)": "look first",
    },
    "check_week(client, history('grace'))": {
        "expire(['grace'], ttl=7 * DAY)": SOLVED,
        "": 'takes ["grace"], key_prefix=KEY_PREFIX,',
        "expire(ttl=7 * DAY)": "only Grace",
        "expire(['grace'], ttl=7 * 24)": "168 seconds",
        "expire(['grace'], ttl=8 * DAY)": "ttl= takes",
    },
    "check_two_conversations(history, 'kay')": {
        "ask(history('kay/room'), 'I am C.'); ask(history('kay/dinner'), 'I am D.')": SOLVED,
        "": "Begin with",
        "ask(history('kay/room'), 'I am C.')": "not both",
        "[ask(history(f'kay/{c}'), 'I am C.') for c in ('room', 'dinner')]": "something else",
    },
    "check_recent(f, history)": {
        "f = lambda c: history(c, window=4).messages": SOLVED,
        "f = lambda c: history(c).messages[-4:]": "cut off",
        "f = lambda c: history(c).messages[-3:]": "window=4",
        "f = lambda c: history(c, window=5).messages": "it reads 5",
    },
    "check_tool(history('price'), 'get_price')": {
        PRICE.format("get_price", "200 euros", "get_price"): SOLVED,
        "": "nobody has asked",
        PRICE.format("get_price", "200 euros", ""): "Give the agent",
        PRICE.format("price", "200 euros", "price"): "it called ['price']",
        PRICE.format("get_price", "...", "get_price"): "Return a text",
        PRICE.format("get_price", None, "get_price"): "Return a text",
    },
    "check_memories(dict(zip(['kiosk', 'suite', 'refunds'], m)))": {
        "m = 'window', 'summary', 'checkpointer'": SOLVED,
        "m = '', '', ''": "Ask of each",
        "m = ['summary'], 'summary', 'checkpointer'": "Write one of",
        "m = 'summary', 'summary', 'checkpointer'": "one more call",
    },
    "check_pillow(store)": {
        "store.put(('guests', 'kay'), 'pillow', {'fact': 'I want a hard pillow.'})": SOLVED,
        "": "no item",
        "store.put(('guests', 'kay'), 'pillow', {'text': 'a pillow'})": 'Use {"fact"',
    },
    "check_note(note)": {
        NOTE.format("('guests', r.context.name), f, {'fact': f}"): SOLVED,
        NOTE.format("('guests',), f, {'fact': f}"): "does remember use",
        NOTE.format("('guests', r.context.name), 'fact', {'fact': f}"): "under the key fact[:80]",
        NOTE.format("('guests', r.context.name), f, {'f': 1}"): '{"fact": fact}',
        "note = lambda f, r: None": "nothing is in",
    },
    "check_where(w)": {
        "w = WHERE": SOLVED,
        "w = WHERE | {'the pool of connections': 'Memorystore'}": "can't leave",
    },
    "check_weather(answer, [{'type': kind, 'text': text}])": {
        "answer, kind, text = 'It is 12 °C and rain.', 'tool', 'get weather'": SOLVED,
        "answer, kind, text = 'I don\\'t know.', 'tool', 'get weather'": "last line",
        "answer, kind, text = 'It is 12 °C.', 'tool', 'remember'": "not used",
    },
    "check_rejected(agent, thread('grace'))": {
        f"{CANCEL}; decide(agent, 'grace', 'reject')": SOLVED,
        "": "First ask",
        CANCEL: "still waits",
        f"{CANCEL}; decide(agent, 'grace', 'approve')": '"type": "reject"',
    },
    "check_approve_all(f, agent)": {
        "f = lambda c: decide(agent, c, 'approve')": SOLVED,
        "f = lambda c: decide(agent, c, 'approve', 1)": "for each action",
        "f = lambda c: decide(agent, c, 'reject')": "not all",
        "f = lambda c: print(decide(agent, c, 'approve'))": "returns None",
        "f = lambda c: 'Yes.'": "still waits",
    },
    "check_designs(*answers)": {
        "answers = 'embedded', 'shared-core-nano', 'custom-pico'": SOLVED,
        "answers = None, None, None": "workshop is still None",
        "answers = ['custom-pico'] * 3": "beginners have already",
        "answers = 'embedded', 'shared-core-nano', 'shared-core-nano'": "takes over",
    },
    "check_tunnel(f)": {
        TUNNEL.format("ca_certs=i.ca_certs, iam=i.credential_provider"): SOLVED,
        TUNNEL.format(""): "ca_certs=instance.ca_certs",
        TUNNEL.format("ca_certs=i.ca_certs"): "iam= and",
        "f = lambda i, port: connect(i)": "127.0.0.1",
        "f = lambda i, port: client": "another server",
    },
    "check_slowest(slowest, [0.1, 2.4567])": {
        "slowest = 2.5": SOLVED,
        "slowest = 2.6": "max",
    },
    "check_production(f, prefix)": {
        MAKE: SOLVED,
        MAKE.replace("(c, ", "(client, "): "function is given",
        MAKE.replace("prefix, ", "'q:', "): "key_prefix=",
        MAKE.replace("30 * DAY", "30"): "in seconds",
        MAKE.replace("200", "20"): "max_messages=200",
        MAKE.replace("window=20", "window=200"): "window=20",
    },
}


@pytest.mark.parametrize("call", CELLS)
def test_each_answer_gets_its_verdict(
    call: str, valkey_server: servers.Server, key_prefix: str
) -> None:
    surprising = []
    for number, (cell, word) in enumerate(CELLS[call].items()):
        prefix = f"tutorial-{key_prefix}{number}:"
        with valkey_server.client() as client:
            names = names_of(client, prefix)
            with suppress(Exception):  # a reader's cell may end in an error of its own
                exec(cell, names)
            verdict = str(eval(f"checks.{call}", names))
            left = [*client.scan_iter(f"{prefix}*check-*")]
        problem, _, hint = verdict.partition("\nHint: ")
        is_wrong = problem.startswith("Not solved yet: ") and len(hint) > 10
        if word not in verdict or is_wrong == (word == SOLVED) or left:
            surprising.append((cell, verdict, left))
    assert surprising == []


def test_every_check_is_tried() -> None:
    tried = {call.partition("(")[0] for call in CELLS}
    assert tried == {name for name in vars(checks) if name.startswith("check_")}
