"""The history class goes on with a langchain-core that has no base class for it."""

import subprocess
import sys
import textwrap

from servers import Server

PROGRAM = textwrap.dedent(
    """
    import asyncio, importlib.abc, sys

    class Gone(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "langchain_core.chat_history":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Gone())
    import redis
    from langchain_core.messages import AIMessage, HumanMessage
    from memorystore_chat import MemorystoreChatMessageHistory
    from memorystore_tutorial import DemoChatModel

    assert MemorystoreChatMessageHistory.__mro__[1].__module__ == "memorystore_chat.base_history"
    assert "langchain_core.chat_history" not in sys.modules
    client = redis.Redis(port=int(sys.argv[1]), protocol=2)
    history = MemorystoreChatMessageHistory(client, "s", key_prefix=sys.argv[2])
    for text in ("My name is Ada.", "What is my name?"):
        question = HumanMessage(text)
        reply = DemoChatModel().invoke([*history.messages, question])
        history.add_messages([question, reply])
    assert "Ada" in history.messages[-1].text
    history.add_user_message("one")
    history.add_ai_message("two")
    history.add_message(HumanMessage("three"))
    assert str(history).endswith("Human: one\\nAI: two\\nHuman: three")

    async def also():
        await history.aadd_messages([HumanMessage("four"), AIMessage("five")])
        assert len(await history.aget_messages()) == len(history) == 9
        await history.aclear()

    asyncio.run(also())
    assert len(history) == 0
    print("done")
    """
)


def test_load_ask_save(valkey_server: Server, key_prefix: str) -> None:
    """Without BaseChatMessageHistory a program loads, asks, and saves as before, unwarned."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(valkey_server.port), key_prefix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "done", done.stderr
