"""docs/how_to/grant_rights.md: its rules are enough for each part, and name nothing needless."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import MessagesState, StateGraph

from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, connect, sessions
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore
from servers import Server

PAGE = (Path(__file__).parents[2] / "docs/how_to/grant_rights.md").read_text(encoding="utf-8")
RULES = dict(re.findall(r"^\| (\w+) \| `(\+[^`]+)` \|$", PAGE, re.MULTILINE))
(CATEGORIES,) = re.findall(r"^on ~chat:\* (-@all .*)$", PAGE, re.MULTILINE)
# What the client asks by itself, and does without.
BY_ITSELF = {"client|setinfo"}


def history(client: Any, prefix: str) -> None:
    """All that a history does, with a broken element to repair."""
    ada = MemorystoreChatMessageHistory(client, "broken", 60, key_prefix=prefix, max_messages=4)
    assert len(ada.repair(dry_run=False)) == 1
    ada.add_messages([HumanMessage("Hi!"), AIMessage("Hello!")] * 3)
    assert (len(ada), ada.messages[-1].text) == (4, "Hello!")
    ada.clear()


def checkpointer(client: Any, prefix: str) -> None:
    saver = MemorystoreSaver(client, ttl=60, key_prefix=prefix, keep=5)
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda _: {"messages": [AIMessage("Hello!")]})
    graph.set_entry_point("answer")
    agent = graph.compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "ada"}}
    for text in "abcd":
        agent.invoke({"messages": [HumanMessage(text)]}, config)
    assert len(list(saver.list(None))) == 5
    saver.copy_thread("ada", "lee")
    saver.prune(["ada"], strategy="keep_latest")
    assert agent.get_state(config).values["messages"][-1].text == "Hello!"
    assert len(saver.threads()) == 2
    saver.delete_thread("ada")


def store(client: Any, prefix: str) -> None:
    facts = MemorystoreStore(client, key_prefix=prefix)
    facts.put(("guests", "ada"), "drink", {"text": "green tea"}, ttl=3)
    facts.put(("guests", "lee"), "drink", {"text": "water"})
    assert len(facts.search(("guests",))) == len(facts.list_namespaces()) == 2
    facts.delete(("guests", "lee"), "drink")


def moving(client: Any, prefix: str) -> None:
    """What `sessions` does; the session is made with another client."""
    own, archive = f"{prefix}sessions:", io.BytesIO()
    assert [session.id for session in sessions.scan(client, key_prefix=own)] == ["made"]
    sessions.expire(client, ["made"], ttl=99, key_prefix=own, dry_run=False)
    sessions.export(client, archive, key_prefix=own)
    sessions.delete(client, key_prefix=own, dry_run=False)
    archive.seek(0)
    sessions.load(client, archive)


PARTS = {"History": history, "Checkpointer": checkpointer, "Store": store, "Sessions": moving}


def run(server: Server, part: str, rights: str, prefix: str) -> set[str]:
    """Run a part as a user with these rights only, and return the commands it sent."""
    with server.admin() as admin:
        admin.rpush(f"{prefix}broken", "no message")
        admin.expire(f"{prefix}broken", 60)
        made = MemorystoreChatMessageHistory(admin, "made", key_prefix=f"{prefix}sessions:")
        made.add_user_message("Hi!")
        with server.limited("-@all", "resetkeys", f"~{prefix}*", *rights.split()):
            admin.script_flush()  # so that a script is sent once
            admin.config_resetstat()
            with connect(f"redis://limited:pw@{server.host}:{server.port}") as client:
                PARTS[part](client, prefix)
            sent = admin.info("commandstats")
    names = {name.removeprefix("cmdstat_") for name in sent}
    return names - BY_ITSELF - {"config|resetstat", "auth", "select"}


@pytest.mark.parametrize("part", PARTS)
def test_rights(part: str, valkey_server: Server, key_prefix: str) -> None:
    """A part needs exactly the named commands, the categories are enough, and it needs Lua."""
    named = f"{RULES['Connect']} {RULES[part]}"
    sent = run(valkey_server, part, named, f"{key_prefix}1:")
    assert sorted(sent) == sorted(named.replace("+", "").split())
    assert run(valkey_server, part, CATEGORIES, f"{key_prefix}2:")
    if part != "Sessions":
        with pytest.raises(MemorystoreChatError, match=r"(?i)evalsha"):
            run(valkey_server, part, f"{CATEGORIES} -@scripting", f"{key_prefix}3:")
