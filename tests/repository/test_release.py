"""tools/release.py: what keeps a release back."""

import pytest

import release

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
    found = release.tag_problems(tag, PROJECT, changelog)
    assert len(found) == len(problems)
    assert all(text.startswith(start) for text, start in zip(found, problems, strict=True))


def test_refused_tag_builds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["v99"]) == 1
    assert "the tag is v99" in capsys.readouterr().err
