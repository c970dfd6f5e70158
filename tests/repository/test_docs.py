"""The programs on the site's pages run as they are printed, but for the server's address."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from memorystore_chat import MemorystoreChatMessageHistory
from servers import Server

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("how_to/*.md"), *DOCS.glob("api/*.md")])
TESTS = """
def test_one(client):
    assert client.incr("count") == 1

def test_another(client):
    assert client.incr("count") == 1
"""


def programs(page: Path) -> list[str]:
    """The Python on a page; "before" shows the imports of another library, which is not here."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|\{code-block\} python)\n(.+?)^```", text, re.M | re.S)
    return [re.sub(r"# before\n.+?# after\n", "", block, flags=re.DOTALL) for block in blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_programs_run(
    page: Path, valkey_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends without an error; a conftest.py gives each of two tests an empty server.

    Each page of the API begins with an example.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert programs(page) or page.parent.name != "api" or page.stem == "index"
    for program in programs(page):
        with valkey_server.client() as client:
            history = MemorystoreChatMessageHistory(client, "docs-page", 60, key_prefix="chat:")
            history.add_user_message("Hello!")
        code = program.replace('"10.0.0.3"', f'"{valkey_server.url}"')
        code = code.replace("redis://10.0.0.3:6379", valkey_server.url)
        if not code.startswith("# conftest.py"):
            exec(compile(code, page.name, "exec"), {"__name__": "__main__"})
            continue
        (tmp_path / "conftest.py").write_text(code)
        (tmp_path / "test_both.py").write_text(TESTS)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
