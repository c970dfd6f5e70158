"""Functions of the notebook's that run in another process."""

import os

import pytest

from memorystore_chat import MemorystoreChatError, connect
from memorystore_chat.commands import Client
from memorystore_tutorial import new_process


def test_the_function_runs_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    word = "Grüße"
    new_process(lambda: print(word, os.getpid()))  # noqa: T201
    said, number = capsys.readouterr().out.split()
    assert said == word
    assert int(number) != os.getpid()


def test_a_failure_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print("so far")  # noqa: T201
        connect("127.0.0.1:1", password="hunter2", timeout=0.2)

    with pytest.raises(
        MemorystoreChatError, match=r"failed: .*nothing listens on port 1"
    ) as caught:
        new_process(fail)
    assert "hunter2" not in str(caught.value)
    assert capsys.readouterr().out == "so far\n"


def test_a_connection_is_not_copied(client: Client) -> None:
    with pytest.raises(TypeError, match=r"such as a connection\. Open it inside"):
        new_process(client.ping)
