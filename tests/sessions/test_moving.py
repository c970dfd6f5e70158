"""Sessions exported, loaded and copied: nothing half there, nothing doubled, nothing replaced."""

import gzip
import hashlib
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage, message_to_dict
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import archive
from proxy import Proxy
from scripted import nowhere
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
    odd, path = [*elements(2), *ODD, *elements(1)], tmp_path / "sessions.jsonl"
    client.rpush(f"{key_prefix}odd", *odd)
    plain = fill(client, f"{key_prefix}Łódź", 2)
    client.expire(f"{key_prefix}Łódź", 500)
    exported = sessions.export(client, path, key_prefix=key_prefix)
    assert (exported.sessions, exported.messages) == (2, 9)
    assert exported.bytes == sum(map(len, odd + plain))
    sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    assert sessions.load(client, path) == replace(exported, action="load")
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


def test_the_file_is_json_lines(valkey_server: Server, key_prefix: str) -> None:
    """A heading, a line a session, and a seal."""
    file = io.BytesIO()
    with valkey_server.client() as client:
        client.rpush(f"{key_prefix}a", "é", b"\xff")
        client.rpush(f"{key_prefix}a", *fill(client, f"{key_prefix}b", 1))
        report = sessions.export(client, file, ids=["a", "nobody"], key_prefix=key_prefix)
    assert (report.sessions, report.missing) == (1, 1)
    *content, seal = file.getvalue().splitlines(keepends=True)
    heading, line = map(json.loads, content)
    assert (heading["version"], heading["key_prefix"]) == (1, key_prefix)
    assert (line["session"], line["ttl_ms"], line["elements"][:2]) == ("a", None, ["é", "\udcff"])
    assert json.loads(seal) == {"sha256": hashlib.sha256(b"".join(content)).hexdigest()}


def test_fuzzed_files_are_loaded_or_refused(valkey_server: Server, key_prefix: str) -> None:
    """Cut or changed anywhere: nothing is loaded, and no error but ours."""
    with valkey_server.client() as client:
        client.rpush(f"{key_prefix}a", *ODD)
        fill(client, f"{key_prefix}b", 2)
        whole = exported(client, key_prefix).getvalue()

        @settings(max_examples=200, deadline=None, database=None)
        @given(st.integers(0, len(whole)), st.binary(max_size=3), st.integers(0, len(whole)))
        def check(first: int, put: bytes, last: int) -> None:
            file = whole[:first] + put + whole[max(first, last) :]
            if file.rstrip() != whole.rstrip():
                with pytest.raises(MemorystoreChatError, match="Nothing was loaded"):
                    sessions.load(client, io.BytesIO(file), key_prefix=f"fuzz:{key_prefix}")

        check()
        assert list(client.scan_iter(f"fuzz:{key_prefix}*")) == []


def test_files_of_another_kind_are_refused(valkey_server: Server, tmp_path: Path) -> None:
    """Text files would change line ends; the error names the mode."""
    with valkey_server.client() as client:
        for content in (b"", b"[1]\n", b"\x89PNG\r\n", b"[" * 9999, b'{"version": 2}\n'):
            with pytest.raises(MemorystoreChatError, match="heading"):
                sessions.load(client, io.BytesIO(content))
        with (tmp_path / "a").open("w") as file, pytest.raises(TypeError, match="'wb'"):
            sessions.export(client, file)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'rb'"):
            sessions.load(client, 7)  # type: ignore[arg-type]


def test_a_line_that_would_fill_the_memory_is_refused(
    valkey_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_prefix: str
) -> None:
    """200 MB of zeros are not read; nor is a session written that could not be loaded."""
    with valkey_server.client() as client:
        heading = exported(client, key_prefix).readline()
        bomb = gzip.compress(heading + b"0" * 200_000_000, compresslevel=1)
        tracemalloc.start()
        with pytest.raises(MemorystoreChatError, match="longer than 67"):
            sessions.load(client, gzip.GzipFile(fileobj=io.BytesIO(bomb)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6
        monkeypatch.setattr(archive, "LONGEST", 1000)
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
    """What lacks its end gets it; else loading changes nothing, and what differs is a conflict."""
    names = ("a", "more", "other", "later", "fewer")
    made = {name: fill(client, f"{key_prefix}{name}", 6000 if name == "a" else 9) for name in names}
    fill(client, f"{key_prefix}string", 1)
    file = exported(client, key_prefix)
    client.rpush(f"{key_prefix}more", b"newer")
    client.lset(f"{key_prefix}other", 8, "x")
    client.ltrim(f"{key_prefix}later", 1, -1)
    client.ltrim(f"{key_prefix}fewer", 0, 4)
    client.set(f"{key_prefix}string", "precious")
    before = [stored(client, f"{key_prefix}{name}") for name in names[:4]]
    for loaded in (1, 0):
        file.seek(0)
        report = sessions.load(client, file)
        assert (report.sessions, report.messages) == (loaded, loaded * 4)
        assert (report.existing, report.conflicting) == (3 - loaded, 3)
    assert [stored(client, f"{key_prefix}{name}") for name in names[:4]] == before
    assert stored(client, f"{key_prefix}fewer") == made["fewer"]
    assert client.get(f"{key_prefix}string") == b"precious"


def test_a_session_is_never_half_there(interfering: InterferingRedis, key_prefix: str) -> None:
    """It appears at once; who created it meanwhile keeps it; an interrupted load is repeated."""
    client, key = interfering, f"{key_prefix}a"
    made = fill(client, key, 6000)
    file = exported(client, key_prefix)

    def fail() -> None:
        assert not client.exists(key)
        raise redis.ConnectionError("gone")

    def load(before: Any) -> sessions.Report:
        client.unlink(key)
        file.seek(0)
        client.before = {"sessions/load": before}
        return sessions.load(client, file)

    with pytest.raises(MemorystoreChatError, match="writing"):
        load(fail)
    assert not client.exists(key)
    report = load(lambda: fill(client, key, 1))
    assert (report.sessions, report.conflicting) == (0, 1)
    assert load(int).messages == 6000
    assert stored(client, key) == made


def test_memory_holds_one_session(valkey_server: Server, key_prefix: str, tmp_path: Path) -> None:
    """40 MB in 20 sessions go out and in through less than 20 MB."""
    path = tmp_path / "sessions.jsonl"
    with valkey_server.client() as client:
        for number in range(20):
            client.rpush(f"{key_prefix}{number}", *elements(40, text="x" * 50_000))
        tracemalloc.start()
        try:
            sessions.export(client, path, key_prefix=key_prefix)
            sessions.delete(client, key_prefix=key_prefix, dry_run=False)
            assert sessions.load(client, path).messages == 800
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert path.stat().st_size > 40e6
    assert peak < 20e6


def test_a_full_server_says_so() -> None:
    """What was loaded by then stays, nothing is half there, and loading again completes it."""
    with (
        servers.valkey(maxmemory="6mb", maxmemory_policy="noeviction") as server,
        server.client() as client,
    ):
        for number in range(20):
            fill(client, f"a:{number}", 800)
        file = exported(client, "a:")
        with pytest.raises(MemorystoreChatError, match="OOM"):
            sessions.load(client, file, key_prefix="b:")
        with server.admin() as admin:
            admin.config_set("maxmemory", "50mb")
        found = list(sessions.scan(client))
        assert 20 < len(found) < 40
        assert {session.messages for session in found} == {800}
        file.seek(0)
        assert sessions.load(client, file, key_prefix="b:").sessions == 40 - len(found)


def copied(client: Any, key_prefix: str, **options: Any) -> sessions.Report:
    return sessions.from_langchain_community(
        client, key_prefix_from=f"theirs:{key_prefix}", key_prefix=f"ours:{key_prefix}", **options
    )


def test_copying_from_langchain_community(client: Any, key_prefix: str) -> None:
    """Oldest first, with the time to live; copying again adds only what is new."""
    size = 2 if isinstance(client, RedisCluster) else 5500
    theirs, ours = f"theirs:{key_prefix}a", f"ours:{key_prefix}a"
    messages = [HumanMessage(str(number)) for number in range(size)]
    client.lpush(theirs, *(json.dumps(message_to_dict(message)) for message in messages))
    client.expire(theirs, 100)
    dry = copied(client, key_prefix)
    assert (dry.dry_run, dry.sessions, dry.messages, client.exists(ours)) == (True, 1, size, 0)
    assert copied(client, key_prefix, dry_run=False) == replace(dry, dry_run=False)
    history = MemorystoreChatMessageHistory(client, "a", key_prefix=f"ours:{key_prefix}")
    assert history.messages == messages
    assert client.ttl(ours) == pytest.approx(100, abs=9)
    assert copied(client, key_prefix, dry_run=False).existing == 1
    client.lpush(theirs, json.dumps(message_to_dict(HumanMessage("new"))))
    client.expire(theirs, 200)
    for dry_run in (True, False):
        grown = copied(client, key_prefix, dry_run=dry_run)
        assert (grown.sessions, grown.messages, grown.existing) == (1, 1, 0)
    assert history.messages == [*messages, HumanMessage("new")]
    assert client.ttl(ours) == pytest.approx(200, abs=9)
    assert client.llen(theirs) == size + 1


def test_copies_must_not_look_like_originals() -> None:
    for theirs, ours in (("message_store:", "message_store:new:"), ("", "a:"), ("a", "a")):
        with pytest.raises(ValueError, match="originals"):
            sessions.from_langchain_community(nowhere(), key_prefix_from=theirs, key_prefix=ours)


def test_lost_replies_double_nothing(valkey_server: Server, key_prefix: str) -> None:
    """The reply to a write is lost, redis-py sends it again, and the session is there once."""
    key = f"{key_prefix}a"
    with (
        Proxy(valkey_server.host, valkey_server.port) as proxy,
        valkey_server.client() as client,
        redis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 3)) as retrying,
    ):
        made = fill(client, key, 9)
        file = exported(client, key_prefix)
        client.unlink(key)
        proxy.lose_reply_to = made[-1]
        report = sessions.load(retrying, file)
        assert (report.sessions, report.messages, report.conflicting) == (1, 9, 0)
        assert stored(client, key) == made
        proxy.lose_reply_to = b"UNLINK"
        report = sessions.delete(retrying, key_prefix=key_prefix, dry_run=False)
        assert (report.sessions, report.changed) == (1, 0)


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
