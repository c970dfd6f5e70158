"""CONTRIBUTING.md: its map and its list of calls are those of the code."""

import re
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "helpers/memorystore_chat"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_map_has_every_room() -> None:
    rooms = re.findall(r"^\| `([\w.]+)/?` \|", TEXT, re.MULTILINE)
    found = {path.name for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    assert set(rooms) == found - {"py.typed"}
    assert len(rooms) == len(set(rooms))


def test_way_through_connect_enters_each_module_once() -> None:
    """The list of calls names what there is, and each module of connection/ once."""
    [block] = re.findall(r"^```text\n(.+?)^```", TEXT, re.MULTILINE | re.DOTALL)
    calls = re.findall(r"^ *(\w+)\.(\w+)", block, re.MULTILINE)
    for module, name in calls:
        assert hasattr(import_module(f"memorystore_chat.connection.{module}"), name), name
    modules = {path.stem for path in (PACKAGE / "connection").glob("*.py")}
    assert sorted(module for module, _ in calls) == sorted(modules - {"__init__", "tunnel"})


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"`([\w.-]*/[\w./-]+)`", TEXT)
    assert named
    assert [
        path for path in named
        if "NAME" not in path and not (ROOT / path).exists() and not (PACKAGE / path).exists()
    ] == []  # fmt: skip
