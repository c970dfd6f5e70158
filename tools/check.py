"""Run every check and add up: ``make test`` and ``make lint``.

The steps run at once, each whatever becomes of the others. The last line is the sum of all of them,
and the exit status says whether anything failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from run_notebooks import CELL_TIMEOUT, ROOT, unchanged_keys

sys.path.insert(0, str(ROOT / "tests/support"))
import servers

BIN = Path(sys.executable).parent
STEPS = ("tests", "lint", "notebooks")
# Much of a test is waiting. Each process starts servers, so not one for each of many cores.
IN_PARALLEL = ("--numprocesses=3", "--dist=worksteal")
# More than a reader has to bring: make test-browser, make test-colab, make test-again.
UNMARKED = "not browser and not colab and not again"
# Those that ask the most of a server run on Redis where there is one, the others on Valkey.
ON_REDIS = ("03_cleanup", "06_checkpoints", "07_long_term_memory")
NBVAL = [
    *("-c", os.devnull, f"--rootdir={ROOT}", "-p", "nbval.plugin", "-p", "no:cacheprovider"),
    *("-p", "xdist", "--numprocesses=2", "--dist=loadscope", "--quiet"),
    *("--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"),
    *("--nbval-sanitize-with", str(ROOT / "tests/notebooks/sanitize.cfg")),
]

Server = AbstractContextManager[servers.Server]
Counts = Counter[str]  # how many checks passed, failed, and were skipped
Step = tuple[str, Callable[[], Counts]]


def in_words(counts: Counts) -> str:
    """Counts as they are printed."""
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    return f"{counts['passed']} passed, {counts['failed']} failed{skipped}"


def run(command: Sequence[str], headline: str = "", **own: str) -> int:
    """Run a command with variables of its own, and return its exit status.

    Without a headline it prints as it goes, with one in one piece, because others run beside it.
    """
    output = subprocess.PIPE if headline else None
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | own, stdout=output, stderr=output and subprocess.STDOUT
    )
    if headline:
        sys.stdout.write(f"\n==> {headline}\n{done.stdout.decode()}")
        sys.stdout.flush()
    return done.returncode


def run_pytest(arguments: Sequence[str], headline: str = "", **own: str) -> Counts:
    """Run pytest in a process of its own and count its results.

    A run that ends badly without a failed test (nothing collected, a broken plugin) counts as one
    failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
        status = run(command, headline, **own)
        cases = [*ET.parse(report).iter("testcase")] if report.exists() else []  # noqa: S314
    bad = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    found = ([bad[each.tag] for each in case if each.tag in bad] for case in cases)
    counts = Counter(next(iter(kinds), "passed") for kinds in found)
    if status and not counts["failed"]:
        counts["failed"] = 1
    return counts


def lint() -> Counts:
    """Style, types, spelling, the import rule, the workflows: what .pre-commit-config.yaml has."""
    command = [str(BIN / "pre-commit"), "run", "--all-files", "--show-diff-on-failure"]
    return Counter(["failed" if run(command, "lint") else "passed"])


def notebook_steps() -> Iterator[Step]:
    """The notebooks on Valkey and on Redis, and all on ``$MEMORYSTORE_TEST_SERVER`` if set."""
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    on_redis = [path for path in paths if path.stem in ON_REDIS and shutil.which("redis-server")]
    others = [path for path in paths if path not in on_redis]
    yield "notebooks on Valkey", partial(compare, others, servers.valkey)
    if on_redis:
        yield "notebooks on Redis", partial(compare, on_redis, servers.redis7)
    if url := os.environ.get("MEMORYSTORE_TEST_SERVER"):
        yield f"notebooks on {url}", partial(compare, paths, partial(servers.External, url))


def compare(paths: Sequence[Path], start: Callable[[], Server]) -> Counts:
    """Run notebooks under nbval: a check for each code cell; a wrong key on the server fails."""
    with (
        start() as server,
        tempfile.TemporaryDirectory() as folder,
        unchanged_keys(server.url) as problems,
    ):
        counts = run_pytest(
            [*NBVAL, *map(str, paths)],
            f"notebooks on {server.url}",
            MEMORYSTORE_ENDPOINT=server.url,
            # Only the plugins that are named: the others that are installed would double the time.
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            # Not 0: notebook 10 ends a replica in the middle of an answer.
            DEMO_MODEL_DELAY="0.002",
            TMPDIR=folder,  # so that a kernel's key prefix is that of one alone
        )
    for problem in problems:
        print(f"A notebook {problem}", file=sys.stderr)
    return counts + Counter(failed=len(problems))


def timed(step: Step) -> tuple[str, Counts, float]:
    """Run a step; its label, its counts, and how many seconds it took."""
    label, job = step
    began = time.monotonic()
    return label, job(), time.monotonic() - began


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
    with ThreadPoolExecutor(len(steps)) as pool:
        results = [*pool.map(timed, steps)]
    total = sum((counts for _, counts, _ in results), Counter[str]())
    lines = [
        f"{'FAILED' if counts['failed'] else 'ok':7}{label:45}{seconds:7.1f} s  {in_words(counts)}"
        for label, counts, seconds in results
    ]
    if shutil.which("redis-server") is None and total["skipped"]:
        lines.append(
            f"Left out: {total['skipped']} checks, those on Redis 7, TLS among them, as there is "
            "no redis-server here. Get it: sudo apt-get install redis-server (macOS: brew install "
            "redis)"
        )
    print("\n==> Summary", *lines, "", in_words(total), sep="\n", flush=True)
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
