"""What was printed for people, as one line."""

import pytest

WIDTH = 60


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, joined; each printed line fits a notebook in a narrow window."""
    out = capsys.readouterr().out
    for line in out.split("\n"):
        assert len(line) <= WIDTH or " " not in line, line
    return " ".join(out.split())
