"""Where the tutorial runs, and signing in there."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from memorystore_chat.connection.environment import Environment
from memorystore_tutorial import detect_environment, sign_in
from printed import said

WORKBENCH = "Agent Platform Workbench (Vertex AI Workbench)"
USER = (
    '{"type": "authorized_user", "client_id": "i", "client_secret": "hunter2",'
    ' "refresh_token": "h"}'
)


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


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's Application Default Credentials, as gcloud writes them."""
    (tmp_path / "credentials.json").write_text(USER)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))


def colab(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Stand in for Colab's own package, which exists nowhere else; returns what it is asked."""
    package, auth = ModuleType("google.colab"), ModuleType("google.colab.auth")
    asked: list[str | None] = []

    def authenticate_user(clear_output: bool = True, project_id: str | None = None) -> None:
        asked.append(project_id)

    auth.authenticate_user = authenticate_user  # type: ignore[attr-defined]
    package.auth = auth  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setitem(sys.modules, "google.colab.auth", auth)
    return asked


@pytest.mark.parametrize(
    ("product", "in_colab", "name"),
    [
        ("COLAB_ENTERPRISE", True, "Colab Enterprise"),
        ("WORKBENCH_INSTANCE", False, WORKBENCH),
        ("WORKBENCH_CUSTOM_CONTAINER", True, WORKBENCH),
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
    assert detect_environment() == name
    assert detect_environment() is Environment(name)


def test_without_a_project_it_runs_offline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = colab(monkeypatch)
    assert sign_in(None) is sign_in("") is None
    assert "offline" in said(capsys)
    assert asked == []
    assert "GOOGLE_CLOUD_PROJECT" not in os.environ


def test_signs_in_to_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = colab(monkeypatch)
    assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert asked == ["my-project"]


@pytest.mark.usefixtures("credentials")
def test_finds_credentials(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    assert sign_in() == "my-project"
    assert said(capsys).startswith("Found Application Default Credentials")
    assert list(recwarn) == []


@pytest.mark.parametrize("stored", ["", '{"type": "authorized_user", "refresh_token": "hunter2"'])
def test_says_what_to_run_without_usable_credentials(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if stored:
        (tmp_path / "broken.json").write_text(stored)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "broken.json"))
    assert sign_in("my-project") == "my-project"
    assert "gcloud auth application-default login" in said(capsys)


def test_goes_on_without_google_auth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    assert sign_in("my-project") == "my-project"
    assert "memorystore-chat[google]" in said(capsys)


@pytest.mark.parametrize("project_id", ["My Project", "-x", "--account=me", "a;b", 7])
def test_refuses_what_is_no_project_id(project_id: object) -> None:
    with pytest.raises(ValueError, match="project's id"):
        sign_in(project_id)  # type: ignore[arg-type]
