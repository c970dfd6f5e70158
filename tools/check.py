"""Run every check and add up: ``make test`` and ``make lint``.

Each step runs whatever became of the others. The last line is the sum of all of them, and the exit
status says whether anything failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from run_notebooks import CELL_TIMEOUT, ROOT, unchanged_keys

sys.path.insert(0, str(ROOT / "tests/support"))
import servers

BIN = Path(sys.executable).parent
STEPS = ("tests", "lint", "notebooks")
# Much of a test is waiting. Each process starts servers, so not one for each of many cores.
IN_PARALLEL = ("--numprocesses=4", "--dist=worksteal")
STEPS_AT_ONCE = 3
# A browser, other Pythons, and many minutes are more than a reader has to bring: make test-browser,
# make test-colab, and make test-again.
UNMARKED = "not browser and not colab and not again"
# Those that ask the most of a server run on Redis where there is one, the others on Valkey.
ON_REDIS = ("03_cleanup", "06_checkpoints", "07_long_term_memory")


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


Step = tuple[str, Callable[[], Counts]]


def run(
    headline: str, command: Sequence[str | Path], environment: Mapping[str, str] = os.environ
) -> int:
    """Run a command, print what it said in one piece, and return its exit status."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        check=False,
        stdout=subprocess.PIPE if headline else None,
        stderr=subprocess.STDOUT if headline else None,
        text=True,
    )
    if headline:
        # One call, because other steps run beside it.
        sys.stdout.write(f"\n==> {headline}\n{done.stdout}")
        sys.stdout.flush()
    return done.returncode


def run_pytest(
    arguments: Sequence[str], headline: str = "", environment: Mapping[str, str] = os.environ
) -> Counts:
    """Run pytest in a process of its own and count its results.

    A run that ends badly without a failed test (nothing collected, a broken plugin) counts as one
    failure. Without a headline it prints as it goes.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
        status = run(headline, command, environment)
        counts = Counts()
        for suite in ET.parse(report).iter("testsuite") if report.exists() else ():  # noqa: S314
            tests, failures, errors, skipped = (
                int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
            )
            failed = failures + errors
            counts += Counts(max(0, tests - failed - skipped), failed, skipped)
    return counts if counts.failed or not status else counts + Counts(failed=1)


def lint() -> Counts:
    """Style, types, spelling, the import rule, and the workflows: what .pre-commit-config.yaml has.

    Its hooks that mend things, such as links, fail when there was something to mend.
    """
    command = [str(BIN / "pre-commit"), "run", "--all-files", "--show-diff-on-failure"]
    return Counts(failed=1) if run("lint", command) else Counts(passed=1)


def notebook_steps() -> list[Step]:
    """Each notebook under nbval, the newest first, as they take the longest."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"), reverse=True)
    return [(path.name, partial(on_servers, path)) for path in paths]


def on_servers(path: Path) -> Counts:
    """Compare a notebook on one server, and on ``$MEMORYSTORE_TEST_SERVER`` if that is set."""
    on_redis = path.stem in ON_REDIS and shutil.which("redis-server")
    with servers.redis7() if on_redis else servers.valkey() as server:
        counts = compare(path, server.url)
    if external := os.environ.get("MEMORYSTORE_TEST_SERVER"):
        counts += compare(path, external)
    return counts


def compare(path: Path, endpoint: str) -> Counts:
    """Run a notebook under nbval: a check for each code cell; a wrong key on the server fails."""
    arguments = ["-c", os.devnull, "-p", "nbval.plugin", "-p", "no:cacheprovider", "--quiet"]
    arguments += ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"]
    arguments += ["--nbval-sanitize-with", str(ROOT / "tests/notebooks/sanitize.cfg"), str(path)]
    with tempfile.TemporaryDirectory() as folder, unchanged_keys(endpoint) as problems:
        environment = os.environ | {
            "MEMORYSTORE_ENDPOINT": endpoint,
            # Only nbval's plugin: the others that are installed would double the time.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            # Not 0: notebook 10 ends a replica in the middle of an answer.
            "DEMO_MODEL_DELAY": "0.002",
            "TMPDIR": folder,  # so that a kernel's key prefix is that of one alone
        }
        counts = run_pytest(arguments, f"{path.name} on {endpoint}", environment)
    for problem in problems:
        print(f"{path.name} {problem}", file=sys.stderr)
    return counts + Counts(failed=len(problems))


def timed(step: Step) -> tuple[str, Counts, float]:
    """Run a step; its label, its counts, and how many seconds it took."""
    label, job = step
    began = time.monotonic()
    return label, job(), time.monotonic() - began


def run_steps(steps: Sequence[Step]) -> list[tuple[str, Counts, float]]:
    """Run the steps some at once, in their order; after an interrupt none begins."""
    with ThreadPoolExecutor(STEPS_AT_ONCE) as pool:
        waiting = [pool.submit(timed, step) for step in steps]
        try:
            return [each.result() for each in waiting]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps named on the command line, or all; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run every check and add up.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], metavar="ARGUMENT")
    options = parser.parse_args(arguments)
    chosen = options.steps or STEPS
    if unknown := set(chosen) - set(STEPS):
        parser.error(f"no step {sorted(unknown)[0]!r}; there are: {', '.join(STEPS)}")
    for name in ("MEMORYSTORE_ENDPOINT", "GOOGLE_CLOUD_PROJECT"):
        os.environ.pop(name, None)  # the checks use servers of their own and no cloud

    selected = ["-m", UNMARKED, *IN_PARALLEL, *options.pytest]
    steps: list[Step] = [("tests", partial(run_pytest, selected)), ("lint", lint)]
    steps = [step for step in steps if step[0] in chosen]
    if "notebooks" in chosen:
        steps += notebook_steps()
    try:
        results = run_steps(steps)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    total = sum((counts for _, counts, _ in results), Counts())
    lines = [
        f"{'FAILED' if counts.failed else 'ok':7}{label:45}{seconds:7.1f} s  {counts}"
        for label, counts, seconds in results
    ]
    if shutil.which("redis-server") is None and total.skipped:
        lines.append(
            f"Left out: {total.skipped} checks, those on Redis 7, TLS among them, as there is no "
            "redis-server here. Get it: sudo apt-get install redis-server (macOS: brew install "
            "redis)"
        )
    print("\n==> Summary", *lines, "", total, sep="\n", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
