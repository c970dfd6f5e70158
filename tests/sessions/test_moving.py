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

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, sessions
from memorystore_chat.sessions import archive
from scripted import nowhere
from stored import UNTIMED, elements, exported, fill, stored

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
        assert sessions.load(client, packed, key_prefix=f"{key_prefix}copy:").sessions == 2
    for prefix in (key_prefix, f"{key_prefix}copy:"):
        assert stored(client, f"{prefix}odd") == odd
        assert stored(client, f"{prefix}Łódź") == plain
        assert client.ttl(f"{prefix}odd") == -1
        assert 480 < client.ttl(f"{prefix}Łódź") <= 500
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.gz", "sessions.jsonl"]


def test_the_file_is_json_lines(interfering: InterferingRedis, key_prefix: str) -> None:
    """A heading, a line a session, and a seal."""
    file = io.BytesIO()
    made = fill(interfering, f"{key_prefix}b", 1)
    interfering.rpush(f"{key_prefix}a", "é", b"\xff", *made)
    interfering.before = {"PTTL": lambda: interfering.unlink(f"{key_prefix}b")}
    report = sessions.export(interfering, file, ids=["a", "nobody", "b"], key_prefix=key_prefix)
    assert (report.sessions, report.missing) == (1, 1)
    *content, seal = file.getvalue().splitlines(keepends=True)
    heading, line = map(json.loads, content)
    assert (heading["version"], heading["key_prefix"]) == (1, key_prefix)
    assert (line["session"], line["ttl_ms"], line["elements"][:2]) == ("a", None, ["é", "\udcff"])
    assert json.loads(seal) == {"sha256": hashlib.sha256(b"".join(content)).hexdigest()}


def test_fuzzed_files_are_loaded_or_refused(interfering: InterferingRedis, key_prefix: str) -> None:
    """Cut or changed anywhere: nothing is loaded, and no error but ours."""
    interfering.rpush(f"{key_prefix}a", *ODD)
    fill(interfering, f"{key_prefix}b", 2)
    whole = exported(interfering, key_prefix).getvalue()

    @settings(max_examples=200)
    @given(st.integers(0, len(whole)), st.binary(max_size=3), st.integers(0, len(whole)))
    def check(first: int, put: bytes, last: int) -> None:
        file = whole[:first] + put + whole[max(first, last) :]
        if file.rstrip() != whole.rstrip():
            with pytest.raises(MemorystoreChatError, match="Nothing was loaded"):
                sessions.load(interfering, io.BytesIO(file), key_prefix=f"{key_prefix}fuzz:")

    check()
    cut = io.BytesIO(gzip.compress(whole)[:-9])
    with pytest.raises(MemorystoreChatError, match="Nothing was loaded"):
        sessions.load(interfering, gzip.GzipFile(fileobj=cut), key_prefix=f"{key_prefix}fuzz:")
    assert list(interfering.scan_iter(f"{key_prefix}fuzz:*")) == []


@pytest.mark.parametrize("start", [b"", b"[1]\n", b"\x89PNG\r\n", b"[" * 9999, b'{"version": 2}\n'])
def test_files_of_another_kind_are_refused(start: bytes) -> None:
    with pytest.raises(MemorystoreChatError, match="heading"):
        sessions.load(nowhere(), io.BytesIO(start))


def test_memory_holds_one_session(
    interfering: InterferingRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_prefix: str
) -> None:
    """20 MB go out and in through less than 8; a line that would fill the memory is refused.

    A file that was there before an export that fails is whole.
    """
    for number in range(20):
        interfering.rpush(f"{key_prefix}{number}", *elements(20, text="x" * 50_000))
    monkeypatch.setattr(archive, "LONGEST", 2_000_000)
    path, heading = tmp_path / "sessions.jsonl", exported(interfering, "nothing").readline()
    bomb = gzip.compress(heading + b"0" * 20_000_000, compresslevel=1)
    tracemalloc.start()
    try:
        sessions.export(interfering, path, key_prefix=key_prefix)
        sessions.delete(interfering, key_prefix=key_prefix, dry_run=False)
        assert sessions.load(interfering, path).messages == 400
        with pytest.raises(MemorystoreChatError, match="longer than 2,000,000"):
            sessions.load(interfering, gzip.GzipFile(fileobj=io.BytesIO(bomb)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    monkeypatch.setattr(archive, "LONGEST", 1000)
    with pytest.raises(MemorystoreChatError, match="1,000 of each"):
        sessions.export(interfering, path, key_prefix=key_prefix)
    assert [entry.stat().st_size > 20e6 for entry in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("way", ["load", "copy"])
def test_what_is_there_stays(client: Any, key_prefix: str, way: str) -> None:
    """What lacks its end gets it; else nothing is changed, and what differs is a conflict.

    The originals of langchain-community are newest first. By default they are only counted.
    """
    whole = [UNTIMED.encode(), *elements(1), b"{broken"]
    there = {
        "new": [],
        "fewer": whole[:2],
        "same": whole,
        "more": [*whole, b"newer"],
        "other": [*whole[:2], b"x"],
        "later": whole[1:],
    }
    theirs, ours = f"{key_prefix}theirs:", f"{key_prefix}ours:"
    client.set(f"{ours}string", "precious")
    for name in (*there, "string"):
        (client.rpush if way == "load" else client.lpush)(f"{theirs}{name}", *whole)
        client.expire(f"{theirs}{name}", 100)
        if there.get(name):
            client.rpush(f"{ours}{name}", *there[name])
    if way == "load":
        report = sessions.load(client, exported(client, theirs), key_prefix=ours)
    else:
        given: Any = {"key_prefix_from": theirs, "key_prefix": ours}
        trial = sessions.from_langchain_community(client, **given)
        assert {name: stored(client, f"{ours}{name}") for name in there} == there
        report = sessions.from_langchain_community(client, **given, dry_run=False)
        assert trial == replace(report, dry_run=True)
    assert (report.sessions, report.messages, report.bytes) == (2, 4, sum(map(len, whole)) + 7)
    assert (report.dry_run, report.existing, report.conflicting) == (False, 2, 3)
    assert report.unreadable == (0 if way == "load" else len(there) + 1)
    there |= {"new": whole, "fewer": whole}
    assert {name: stored(client, f"{ours}{name}") for name in there} == there
    assert client.get(f"{ours}string") == b"precious"
    times = {name: client.ttl(f"{ours}{name}") for name in there}
    assert times == dict.fromkeys(there, -1) | dict.fromkeys(
        ("new", "fewer"), pytest.approx(100, abs=9)
    )
    assert {*map(len, (stored(client, f"{theirs}{name}") for name in there))} == {len(whole)}


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
        client.before = {"sessions/load": before}
        return sessions.load(client, file)

    with pytest.raises(MemorystoreChatError, match="writing"):
        load(fail)
    assert not client.exists(key)
    report = load(lambda: fill(client, key, 1))
    assert (report.sessions, report.conflicting) == (0, 1)
    report = load(int)
    assert (report.sessions, report.messages, report.existing) == (1, 6000, 0)
    assert stored(client, key) == made
    client.before = {"sessions/change": lambda: client.unlink(key)}
    report = sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    assert (report.sessions, report.changed) == (1, 0)


def test_copies_must_not_look_like_originals() -> None:
    for theirs, ours in (("message_store:", "message_store:new:"), ("", "a:"), ("a", "a")):
        with pytest.raises(ValueError, match="originals"):
            sessions.from_langchain_community(nowhere(), key_prefix_from=theirs, key_prefix=ours)
