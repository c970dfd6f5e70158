"""The Makefile, the workflows and .ci/run fit together and fit pyproject.toml."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
JOBS = yaml.safe_load(WORKFLOW)["jobs"]
TARGETS = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split()


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    own = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(["make", *arguments], cwd=folder, env=own, capture_output=True, text=True)


def test_targets_exist_and_help_names_each() -> None:
    run = make("--dry-run", *TARGETS)
    assert run.returncode == 0, run.stderr
    named = re.findall(r"^make ([\w-]+) ", make().stdout, re.MULTILINE)
    assert named == [target for target in TARGETS if target != "help"]


def test_old_python_is_refused_in_words(tmp_path: Path) -> None:
    for name, text in (("Makefile", MAKEFILE), ("requirements.txt", ""), ("pyproject.toml", "")):
        (tmp_path / name).write_text(text)
    run = make("lint", "PYTHON=false", folder=tmp_path)
    assert run.returncode == 2
    assert "Python 3.11 or newer is needed, and none of these is: false." in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_python_version_is_tested_and_every_job_bounded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+", c)]
    assert JOBS["test"]["strategy"]["matrix"]["python"] == claimed
    assert project["requires-python"] == f">={claimed[0]}"
    assert all("timeout-minutes" in job for job in JOBS.values())
