"""Type checkers accept what users write with the package: mypy in `make lint`, the other here."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = Path(__file__).with_name("typing_user.py")


@pytest.mark.timeout(300)
def test_user_code_passes_the_type_checker(tmp_path: Path) -> None:
    """An agent with a memory and another middleware, in the strictest mode, without an ignore."""
    code = tmp_path / CODE.name
    code.write_text(CODE.read_text())
    options = ["--level", "error", "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", *options, code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
