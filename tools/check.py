"""Run every check and add up: ``make test`` and ``make lint``.

Each step runs whatever became of the others. The last line is the sum of all of them, and the exit
status says whether anything failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from counting import ROOT, Counts, run_pytest

sys.path.insert(0, str(ROOT / "tests/support"))
import servers

BIN = Path(sys.executable).parent
STEPS = ("tests", "lint", "notebooks")
# Much of a test is waiting. Each process starts servers, so not one for each of many cores.
IN_PARALLEL = ("--numprocesses=4", "--dist=worksteal")
STEPS_AT_ONCE = 2

# A browser, other Pythons, and many minutes are more than a reader has to bring: make test-browser,
# make test-colab, and make test-again.
UNMARKED = "not browser and not colab and not again"

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
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # One call, because other steps run beside it.
    sys.stdout.write(f"\n==> {headline}\n{done.stdout}")
    sys.stdout.flush()
    return done.returncode


def lint() -> Counts:
    """Style, types, spelling, the import rule, and the workflows: what .pre-commit-config.yaml has.

    Its hooks that mend things, such as links, fail when there was something to mend.
    """
    command = [str(BIN / "pre-commit"), "run", "--all-files", "--show-diff-on-failure"]
    return Counts(failed=1) if run("lint", command) else Counts(passed=1)


def notebook_steps() -> list[Step]:
    """Each notebook under nbval, on all servers at once."""
    return [(p.name, partial(on_servers, p)) for p in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def on_servers(path: Path) -> Counts:
    """Compare a notebook on Valkey 9, on Redis 7, and on ``$MEMORYSTORE_TEST_SERVER`` if set."""
    # As `make notebooks` starts it.
    embedded = [sys.executable, "-m", "memorystore_chat.embedded", "run", "--temporary", "--"]
    runs = [partial(compare, path, None, embedded), partial(on_redis, path)]
    if external := os.environ.get("MEMORYSTORE_TEST_SERVER"):
        runs.append(partial(compare, path, external))
    with ThreadPoolExecutor(len(runs)) as pool:
        return sum(pool.map(lambda run: run(), runs), Counts())


def on_redis(path: Path) -> Counts:
    """Compare a notebook on Debian's redis-server; where there is none, CI fails."""
    if shutil.which("redis-server") is None:
        print("redis-server is not installed (Debian and Ubuntu: apt-get install redis-server)")
        return Counts(failed=1) if os.environ.get("CI") == "true" else Counts(skipped=1)
    with servers.redis7() as server:
        return compare(path, server.url)


def compare(path: Path, endpoint: str | None, launcher: Sequence[str] = ()) -> Counts:
    """Run ``compare_notebooks.py`` on one notebook and read its counts."""
    environment = dict(os.environ)
    if endpoint is not None:
        environment["MEMORYSTORE_ENDPOINT"] = endpoint
    with tempfile.TemporaryDirectory() as folder:
        environment["TMPDIR"] = folder  # so that a kernel's key prefix is that of one alone
        result = Path(folder, "counts.json")
        script = [sys.executable, str(ROOT / "tools/compare_notebooks.py"), "--counts", str(result)]
        headline = f"{path.name} on {endpoint or 'the embedded Valkey'}"
        status = run(headline, [*launcher, *script, str(path)], environment)
        counts = Counts(**json.loads(result.read_text())) if result.exists() else Counts()
    return counts if counts.failed or not status else counts + Counts(failed=1)


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
