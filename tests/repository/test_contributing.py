"""CONTRIBUTING.md: its map is that of the code, and what it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "helpers/memorystore_chat"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_map_has_every_room() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|([^|]+)\|", TEXT, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+?)/?`", "".join(row))}
    found = {path.name for path in PACKAGE.iterdir() if path.name[0] not in "_."}
    assert found - {"py.typed"} <= named


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"`([\w.-]*/[\w./-]+)`", TEXT)
    assert named
    assert [
        path
        for path in named
        if "NAME" not in path and not (ROOT / path).exists() and not (PACKAGE / path).exists()
    ] == []
