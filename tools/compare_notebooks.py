"""Run notebooks under nbval on the server in ``$MEMORYSTORE_ENDPOINT``.

``make test`` calls this for each notebook and server. A notebook passes when each output is the
committed one and the server holds the keys it held before.
"""

import argparse
import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from counting import ROOT, Counts, run_pytest

CELL_TIMEOUT = 60


@contextmanager
def unchanged_keys() -> Iterator[list[str]]:
    """Watch the server's keys; afterwards the list says which were left behind or are missing."""
    from memorystore_chat import connect  # a second's import, for those that need it

    problems: list[str] = []
    with connect(patience=2) as client:
        marker = f"not-the-tutorials:{uuid.uuid4().hex}"
        client.set(marker, "stays", ex=3600)
        before = set(client.scan_iter(count=1000))
        try:
            yield problems
        finally:
            after = set(client.scan_iter(count=1000))
            client.unlink(marker)
    problems += [f"left the key {key!r} behind" for key in sorted(after - before)]
    problems += [f"deleted the key {key!r}, not its own" for key in sorted(before - after)]


def compare(path: Path) -> Counts:
    """Run a notebook under nbval: a check for each code cell, and one for the server's keys."""
    # Only nbval's plugin: the others that are installed would double the time of a notebook.
    environment = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    arguments = ["-c", os.devnull, "-p", "nbval.plugin", "-p", "no:cacheprovider", "--quiet"]
    arguments += ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"]
    arguments += ["--nbval-sanitize-with", str(ROOT / "tests/notebooks/sanitize.cfg")]
    with unchanged_keys() as problems:
        counts = run_pytest([*arguments, str(path)], environment)
    for problem in problems:
        print(f"{path.name} {problem}", file=sys.stderr)
    return counts + (Counts(failed=1) if problems else Counts(passed=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the notebooks named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run notebooks under nbval.")
    parser.add_argument("--counts", type=Path, help="file to write the counts to, as JSON")
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    os.environ.pop("GOOGLE_CLOUD_PROJECT", None)  # the committed outputs are the offline ones
    total = sum(map(compare, options.notebooks), Counts())
    if options.counts:
        options.counts.write_text(json.dumps(asdict(total)), encoding="utf-8")
    return 1 if total.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
