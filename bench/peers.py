"""The libraries that are measured, each behind the same few calls.

The peers are fetched without their dependencies into a cache folder and imported by file path, so
that all use the same redis-py and langchain-core.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import platformdirs
import redis
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, messages_from_dict
from pydantic_core import from_json

from memorystore_chat import MemorystoreChatMessageHistory, codec

OURS, OFFICIAL, COMMUNITY = "memorystore-chat", "google-memorystore-redis", "langchain-community"
BARE = "bare redis-py"
PLAIN_REDIS, VALKEY_SAVER = "langgraph-checkpoint-plainredis", "ValkeySaver"
VALKEY_STORE = "ValkeyStore"
NAMES = (OURS, OFFICIAL, COMMUNITY, BARE)
PEERS = {
    "langchain-google-memorystore-redis": "0.3.0",
    "langchain-community": "0.4.2",
    "langgraph-checkpoint-plainredis": "0.1.0",
    "langgraph-checkpoint-aws": "1.2.6",
}
PLACES = {
    OFFICIAL: "langchain_google_memorystore_redis.chat_message_history:"
    "MemorystoreChatMessageHistory",
    COMMUNITY: "langchain_community.chat_message_histories.redis:RedisChatMessageHistory",
    PLAIN_REDIS: "langgraph_checkpoint_plainredis.saver:RedisSaver",
    VALKEY_SAVER: "langgraph_checkpoint_aws.checkpoint.valkey.saver:ValkeySaver",
    VALKEY_STORE: "langgraph_checkpoint_aws.store.valkey.store:ValkeyStore",
}
WINDOW, TTL = 20, 3600

classes: dict[str, Any] = {}


def load_peers() -> None:
    """Import the classes that ours are compared with, fetched once without their dependencies."""
    versions = [f"{name}=={number}" for name, number in PEERS.items()]
    folder = Path(platformdirs.user_cache_dir("memorystore-chat"), "bench", "-".join(versions))
    if not folder.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, *versions], check=True)
    for name, place in PLACES.items():
        module, _, found = place.partition(":")
        packages = module.split(".")[:-1]
        for depth in range(1, len(packages) + 1):  # without what the packages import themselves
            package = ModuleType(".".join(packages[:depth]))
            package.__path__ = [str(folder.joinpath(*packages[:depth]))]
            sys.modules.setdefault(package.__name__, package)
        classes[name] = getattr(importlib.import_module(module), found)


class Bare:
    """LangChain's own serialization, one RPUSH with EXPIRE in a pipeline, and one LRANGE."""

    def __init__(self, client: Any, key: str) -> None:
        self.client, self.key, self.window = client, key, 0

    def add_messages(self, messages: list[BaseMessage]) -> None:
        """Serialize with pydantic, and send in one round trip."""
        made = [f'{{"type":"{m.type}","data":{m.model_dump_json()}}}' for m in messages]
        pipeline = self.client.pipeline(transaction=False)
        pipeline.rpush(self.key, *made).expire(self.key, TTL).execute()

    @property
    def messages(self) -> list[BaseMessage]:
        """The newest messages, or all."""
        found = self.client.lrange(self.key, -self.window, -1)
        return messages_from_dict([from_json(element) for element in found])


class Store:
    """One library on one session: the calls that are measured, and how to set the session up."""

    def __init__(self, name: str, client: redis.Redis, direct: redis.Redis, session: str) -> None:
        self.name, self.direct = name, direct
        self.key = f"message_store:{session}" if name == COMMUNITY else session
        if name == OURS:
            self.history: Any = MemorystoreChatMessageHistory(client, session, TTL)
        elif name == OFFICIAL:
            self.history = classes[OFFICIAL](client, session, TTL)
        elif name == COMMUNITY:
            self.history = classes[COMMUNITY](session, ttl=TTL)
            self.history.redis_client = client
        else:
            self.history = Bare(client, session)

    def append(self, messages: list[BaseMessage]) -> None:
        """Append in the library's own way."""
        self.history.add_messages(messages)

    def read(self, newest: int = 1_000_000) -> list[Any]:
        """The newest messages, or all, in the library's own way; the peers have no window."""
        self.history.window = newest
        return list(self.history.messages[-newest:])

    def fill(self, messages: list[BaseMessage]) -> None:
        """Store the messages as the library would an hour ago, without its many round trips."""
        self.direct.unlink(self.key)
        hour_ago = UUID(int=UUID(codec.new_append_id()).int - (3_600_000 << 80))  # milliseconds
        elements = codec.encode(messages, str(hour_ago))
        if self.name in (OFFICIAL, COMMUNITY):
            elements = [json.dumps(plain(element)).encode() for element in elements]
        if self.name == COMMUNITY:
            elements.reverse()
        self.direct.rpush(self.key, *elements)

    def trim(self, length: int) -> None:
        """Take the turn's messages off again."""
        bounds = (-length, -1) if self.name == COMMUNITY else (0, length - 1)  # newest first
        self.direct.ltrim(self.key, *bounds)


def plain(element: bytes) -> dict[str, Any]:
    """An element as the official package writes it."""
    stored = json.loads(element)
    return {"type": stored["type"], "data": stored["data"]}


def conversation(count: int) -> list[BaseMessage]:
    """Questions and answers of the size and with the metadata of a real chat."""
    asked = "What is the weather like in Zürich today? Do I need an umbrella?"
    messages: list[BaseMessage] = []
    for number in range((count + 1) // 2):
        answer = AIMessage(
            f"Cloudy in the morning, rain in the afternoon ({number}). An umbrella is a good "
            "idea if you leave after lunch; the evening will be dry again.",
            id=f"run--{number:08d}-0000-0000-0000-000000000000-0",
            response_metadata={"model_name": "gemini-2.5-flash", "finish_reason": "STOP"},
            usage_metadata={"input_tokens": 812, "output_tokens": 46, "total_tokens": 858},
        )
        messages += [HumanMessage(f"{asked} {number}"), answer]
    return messages[:count]
