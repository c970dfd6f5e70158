"""Agents that remember with the store: langmem's tools, and deep agents."""

from collections.abc import Iterator
from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends import CompositeBackend, StateBackend, StoreBackend
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langmem import create_manage_memory_tool, create_search_memory_tool

from memorystore_chat.store import MemorystoreStore
from scripted import Scripted
from servers import Cluster

ADA: Any = {"configurable": {"thread_id": "1", "langgraph_user_id": "ada"}}


@pytest.fixture
def store(valkey_cluster: Cluster, key_prefix: str) -> Iterator[MemorystoreStore]:
    with valkey_cluster.client() as client:
        yield MemorystoreStore(client, key_prefix=key_prefix)


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}"}])


def ask(agent: Any, text: str, config: Any = ADA) -> Any:
    return agent.invoke({"messages": [("user", text)]}, config)["messages"]


def test_langmems_tools(store: MemorystoreStore) -> None:
    """A memory is created and found by langmem's tools, for one user."""
    namespace = ("memories", "{langgraph_user_id}")
    tools = [create_manage_memory_tool(namespace), create_search_memory_tool(namespace)]
    replies: list[Any] = [
        calling("manage_memory", content="Drinks green tea."),
        "Noted.",
        calling("search_memory", query="tea"),
        "You drink green tea.",
    ]
    agent = create_agent(Scripted(replies=replies), tools, store=store)
    assert "created memory" in ask(agent, "Remember that I drink green tea.")[-2].text
    assert "Drinks green tea." in ask(agent, "What do I drink?")[-2].text
    [item] = store.search(("memories",))
    assert (item.namespace, item.value) == (("memories", "ada"), {"content": "Drinks green tea."})


def test_a_deep_agents_files(store: MemorystoreStore) -> None:
    """What a deep agent writes to its memories in one conversation, it reads in another."""
    files = StoreBackend(store=store, namespace=lambda _: ("files", "ada"))
    backend = CompositeBackend(default=StateBackend(), routes={"/memories/": files})
    path, text = "/memories/ada.md", "Ada drinks green tea."
    replies: list[Any] = [
        calling("write_file", file_path=path, content=text),
        "Noted.",
        calling("read_file", file_path=path),
        "You drink green tea.",
        calling("ls", path="/memories/"),
        "One file.",
    ]
    agent = create_deep_agent(Scripted(replies=replies), backend=backend, store=store)
    ask(agent, "Remember that I drink green tea.")
    [item] = store.search(("files",))
    assert (item.namespace, item.key) == (("files", "ada"), "/ada.md")
    assert text in ask(agent, "What do I drink?", {"configurable": {"thread_id": "2"}})[-2].text
    assert path in ask(agent, "What is there?")[-2].text
