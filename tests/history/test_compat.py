"""Sessions go both ways between this package and langchain-google-memorystore-redis 0.3.0.

That cannot be installed beside this package (it pins redis < 6
and langchain-core < 1), so `data/official_0_3_0.json` holds what it wrote: the elements of the
Redis list to which the real class appended `CONVERSATION`, one add_message() each.
"""

import json
from pathlib import Path
from typing import Any

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
WHOLE = [message_chunk_to_message(message) for message in CONVERSATION]
RECORDED: list[bytes] = [
    element.encode()
    for element in json.loads(
        (Path(__file__).parents[1] / "data" / "official_0_3_0.json").read_text()
    )["elements"]
]


def test_sessions_of_the_older_package_go_on_and_it_reads_what_is_written(
    make: Make, client: redis.Redis
) -> None:
    """All types come back equal; its reader is messages_from_dict over json.loads."""
    assert [codec.decode(element) for element in RECORDED] == WHOLE
    assert [codec.appended_at(element) for element in RECORDED] == [None] * len(WHOLE)
    history = make("old", ttl=100, window=4, max_messages=len(WHOLE))
    client.rpush(history.key, *RECORDED)
    # Its malformed call gets a result.
    assert [m for m in make("old").messages if m.text != NOT_CARRIED_OUT] == WHOLE
    history.add_user_message("Hello again.")
    assert history.messages == [*WHOLE[-3:], HumanMessage("Hello again.")]
    assert client.lrange(history.key, 0, -2) == RECORDED[1:]
    assert client.ttl(history.key) == 100
    assert history.repair() == []
    make("new").add_messages(CONVERSATION)
    written: Any = client.lrange(make("new").key, 0, -1)
    stored = [json.loads(element) for element in written]
    assert messages_from_dict(stored) == WHOLE
    for new, old in zip(stored, map(json.loads, RECORDED), strict=True):
        assert set(new) == {"id", *old}
        assert old["type"] == "AIMessageChunk" or new == old | {"id": new["id"]}
