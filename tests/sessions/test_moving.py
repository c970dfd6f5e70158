"""Sessions exported, loaded and copied: nothing half there, nothing doubled, nothing replaced."""

import gzip
import hashlib
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, message_to_dict
from redis.backoff import NoBackoff
from redis.retry import Retry

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import archive
from proxy import Proxy
from servers import Server
from stored import element, elements, exported, fill, stored

ODD = [
    b'{"type": "human", "data": {"content": "older package", "type": "human"}}',
    "Ünï\u2028code \n\r\0 \ud7ff😀".encode(),
    b"\xff\xfe not UTF-8",
    b"",
]


def test_what_is_exported_comes_back_byte_for_byte(
    client: Any, key_prefix: str, tmp_path: Path
) -> None:
    """With the time to live that is left; also under another prefix, and from gzip."""
    odd = [*elements(2), *ODD, *elements(1)]
    client.rpush(f"{key_prefix}odd", *odd)
    history = MemorystoreChatMessageHistory(client, "Łódź", 500, key_prefix=key_prefix)
    history.add_messages([HumanMessage("hi"), AIMessage("hello")])
    plain, path = stored(client, history.key), tmp_path / "sessions.jsonl"
    report = sessions.export(client, path, key_prefix=key_prefix)
    sizes = (2, 9, sum(map(len, odd + plain)))
    assert (report.sessions, report.messages, report.bytes) == sizes
    sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    report = sessions.load(client, path)
    assert (report.sessions, report.messages, report.bytes) == sizes
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        sessions.export(client, file, key_prefix=key_prefix)
    with gzip.open(tmp_path / "a.gz", "rb") as packed:
        assert sessions.load(client, packed, key_prefix=f"copy:{key_prefix}").sessions == 2
    for prefix in (key_prefix, f"copy:{key_prefix}"):
        assert stored(client, f"{prefix}odd") == odd
        assert stored(client, f"{prefix}Łódź") == plain
        assert client.ttl(f"{prefix}odd") == -1
        assert 480 < client.ttl(f"{prefix}Łódź") <= 500
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.gz", "sessions.jsonl"]


def test_the_file_is_json_lines(client: Any, key_prefix: str) -> None:
    """A heading, a line a session, and a seal with counts and checksum."""
    made = fill(client, f"{key_prefix}a", 2)
    client.rpush(f"{key_prefix}a", b"\xff")
    fill(client, f"{key_prefix}b", 1)
    file = io.BytesIO()
    report = sessions.export(client, file, ids=["a", "nobody"], key_prefix=key_prefix)
    assert (report.sessions, report.missing) == (1, 1)
    *content, seal = file.getvalue().splitlines(keepends=True)
    heading, line = map(json.loads, content)
    assert (heading["version"], heading["key_prefix"]) == (1, key_prefix)
    texts = [*(element.decode() for element in made), "\udcff"]
    assert line == {"session": "a", "ttl_ms": None, "elements": texts}
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    assert json.loads(seal) == {"end": {"sessions": 1, "messages": 3, "sha256": digest}}


def test_fuzzed_files_are_loaded_or_refused(valkey_server: Server, key_prefix: str) -> None:
    """Cut or changed anywhere: nothing is loaded, and no error but ours."""
    with valkey_server.client() as client:
        client.rpush(f"{key_prefix}a", *ODD)
        fill(client, f"{key_prefix}b", 2)
        whole = exported(client, key_prefix).getvalue()

        @settings(max_examples=300, deadline=None, database=None)
        @given(st.integers(0, len(whole)), st.binary(max_size=3), st.integers(0, len(whole)))
        def check(first: int, put: bytes, last: int) -> None:
            file = whole[:first] + put + whole[max(first, last) :]
            if file.rstrip() != whole.rstrip():
                with pytest.raises(MemorystoreChatError, match="Nothing was loaded"):
                    sessions.load(client, io.BytesIO(file), key_prefix=f"fuzz:{key_prefix}")

        check()
        assert list(client.scan_iter(f"fuzz:{key_prefix}*")) == []


@pytest.mark.parametrize("content", [b"", b"[1]\n", b"\x89PNG\r\n", b"[" * 9999])
def test_a_file_of_another_kind_is_refused(valkey_server: Server, content: bytes) -> None:
    with valkey_server.client() as client, pytest.raises(MemorystoreChatError, match="heading"):
        sessions.load(client, io.BytesIO(content))


def test_a_line_that_would_fill_the_memory_is_refused(
    valkey_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_prefix: str
) -> None:
    """200 MB of zeros are not read; nor is a session written that could not be loaded."""
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as bomb:
        bomb.write(exported(valkey_server.client(), key_prefix).getvalue().splitlines(True)[0])
        for _ in range(20):
            bomb.write(b"0" * 10_000_000)
    tracemalloc.start()
    try:
        with (
            gzip.open(tmp_path / "bomb.gz", "rb") as file,
            valkey_server.client() as client,
            pytest.raises(MemorystoreChatError, match="longer than 67"),
        ):
            sessions.load(client, file)
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(archive, "LONGEST", 1000)
    with valkey_server.client() as client:
        fill(client, f"{key_prefix}a", 20)
        with pytest.raises(MemorystoreChatError, match=r"'a'.*bytes"):
            sessions.export(client, tmp_path / "b", key_prefix=key_prefix)
    assert not (tmp_path / "b").exists()


def test_a_failed_export_leaves_the_earlier_file(
    interfering: InterferingRedis, key_prefix: str, tmp_path: Path
) -> None:
    """So does one that another export to the same path overtakes: each file is whole."""
    path = tmp_path / "sessions.jsonl"

    def fail() -> None:
        with redis.Redis.from_pool(interfering.connection_pool) as other:
            sessions.export(other, path, key_prefix=key_prefix)
        raise redis.ConnectionError("gone")

    fill(interfering, f"{key_prefix}a", 3)
    interfering.before = {"LRANGE": fail}
    with pytest.raises(MemorystoreChatError, match="reading"):
        sessions.export(interfering, path, key_prefix=key_prefix)
    assert sessions.load(interfering, path).existing == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["sessions.jsonl"]


def test_what_is_there_stays(client: Any, key_prefix: str) -> None:
    """Loading twice changes nothing; fewer or other messages, or another type, are conflicts."""
    for name in ("a", "more", "other", "fewer", "string"):
        fill(client, f"{key_prefix}{name}", 6000)
    file = exported(client, key_prefix)
    client.rpush(f"{key_prefix}more", b"newer")
    client.lset(f"{key_prefix}other", 5500, "x")
    client.ltrim(f"{key_prefix}fewer", 0, 9)
    client.unlink(f"{key_prefix}string")
    client.set(f"{key_prefix}string", "precious")
    names = ("a", "more", "other", "fewer")
    before = [stored(client, f"{key_prefix}{name}") for name in names]
    for _ in range(2):
        file.seek(0)
        report = sessions.load(client, file)
        assert (report.sessions, report.existing, report.conflicting) == (0, 2, 3)
    assert [stored(client, f"{key_prefix}{name}") for name in names] == before
    assert client.get(f"{key_prefix}string") == b"precious"


def test_a_session_is_never_half_there(interfering: InterferingRedis, key_prefix: str) -> None:
    """It appears at once; who created it meanwhile keeps it; an interrupted load is repeated."""
    made = fill(interfering, f"{key_prefix}a", 6000)
    file = exported(interfering, key_prefix)
    interfering.unlink(f"{key_prefix}a")

    def fail() -> None:
        assert not interfering.exists(f"{key_prefix}a")
        raise redis.ConnectionError("gone")

    interfering.before = {"sessions/load": fail}
    with pytest.raises(MemorystoreChatError, match="writing"):
        sessions.load(interfering, file)
    assert not interfering.exists(f"{key_prefix}a")
    interfering.before = {"sessions/load": lambda: fill(interfering, f"{key_prefix}a", 1)}
    file.seek(0)
    report = sessions.load(interfering, file)
    assert (report.sessions, report.conflicting) == (0, 1)
    interfering.unlink(f"{key_prefix}a")
    file.seek(0)
    assert sessions.load(interfering, file).messages == 6000
    assert stored(interfering, f"{key_prefix}a") == made


def test_memory_holds_one_session(client: Any, key_prefix: str, tmp_path: Path) -> None:
    """80 MB in 20 sessions go out and in through less than 40 MB."""
    for number in range(20):
        client.rpush(f"{key_prefix}{number}", *elements(80, text="x" * 50_000))
    path = tmp_path / "sessions.jsonl"
    tracemalloc.start()
    try:
        sessions.export(client, path, key_prefix=key_prefix)
        sessions.delete(client, key_prefix=key_prefix, dry_run=False)
        assert sessions.load(client, path).messages == 1600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 80e6
    assert peak < 40e6


def copied(client: Any, key_prefix: str, **options: Any) -> sessions.Report:
    return sessions.from_langchain_community(
        client, key_prefix_from=f"theirs:{key_prefix}", key_prefix=f"ours:{key_prefix}", **options
    )


@pytest.mark.parametrize("size", [2, 5500])
def test_copying_from_langchain_community(client: Any, key_prefix: str, size: int) -> None:
    """Oldest first, with the time to live; copying again adds only what is new."""
    theirs, ours = f"theirs:{key_prefix}a", f"ours:{key_prefix}a"
    messages = [HumanMessage(str(number)) for number in range(size)]
    client.lpush(theirs, *(json.dumps(message_to_dict(message)) for message in messages))
    client.expire(theirs, 100)
    dry = copied(client, key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages, client.exists(ours)) == (True, 1, size, 0)
    report = copied(client, key_prefix, dry_run=False)
    assert (report.sessions, report.messages, report.bytes) == (1, size, dry.bytes)
    history = MemorystoreChatMessageHistory(client, "a", key_prefix=f"ours:{key_prefix}")
    assert history.messages == messages
    assert 90 < client.ttl(ours) <= 100
    again = copied(client, key_prefix, dry_run=False)
    assert (again.sessions, again.existing) == (0, 1)
    client.lpush(theirs, json.dumps(message_to_dict(HumanMessage("new"))))
    client.expire(theirs, 200)
    for dry_run in (True, False):
        grown = copied(client, key_prefix, dry_run=dry_run)
        assert (grown.sessions, grown.messages, grown.existing) == (1, 1, 0)
    assert history.messages == [*messages, HumanMessage("new")]
    assert 190 < client.ttl(ours) <= 200
    assert client.llen(theirs) == size + 1


@pytest.mark.parametrize(
    ("theirs", "ours"), [("message_store:", "message_store:new:"), ("", "a:"), ("a", "a")]
)
def test_copies_must_not_look_like_originals(valkey_server: Server, theirs: str, ours: str) -> None:
    with valkey_server.client() as client, pytest.raises(ValueError, match="originals"):
        sessions.from_langchain_community(client, key_prefix_from=theirs, key_prefix=ours)


def test_text_files_are_refused(valkey_server: Server, tmp_path: Path) -> None:
    """They would change line ends; the error names the mode."""
    client: Any = valkey_server.client()
    with (tmp_path / "a").open("w") as file, pytest.raises(TypeError, match="'wb'"):
        sessions.export(client, file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'rb'"):
        sessions.load(client, 7)  # type: ignore[arg-type]


def test_lost_replies_double_nothing(server: Server, key_prefix: str) -> None:
    """The reply to a write is lost, redis-py sends it again, and the session is there once."""
    with Proxy(server.host, server.port) as proxy, server.client() as client:
        retrying = redis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 3))
        made = fill(client, f"{key_prefix}a", 9)
        file = exported(client, key_prefix)
        client.unlink(f"{key_prefix}a")
        proxy.lose_reply_to = made[-1]
        report = sessions.load(retrying, file)
        assert (report.sessions, report.messages, report.conflicting) == (1, 9, 0)
        assert stored(client, f"{key_prefix}a") == made
        proxy.lose_reply_to = b"UNLINK"
        report = sessions.delete(retrying, key_prefix=key_prefix, dry_run=False)
        assert (report.sessions, report.changed) == (1, 0)
        retrying.close()


def test_a_copy_that_went_its_own_way_is_left_alone(client: Any, key_prefix: str) -> None:
    """Continued in one place it is fine, continued in both it is a conflict; broken is copied."""
    client.rpush(f"theirs:{key_prefix}a", "{broken", element())
    assert copied(client, key_prefix, dry_run=False).unreadable == 1
    client.rpush(f"ours:{key_prefix}a", element())
    assert copied(client, key_prefix, dry_run=False).existing == 1
    client.lpush(f"theirs:{key_prefix}a", element("theirs"))
    client.set(f"ours:{key_prefix}b", "something else")
    client.lpush(f"theirs:{key_prefix}b", element())
    for dry_run in (True, False):
        report = copied(client, key_prefix, dry_run=dry_run)
        assert (report.sessions, report.existing, report.conflicting) == (0, 0, 2)
    assert client.llen(f"ours:{key_prefix}a") == 3
