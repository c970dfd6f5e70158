"""What the notebooks share: pictures, key prefixes, and the checks of the exercises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from memorystore_chat import MemorystoreChatMessageHistory
from memorystore_chat.commands import Client
from memorystore_tutorial import checks, key_prefix, picture, prefixes


@pytest.mark.parametrize("name", ["turn", "list", "life", "loop", "threads", "cluster"])
def test_picture_is_a_png_with_words(name: str) -> None:
    shown = picture(name)
    data, metadata = shown._repr_png_(), shown._repr_mimebundle_()[1]
    assert (data[0] if isinstance(data, tuple) else data)[:4].startswith("iVBO")
    assert "session" in str(metadata) or "checkpoint" in str(metadata) or "turn" in str(metadata)


def test_unknown_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="there are turn, list"):
        picture("map")


def test_prefix_stays_with_a_kernel_and_is_shared_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mine = key_prefix("prefixtest")
    ask = f"import runpy; m = runpy.run_path({prefixes.__file__!r}); "
    ask += "print(m['key_prefix']('prefixtest'))"
    other = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    again = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    assert key_prefix("prefixtest") == mine
    assert other == again != mine
    assert mine.startswith("tutorial-prefixtest")


def test_prefix_of_another_form_is_refused() -> None:
    """A name goes into a file's name, so it has letters and digits only."""
    with pytest.raises(ValueError, match="lower-case"):
        key_prefix("../x")


@pytest.fixture
def history(client: Client, key_prefix: str) -> MemorystoreChatMessageHistory:
    """An empty session."""
    return MemorystoreChatMessageHistory(client, "exercise", key_prefix=key_prefix)


def test_hints_grow_and_begin_anew_when_solved(history: MemorystoreChatMessageHistory) -> None:
    said = [str(checks.check_turn(history)) for _ in range(4)]
    assert len(set(said)) == 3
    assert said[2] == said[3]
    history.add_messages([HumanMessage("q"), AIMessage("a")])
    assert checks.check_turn(history).startswith("Solved.")
    history.clear()
    assert str(checks.check_turn(history)) == said[0]
    checks._failed.clear()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("10.1.2.3", "no TLS"),
        ("valkeys://10.1.2.4", "10.1.2.4"),
        ("rediss://10.1.2.3:6378", "6378"),
        ("http://10.1.2.3", "EndpointError"),
        (None, "still None"),
        (6379, "EndpointError|TypeError"),
    ],
)
def test_usual_mistakes_get_a_hint_of_their_own(text: str, problem: str) -> None:
    assert re.search(problem, str(checks.check_endpoint(text)))
    checks._failed.clear()


@pytest.mark.parametrize("text", ["valkeys://10.1.2.3:6379", "rediss://10.1.2.3"])
def test_every_right_answer_is_taken(text: str) -> None:
    assert checks.check_endpoint(text).startswith("Solved.")
