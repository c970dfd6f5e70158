"""LangGraph's short-term memory: a checkpointer on plain Redis and Valkey."""

from memorystore_chat.checkpoint.saver import MemorystoreSaver

__all__ = ["MemorystoreSaver"]
