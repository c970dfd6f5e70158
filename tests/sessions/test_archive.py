"""Files of sessions: what they hold, and which ones are refused."""

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, sessions
from servers import Server
from stored import elements, exported, fill, stored


@pytest.mark.parametrize("decode", [False, True])
def test_what_is_exported_comes_back_byte_for_byte(
    server: Server, client: redis.Redis, key_prefix: str, tmp_path: Path, decode: bool
) -> None:
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


def test_the_file_is_json_lines(client: redis.Redis, key_prefix: str, tmp_path: Path) -> None:
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


def test_export_by_ids(client: redis.Redis, key_prefix: str) -> None:
    for name in "abc":
        fill(client, f"{key_prefix}{name}", 1)
    file = io.BytesIO()
    report = sessions.export(client, file, ids=["a", "c", "nobody"], key_prefix=key_prefix)
    assert (report.sessions, report.missing) == (2, 1)
    names = [json.loads(line)["session"] for line in file.getvalue().splitlines()[1:-1]]
    assert names == ["a", "c"]


def test_loading_under_another_prefix(client: redis.Redis, key_prefix: str) -> None:
    made = fill(client, f"{key_prefix}a", 3)
    report = sessions.load(client, exported(client, key_prefix), key_prefix=f"{key_prefix}copy:")
    assert report.sessions == 1
    assert stored(client, f"{key_prefix}copy:a") == made == stored(client, f"{key_prefix}a")


def test_a_file_that_was_cut_off_is_refused(client: redis.Redis, key_prefix: str) -> None:
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


def test_a_file_that_was_changed_is_refused(client: redis.Redis, key_prefix: str) -> None:
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
def test_a_file_of_another_kind_is_refused(client: redis.Redis, content: bytes) -> None:
    with pytest.raises(MemorystoreChatError, match=r"not a file that sessions\.export\(\) wrote"):
        sessions.load(client, io.BytesIO(content))


def test_a_file_of_a_newer_version_is_refused(client: redis.Redis) -> None:
    content = b'{"format":"memorystore-chat sessions","version":2,"key_prefix":""}\n{"end":{}}\n'
    with pytest.raises(MemorystoreChatError, match=r"version 2 of the format.*newer memorystore"):
        sessions.load(client, io.BytesIO(content))


def test_a_failed_export_leaves_the_earlier_file(
    valkey_server: Server, key_prefix: str, tmp_path: Path
) -> None:
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


def test_open_files_and_compressed_ones(
    client: redis.Redis, key_prefix: str, tmp_path: Path
) -> None:
    """Anything binary that can be rewound will do, from where it stands."""
    made = fill(client, f"{key_prefix}a", 3)
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        sessions.export(client, file, key_prefix=key_prefix)
    client.unlink(f"{key_prefix}a")
    with gzip.open(tmp_path / "a.gz", "rb") as file:
        assert sessions.load(client, file).sessions == 1
    assert stored(client, f"{key_prefix}a") == made


def test_text_files_are_refused(client: redis.Redis, tmp_path: Path) -> None:
    """They would change line ends; the error names the mode."""
    with (tmp_path / "a").open("w") as file, pytest.raises(TypeError, match=r"mode 'wb'"):
        sessions.export(client, file)  # type: ignore[arg-type]
    with (tmp_path / "a").open() as file, pytest.raises(TypeError, match=r"mode 'rb'.*rewound"):
        sessions.load(client, file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a path, or a file"):
        sessions.load(client, 7)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        sessions.load(client, tmp_path / "missing")


def sealed(records: list[Any]) -> io.BytesIO:
    """A file of these lines whose last one has the right checksum."""
    *lines, end = [json.dumps(record).encode() + b"\n" for record in records]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    seal = json.loads(end)
    seal["end"]["sha256"] = digest
    return io.BytesIO(b"".join(lines) + json.dumps(seal).encode())


GOOD: list[Any] = [
    {"format": "memorystore-chat sessions", "version": 1, "key_prefix": "fuzz:"},
    {"session": "a", "ttl_ms": None, "offset": 0, "last": True, "elements": ["x", "y"]},
    {"session": "b", "ttl_ms": 5000, "offset": 0, "last": False, "elements": ["1", "2"]},
    {"session": "b", "ttl_ms": 5000, "offset": 2, "last": True, "elements": [{"base64": "/w=="}]},
    {"end": {"sessions": 2, "messages": 5, "pieces": 3}},
]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        (0, {"key_prefix": None}), (0, {"key_prefix": 7}), (0, {"key_prefix": "\ud800"}),
        (1, {"session": None}), (1, {"session": 7}), (1, {"session": "\ud800"}),
        (1, {"ttl_ms": "1"}), (1, {"ttl_ms": -1}), (1, {"ttl_ms": 1e300}), (1, {"ttl_ms": 2**63}),
        (1, {"offset": None}), (1, {"offset": -1}), (1, {"offset": 1}), (1, {"last": None}),
        (1, {"last": False}), (1, {"elements": None}), (1, {"elements": "xy"}),
        (1, {"elements": [None]}), (1, {"elements": ["\ud800"]}), (1, {"elements": [{}]}),
        (1, {"elements": [{"base64": 7}]}), (1, {"elements": [{"base64": "x"}]}),
        (3, {"offset": 3}), (3, {"session": "c"}), (3, {"last": False}),
        (4, {"end": {"sessions": 3, "messages": 5, "pieces": 3}}), (4, {"end": {}}),
    ],
)  # fmt: skip
def test_a_file_that_something_else_sealed_is_refused(
    client: redis.Redis, line: int, changes: dict[str, Any]
) -> None:
    """The right checksum does not make it sound: the error is ours, and nothing is loaded."""
    records = [*GOOD[:line], GOOD[line] | changes, *GOOD[line + 1 :]]
    with pytest.raises(MemorystoreChatError, match=r"right checksum, but .* export again"):
        sessions.load(client, sealed(records))
    assert list(client.scan_iter("fuzz:*")) == []


def test_fuzzed_files_are_loaded_or_refused(valkey_server: Server) -> None:
    """Whatever JSON stands in them: all sessions or none, and no error but ours."""
    assert sessions.load(valkey_server.client(), sealed(GOOD)).sessions == 2
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
        | st.sampled_from(["\ud800", "a", "b", 0, 1, 2, 5000]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    )  # fmt: skip
    fields = ["session", "ttl_ms", "offset", "last", "elements", "base64", "key_prefix", "version"]

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.integers(0, 3), st.dictionaries(st.sampled_from(fields), values, max_size=3),
           st.permutations(range(1, 4)), st.sets(st.sampled_from(fields), max_size=1))  # fmt: skip
    def check(line: int, changes: dict[str, Any], order: list[int], without: set[str]) -> None:
        records = [dict(record) for record in GOOD]
        records[line] |= changes
        records[line] = {k: v for k, v in records[line].items() if k not in without}
        with valkey_server.client() as client:
            client.flushdb()
            mixed = [records[0], *(records[index] for index in order), records[4]]
            try:
                sessions.load(client, sealed(mixed), key_prefix="fuzz:")
            except MemorystoreChatError:
                assert client.dbsize() == 0

    check()


@pytest.mark.parametrize("keep", [20, -1, -9])
def test_a_compressed_file_that_was_cut_off_is_refused(
    client: redis.Redis, key_prefix: str, tmp_path: Path, keep: int
) -> None:
    """Gzip's own errors are not handed on as they are."""
    fill(client, f"{key_prefix}a", 500)
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb") as file:
        sessions.export(client, file, key_prefix=key_prefix)
    path.write_bytes(path.read_bytes()[:keep])
    with (
        gzip.open(path, "rb") as file,
        pytest.raises(MemorystoreChatError, match=r"cannot be decompressed.*another copy"),
    ):
        sessions.load(client, file)


def test_two_exports_to_one_path(
    interfering: InterferingRedis, key_prefix: str, tmp_path: Path
) -> None:
    """The later one wins, each file is whole, and only its owner may read it."""
    fill(interfering, f"{key_prefix}a", 1500)
    path, somebodys = tmp_path / "sessions.jsonl", tmp_path / "sessions.jsonl.part"
    somebodys.write_text("precious")
    meanwhile = []

    def second() -> None:
        with redis.Redis.from_pool(interfering.connection_pool) as other:
            meanwhile.append(sessions.export(other, path, key_prefix=key_prefix))
        assert sessions.load(interfering, path).existing == 1

    interfering.actions, interfering.pipelines = {4: second}, 0
    assert sessions.export(interfering, path, key_prefix=key_prefix).messages == 1500
    assert [report.messages for report in meanwhile] == [1500]
    assert sessions.load(interfering, path).existing == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert somebodys.read_text() == "precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, somebodys.name]
