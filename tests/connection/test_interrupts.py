"""A signal that raises anywhere leaves no reply behind, no lock held and no connection lost."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.exceptions import MaxConnectionsError, WatchError

import interrupts
import servers
from memorystore_chat.connection.connections import PlainConnection
from memorystore_chat.connection.opening import connect
from servers import Cluster, Server


@pytest.fixture(params=["one server", "cluster"])
def url(request: pytest.FixtureRequest, valkey_server: Server, valkey_cluster: Cluster) -> str:
    return valkey_server.url if request.param == "one server" else valkey_cluster.url


@pytest.fixture
def client(url: str, key_prefix: str) -> Iterator[Any]:
    """A client whose keys a and b hold their own names."""
    with connect(url, timeout=1, max_connections=3) as connected:
        for name in ("a", "b"):
            connected.set(f"{key_prefix}{name}", name)
        yield connected


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, type[BaseException]], None]:
    """Make the nth reading of a reply raise, before anything is read."""

    def at(number: int, kind: type[BaseException]) -> None:
        read, left = PlainConnection.read_response, [number]

        def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise kind
            return read(self, *args, **kwargs)

        monkeypatch.setattr(PlainConnection, "read_response", read_response)

    return at


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError])
def test_a_command_interrupted_between_sending_and_reading(
    client: Any, key_prefix: str, interrupt: Any, kind: type[BaseException]
) -> None:
    interrupt(1, kind)
    with pytest.raises(kind):
        client.get(f"{key_prefix}a")
    assert [client.get(f"{key_prefix}b") for _ in range(3)] == [b"b"] * 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_pipeline_interrupted_between_two_replies(
    client: Any, key_prefix: str, interrupt: Any, number: int
) -> None:
    interrupt(number, KeyboardInterrupt)
    with client.pipeline(transaction=False) as pipe:
        for _ in range(3):
            pipe.get(f"{key_prefix}a")
        with pytest.raises(KeyboardInterrupt):
            pipe.execute()
    assert [client.get(f"{key_prefix}b") for _ in range(3)] == [b"b"] * 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_transaction_interrupted_between_two_replies(
    valkey_server: Server, key_prefix: str, interrupt: Any, number: int
) -> None:
    with connect(valkey_server.url, timeout=1) as client:
        client.set(f"{key_prefix}b", "b")
        interrupt(number, KeyboardInterrupt)
        with client.pipeline() as pipe:
            pipe.get(f"{key_prefix}a")
            with pytest.raises(KeyboardInterrupt):
                pipe.execute()
        assert [client.get(f"{key_prefix}b") for _ in range(3)] == [b"b"] * 3


def test_a_watching_pipeline_that_goes_on_after_an_interrupt(
    valkey_server: Server, key_prefix: str, interrupt: Any
) -> None:
    """What it watched is lost, and it says so instead of reading another command's reply."""
    with connect(valkey_server.url, timeout=1) as client, client.pipeline() as pipe:
        pipe.watch(f"{key_prefix}a")
        interrupt(1, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            pipe.get(f"{key_prefix}a")
        with pytest.raises(WatchError):
            pipe.get(f"{key_prefix}b")


def test_an_interrupted_login_is_not_used(
    client: Any, key_prefix: str, interrupt: Any, url: str
) -> None:
    with connect(url, timeout=1) as fresh:
        interrupt(1, KeyboardInterrupt)
        for pool in interrupts.pools(fresh):
            pool.disconnect()
        with pytest.raises(KeyboardInterrupt):
            fresh.get(f"{key_prefix}a")
        assert [fresh.get(f"{key_prefix}b") for _ in range(3)] == [b"b"] * 3


def test_connections_that_were_dropped_are_replaced(client: Any, key_prefix: str) -> None:
    for pool in interrupts.pools(client):
        for _ in range(10):
            pool.get_connection()
    held = [pool.get_connection() for _ in range(3)]
    with pytest.raises(MaxConnectionsError, match="all 3 connections were in use for 1 s"):
        pool.get_connection()
    for connection in held:
        pool.release(connection)
    assert client.get(f"{key_prefix}b") == b"b"


def test_a_lock_that_an_interrupt_left_held_stops_nobody(client: Any, key_prefix: str) -> None:
    """Between taking a lock and the block that gives it back, a signal may raise as well."""
    for pool in interrupts.pools(client):
        pool._counting.acquire()
        pool.disconnect()
        pool._free.clear()

    def use() -> Any:
        for pool in interrupts.pools(client):
            for _ in range(10):
                pool.get_connection()
        return client.get(f"{key_prefix}b")

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(use).result(10) == b"b"


def test_a_connection_is_given_back_once(valkey_server: Server) -> None:
    with connect(valkey_server.url, max_connections=2) as one, connect(valkey_server.url) as other:
        (pool,), (another,) = interrupts.pools(one), interrupts.pools(other)
        first = pool.get_connection()
        pool.release(first)
        second = pool.get_connection()
        for again in (pool, another):
            again.release(first)
        first.disconnect()
        third = pool.get_connection()
        for lent, name in ((second, "second"), (third, "third")):
            lent.send_command("ECHO", name)
        assert [lent.read_response() for lent in (second, third)] == [b"second", b"third"]
        with pytest.raises(AttributeError, match="went back to its pool"):
            first.send_command("PING")
        for lent in (second, third):
            pool.release(lent)


@pytest.fixture
def time_limit() -> Iterator[Callable[[float], None]]:
    """Set an alarm that raises TimeoutError, as sockets do."""

    def stop(*_: object) -> None:
        raise TimeoutError("the job's time is up")

    before = signal.signal(signal.SIGALRM, stop)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.signal(signal.SIGALRM, before)


def test_a_pause_between_two_tries_is_interrupted(time_limit: Callable[[float], None]) -> None:
    """An alarm ends the waiting for a server that is away; afterwards all is as before."""
    with servers.valkey() as server, connect(server.url, patience=30, max_connections=2) as client:
        client.set("b", "b")
        server.kill()
        for _ in range(4):
            time_limit(0.3)
            started = time.monotonic()
            with pytest.raises(TimeoutError, match="time is up"):
                client.get("b")
            assert time.monotonic() - started < 2
        server.restart()
        assert client.get("b") is None
        (pool,) = interrupts.pools(client)
        assert interrupts.missing_connections(pool, 2) == 0


def test_a_time_limit_is_no_time_out(url: str, time_limit: Callable[[float], None]) -> None:
    """It ends the command, which is not tried again."""
    with connect(url, timeout=5) as client:
        for _ in range(3):
            time_limit(0.2)
            with pytest.raises(TimeoutError, match="time is up"):
                client.blpop("nothing comes here", timeout=2)
        client.set("b", "b")
        assert client.get("b") == b"b"
        client.delete("b")


def test_threads_go_on_while_one_is_interrupted(client: Any, key_prefix: str) -> None:
    wrong: list[Any] = []
    done = threading.Event()

    def read(name: str) -> None:
        while not done.is_set():
            try:
                if (answer := client.get(f"{key_prefix}{name}")) != name.encode():
                    wrong.append(answer)
            except redis.RedisError as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for _ in range(300):
        for pool in interrupts.pools(client):
            lent = pool.get_connection()
            lent.send_command("ECHO", "dropped")
            pool.release(lent) if _ % 2 else None
            del lent
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_real_signals_at_random_times(url: str) -> None:
    """Three hundred interrupts: no wrong reply, hang, leak, error, loss or double."""
    counts = interrupts.attack(url, 300, [], {})
    assert counts.pop("interrupts") == 300
    assert not any(counts.values()), dict(counts)
