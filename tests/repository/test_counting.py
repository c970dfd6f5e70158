"""tools/counting.py: pytest's results as numbers."""

import os
from pathlib import Path

import counting
from counting import Counts


def test_report_of_pytest_is_counted() -> None:
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="3"></testsuite>'
    assert counting.read_report(f"<testsuites>{suite}{suite}</testsuites>") == Counts(6, 6, 6)


def test_pytest_that_ran_nothing_is_a_failure(tmp_path: Path) -> None:
    plain = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    arguments = ["-c", os.devnull, str(tmp_path)]
    assert counting.run_pytest(arguments, plain) == Counts(failed=1)
    assert counting.run_pytest([*arguments, "--no-such-option"], plain) == Counts(failed=1)


def test_counts_read_as_a_closing_line() -> None:
    assert str(Counts(3, 1)) == "3 passed, 1 failed"
    assert str(Counts(3, 1) + Counts(1, 0, 2)) == "4 passed, 1 failed, 2 skipped"
