"""Replicas of the web app, which share one memory."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import servers
from web_app import Replica

PREFIX = f"test-app-{time.time_ns()}:"


@pytest.fixture(scope="module")
def start(
    valkey_server: servers.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Replica]]:
    """Start replicas; they end with the module, or before."""
    replicas: list[Replica] = []

    def start(**settings: Any) -> Replica:
        log = tmp_path_factory.mktemp("app") / "log"
        replicas.append(Replica(log, valkey_server, KEY_PREFIX=PREFIX, **settings))
        return replicas[-1]

    yield start
    for replica in replicas:
        replica.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def shared(start: Callable[..., Replica]) -> Replica:
    """A replica for tests that leave it as it was."""
    return start()


@pytest.fixture
def slow(start: Callable[..., Replica]) -> Replica:
    """Another one, whose model says ten words a second."""
    return start(DEMO_MODEL_DELAY="0.1")
