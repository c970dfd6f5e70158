"""Histories against Python lists: random steps, with lost replies and cuts at random bytes."""

import asyncio
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from hypothesis import settings, stateful
from hypothesis import strategies as st
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from memorystore_chat.codec import new_append_id
from memorystore_chat.commands import script
from proxy import Proxy
from scripted import NO_RETRY, words
from stored import said

NAMES = ("ada", "ada:corrupt", "{a}b", "c{\n}é🌧")
MOST = 10**12
ODD = [{}, {"decode_responses": True}, {"encoding": "utf-16"}]  # what a client may do to texts
names = st.sampled_from(NAMES)


class Sessions(stateful.RuleBasedStateMachine):
    """Some sessions, written in both ways, on one server through a link with faults."""

    running: ClassVar[Any]

    @stateful.initialize(odd=st.sampled_from(ODD))
    def begin(self, odd: dict[str, Any]) -> None:
        self.stack, self.loop = ExitStack(), asyncio.new_event_loop()
        self.direct = self.stack.enter_context(self.running.client())
        self.proxy = self.stack.enter_context(Proxy(self.running.host, self.running.port))
        given: Any = {"port": self.proxy.port, **odd}
        self.client = self.stack.enter_context(self.running.client(retry=NO_RETRY, **given))
        self.async_client = self.running.async_client(retry=AsyncRetry(NoBackoff(), 0), **given)
        self.flush_scripts()
        self.lists: dict[str, list[str]] = {name: [] for name in NAMES}
        self.expiries: dict[str, int] = {}
        self.number = 0

    def teardown(self) -> None:
        for name in NAMES:
            self.clear(name)
        self.loop.run_until_complete(self.async_client.aclose())
        self.loop.close()
        self.stack.close()

    @stateful.rule(
        way=st.sampled_from(["sync", "async"]),
        name=names,
        size=st.integers(0, 4),
        cap=st.none() | st.integers(1, 5) | st.just(MOST),
        ttl=st.none() | st.sampled_from([1000, 2000, MOST]),
        fault=st.none() | st.just("reply") | st.floats(0, 1, exclude_max=True),
        again=st.booleans(),
    )
    def append(
        self, way: str, name: str, size: int, cap: Any, ttl: Any, fault: Any, again: bool
    ) -> None:
        """All or none are stored; repeated with its id, once; without a fault the first time."""
        self.number += size
        new = said(*(f"é{n}" for n in range(self.number - size, self.number)))
        append_id = new_append_id()
        bounds = {"ttl": ttl, "max_messages": cap, "async_client": self.async_client}
        history = MemorystoreChatMessageHistory(self.client, name, **bounds)
        fault = fault if size else None
        if fault == "reply":
            self.proxy.lose_reply_to = append_id.encode()
        elif fault is not None:
            self.proxy.cut_append_at = fault
        after = [*self.lists[name], *words(new)]
        after = after[-cap:] if cap and size else after
        for _ in range(2 if again else 1):
            try:
                if way == "sync":
                    history.add_messages(new, append_id=append_id)
                else:
                    self.loop.run_until_complete(history.aadd_messages(new, append_id=append_id))
                assert fault is None
            except ConnectError:
                assert fault is not None
                assert self.stored(name) == (after if fault == "reply" else self.lists[name])
                if fault != "reply" and not again:
                    return
            fault = None
        self.lists[name] = after
        if ttl and size:
            self.expiries[name] = ttl

    @stateful.rule(name=names)
    def clear(self, name: str) -> None:
        MemorystoreChatMessageHistory(self.client, name).clear()
        self.lists[name] = []
        self.expiries.pop(name, None)

    @stateful.rule()
    def flush_scripts(self) -> None:
        self.direct.script_flush()
        self.direct.script_load(script("demand", "append").text)  # every append is one request

    def stored(self, name: str, **options: Any) -> list[str]:
        return words(MemorystoreChatMessageHistory(self.direct, name, **options).messages)

    @stateful.invariant()
    def the_sessions_are_the_lists(self) -> None:
        for name, expected in self.lists.items():
            assert self.stored(name) == expected
            if expected:
                left = self.expiries.get(name, -1)
                assert left - 60 <= self.direct.ttl(name) <= left
            window = 1 + len(name) % 3
            assert self.stored(name, window=window) == expected[-window:]


@pytest.mark.parametrize("running", ["valkey_server", "redis_server"])
def test_sessions_are_lists_whatever_breaks(request: pytest.FixtureRequest, running: str) -> None:
    machine = type("Machine", (Sessions,), {"running": request.getfixturevalue(running)})
    bounds = settings(max_examples=25, stateful_step_count=20)
    stateful.run_state_machine_as_test(machine, settings=bounds)
