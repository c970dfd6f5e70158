"""LangGraph's long-term memory: a store for Memorystore. Needs the extra ``agents``."""

from memorystore_chat.extras import require

require("langgraph.store.base", extra="agents")

from memorystore_chat.store.memory import MemorystoreStore  # noqa: E402

__all__ = ["MemorystoreStore"]
