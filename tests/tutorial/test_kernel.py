"""Key prefixes and other processes."""

import os
from pathlib import Path

import pytest
import redis

from memorystore_chat import MemorystoreChatError, connect
from memorystore_tutorial import key_prefix, new_process


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
