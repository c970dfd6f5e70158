"""Build the distribution and check all that can be checked before it is published.

``make release-check`` builds the wheel and the source archive, checks their metadata and contents,
and holds a conversation with the wheel in an environment of its own. With TAG=v0.2.0 it also
checks that this is the version and that CHANGELOG.md says what is in it.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> None:
    """Run one step, which must succeed."""
    print("$", *command, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def main(arguments: list[str]) -> None:
    """Build and check, unless the tag does not fit."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if arguments and arguments != [f"v{version}"]:
        sys.exit(f"Not released: the version in pyproject.toml is {version}.")
    if arguments and f"## [{version}] - " not in (ROOT / "CHANGELOG.md").read_text():
        sys.exit(f"Not released: CHANGELOG.md has no '## [{version}] - DATE'.")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(BIN / "python", "-m", "build", "--installer", "uv", "--outdir", dist)
    (wheel,) = dist.glob("*.whl")
    run(BIN / "twine", "check", "--strict", *sorted(dist.iterdir()))
    packages = "memorystore_chat,memorystore_tutorial"
    run(BIN / "check-wheel-contents", "--toplevel", packages, wheel)
    alone = (BIN / "uv", "run", "--quiet", "--isolated", "--no-project", "--with")
    embedded = ("python", "-m", "memorystore_chat.embedded", "run", "--temporary", "--")
    run(*alone, f"{wheel}[embedded]", *embedded, "python", ROOT / "tools/smoke.py")
    print("Ready to publish:", *(path.name for path in sorted(dist.iterdir())))


if __name__ == "__main__":
    main(sys.argv[1:])
