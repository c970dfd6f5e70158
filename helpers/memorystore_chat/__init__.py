"""Chat history for LangChain in Google Cloud Memorystore (Redis, Redis Cluster, Valkey).

Example:
    >>> from memorystore_chat import MemorystoreChatMessageHistory, connect
    >>> client = connect("embedded")
    >>> history = MemorystoreChatMessageHistory(client, session_id="hello")
    >>> history.add_user_message("Hello!")
    >>> history.messages[-1].content
    'Hello!'
    >>> history.clear()
"""

from importlib import import_module
from typing import TYPE_CHECKING

from memorystore_chat.connect import connect, connect_async
from memorystore_chat.endpoint import Endpoint
from memorystore_chat.environment import detect_environment, sign_in
from memorystore_chat.errors import (
    ConnectError,
    CorruptHistoryError,
    EndpointError,
    MemorystoreChatError,
)
from memorystore_chat.history import MemorystoreChatMessageHistory

if TYPE_CHECKING:
    from memorystore_chat import sessions
    from memorystore_chat.display import transcript
    from memorystore_chat.models import DemoChatModel, chat_model

__all__ = [
    "ConnectError",
    "CorruptHistoryError",
    "DemoChatModel",
    "Endpoint",
    "EndpointError",
    "MemorystoreChatError",
    "MemorystoreChatMessageHistory",
    "chat_model",
    "connect",
    "connect_async",
    "detect_environment",
    "sessions",
    "sign_in",
    "transcript",
]


# What a program that only stores messages has no use for; the model classes alone take longer to
# import than all the rest together.
_LATER = {"DemoChatModel": "models", "chat_model": "models", "transcript": "display"}


def __getattr__(name: str) -> object:
    if name == "sessions":
        return import_module("memorystore_chat.sessions")
    if name in _LATER:
        return getattr(import_module(f"memorystore_chat.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
