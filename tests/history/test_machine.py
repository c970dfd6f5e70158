"""Histories against a Python list: random steps, with lost replies and cuts at random bytes."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
import redis.asyncio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from langchain_core.messages import BaseMessage
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from memorystore_chat.codec import new_append_id
from memorystore_chat.commands import script
from proxy import Proxy
from scripted import NO_RETRY
from stored import said, texts

ways = st.sampled_from(["sync", "async"])


class Sessions(RuleBasedStateMachine):
    """One session, written in both ways through a link with faults, read on a direct one."""

    server: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.loop = ExitStack(), asyncio.new_event_loop()
        self.proxy = self.stack.enter_context(Proxy(self.server.host, self.server.port))
        self.direct = self.stack.enter_context(self.server.client())
        self.direct.flushdb()
        self.direct.script_load(script("demand", "append").text)
        self.client = self.stack.enter_context(
            self.server.client(port=self.proxy.port, retry=NO_RETRY)
        )
        self.async_client = redis.asyncio.Redis(
            port=self.proxy.port, protocol=2, retry=AsyncRetry(NoBackoff(), 0)
        )
        self.model: list[str] = []
        self.number = 0

    def teardown(self) -> None:
        self.loop.run_until_complete(self.async_client.aclose())
        self.loop.close()
        self.stack.close()

    def call(self, way: str, name: str, *given: Any, cap: int | None = None, **options: Any) -> Any:
        client = self.client if way == "sync" else self.async_client
        history = MemorystoreChatMessageHistory(client, "s", 100, max_messages=cap)
        if way == "sync":
            return getattr(history, name)(*given, **options)
        return self.loop.run_until_complete(getattr(history, f"a{name}")(*given, **options))

    def batch(self, size: int) -> list[BaseMessage]:
        self.number += size
        return said(*range(self.number - size, self.number))

    @rule(
        way=ways,
        size=st.integers(1, 4),
        cap=st.none() | st.integers(1, 5),
        fault=st.none() | st.just("reply") | st.floats(0, 1, exclude_max=True),
        again=st.booleans(),
    )
    def append(self, way: str, size: int, cap: int | None, fault: Any, again: bool) -> None:
        """All or none are stored; repeated with its id, once; without a fault the first time."""
        messages, append_id = self.batch(size), new_append_id()
        if fault == "reply":
            self.proxy.lose_reply_to = append_id.encode()
        else:
            self.proxy.cut_append_at = fault
        after = [*self.model, *texts(messages)][-cap if cap else 0 :]
        try:
            self.call(way, "add_messages", messages, cap=cap, append_id=append_id)
            assert fault is None
        except ConnectError:
            assert fault is not None
            stored = self.stored()
            assert stored == (after if fault == "reply" else self.model)
            if not again:
                self.model = stored
                return
            self.call(way, "add_messages", messages, cap=cap, append_id=append_id)
        self.model = after
        if again:
            self.call(way, "add_messages", messages, cap=cap, append_id=append_id)

    @rule(way=ways)
    def clear(self, way: str) -> None:
        self.call(way, "clear")
        self.model = []

    @rule(way=ways, broken=st.integers(1, 2))
    def repair(self, way: str, broken: int) -> None:
        self.direct.rpush("s", *[b"broken"] * broken)
        assert len(self.call(way, "repair", dry_run=False)) == broken

    @rule()
    def flush_scripts(self) -> None:
        self.direct.script_flush()
        self.direct.script_load(script("demand", "append").text)

    def stored(self) -> list[str]:
        # What was sent before a cut arrives a moment later.
        return texts(MemorystoreChatMessageHistory(self.direct, "s").messages)

    @invariant()
    def the_session_is_the_list(self) -> None:
        assert self.stored() == self.model
        for window in (1, 3):
            history = MemorystoreChatMessageHistory(self.direct, "s", window=window)
            assert texts(history.messages) == self.model[-window:]


@pytest.fixture(scope="module", params=[servers.valkey, servers.redis7], ids=["valkey", "redis"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param() as server:
        yield server


def test_a_session_is_a_list_whatever_breaks(own_server: Any) -> None:
    machine = type("Machine", (Sessions,), {"server": own_server})
    bounds = settings(max_examples=25, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(machine, settings=bounds)
