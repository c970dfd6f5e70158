"""Where the tutorial runs, and signing in there."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memorystore_tutorial import detect_environment, sign_in
from printed import said

USER = (
    '{"type": "authorized_user", "client_id": "i", "client_secret": "hunter2",'
    ' "refresh_token": "h"}'
)
LOGIN = "gcloud auth application-default login --project=my-project"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a project and credentials."""
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS", "VERTEX_PRODUCT"):
        # Set first, so that what sign_in() sets is taken back even where it was not set before.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("google.colab", "google.colab.auth"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


@pytest.fixture
def colab(machine: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for Colab's own package, which exists nowhere else; the projects it is asked for."""
    asked: list[str] = []
    auth: Any = SimpleNamespace(authenticate_user=lambda project_id: asked.append(project_id))
    monkeypatch.setitem(sys.modules, "google.colab", auth)
    monkeypatch.setitem(sys.modules, "google.colab.auth", auth)
    return asked


def test_detects_where_it_runs(colab: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(detect_environment()) == "Colab"
    monkeypatch.setenv("VERTEX_PRODUCT", "COLAB_ENTERPRISE")
    assert str(detect_environment()) == "Colab Enterprise"
    monkeypatch.setenv("VERTEX_PRODUCT", "SOMETHING_ELSE")
    assert str(detect_environment()) == "Colab"
    monkeypatch.delitem(sys.modules, "google.colab")
    assert str(detect_environment()) == "local"
    monkeypatch.setenv("VERTEX_PRODUCT", "WORKBENCH_INSTANCE")
    assert str(detect_environment()) == "Agent Platform Workbench (Vertex AI Workbench)"


def test_signs_in_to_colab_if_there_is_a_project(
    colab: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign_in(None) is sign_in("") is None
    assert "offline" in said(capsys)
    assert colab == []
    assert "GOOGLE_CLOUD_PROJECT" not in os.environ
    assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert "from Colab" in said(capsys)
    assert colab == ["my-project"]


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (USER, "Found Application Default Credentials"),
        (USER[:-5], LOGIN),
        ("", LOGIN),
        (None, "memorystore-chat[google]"),  # google-auth is missing
    ],
)
def test_looks_for_credentials_elsewhere(
    stored: str | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    (tmp_path / "application_default_credentials.json").write_text(stored or "")
    if stored is None:
        monkeypatch.setitem(sys.modules, "google.auth", None)
    for given in ("my-project", None):
        assert sign_in(given) == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
        assert told in (shown := said(capsys))
        assert "hunter2" not in shown
    assert list(recwarn) == []


def test_refuses_what_is_no_project_id() -> None:
    wrong: Any
    for wrong in ("My Project", "-x", "a;b", 7):
        with pytest.raises(ValueError, match="project's id"):
            sign_in(wrong)
