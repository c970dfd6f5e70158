"""Copying sessions from langchain-community."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from langchain_core.messages.tool import tool_call_chunk

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatMessageHistory, codec, sessions
from servers import Server
from stored import fill, stored

CONVERSATION = [
    SystemMessage("Be brief."),
    HumanMessage("What is 6 times 7? Ünï 😀"),
    AIMessage("", tool_calls=[{"name": "times", "args": {"a": 6, "b": 7}, "id": "call-1"}]),
    ToolMessage("42", tool_call_id="call-1"),
    AIMessage("42."),
]


def community(client: Any, key: str, messages: list[Any], ttl: int | None = None) -> None:
    """Write as langchain-community 0.4's RedisChatMessageHistory.add_message does."""
    for message in messages:
        client.lpush(key, json.dumps(message_to_dict(message)))
        if ttl:
            client.expire(key, ttl)


def copied(client: Any, key_prefix: str, **options: Any) -> sessions.Report:
    return sessions.from_langchain_community(
        client, key_prefix_from=f"{key_prefix}theirs:", key_prefix=f"{key_prefix}ours:", **options
    )


@pytest.mark.parametrize("decode", [False, True])
def test_copying_from_langchain_community(server: Server, key_prefix: str, decode: bool) -> None:
    """The copies read oldest first, with the time to live; the originals stay as they are."""
    with server.client(decode_responses=decode) as client:
        community(client, f"{key_prefix}theirs:a", CONVERSATION, ttl=100)
        community(client, f"{key_prefix}theirs:b", CONVERSATION[:2])
        before = stored(client, f"{key_prefix}theirs:a")
        dry = copied(client, key_prefix)
        assert (dry.dry_run, dry.sessions, dry.messages) == (True, 2, 7)
        assert not list(sessions.scan(client, key_prefix=f"{key_prefix}ours:"))
        report = copied(client, key_prefix, dry_run=False)
        assert (report.sessions, report.messages, report.bytes) == (2, 7, dry.bytes)
        ours = [
            MemorystoreChatMessageHistory(client, name, key_prefix=f"{key_prefix}ours:")
            for name in "ab"
        ]
        assert ours[0].messages == CONVERSATION
        assert ours[1].messages == CONVERSATION[:2]
        assert 90 < client.ttl(ours[0].key) <= 100
        assert client.ttl(ours[1].key) == -1
        assert stored(client, f"{key_prefix}theirs:a") == before
        assert 90 < client.ttl(f"{key_prefix}theirs:a") <= 100


def test_copying_uses_the_other_librarys_prefix_by_default() -> None:
    """message_store: in front of the originals, nothing in front of the copies."""
    with servers.valkey() as server, server.client() as client:
        community(client, "message_store:a", CONVERSATION)
        assert sessions.from_langchain_community(client, dry_run=False).sessions == 1
        assert MemorystoreChatMessageHistory(client, "a").messages == CONVERSATION
        assert sessions.from_langchain_community(client, dry_run=False).existing == 1


@pytest.mark.parametrize("size", [2, 1700])
def test_copying_again_adds_only_what_is_new(
    client: redis.Redis, key_prefix: str, size: int
) -> None:
    messages = [HumanMessage(str(number)) for number in range(size)]
    new = [HumanMessage(f"new {number}") for number in range(size)]
    community(client, f"{key_prefix}theirs:a", messages)
    assert copied(client, key_prefix, dry_run=False).messages == size
    again = copied(client, key_prefix, dry_run=False)
    assert (again.sessions, again.messages, again.existing) == (0, 0, 1)
    community(client, f"{key_prefix}theirs:a", new, ttl=100)
    for dry_run in (True, False):
        grown = copied(client, key_prefix, dry_run=dry_run)
        assert (grown.sessions, grown.messages, grown.existing) == (1, size, 0)
    ours = MemorystoreChatMessageHistory(client, "a", key_prefix=f"{key_prefix}ours:")
    assert ours.messages == messages + new
    assert 90 < client.ttl(ours.key) <= 100


def test_a_copy_that_went_its_own_way_is_left_alone(client: redis.Redis, key_prefix: str) -> None:
    """Continued in one place it is fine, continued in both it is a conflict."""
    community(client, f"{key_prefix}theirs:a", CONVERSATION)
    community(client, f"{key_prefix}theirs:b", CONVERSATION)
    copied(client, key_prefix, dry_run=False)
    for name in "ab":
        MemorystoreChatMessageHistory(
            client, name, key_prefix=f"{key_prefix}ours:"
        ).add_user_message("ours")
    community(client, f"{key_prefix}theirs:b", [HumanMessage("theirs")])
    client.set(f"{key_prefix}ours:c", "something else")
    community(client, f"{key_prefix}theirs:c", CONVERSATION)
    report = copied(client, key_prefix, dry_run=False)
    assert (report.sessions, report.existing, report.conflicting) == (0, 1, 2)
    assert client.llen(f"{key_prefix}ours:b") == 6


def test_a_session_that_grows_while_it_is_copied(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """New messages come at the head of the original and do not disturb the copy."""
    messages = [HumanMessage(str(number)) for number in range(2500)]
    community(interfering, f"{key_prefix}theirs:a", messages)

    def grow() -> None:
        community(interfering, f"{key_prefix}theirs:a", [HumanMessage("new")] * 5)

    interfering.actions, interfering.pipelines = {4: grow, 7: grow}, 0
    assert copied(interfering, key_prefix, dry_run=False).messages == 2500
    ours = MemorystoreChatMessageHistory(interfering, "a", key_prefix=f"{key_prefix}ours:")
    assert ours.messages == messages
    interfering.actions = {}
    assert copied(interfering, key_prefix, dry_run=False).messages == 10


def test_unreadable_messages_are_copied_and_reported(client: redis.Redis, key_prefix: str) -> None:
    """Nothing is dropped silently; repair() finds them in the copy."""
    community(client, f"{key_prefix}theirs:a", CONVERSATION[:2])
    client.lpush(f"{key_prefix}theirs:a", "{broken")
    community(client, f"{key_prefix}theirs:a", CONVERSATION[-1:])
    report = copied(client, key_prefix, dry_run=False)
    assert (report.messages, report.unreadable) == (4, 1)
    ours = MemorystoreChatMessageHistory(client, "a", key_prefix=f"{key_prefix}ours:")
    assert len(ours.repair(dry_run=False)) == 1
    assert ours.messages == [*CONVERSATION[:2], CONVERSATION[-1]]


def test_chunks_are_read_as_whole_messages(client: redis.Redis, key_prefix: str) -> None:
    """What a stream ended in, stored by langchain-community as it was, is an answer like others."""
    call = {"name": "times", "args": {"a": 6}, "id": "call-1", "type": "tool_call"}
    parts = [
        AIMessageChunk(content="Let me "),
        AIMessageChunk(
            content="see.", tool_call_chunks=[tool_call_chunk(name="times", id="call-1", index=0)]
        ),
        AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(args='{"a": 6}', index=0)]),
    ]
    community(client, f"{key_prefix}theirs:a", [HumanMessage("6?"), parts[0] + parts[1] + parts[2]])
    assert copied(client, key_prefix, dry_run=False).unreadable == 0
    ours = MemorystoreChatMessageHistory(client, "a", key_prefix=f"{key_prefix}ours:")
    (element,) = stored(client, ours.key)[1:]
    assert b"AIMessageChunk" in element
    answer = codec.decode(element)
    assert type(answer) is AIMessage
    assert (answer.content, answer.type, answer.tool_calls) == ("Let me see.", "ai", [call])


@pytest.mark.parametrize(
    ("theirs", "ours"), [("message_store:", "message_store:new:"), ("", ""), ("", "a:"), ("a", "a")]
)
def test_copies_must_not_look_like_originals(client: redis.Redis, theirs: str, ours: str) -> None:
    with pytest.raises(ValueError, match=r"copies would be taken for originals"):
        sessions.from_langchain_community(client, key_prefix_from=theirs, key_prefix=ours)


def test_progress_of_export_load_and_copy(
    client: redis.Redis, key_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(client, f"{key_prefix}theirs:a", 1)
    path = tmp_path / "a"
    sessions.export(client, path, key_prefix=key_prefix, progress="always")
    assert "Exporting" in capsys.readouterr().err
    sessions.load(client, path, progress="always")
    assert "Loading: 100%" in capsys.readouterr().err
    copied(client, key_prefix, progress="always")
    assert "Copying" in capsys.readouterr().err
