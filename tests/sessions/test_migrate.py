"""Exporting and loading sessions, and copying them from langchain-community."""

import gzip
import hashlib
import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import redis
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, sessions
from memorystore_chat.sessions import moving as migrate
from memorystore_chat.storage import codec
from proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path


def elements(number: int, start: int = 0, text: str = "message") -> list[bytes]:
    return [
        codec.encode([HumanMessage(f"{text} {n}")], codec.new_append_id())[0]
        for n in range(start, start + number)
    ]


def fill(client: Any, key: str, number: int) -> list[bytes]:
    made = elements(number)
    client.rpush(key, *made)
    return made


def stored(client: Any, key: str) -> list[bytes]:
    return client.lrange(key, 0, -1)


def exported(client: Any, key_prefix: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    sessions.export(client, file, key_prefix=key_prefix, **options)
    file.seek(0)
    return file


@pytest.fixture
def interfering(server: servers.Server) -> Any:
    with InterferingRedis(host=server.host, port=server.port, protocol=2) as client:
        yield client


@pytest.mark.parametrize("decode", [False, True])
def test_what_is_exported_comes_back_byte_for_byte(server, client, key_prefix, tmp_path, decode):
    """Messages old and new, broken and not even text, and the time to live."""
    odd = [
        *elements(2),
        b'{"type": "human", "data": {"content": "older package", "type": "human"}}',
        "Ünï\u2028code \n\r\0 \ud7ff😀".encode(),
        b"\xff\xfe not UTF-8",
        b"",
        *elements(1),
    ]
    client.rpush(f"{key_prefix}odd", *odd)
    history = MemorystoreChatMessageHistory(client, "Łódź", 500, key_prefix=key_prefix)
    history.add_messages([HumanMessage("hi"), AIMessage("hello")])
    plain = stored(client, history.key)
    path = tmp_path / "sessions.jsonl"
    with server.client(decode_responses=decode) as other:
        report = sessions.export(other, path, key_prefix=key_prefix)
        size = sum(map(len, odd + plain))
        assert (report.sessions, report.messages, report.bytes) == (2, 9, size)
        sessions.delete(other, key_prefix=key_prefix, dry_run=False)
        report = sessions.load(other, path)
    assert (report.sessions, report.messages, report.bytes) == (2, 9, size)
    assert stored(client, f"{key_prefix}odd") == odd
    assert stored(client, history.key) == plain
    assert client.ttl(f"{key_prefix}odd") == -1
    assert 480 < client.ttl(history.key) <= 500


def test_the_file_is_json_lines(client, key_prefix, tmp_path):
    """A heading, a line a session, and a seal with counts and checksum."""
    made = fill(client, f"{key_prefix}a", 2)
    client.rpush(f"{key_prefix}a", b"\xff")
    path = tmp_path / "sessions.jsonl"
    sessions.export(client, str(path), key_prefix=key_prefix)
    *content, seal = path.read_bytes().splitlines(keepends=True)
    heading, line = map(json.loads, content)
    assert heading == {
        "format": "memorystore-chat sessions",
        "version": 1,
        "key_prefix": key_prefix,
    }
    assert line == {
        "session": "a",
        "ttl_ms": None,
        "offset": 0,
        "last": True,
        "elements": [*(element.decode() for element in made), {"base64": "/w=="}],
    }
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    assert json.loads(seal) == {
        "end": {"sessions": 1, "messages": 3, "pieces": 1, "sha256": digest}
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["sessions.jsonl"]


def test_export_by_ids(client, key_prefix):
    """Only the named sessions are written; unknown ones are reported."""
    for name in "abc":
        fill(client, f"{key_prefix}{name}", 1)
    file = io.BytesIO()
    report = sessions.export(client, file, ids=["a", "c", "nobody"], key_prefix=key_prefix)
    assert (report.sessions, report.missing) == (2, 1)
    names = [json.loads(line)["session"] for line in file.getvalue().splitlines()[1:-1]]
    assert names == ["a", "c"]


def test_loading_under_another_prefix(client, key_prefix):
    """The ids in the file have no prefix, so a copy can live beside the original."""
    made = fill(client, f"{key_prefix}a", 3)
    report = sessions.load(client, exported(client, key_prefix), key_prefix=f"{key_prefix}copy:")
    assert report.sessions == 1
    assert stored(client, f"{key_prefix}copy:a") == made == stored(client, f"{key_prefix}a")


def test_loading_twice_changes_nothing(client, key_prefix):
    """Sessions that are there, also such that have been continued, are left as they are."""
    file = exported(client, key_prefix)
    first = fill(client, f"{key_prefix}a", 2)
    fill(client, f"{key_prefix}b", 1500)
    file = exported(client, key_prefix)
    client.rpush(f"{key_prefix}a", b"newer")
    report = sessions.load(client, file)
    assert (report.sessions, report.messages, report.existing) == (0, 0, 2)
    assert stored(client, f"{key_prefix}a") == [*first, b"newer"]
    assert client.llen(f"{key_prefix}b") == 1500


@pytest.mark.parametrize("size", [3, 2500])
def test_sessions_with_other_messages_are_left_alone_unless_told(client, key_prefix, size):
    """Different or fewer messages, or another type of key, are conflicts."""
    made = fill(client, f"{key_prefix}different", size)
    fill(client, f"{key_prefix}shorter", size)
    fill(client, f"{key_prefix}string", size)
    client.expire(f"{key_prefix}different", 100)
    file = exported(client, key_prefix)
    client.unlink(f"{key_prefix}different", f"{key_prefix}string")
    client.rpush(f"{key_prefix}different", "x", "y", "z", "and more")
    client.ltrim(f"{key_prefix}shorter", 0, 0)
    client.set(f"{key_prefix}string", "precious")
    report = sessions.load(client, file)
    assert (report.sessions, report.conflicting) == (0, 3)
    assert client.llen(f"{key_prefix}different") == 4
    assert client.llen(f"{key_prefix}shorter") == 1
    file.seek(0)
    report = sessions.load(client, file, overwrite=True)
    assert (report.sessions, report.messages, report.conflicting) == (2, 2 * size, 1)
    assert stored(client, f"{key_prefix}different") == made
    assert 90 < client.ttl(f"{key_prefix}different") <= 100
    assert client.llen(f"{key_prefix}shorter") == size
    assert client.get(f"{key_prefix}string") == b"precious"
    assert not list(client.scan_iter(match=f"{migrate.STAGING}*"))


def test_a_file_that_was_cut_off_is_refused(client, key_prefix):
    """Wherever it ends too early, nothing is loaded."""
    fill(client, f"{key_prefix}a", 2)
    fill(client, f"{key_prefix}b", 2)
    whole = exported(client, key_prefix).getvalue()
    sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    ends = [i + 1 for i, byte in enumerate(whole[:-1]) if byte == ord("\n")]
    assert len(ends) == 3
    for end in [*ends, ends[1] + 100, len(whole) - 2, len(whole) - 30]:
        with pytest.raises(MemorystoreChatError, match=r"cut off.*Nothing was loaded; take anoth"):
            sessions.load(client, io.BytesIO(whole[:end]))
    assert list(sessions.scan(client, key_prefix=key_prefix)) == []
    assert sessions.load(client, io.BytesIO(whole.rstrip())).sessions == 2


def test_a_file_that_was_changed_is_refused(client, key_prefix):
    """A changed letter, a lost line and a doubled line do not get past the checksum."""
    fill(client, f"{key_prefix}a", 2)
    fill(client, f"{key_prefix}b", 2)
    whole = exported(client, key_prefix).getvalue()
    sessions.delete(client, key_prefix=key_prefix, dry_run=False)
    lines = whole.splitlines(keepends=True)
    for changed in (
        whole.replace(b"message 1", b"message 2"),
        b"".join([*lines[:1], *lines[2:]]),
        b"".join([*lines[:2], *lines[1:]]),
    ):
        with pytest.raises(MemorystoreChatError, match=r"was changed after.*Nothing was loaded"):
            sessions.load(client, io.BytesIO(changed))
    assert list(sessions.scan(client, key_prefix=key_prefix)) == []


@pytest.mark.parametrize("content", [b"", b"\n", b"hello", b"[1]\n", b"\x89PNG\r\n", b"[" * 9999])
def test_a_file_of_another_kind_is_refused(client, content):
    """The error says what was expected."""
    with pytest.raises(MemorystoreChatError, match=r"not a file that sessions\.export\(\) wrote"):
        sessions.load(client, io.BytesIO(content))


def test_a_file_of_a_newer_version_is_refused(client):
    """The error says which version and what to do."""
    content = b'{"format":"memorystore-chat sessions","version":2,"key_prefix":""}\n{"end":{}}\n'
    with pytest.raises(MemorystoreChatError, match=r"version 2 of the format.*newer memorystore"):
        sessions.load(client, io.BytesIO(content))


def test_a_failed_export_leaves_the_earlier_file(valkey_server, key_prefix, tmp_path):
    """The new file takes the old one's place when it is complete, and not before."""
    path = tmp_path / "sessions.jsonl"
    path.write_text("earlier")
    with InterferingRedis(host=valkey_server.host, port=valkey_server.port) as client:

        def fail() -> None:
            raise redis.ConnectionError("gone")

        fill(client, f"{key_prefix}a", 1)
        client.actions, client.pipelines = {3: fail}, 0
        with pytest.raises(MemorystoreChatError, match=r"failed while reading sessions"):
            sessions.export(client, path, key_prefix=key_prefix)
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sessions.jsonl"]


def test_open_files_and_compressed_ones(client, key_prefix, tmp_path):
    """Anything binary that can be rewound will do, from where it stands."""
    made = fill(client, f"{key_prefix}a", 3)
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        sessions.export(client, file, key_prefix=key_prefix)
    client.unlink(f"{key_prefix}a")
    with gzip.open(tmp_path / "a.gz", "rb") as file:
        assert sessions.load(client, file).sessions == 1
    assert stored(client, f"{key_prefix}a") == made


def test_text_files_are_refused(client, tmp_path):
    """They would change line ends; the error names the mode."""
    with (tmp_path / "a").open("w") as file, pytest.raises(TypeError, match=r"mode 'wb'"):
        sessions.export(client, file)
    with (tmp_path / "a").open() as file, pytest.raises(TypeError, match=r"mode 'rb'.*rewound"):
        sessions.load(client, file)
    with pytest.raises(TypeError, match=r"a path, or a file"):
        sessions.load(client, 7)
    with pytest.raises(FileNotFoundError):
        sessions.load(client, tmp_path / "missing")


def test_a_long_session_goes_in_pieces(interfering, key_prefix):
    """Of at most 1,000 messages; it appears under its name when it is whole."""
    made = fill(interfering, f"{key_prefix}a", 2500)
    interfering.expire(f"{key_prefix}a", 100)
    file = exported(interfering, key_prefix)
    lines = [json.loads(line) for line in file.getvalue().splitlines()[1:-1]]
    shape = [(line["offset"], len(line["elements"]), line["last"]) for line in lines]
    assert shape == [(0, 1000, False), (1000, 1000, False), (2000, 500, True)]
    interfering.unlink(f"{key_prefix}a")
    seen = []

    def look() -> None:
        seen.append(interfering.llen(f"{key_prefix}a"))

    interfering.actions, interfering.pipelines = dict.fromkeys(range(1, 20), look), 0
    assert sessions.load(interfering, file).messages == 2500
    assert set(seen) == {0}
    assert stored(interfering, f"{key_prefix}a") == made
    assert 90 < interfering.ttl(f"{key_prefix}a") <= 100


def test_a_huge_session_does_not_fill_the_memory(valkey_server, key_prefix, tmp_path):
    """80 MB in one session go out and in through less than 60 MB."""
    client = valkey_server.client()
    for _ in range(8):
        client.rpush(f"{key_prefix}a", *elements(20, text="x" * 500_000))
    path = tmp_path / "sessions.jsonl"
    tracemalloc.start()
    try:
        sessions.export(client, path, key_prefix=key_prefix)
        client.unlink(f"{key_prefix}a")
        assert sessions.load(client, path).messages == 160
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 80e6
    assert peak < 60e6


def test_a_session_that_grows_while_it_is_exported(interfering, key_prefix):
    """The file has it as it was when its export began."""
    made = fill(interfering, f"{key_prefix}a", 2500)
    grow = {n: lambda: fill(interfering, f"{key_prefix}a", 700) for n in (4, 5)}
    interfering.actions, interfering.pipelines = grow, 0
    file = exported(interfering, key_prefix)
    interfering.actions = {}
    assert interfering.llen(f"{key_prefix}a") == 3900
    sessions.load(interfering, file, key_prefix=f"{key_prefix}copy:")
    assert stored(interfering, f"{key_prefix}copy:a") == made


def test_a_session_that_is_trimmed_while_it_is_exported(interfering, key_prefix):
    """It is read again at once: no message is missing in the middle or there twice."""
    fill(interfering, f"{key_prefix}a", 2500)

    def append_and_trim() -> None:
        fill(interfering, f"{key_prefix}a", 3)
        interfering.ltrim(f"{key_prefix}a", -2500, -1)

    interfering.actions, interfering.pipelines = {5: append_and_trim}, 0
    file = io.BytesIO()
    report = sessions.export(interfering, file, key_prefix=key_prefix)
    assert (report.sessions, report.messages) == (1, 2500)
    file.seek(0)
    now = stored(interfering, f"{key_prefix}a")
    loaded = sessions.load(interfering, file, key_prefix=f"{key_prefix}copy:")
    assert (loaded.sessions, loaded.messages) == (1, 2500)
    assert stored(interfering, f"{key_prefix}copy:a") == now
    assert not list(interfering.scan_iter(match=f"{migrate.STAGING}*"))


def test_a_session_that_is_cleared_while_it_is_exported(interfering, key_prefix):
    """It is not in the file, as if it had been cleared before."""
    fill(interfering, f"{key_prefix}a", 2500)
    made = fill(interfering, f"{key_prefix}b", 1)
    interfering.actions = {n: lambda: interfering.unlink(f"{key_prefix}a") for n in (5, 6)}
    interfering.pipelines = 0
    file = io.BytesIO()
    report = sessions.export(interfering, file, key_prefix=key_prefix)
    assert (report.sessions, report.messages) == (1, 1)
    file.seek(0)
    loaded = sessions.load(interfering, file, key_prefix=f"{key_prefix}copy:")
    assert (loaded.sessions, loaded.messages) == (1, 1)
    assert not interfering.exists(f"{key_prefix}copy:a")
    assert stored(interfering, f"{key_prefix}copy:b") == made


def test_an_interrupted_load_is_repeated(interfering, key_prefix):
    """Nothing is half there; loading again completes it, whatever the first try left behind."""
    made = fill(interfering, f"{key_prefix}a", 2500)
    file = exported(interfering, key_prefix)
    interfering.unlink(f"{key_prefix}a")

    def fail() -> None:
        raise redis.ConnectionError("gone")

    interfering.actions, interfering.pipelines = {4: fail}, 0
    with pytest.raises(MemorystoreChatError, match=r"failed while writing sessions"):
        sessions.load(interfering, file)
    assert not interfering.exists(f"{key_prefix}a")
    (left,) = interfering.scan_iter(match=f"{migrate.STAGING}*")
    assert 0 < interfering.ttl(left) <= 600
    interfering.actions = {}
    interfering.lset(left, 0, "left by another file")
    file.seek(0)
    assert sessions.load(interfering, file).messages == 2500
    assert stored(interfering, f"{key_prefix}a") == made
    assert not interfering.exists(left)


def test_a_session_that_appears_while_it_is_loaded(interfering, key_prefix):
    """Whoever created it in the meantime keeps it; it is reported as a conflict."""
    fill(interfering, f"{key_prefix}long", 2500)
    file = exported(interfering, key_prefix)
    interfering.unlink(f"{key_prefix}long")
    interfering.actions = {5: lambda: fill(interfering, f"{key_prefix}long", 1)}
    interfering.pipelines = 0
    report = sessions.load(interfering, file)
    assert (report.sessions, report.conflicting) == (0, 1)
    assert interfering.llen(f"{key_prefix}long") == 1
    interfering.unlink(f"{key_prefix}long")
    fill(interfering, f"{key_prefix}short", 2)
    file = exported(interfering, key_prefix)
    interfering.unlink(f"{key_prefix}short")
    interfering.actions = {2: lambda: fill(interfering, f"{key_prefix}short", 1)}
    interfering.pipelines = 0
    report = sessions.load(interfering, file)
    assert (report.sessions, report.conflicting) == (0, 1)
    assert interfering.llen(f"{key_prefix}short") == 1
    assert not list(interfering.scan_iter(match=f"{migrate.STAGING}*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_lost_replies_double_nothing(server, key_prefix, overwrite):
    """The reply to a write is lost, redis-py sends it again, and the session is there once."""
    with Proxy(server.host, server.port) as proxy, server.client() as client:
        retrying = redis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 3))
        made = fill(client, f"{key_prefix}long", 2500)
        short = fill(client, f"{key_prefix}short", 3)
        file = exported(client, key_prefix)
        if not overwrite:
            client.unlink(f"{key_prefix}long", f"{key_prefix}short")
        for phrase in (made[-1], made[1500], b"RENAME", short[-1]):
            proxy.lose_reply_to = phrase
            file.seek(0)
            report = sessions.load(retrying, file, overwrite=overwrite)
            assert proxy.lose_reply_to is None
            assert (report.sessions, report.messages, report.conflicting) == (2, 2503, 0)
            assert stored(client, f"{key_prefix}long") == made
            assert stored(client, f"{key_prefix}short") == short
            if not overwrite:
                client.unlink(f"{key_prefix}long", f"{key_prefix}short")
        retrying.close()


@pytest.mark.parametrize(
    "key", ["a", "ä:1", "{tag}1", "1{tag}", "a}b", "a{}b", "{", "}", "{{x}}", "a}{b}", "}{", "}a{b"]
)
def test_parts_are_staged_in_the_slot_of_their_session(key):
    """A cluster renames only within a slot, whatever braces the key has."""
    staged = migrate._staging_key(key)
    assert staged.startswith(migrate.STAGING)
    assert key_slot(staged.encode()) == key_slot(key.encode())


def test_a_full_server_says_so(tmp_path):
    """What was loaded by then stays, nothing is half there, and the error says what to do."""
    path = tmp_path / "a"
    with (
        servers.valkey(maxmemory="6mb", maxmemory_policy="noeviction") as server,
        server.client() as client,
    ):
        for number in range(20):
            fill(client, f"a:{number}", 800)
        sessions.export(client, path, key_prefix="a:")
        with pytest.raises(MemorystoreChatError, match=r"refused writing .*: OOM.*memory is full"):
            sessions.load(client, path, key_prefix="b:")
        client.config_set("maxmemory", "50mb")
        found = list(sessions.scan(client))
        assert 20 < len(found) < 40
        assert {session.messages for session in found} == {800}
        assert sessions.load(client, path, key_prefix="b:").sessions == 40 - len(found)


@pytest.mark.parametrize("decode", [False, True])
def test_from_a_cluster_to_a_server_and_back(valkey_cluster, client, key_prefix, tmp_path, decode):
    """A file does not care where it comes from."""
    path, again = tmp_path / "sessions.jsonl", tmp_path / "again.jsonl"
    with valkey_cluster.client(decode_responses=decode) as cluster:
        for number in range(40):
            fill(cluster, f"{key_prefix}{number}", number + 1)
        long = fill(cluster, f"{key_prefix}long", 2500)
        assert sessions.export(cluster, path, key_prefix=key_prefix).sessions == 41
        assert sessions.load(client, path).sessions == 41
        assert stored(client, f"{key_prefix}long") == long
        assert sessions.export(client, again, key_prefix=key_prefix).sessions == 41
        report = sessions.load(cluster, again)
        assert (report.sessions, report.existing, report.conflicting) == (0, 41, 0)
        sessions.delete(cluster, key_prefix=key_prefix, dry_run=False)
        assert sessions.load(cluster, again).messages == 820 + 2500
        assert cluster.llen(f"{key_prefix}long") == 2500
        assert sessions.load(cluster, again, overwrite=True).messages == 820 + 2500
    assert sorted(path.read_bytes().splitlines()[1:-1]) == sorted(
        again.read_bytes().splitlines()[1:-1]
    )


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
def test_copying_from_langchain_community(server, key_prefix, decode):
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


def test_copying_uses_the_other_librarys_prefix_by_default():
    """message_store: in front of the originals, nothing in front of the copies."""
    with servers.valkey() as server, server.client() as client:
        community(client, "message_store:a", CONVERSATION)
        assert sessions.from_langchain_community(client, dry_run=False).sessions == 1
        assert MemorystoreChatMessageHistory(client, "a").messages == CONVERSATION
        assert sessions.from_langchain_community(client, dry_run=False).existing == 1


@pytest.mark.parametrize("size", [2, 1700])
def test_copying_again_adds_only_what_is_new(client, key_prefix, size):
    """The second run copies nothing twice; a session that grew gets the new messages."""
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


def test_a_copy_that_went_its_own_way_is_left_alone(client, key_prefix):
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


def test_a_session_that_grows_while_it_is_copied(interfering, key_prefix):
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


def test_unreadable_messages_are_copied_and_reported(client, key_prefix):
    """Nothing is dropped silently; repair() finds them in the copy."""
    community(client, f"{key_prefix}theirs:a", CONVERSATION[:2])
    client.lpush(f"{key_prefix}theirs:a", "{broken")
    community(client, f"{key_prefix}theirs:a", CONVERSATION[-1:])
    report = copied(client, key_prefix, dry_run=False)
    assert (report.messages, report.unreadable) == (4, 1)
    ours = MemorystoreChatMessageHistory(client, "a", key_prefix=f"{key_prefix}ours:")
    assert len(ours.repair(dry_run=False)) == 1
    assert ours.messages == [*CONVERSATION[:2], CONVERSATION[-1]]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("message_store:", "message_store:new:"), ("", ""), ("", "a:"), ("a", "a")]
)
def test_copies_must_not_look_like_originals(client, theirs, ours):
    """A prefix for the copies that begins with that of the originals is refused."""
    with pytest.raises(ValueError, match=r"copies would be taken for originals"):
        sessions.from_langchain_community(client, key_prefix_from=theirs, key_prefix=ours)


def test_progress_of_export_load_and_copy(client, key_prefix, tmp_path, capsys):
    """Each shows its own bar when asked for."""
    fill(client, f"{key_prefix}theirs:a", 1)
    path: Path = tmp_path / "a"
    sessions.export(client, path, key_prefix=key_prefix, progress="always")
    assert "Exporting" in capsys.readouterr().err
    sessions.load(client, path, progress="always")
    assert "Loading: 100%" in capsys.readouterr().err
    copied(client, key_prefix, progress="always")
    assert "Copying" in capsys.readouterr().err
