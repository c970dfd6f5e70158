"""LangGraph's short-term memory: a checkpointer on plain Redis and Valkey."""

from memorystore_chat.extras import require

require("langgraph.checkpoint", extra="agents")

from memorystore_chat.checkpoint.saver import MemorystoreSaver  # noqa: E402
from memorystore_chat.checkpoint.threads import ThreadInfo  # noqa: E402

__all__ = ["MemorystoreSaver", "ThreadInfo"]
