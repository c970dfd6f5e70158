"""The concierge for LangGraph's development server, with its memory in Memorystore."""

from concierge import make_concierge
from memorystore_chat import connect_async
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore

concierge = make_concierge()


async def checkpointer() -> MemorystoreSaver:
    """Open the checkpointer, which lives as long as the server."""
    return MemorystoreSaver(await connect_async(), key_prefix="langgraph-dev:")


async def store() -> MemorystoreStore:
    """Open the store."""
    return MemorystoreStore(await connect_async(), key_prefix="langgraph-dev:")
