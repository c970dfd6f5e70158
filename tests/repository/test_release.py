"""tools/release.py and the metadata: what keeps a release back, what the index shows."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import release

ROOT = Path(__file__).resolve().parents[2]
PROJECT = '[project]\nversion = "0.2.0"\n'


@pytest.mark.parametrize(
    ("tag", "changelog", "problems"),
    [
        ("v0.2.0", "## [0.2.0] - 2026-12-01\n", []),
        ("v0.2.1", "## [0.2.0] - 2026-12-01\n", ["the tag is v0.2.1"]),
        ("v0.2.0", "## [Unreleased]\n", ["CHANGELOG.md has no section"]),
        ("0.2", "", ["the tag is 0.2", "CHANGELOG.md has no section"]),
    ],
)
def test_tag_must_be_the_version_and_in_the_changelog(
    tag: str, changelog: str, problems: list[str]
) -> None:
    """A tag is released only if it is the version and the changelog says what is in it."""
    found = release.tag_problems(tag, PROJECT, changelog)
    assert len(found) == len(problems)
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True))


def test_refused_tag_builds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With the wrong tag the command says so and ends before it builds."""
    assert release.main(["v99"]) == 1
    assert "the tag is v99" in capsys.readouterr().err


def test_readme_on_the_package_index_has_no_relative_link(tmp_path: Path) -> None:
    """The long description leads to the repository, as relative links lead nowhere there."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    assert targets
    assert [t for pair in targets for t in pair if t and not t.startswith(("https://", "#"))] == []
    assert {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])} == {
        "Changelog", "Documentation", "Issues", "Repository"
    }  # fmt: skip
