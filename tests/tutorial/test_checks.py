# ruff: noqa: E501
"""The checks of the exercises: right, not begun, and the mistakes that learners make."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Command

import servers
from memorystore_chat import MemorystoreChatMessageHistory, connect, sessions
from memorystore_chat.agents import ChatHistoryMiddleware
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore
from memorystore_tutorial import DemoChatModel, checks

DAY = 24 * 3600


class Notebook(dict[str, Any]):
    """The names that the exercises' cells use."""

    def __init__(self, client: Any, prefix: str) -> None:
        def history(session_id: str, **options: Any) -> MemorystoreChatMessageHistory:
            return MemorystoreChatMessageHistory(
                client, session_id, **({"key_prefix": prefix} | options)
            )

        def ask(history: Any, question: str) -> str:
            reply = DemoChatModel().invoke([*history.messages, HumanMessage(question)])
            history.add_messages([HumanMessage(question), reply])
            return reply.text

        def cancel_booking(number: str) -> str:
            """Cancel a booking."""
            return f"Booking {number} is canceled."

        prices = {"12": "200 euros"}

        def get_price(room: str) -> str:
            """Tell the price of a room."""
            return prices[room]

        def make_saver(**options: Any) -> MemorystoreSaver:
            return MemorystoreSaver(client, **({"key_prefix": prefix} | options))

        def make_agent(saver: MemorystoreSaver) -> Any:
            first = HumanInTheLoopMiddleware({"cancel_booking": True})
            return create_agent(
                DemoChatModel(), [cancel_booking], middleware=[first], checkpointer=saver
            )

        def say(agent: Any, thread: str, text: str) -> str:
            config = {"configurable": {"thread_id": thread}}
            return str(agent.invoke({"messages": [("user", text)]}, config)["messages"][-1].text)

        def resume(agent: Any, decision: str) -> None:
            config = {"configurable": {"thread_id": "grace"}}
            agent.invoke(Command(resume={"decisions": [{"type": decision}]}), config)

        def pauses(conversation: str) -> list[Any]:
            state = agent.get_state({"configurable": {"thread_id": conversation}})
            return [a for pause in state.interrupts for a in pause.value["action_requests"]]

        def with_tools(*tools: Any) -> Any:
            memory = ChatHistoryMiddleware(lambda thread: history(f"agent/{thread}"))
            return create_agent(DemoChatModel(), [*tools], middleware=[memory])

        def expire(*ids: str, **options: Any) -> None:
            sessions.expire(
                client, ids or None, key_prefix=prefix, **({"dry_run": False} | options)
            )

        saver = make_saver()
        agent = make_agent(saver)
        super().__init__(vars() | {"DAY": DAY, "H": HumanMessage, "A": AIMessage, "checks": checks})
        store = MemorystoreStore(client, key_prefix=prefix)
        self.update(
            store=store, sessions=sessions, timedelta=timedelta, DemoChatModel=DemoChatModel
        )
        self.update(connect=connect, Command=Command, Q=[HumanMessage("q"), AIMessage("a")])
        for name, turns in (("ada", 2), ("grace", 1), ("alan", 1)):
            history(name).add_messages(self["Q"] * turns)


RECENT = "f = lambda c: history(c).messages{}"
MEMORIES = "memories = {{'kiosk': '{}', 'suite': '{}', 'refunds': '{}'}}"
APPROVE = (
    "f = lambda c: agent.invoke(Command(resume={{'decisions': {}}}), "
    "{{'configurable': {{'thread_id': c}}}})"
)
WHERE = (
    "m = 'Memorystore'; w = dict.fromkeys(['the lock of a conversation', 'an approval that waits',"
    " 'the key that signs cookies', 'how often a guest asked this minute'], m);"
    " w |= dict.fromkeys(['the pool of connections', 'the open stream to a page'], 'process')"
)
WEATHER = "t, u = {!r}, [{{'type': {!r}, 'text': {!r}}}]"
REJECT = "say(agent, 'grace', 'Please cancel booking 7.'); resume(agent, '{}')"
TUNNEL = "connect(f'valkeys://127.0.0.1:{{port}}', {})"
# Each check: its call, what solves it, and what learners do with a word of the verdict on it.
CHECKS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "check_endpoint(e)": (
        "e = 'valkeys://10.1.2.3:6379'",
        [
            ("e = ''", "SCHEME"),
            ("e = '10.1.2.3'", "end in s"),
            ("e = 'valkey://10.1.2.3:6379'", "end in s"),
            ("e = 'valkeys://10.1.2.3:6378'", "Memorystore for Redis"),
            ("e = 'valkeys://10.1.2.4'", "told you the host"),
            ("e = 'valkeys://10.1.2.3:80'", "usual port"),
            ("e = 6379", "error"),
        ],
    ),
    "check_turn(tea)": (
        "tea = history('tea'); tea.add_messages(Q)",
        [
            ("tea = None", "still None"),
            ("tea = 'tea'", "error"),
            ("tea = history('tea')", "add_messages takes a list"),
            ("tea = history('tea', key_prefix=''); tea.add_messages(Q)", "key_prefix=KEY_PREFIX"),
            ("tea = history('coffee'); tea.add_messages(Q)", 'session_id="tea"'),
            ("tea = history('tea'); tea.add_messages(Q[:1]); tea.add_messages(Q[1:])", "one call"),
            ("tea = history('tea'); tea.add_messages(Q * 2)", "clear"),
            ("tea = history('tea'); tea.add_messages(Q[::-1])", "comes first"),
        ],
    ),
    "check_guests_apart(ask_for)": (
        "ask_for = lambda guest, text: ask(history(guest), text)",
        [
            ("ask_for = lambda guest, text: ask(history('guest'), text)", "tells them apart"),
            ("ask_for = lambda guest, text: None", "reply.text"),
            ("ask_for = lambda guest, text: DemoChatModel().invoke(text)", "reply.text"),
            ("ask_for = lambda guest, text: DemoChatModel().invoke(text).text", "Load notes"),
            ("ask_for = lambda text: ''", "error"),
            ("ask_for = lambda guest, text: ask(history(text), text)", "Load notes"),
            ("ask_for = lambda guest, text: reply_to(guest, text)", "NameError: name 'reply_to'"),
            ("ask_for = lambda guest, text: {}[guest]", "KeyError"),
            ("ask_for = lambda guest, text: [][1]", "IndexError"),
        ],
    ),
    "check_pages(history, pages)": (
        "pages = {'chat': {'window': 4}, 'kiosk': {'ttl': 3600}, 'door': {'max_messages': 6}}",
        [
            ("pages = {'chat': {}, 'kiosk': {}, 'door': {}}", "window=4"),
            ("pages = {'chat': {'max_messages': 4}}", "window=4"),
            ("pages = {'chat': {'window': 4}, 'kiosk': {'ttl': 60}}", "in seconds"),
            ("pages = {'chat': {'window': 4}, 'kiosk': {'ttl': 3600}, 'door': {'window': 6}}",
             "only reads"),
            ("pages = {'chat': {'windows': 4}}", "error"),
            ("pages = {'chat': {'window': 4}, 'kiosk': {'max_messages': 3600}}", "in seconds"),
        ],
    ),
    "check_cleaner(report)": (
        "report = sessions.delete(client, key_prefix=prefix, idle_for=timedelta(days=365))",
        [
            ("report = None", "still None"),
            ("report = sessions.expire(client, key_prefix=prefix, ttl=365 * DAY)", "removes"),
            ("report = sessions.delete(client, key_prefix=prefix)", "idle_for"),
            ("report = sessions.delete(client, key_prefix=prefix, idle_for=timedelta(days=365), "
             "dry_run=False)", "look first"),
            ("report = 'deleted'", "Assign"),
            ("report = sessions.delete(client, key_prefix=prefix, idle_for=1e-6)", "days=365"),
        ],
    ),
    "check_week(client, history('grace'))": (
        "expire('grace', ttl=7 * DAY)",
        [
            ("", 'takes ["grace"], key_prefix=KEY_PREFIX,'),
            ("expire('grace', ttl=7 * DAY, dry_run=True)", "dry_run=False"),
            ("expire('ada', ttl=7 * DAY)", "no TTL"),
            ("expire(ttl=7 * DAY)", "three guests again. The second argument names the sessions"),
            ("expire('grace', ttl=7 * 24)", "in seconds"),
            ("history('grace').clear()", "three guests again"),
        ],
    ),
    "check_two_conversations(history, 'kay')": (
        "ask(history('kay/room'), 'I like C.'); ask(history('kay/dinner'), 'I like plums.')",
        [
            ("", "Begin with"),
            ("ask(history('kay/room'), 'I like C.')", '"kay/dinner"'),
            ("ask(history('kay/dinner'), 'I like C.')", '"kay/room"'),
            ("ask(history('kay'), 'I like C.')", "Begin with"),
            ("[ask(history(f'kay/{c}'), 'I like C.') for c in ('room', 'dinner')]", "something else"),
            ("[ask(history('kay/room'), f'I like {c}.') for c in 'CD']", '"kay/dinner"'),
        ],
    ),
    "check_recent(f, history)": (
        "f = lambda c: history(c, window=4).messages",
        [
            ("f = None", "still None"),
            (RECENT.format("[-4:]"), "cut off"),
            (RECENT.format("[-3:]"), "middle of a turn"),
            (RECENT.format(""), "window=4"),
            (RECENT.format("[:4]"), "last question"),
            ("f = lambda c: history(c, window=2).messages", "Four messages fit"),
            ("f = lambda c: history(c, window=8).messages", "window=4"),
            ("f = lambda c: history(c, window=4)", ".messages is missing"),
            ("f = lambda c: None", ": return is missing"),
            ("f = lambda c: 4", "error"),
        ],
    ),
    "check_tool(history('agent/tool'), 'get_price')": (
        "say(with_tools(get_price), 'tool', 'What is the price of room 12?')",
        [
            ("", "Give the agent"),
            ("with_tools(get_price)", "make_agent([*tools, get_price])"),
            ("say(with_tools(), 'tool', 'What is the price of room 12?')", "Give the agent"),
            ("say(with_tools(get_price), 'tool', 'Hello!')", "Give the agent"),
            ("get_price.__name__ = 'price'\n"
             "say(with_tools(get_price), 'tool', 'What is the price of room 12?')", "call it"),
            ("say(with_tools(get_price), 'ada', 'What is the price of room 12?')", "Give the agent"),
            ("prices['12'] = '...'\n"
             "say(with_tools(get_price), 'tool', 'What is the price of room 12?')", "Return a text"),
        ],
    ),
    "check_memories(memories)": (
        MEMORIES.format("window", "summary", "checkpointer"),
        [
            ("memories = None", "still None"),
            ("memories = {}", "Ask of each"),
            (MEMORIES.format("window", "summary", ""), "Write one of"),
            (MEMORIES.format("summary", "summary", "checkpointer"), "one more call"),
            (MEMORIES.format("checkpointer", "summary", "checkpointer"), "far more"),
            (MEMORIES.format("window", "window", "checkpointer"), "first day"),
            (MEMORIES.format("window", "checkpointer", "checkpointer"), "reads all"),
            (MEMORIES.format("window", "summary", "summary"), "stop before"),
            (MEMORIES.format("short", "summary", "window"), "Write one of"),
            ("memories = ['window', 'summary', 'checkpointer']", "error"),
        ],
    ),
    "check_pillow(store)": (
        "store.put(('guests', 'kay'), 'pillow', {'fact': 'I want a hard pillow.'})",
        [
            ("", "no item"),
            ("store.put(('guests',), 'pillow', {'fact': 'a pillow'})", "but"),
            ("store.put(('guests', 'kay'), 'Pillow', {'fact': 'a pillow'})", "no item"),
            ("store.put(('guests', 'kay'), 'pillow', {'text': 'a pillow'})", "has no fact"),
            ("store.put(('guests', 'kay'), 'pillow', {'fact': 'hard'})", "has no fact"),
            ("store.put(('guests', 'ada'), 'pillow', {'fact': 'a hard pillow'})", "but"),
        ],
    ),
    "check_note(note)": (
        "note = lambda f, r: r.store.put(('guests', r.context.name), f, {'fact': f})",
        [
            ("note = lambda f, r: r.store.put(('guests',), f, {'fact': f})", "does remember use"),
            ("note = lambda f, r: r.store.put((r.context.name,), f, {'fact': f})", 'Begin with "guests"'),
            ("note = lambda f, r: r.store.put(('guests', 'ada'), f, {'fact': f})", "name is fixed"),
            ("note = lambda f, r: r.store.put(('guests', r.context.name), 'fact', {'fact': f})",
             "overwrites the first"),
            ("note = lambda f, r: r.store.put(('guests', r.context.name, 'x'), 'fact', {'fact': f})",
             "overwrites the first"),
            ("note = lambda f, r: None", "store.put"),
            ("note = lambda f, r: r.store.put(('guests', r.context.name), f, {'f': 1})", "fact"),
            ("note = lambda f: None", "error"),
            ("note = lambda f, r: r.store.put(('guests', r.name), f, {'fact': f})", "error"),
        ],
    ),
    "check_where(w)": (
        WHERE,
        [
            ("w = None", "still None"),
            ("w = {}", "first one is dead"),
            (WHERE + "; w['the pool of connections'] = None", "Write one of"),
            (WHERE + "; w['the pool of connections'] = 'Memorystore'", "can't leave"),
            (WHERE + "; w['an approval that waits'] = 'process'", "other replica"),
            (WHERE + "; w['the key that signs cookies'] = 'redis'", "Write one of"),
            ("w = 'Memorystore'", "error"),
        ],
    ),
    "check_weather(t, u)": (
        WEATHER.format("It is 12 °C and rain.", "tool", "get weather"),
        [
            ("t, u = None, []", "still None"),
            (WEATHER.format("I don't know.", "tool", "get weather"), "last line"),
            (WEATHER.format("It is 12 °C.", "tool", "remember"), "It is called so"),
            (WEATHER.format("", "error", "It could not finish."), "of its own"),
            (WEATHER.format("", "end", ""), "It is called so"),
            ("t, u = 'rain', 7", "error"),
        ],
    ),
    "check_rejected(agent, {'configurable': {'thread_id': 'grace'}})": (
        REJECT.format("reject"),
        [
            ("", "First ask"),
            ("say(agent, 'ada', 'Please cancel booking 7.')", "First ask"),
            ("say(agent, 'grace', 'Hi!')", "cancel booking 7"),
            ("say(agent, 'grace', 'Please cancel booking 7.')", "Resume"),
            (REJECT.format("approve"), "type is"),
            (REJECT.format("refuse"),
             '[{"type": "reject"}]}. After another decision, begin again: saver.delete_thread("grace")'),
        ],
    ),
    "check_approve_all(f, agent)": (
        APPROVE.format("[{'type': 'approve'}] * len(pauses(c))"),
        [
            ("f = None", "still None"),
            (APPROVE.format("[{'type': 'approve'}]"), "for each action"),
            (APPROVE.format("[{'type': 'reject'}] * len(pauses(c))"), "0 of 1"),
            (APPROVE.format("[{'type': 'yes'}] * len(pauses(c))"), "for each action"),
            ("f = pauses", "still waits"),
            ("g = " + APPROVE.format("[{'type': 'approve'}] * len(pauses(c))")[4:]
             + "; f = lambda c: [g(c), None][1]", "returns None"),
            ("f = lambda: None", "error"),
        ],
    ),
    "check_designs(workshop, load_test, guests)": (
        "workshop, load_test, guests = 'embedded', 'shared-core-nano', 'custom-pico'",
        [
            ("workshop = load_test = guests = None", "still None"),
            ("workshop, load_test, guests = 'embedded', 'nano', 'custom-pico'", "Write one of"),
            ("workshop = load_test = guests = 'custom-pico'", "beginners have already"),
            ("workshop = load_test = guests = 'embedded'", "not in the VPC"),
            ("workshop, load_test, guests = 'embedded', 'custom-pico', 'custom-pico'", "may be lost"),
            ("workshop, load_test, guests = 'embedded', *['shared-core-nano'] * 2", "takes over"),
        ],
    ),
    "check_tunnel(f)": (
        f"f = lambda i, port: {TUNNEL.format('ca_certs=i.ca_certs, iam=i.credential_provider')}",
        [
            (f"f = lambda i, port: {TUNNEL.format('')}", "ca_certs=instance.ca_certs"),
            (f"f = lambda i, port: {TUNNEL.format('ca_certs=i.ca_certs')}", "iam=instance"),
            (f"f = lambda i, port: {TUNNEL.format('iam=i.credential_provider')}", "ca_certs="),
            (f"f = lambda i, port: {TUNNEL.format('ca_certs=i.ca_certs, iam=True')}", "login in instance"),
            ("f = lambda i, port: connect(i)", "begins at 127.0.0.1"),
            ("f = lambda i, port: connect(f'127.0.0.1:{port}')", "has TLS"),
            ("f = lambda i, port: client", "another server"),
            ("f = lambda i, port: None", "error"),
            ("f = lambda i, port: i.host", "error"),
            ("f = None", "still None"),
        ],
    ),
    "check_slowest(slowest, [0.1, 2.4567])": (
        "slowest = 2.5",
        [
            ("slowest = None", "still None"),
            ("slowest = 2.6", "Python's max"),
            ("slowest = 2500", "milliseconds"),
            ("slowest = '2.5 s'", "number alone"),
            ("slowest = 0.1", "Python's max"),
            ("slowest = [0.1, 2.4567]", "a list is no number"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CHECKS)
def test_each_answer_gets_its_verdict(
    call: str, valkey_server: servers.Server, key_prefix: str
) -> None:
    right, wrong = CHECKS[call]
    surprising = []
    for number, (code, word) in enumerate([(right, "Solved. "), *wrong]):
        with valkey_server.client() as client:
            notebook = Notebook(client, f"tutorial-{key_prefix}{number}:")
            with suppress(Exception):  # a reader's cell may end in an error of its own
                exec(code, notebook)
            verdict = str(eval(f"checks.{call}", notebook))
        start, _, hint = verdict.partition("\nHint: ")
        is_wrong = start.startswith("Not solved yet: ") and len(hint) > 10
        if word not in " ".join(verdict.split()) or is_wrong == (code == right):
            surprising.append((code, verdict))
    assert surprising == []


def test_every_check_is_tried() -> None:
    tried = {call.partition("(")[0] for call in CHECKS} | {"check_production"}
    assert tried == {name for name in vars(checks) if name.startswith("check_")}


@pytest.mark.own_server
def test_a_history_for_production_is_tried_with_a_kill(
    valkey_server: servers.Server,
) -> None:
    right = {"key_prefix": "p:", "ttl": 30 * DAY, "window": 20, "max_messages": 200}
    with valkey_server.client() as other:
        for changed, word in {
            (): "Solved. ",
            ("client", other): "client that the function is given",
            ("key_prefix", "q:"): "KEY_PREFIX",
            ("ttl", 30): "in seconds",
            ("window", None): "window=20",
            ("max_messages", None): "max_messages=200",
        }.items():

            def make(
                client: Any, guest: str, changed: Any = changed
            ) -> MemorystoreChatMessageHistory:
                given = {"client": client, "session_id": guest} | right
                return MemorystoreChatMessageHistory(**given | dict([changed] if changed else []))

            verdict = " ".join(checks.check_production(make, "p:").split())
            assert word in verdict
            assert word == "Solved. " or "Hint: " in verdict
    assert "error" in checks.check_production(lambda client, guest: None, "p:")
