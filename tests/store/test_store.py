"""The contract of LangGraph's stores, on servers and a cluster, synchronous and asyncio."""

from typing import Any, TypeAlias

import pytest

from memorystore_chat.store import MemorystoreStore

Place: TypeAlias = Any  # of conftest.py


@pytest.fixture
def store(place: Place, key_prefix: str) -> MemorystoreStore:
    return MemorystoreStore(place.client, key_prefix=key_prefix)


async def test_put_get_search_delete(place: Place, store: MemorystoreStore) -> None:
    """What was put is found by its key and by each prefix of its namespace, until it is deleted."""

    async def call(name: str, *given: Any, **options: Any) -> Any:
        return await place.call(store, name, *given, **options)

    await call("put", ("users", "ada"), "drink", {"likes": "tea"})
    await call("put", ("users", "ada", "work"), "role", {"is": "engineer"})
    item = await call("get", ("users", "ada"), "drink")
    assert item.value == {"likes": "tea"}
    assert [found.key for found in await call("search", ("users", "ada"))] == ["drink", "role"]
    assert len(await call("search", ())) == 2
    assert await call("list_namespaces") == [("users", "ada"), ("users", "ada", "work")]
    await call("delete", ("users", "ada"), "drink")
    assert await call("get", ("users", "ada"), "drink") is None
    assert [found.key for found in await call("search", ("users",))] == ["role"]
