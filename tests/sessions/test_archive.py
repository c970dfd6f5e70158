"""Files of sessions: what they hold, and which ones are refused."""

import gzip
import hashlib
import io
import json

import pytest
import redis
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
)

from interference import InterferingRedis
from memorystore_chat import (
    MemorystoreChatError,
    MemorystoreChatMessageHistory,
    sessions,
)
from stored import elements, exported, fill, stored


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
