"""Sessions go both ways between this package and langchain-google-memorystore-redis 0.3.0.

It cannot be installed beside this package (it pins redis < 6 and langchain-core < 1), so
`data/official_0_3_0.json` holds what it wrote: the elements of the Redis list to which the real
class appended `CONVERSATION`, one add_message() each.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
    messages_from_dict,
)

from memorystore_chat import codec
from memorystore_chat.conversation import NOT_CARRIED_OUT
from scripted import Make
from servers import Server

RECORDED = Path(__file__).parents[1] / "data" / "official_0_3_0.json"

CONVERSATION: list[BaseMessage] = [
    SystemMessage("You are a helpful weather bot."),
    HumanMessage('Wie ist das Wetter in Zürich? 🌧 "quoted" \n\t\\', id="h-1", name="Ada"),
    AIMessage(
        "",
        id="run-1",
        tool_calls=[{"name": "weather", "args": {"city": "Zürich", "days": 2}, "id": "call-1"}],
        invalid_tool_calls=[{"name": "map", "args": "{bad", "id": "call-2", "error": "not JSON"}],
        usage_metadata={
            "input_tokens": 12,
            "output_tokens": 5,
            "total_tokens": 17,
            "input_token_details": {"cache_read": 3},
        },
        response_metadata={"model_name": "gemini", "logprobs": float("-inf"), "score": 0.1},
    ),
    ToolMessage(
        [{"type": "text", "text": "rain"}],
        tool_call_id="call-1",
        name="weather",
        artifact={"mm": [1, 2.5, None, True]},
        status="error",
    ),
    FunctionMessage(content="42", name="answer"),
    ChatMessage(content="psst", role="moderator"),
    HumanMessage(
        [
            {"type": "text", "text": "And what is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ]
    ),
    AIMessageChunk(content="A cloud \ud83c.", id="run-2"),
    AIMessage("Bye.", additional_kwargs={"nested": {"a": [{"b": {}}]}}),
]


def recorded() -> list[bytes]:
    return [element.encode() for element in json.loads(RECORDED.read_text())["elements"]]


def test_a_session_of_the_older_package_is_read_identically(
    client: redis.Redis, key_prefix: str, make: Make
) -> None:
    """Every message type it could store comes back equal, a chunk as the whole message."""
    read = [codec.decode(element) for element in recorded()]
    whole = [message_chunk_to_message(message) for message in CONVERSATION]
    assert read == whole
    assert [type(message) for message in read] == [type(message) for message in whole]
    client.rpush(f"{key_prefix}s", *recorded())
    history = make()
    # Its malformed call gets a result, and a result without a call is left out.
    handed_out = [message for message in history.messages if message.text != NOT_CARRIED_OUT]
    assert handed_out == [*whole[:4], *whole[5:]]
    assert [codec.appended_at(element) for element in recorded()] == [None] * len(CONVERSATION)


async def test_a_session_of_the_older_package_goes_on(
    client: redis.Redis, key_prefix: str, make: Make
) -> None:
    """Appends, window, cap, expiry and repair work on a session that it began."""
    key = f"{key_prefix}s"
    client.rpush(key, *recorded())
    history = make("s", 100, window=4, max_messages=len(CONVERSATION))
    history.add_user_message("Hello again.")
    newest = [message_chunk_to_message(message) for message in CONVERSATION[-3:]]
    assert history.messages == [*newest, HumanMessage("Hello again.")]
    assert client.lrange(key, 0, -2) == recorded()[1:]
    assert client.ttl(key) == 100
    assert history.repair() == []


@pytest.mark.parametrize("cap", [None, 100])
def test_the_older_package_reads_what_is_written(
    client: redis.Redis, cap: int | None, make: Make
) -> None:
    """Its reader is messages_from_dict over json.loads of each element, decoded as UTF-8."""
    history = make(max_messages=cap)
    history.add_messages(CONVERSATION)
    stored: Any = client.lrange(history.key, 0, -1)
    read = messages_from_dict([json.loads(element.decode("utf-8")) for element in stored])
    assert read == [message_chunk_to_message(message) for message in CONVERSATION]
    for ours, theirs in zip(stored, recorded(), strict=True):
        new, old = json.loads(ours), json.loads(theirs)
        assert set(new) == {"id", *old}
        if old["type"] != "AIMessageChunk":
            assert {"type": new["type"], "data": new["data"]} == old


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
