"""Type checkers accept what users write with the package: mypy in `make lint`, the other here."""

import shutil
import subprocess
import sys
from pathlib import Path


def test_user_code_passes_the_type_checker(tmp_path: Path) -> None:
    """An agent with a memory and another middleware, in the strictest mode, without an ignore."""
    code = shutil.copy(Path(__file__).with_name("typing_user.py"), tmp_path)
    options = ["--level", "error", "--pythonpath", sys.executable]
    command = [sys.executable, "-m", "basedpyright", *options, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
