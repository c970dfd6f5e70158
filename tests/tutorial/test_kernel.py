"""Key prefixes, other processes, and the kill of a server."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from IPython.core.formatters import DisplayFormatter

from memorystore_chat import MemorystoreChatError, MemorystoreChatMessageHistory, connect
from memorystore_chat.commands import Client
from memorystore_tutorial import failover, key_prefix, new_process, practice, prefixes


def test_a_prefix_stays_with_a_kernel_and_is_shared_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mine = key_prefix("prefixtest")
    ask = f"import runpy; m = runpy.run_path({prefixes.__file__!r}); "
    ask += "print(m['key_prefix']('prefixtest'))"
    other = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    again = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    assert key_prefix("prefixtest") == mine == "tutorial-prefixtest:"
    assert other == again == "tutorial-prefixtest-2:"


def test_a_prefix_of_another_form_is_refused() -> None:
    """A name goes into a file's name, so it has letters and digits only."""
    with pytest.raises(ValueError, match="lower-case"):
        key_prefix("../x")


def test_a_function_runs_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    word = "Grüße"
    new_process(lambda: print(word, os.getpid()))  # noqa: T201
    said, number = capsys.readouterr().out.split()
    assert said == word
    assert int(number) != os.getpid()


def test_a_failure_in_another_process_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print("so far")  # noqa: T201
        connect("127.0.0.1:1", password="hunter2", timeout=0.2)

    with pytest.raises(MemorystoreChatError, match=r"failed: .*nothing listens") as caught:
        new_process(fail)
    assert "hunter2" not in str(caught.value)
    assert capsys.readouterr().out == "so far\n"


def test_a_connection_is_not_copied(client: Client) -> None:
    with pytest.raises(TypeError, match="Open it inside"):
        new_process(client.ping)


@pytest.mark.own_server
def test_a_conversation_survives_its_server(key_prefix: str) -> None:
    """Nothing is lost or doubled, and the account shows itself as a plot with words."""
    with practice.cluster(node_timeout=1) as cluster, connect(cluster.endpoint) as client:
        ada = MemorystoreChatMessageHistory(client, "ada", key_prefix=key_prefix)
        run = failover(ada, cluster, turns=20, kill_at=5)
        assert (run.attempted, run.stored, run.doubled, run.lost) == (40, 40, 0, 0)
        assert len(run.seconds) == 20
        assert cluster.running == 5
        data, metadata = DisplayFormatter().format(run)
        assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
        assert "40 stored" in metadata["image/png"]["alt"]
        assert "40 stored" in data["text/plain"]
        with pytest.raises(ValueError, match="empty"):
            failover(ada, cluster)
        with pytest.raises(ValueError, match="kill_at"):
            failover(ada, cluster, turns=3, kill_at=4)
