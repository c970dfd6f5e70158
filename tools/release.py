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


def tag_problems(tag: str, project: str, changelog: str) -> list[str]:
    r"""What keeps a tag from being released, by the texts of pyproject.toml and CHANGELOG.md.

    Example:
        >>> project = '[project]\nversion = "0.2.0"'
        >>> tag_problems("v0.2.0", project, "## [0.2.0] - 2026-12-01")
        []
        >>> tag_problems("0.2", project, "")
        ['the tag is 0.2, and the version is 0.2.0', "CHANGELOG.md has no '## [0.2.0] - DATE'"]
    """
    version = tomllib.loads(project)["project"]["version"]
    problems = []
    if tag != f"v{version}":
        problems.append(f"the tag is {tag}, and the version is {version}")
    if f"## [{version}] - " not in changelog:
        problems.append(f"CHANGELOG.md has no '## [{version}] - DATE'")
    return problems


def run(*command: str | Path) -> None:
    """Run one step, which must succeed."""
    print("$", *command, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def main(arguments: list[str]) -> int:
    """Build and check; returns the exit status."""
    for tag in arguments:
        texts = [(ROOT / name).read_text() for name in ("pyproject.toml", "CHANGELOG.md")]
        if problems := tag_problems(tag, *texts):
            print("Not released:", "; ".join(problems), file=sys.stderr)
            return 1
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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
