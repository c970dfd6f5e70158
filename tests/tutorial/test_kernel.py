"""Key prefixes, other processes, and the kill of a server."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from IPython.core.formatters import DisplayFormatter

from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, connect
from memorystore_tutorial import failover, key_prefix, new_process
from servers import Server


def test_a_prefix_is_one_kernels_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(2):
        assert key_prefix("lobby") == "tutorial-lobby:"
        new_process(lambda: print(key_prefix("lobby")))  # noqa: T201
        assert capsys.readouterr().out == "tutorial-lobby-2:\n"


def test_a_function_runs_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    word = "Grüße"

    def fail() -> None:
        print(word, os.getpid())  # noqa: T201
        connect("127.0.0.1:1", password="hunter2", timeout=0.2)

    with pytest.raises(MemorystoreChatError, match=r"failed: .*nothing listens") as caught:
        new_process(fail)
    assert "hunter2" not in str(caught.value)
    said, number = capsys.readouterr().out.split()
    assert said == word
    assert int(number) != os.getpid()
    with pytest.raises(MemorystoreChatError, match="was ended"):
        new_process(lambda: os.kill(os.getpid(), 9))
    with pytest.raises(TypeError, match="Open it inside"):
        new_process(redis.Redis().ping)


def test_a_failover_is_counted_at_the_server_and_plotted(
    valkey_server: Server, key_prefix: str
) -> None:
    """Here one message is lost, and another is there twice; the plot has words."""
    client = valkey_server.client()
    ada = MemorystoreChatMessageHistory(client, "ada", key_prefix=key_prefix)

    def kill(node: int) -> None:
        assert client.lpop(ada.key), node
        ada.add_ai_message("answer 1")

    cluster: Any = SimpleNamespace(primary_of=lambda _: 3, kill=kill)
    run = failover(ada, cluster, turns=9, kill_at=4)
    account = "18 messages attempted, 18 stored, 1 doubled, 1 lost"
    assert repr(run).startswith(f"{account}; the longest of 9 turns took 0.")
    data, metadata = DisplayFormatter().format(run)
    assert data["image/png"].startswith("iVBORw0KGgo")  # PNG in base64
    assert account in metadata["image/png"]["alt"]
    assert data["text/plain"] == repr(run)
