"""Replicas of the web app, and their memory."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import servers
from web_app import Replica


@pytest.fixture
def start(
    valkey_server: servers.Server, tmp_path: Path, key_prefix: str
) -> Iterator[Callable[..., Replica]]:
    """Start replicas with one memory; settings are environment variables."""
    replicas: list[Replica] = []

    def start(program: str = "", **settings: str) -> Replica:
        own = {"KEY_PREFIX": key_prefix} | settings
        log = tmp_path / f"{len(replicas)}.log"
        replicas.append(Replica(log, valkey_server, program, **own))
        return replicas[-1]

    yield start
    for replica in replicas:
        with suppress(ProcessLookupError):
            replica.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def shared(
    valkey_server: servers.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replica]:
    """A replica for tests that leave it as it was."""
    log = tmp_path_factory.mktemp("app") / "log"
    replica = Replica(log, valkey_server, "", KEY_PREFIX=f"test-app-{time.time_ns()}:")
    yield replica
    replica.end(signal.SIGKILL)
