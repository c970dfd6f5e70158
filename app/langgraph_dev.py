"""The concierge for LangGraph's development server, with its memory in Memorystore."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from concierge import make_concierge
from memorystore_chat import connect_async
from memorystore_chat.checkpoint import MemorystoreSaver
from memorystore_chat.store import MemorystoreStore


@asynccontextmanager
async def memory(kind: Any) -> AsyncIterator[Any]:
    """Open a checkpointer or a store for as long as the server runs."""
    async with await connect_async() as client:
        yield kind(client, key_prefix="langgraph-dev:")


concierge = make_concierge()
checkpointer, store = partial(memory, MemorystoreSaver), partial(memory, MemorystoreStore)
