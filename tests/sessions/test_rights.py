"""What a user may not do is refused before anything is written: no session without its TTL."""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from langchain_core.messages import HumanMessage, message_to_dict

from memorystore_chat import MemorystoreChatError, sessions
from servers import Server
from stored import element, elements, exported, fill

# What the scripts call, and EVAL itself.
COMMANDS = [
    *("eval", "lindex", "llen", "type", "unlink"),
    *("rpush", "expire", "pexpire", "persist", "rename"),
]
pytestmark = pytest.mark.own_server


@pytest.fixture(params=COMMANDS)
def limited(server: Server, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client whose user may do all but one thing."""
    with server.limited(f"-{request.param}") as client:
        yield client
    with server.admin() as admin:
        for staged in admin.scan_iter("memorystore-chat:loading:*"):
            admin.unlink(staged)


def state(client: redis.Redis, key_prefix: str) -> dict[str, tuple[list[Any], bool]]:
    """The sessions, and whether they expire."""
    return {
        key.decode(): (client.lrange(key, 0, -1), client.ttl(key) > 0)
        for key in sorted(client.scan_iter(f"{key_prefix}*"))
    }


def as_a_whole(
    prepare: Callable[[], object],
    call: Callable[[redis.Redis], object],
    limited: redis.Redis,
    client: redis.Redis,
    key_prefix: str,
) -> None:
    """Refused, it leaves each session as it was, or does with it what a free user does."""
    states = []
    for user in (client, limited):
        for key in client.scan_iter(f"{key_prefix}*"):
            client.unlink(key)
        prepare()
        before = state(client, key_prefix)
        refusal = ""
        try:
            call(user)
        except MemorystoreChatError as error:
            refusal = str(error)
        assert not refusal or "NOPERM" in refusal
        states.append(state(client, key_prefix))
    complete, after = states
    for key in complete | before | after:
        wanted = [before.get(key), complete.get(key)] if refusal else [complete.get(key)]
        assert after.get(key) in wanted, key
    for staged in client.scan_iter("memorystore-chat:loading:*"):
        assert 0 < client.ttl(staged) <= 600, staged


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("ttl", [100, None])
def test_loading(
    limited: redis.Redis, client: redis.Redis, key_prefix: str, overwrite: bool, ttl: int | None
) -> None:
    """Short sessions and long ones, new ones and such that are replaced."""
    for name, size in (("a", 3), ("b", 1200)):
        fill(client, f"{key_prefix}{name}", size)
        if ttl:
            client.expire(f"{key_prefix}{name}", ttl)
    content = exported(client, key_prefix).getvalue()
    there = elements(2)

    def prepare() -> None:
        if overwrite:
            client.rpush(f"{key_prefix}a", *there)
            client.rpush(f"{key_prefix}b", *there)

    def load(user: redis.Redis) -> object:
        return sessions.load(user, io.BytesIO(content), overwrite=overwrite)

    as_a_whole(prepare, load, limited, client, key_prefix)


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("size", [5, 1500])
def test_copying(
    limited: redis.Redis, client: redis.Redis, key_prefix: str, grown: bool, size: int
) -> None:
    """New copies, and copies that get what is new in the original."""
    theirs = f"theirs:{key_prefix}"
    messages = [json.dumps(message_to_dict(HumanMessage(str(n)))) for n in range(size)]

    def copy(user: redis.Redis) -> object:
        return sessions.from_langchain_community(
            user, key_prefix_from=theirs, key_prefix=key_prefix, dry_run=False
        )

    def prepare() -> None:
        client.unlink(f"{theirs}a")
        client.lpush(f"{theirs}a", *messages[:3])
        if grown:
            copy(client)
        client.lpush(f"{theirs}a", *messages[3:])
        client.expire(f"{theirs}a", 100)

    try:
        as_a_whole(prepare, copy, limited, client, key_prefix)
    finally:
        client.unlink(f"{theirs}a")


@pytest.mark.parametrize("idle_for", [None, 1e-6])
@pytest.mark.parametrize(
    "change",
    [partial(sessions.expire, ttl=100), partial(sessions.expire, ttl=None), sessions.delete],
    ids=["expire", "persist", "delete"],
)
def test_deleting_and_expiring(
    limited: redis.Redis,
    client: redis.Redis,
    key_prefix: str,
    change: Callable[..., sessions.Report],
    idle_for: float | None,
) -> None:
    """By age, which a script does, and without."""
    options = {"key_prefix": key_prefix, "idle_for": idle_for, "dry_run": False}
    stored = element()
    as_a_whole(
        lambda: client.rpush(f"{key_prefix}a", stored),
        lambda user: change(user, **options),
        limited, client, key_prefix,
    )  # fmt: skip
