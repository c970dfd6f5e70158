"""Where the tutorial runs, and signing in there."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memorystore_chat.connection.environment import Environment
from memorystore_tutorial import detect_environment, sign_in
from printed import said

WORKBENCH = "Agent Platform Workbench (Vertex AI Workbench)"
USER = (
    '{"type": "authorized_user", "client_id": "i", "client_secret": "hunter2",'
    ' "refresh_token": "h"}'
)
LOGIN = "gcloud auth application-default login"


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
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))


def colab(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Stand in for Colab's own package, which exists nowhere else; returns what it is asked."""
    asked: list[str | None] = []
    auth: Any = SimpleNamespace(authenticate_user=lambda project_id: asked.append(project_id))
    monkeypatch.setitem(sys.modules, "google.colab", auth)
    monkeypatch.setitem(sys.modules, "google.colab.auth", auth)
    return asked


@pytest.mark.parametrize(
    ("product", "in_colab", "name"),
    [
        ("COLAB_ENTERPRISE", True, "Colab Enterprise"),
        ("WORKBENCH_INSTANCE", False, WORKBENCH),
        ("SOMETHING_ELSE", True, "Colab"),
        ("", False, "local"),
    ],
)
def test_detects_where_it_runs(
    product: str, in_colab: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERTEX_PRODUCT", product)
    if in_colab:
        colab(monkeypatch)
    assert detect_environment() is Environment(name)


def test_signs_in_to_colab_if_there_is_a_project(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = colab(monkeypatch)
    assert sign_in(None) is sign_in("") is None
    assert "offline" in said(capsys)
    assert asked == []
    assert "GOOGLE_CLOUD_PROJECT" not in os.environ
    assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert asked == ["my-project"]


@pytest.mark.parametrize(
    ("stored", "told"), [(USER, "Found Application"), (USER[:-5], LOGIN), ("", LOGIN)]
)
def test_looks_for_credentials_elsewhere(
    stored: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    if stored:
        (tmp_path / "credentials.json").write_text(stored)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    assert sign_in() == "my-project"
    assert told in (shown := said(capsys))
    assert "hunter2" not in shown
    assert list(recwarn) == []


def test_goes_on_without_google_auth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert "memorystore-chat[google]" in said(capsys)


def test_refuses_what_is_no_project_id() -> None:
    wrong: Any
    for wrong in ("My Project", "-x", "a;b", 7):
        with pytest.raises(ValueError, match="project's id"):
            sign_in(wrong)
