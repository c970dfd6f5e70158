"""Running pytest and counting what it ran."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Counts:
    """How many checks passed, failed and were skipped; counts add up with ``+``."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def run_pytest(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Counts:
    """Run pytest in a process of its own and count its results.

    A run that ends badly without a failed test (nothing collected, a broken plugin) counts as one
    failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        status = subprocess.run(
            [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments],
            cwd=ROOT,
            env=environment,
            check=False,
        ).returncode
        counts = read_report(report.read_text(encoding="utf-8")) if report.exists() else Counts()
    if status and not counts.failed:
        counts += Counts(failed=1)
    return counts


def read_report(text: str) -> Counts:
    """The counts in a JUnit XML report of pytest."""
    total = Counts()
    for suite in ET.fromstring(text).iter("testsuite"):  # noqa: S314 - our own pytest wrote it
        tests, failures, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        total += Counts(max(0, tests - failed - skipped), failed, skipped)
    return total
