"""Agents that remember with the store: langmem's tools, and deep agents."""

from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends import CompositeBackend, StateBackend, StoreBackend
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langmem import create_manage_memory_tool, create_search_memory_tool

from memorystore_chat.store import MemorystoreStore
from scripted import Scripted
from servers import Server


@pytest.fixture
def store(valkey_server: Server, key_prefix: str) -> MemorystoreStore:
    return MemorystoreStore(valkey_server.client(), key_prefix=key_prefix)


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}"}])


def ask(agent: Any, text: str, thread: str = "1") -> str:
    """What the last tool answered in a turn of Ada's."""
    config = {"configurable": {"thread_id": thread, "langgraph_user_id": "ada"}}
    answer: str = agent.invoke({"messages": [("user", text)]}, config)["messages"][-2].text
    return answer


def test_langmems_tools(store: MemorystoreStore) -> None:
    """A memory is created and found by langmem's tools, for one user."""
    namespace, memory = ("memories", "{langgraph_user_id}"), "Drinks green tea."
    tools = [create_manage_memory_tool(namespace), create_search_memory_tool(namespace)]
    first, second = calling("manage_memory", content=memory), calling("search_memory", query="tea")
    agent = create_agent(Scripted(replies=[first, "Noted.", second, "Tea."]), tools, store=store)
    assert "created memory" in ask(agent, "Remember that I drink green tea.")
    assert memory in ask(agent, "What do I drink?")
    [item] = store.search(("memories",))
    assert (item.namespace, item.value) == (("memories", "ada"), {"content": memory})


def test_a_deep_agents_files(store: MemorystoreStore) -> None:
    """What a deep agent writes to its memories in one conversation, it reads in another."""
    files = StoreBackend(store=store, namespace=lambda _: ("files", "ada"))
    backend = CompositeBackend(default=StateBackend(), routes={"/memories/": files})
    path, text = "/memories/ada.md", "Ada drinks green tea."
    write = calling("write_file", file_path=path, content=text)
    read, ls = calling("read_file", file_path=path), calling("ls", path="/memories/")
    model = Scripted(replies=[write, "Noted.", read, "Green tea.", ls, "One file."])
    agent = create_deep_agent(model, backend=backend, store=store)
    ask(agent, "Remember that I drink green tea.")
    [item] = store.search(("files",))
    assert (item.namespace, item.key) == (("files", "ada"), "/ada.md")
    assert text in ask(agent, "What do I drink?", "2")
    assert path in ask(agent, "What is there?")
