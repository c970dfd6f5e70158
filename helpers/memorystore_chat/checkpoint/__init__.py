"""LangGraph's short-term memory: a checkpointer on plain Redis and Valkey."""

from memorystore_chat.checkpoint.saver import MemorystoreSaver
from memorystore_chat.checkpoint.threads import ThreadInfo

__all__ = ["MemorystoreSaver", "ThreadInfo"]
