"""Sessions of every size exported and loaded while others write."""

import io
import json
import tracemalloc
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

import servers
from interference import InterferingRedis
from memorystore_chat import MemorystoreChatError, sessions
from memorystore_chat.sessions._moving import staging_key
from memorystore_chat.sessions.scanning import STAGING
from proxy import Proxy
from servers import Cluster, Server
from stored import elements, exported, fill, stored


def test_loading_twice_changes_nothing(client: redis.Redis, key_prefix: str) -> None:
    """Sessions that are there, also such that have been continued, are left as they are."""
    first = fill(client, f"{key_prefix}a", 2)
    fill(client, f"{key_prefix}b", 1500)
    file = exported(client, key_prefix)
    client.rpush(f"{key_prefix}a", b"newer")
    report = sessions.load(client, file)
    assert (report.sessions, report.messages, report.existing) == (0, 0, 2)
    assert stored(client, f"{key_prefix}a") == [*first, b"newer"]
    assert client.llen(f"{key_prefix}b") == 1500


@pytest.mark.parametrize("size", [3, 2500])
def test_sessions_with_other_messages_are_left_alone_unless_told(
    client: redis.Redis, key_prefix: str, size: int
) -> None:
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
    assert not list(client.scan_iter(match=STAGING + b"*"))


def test_a_long_session_goes_in_pieces(interfering: InterferingRedis, key_prefix: str) -> None:
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


def test_a_huge_session_does_not_fill_the_memory(
    valkey_server: Server, key_prefix: str, tmp_path: Path
) -> None:
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


def test_a_session_that_grows_while_it_is_exported(
    interfering: InterferingRedis, key_prefix: str
) -> None:
    """The file has it as it was when its export began."""
    made = fill(interfering, f"{key_prefix}a", 2500)
    interfering.actions = {n: lambda: fill(interfering, f"{key_prefix}a", 700) for n in (4, 5)}
    interfering.pipelines = 0
    file = exported(interfering, key_prefix)
    interfering.actions = {}
    assert interfering.llen(f"{key_prefix}a") == 3900
    sessions.load(interfering, file, key_prefix=f"{key_prefix}copy:")
    assert stored(interfering, f"{key_prefix}copy:a") == made


def test_a_session_that_is_trimmed_while_it_is_exported(
    interfering: InterferingRedis, key_prefix: str
) -> None:
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
    assert not list(interfering.scan_iter(match=STAGING + b"*"))
    fill(interfering, f"{key_prefix}other:a", 1)
    file.seek(0)
    report = sessions.load(interfering, file, key_prefix=f"{key_prefix}other:")
    assert (report.sessions, report.conflicting) == (0, 1)


def test_a_session_that_is_cleared_while_it_is_exported(
    interfering: InterferingRedis, key_prefix: str
) -> None:
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


def test_an_interrupted_load_is_repeated(interfering: InterferingRedis, key_prefix: str) -> None:
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
    (left,) = interfering.scan_iter(match=STAGING + b"*")
    assert 0 < interfering.ttl(left) <= 600
    interfering.actions = {}
    interfering.lset(left, 0, "left by another file")
    file.seek(0)
    assert sessions.load(interfering, file).messages == 2500
    assert stored(interfering, f"{key_prefix}a") == made
    assert not interfering.exists(left)


@pytest.mark.parametrize(("size", "moment"), [(2500, 5), (2, 2)])
def test_a_session_that_appears_while_it_is_loaded(
    interfering: InterferingRedis, key_prefix: str, size: int, moment: int
) -> None:
    """Whoever created it in the meantime keeps it; it is reported as a conflict."""
    fill(interfering, f"{key_prefix}a", size)
    file = exported(interfering, key_prefix)
    interfering.unlink(f"{key_prefix}a")
    interfering.actions = {moment: lambda: fill(interfering, f"{key_prefix}a", 1)}
    interfering.pipelines = 0
    report = sessions.load(interfering, file)
    assert (report.sessions, report.conflicting) == (0, 1)
    assert interfering.llen(f"{key_prefix}a") == 1
    assert not list(interfering.scan_iter(match=STAGING + b"*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_lost_replies_double_nothing(server: Server, key_prefix: str, overwrite: bool) -> None:
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
def test_parts_are_staged_in_the_slot_of_their_session(key: str) -> None:
    """A cluster renames only within a slot, whatever braces the key has."""
    staged = staging_key(key.encode())
    assert staged.startswith(STAGING)
    assert key_slot(staged) == key_slot(key.encode())


def test_a_full_server_says_so(tmp_path: Path) -> None:
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
def test_from_a_cluster_to_a_server_and_back(
    valkey_cluster: Cluster, client: redis.Redis, key_prefix: str, tmp_path: Path, decode: bool
) -> None:
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
