"""Where the tutorial runs, and signing in there."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from memorystore_tutorial import Environment, detect_environment, sign_in
from printed import said

WORKBENCH = "Agent Platform Workbench (Vertex AI Workbench)"
OFFLINE = "No project is set, so the tutorial runs offline; no account is needed."
NO_CREDENTIALS = (
    "There are no Application Default Credentials that can be used. Run this in a terminal, then "
    "this cell again: gcloud auth application-default login --project=my-project"
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a project, credentials or gcloud; returns the only folder on its PATH."""
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS", "VERTEX_PRODUCT"):
        # Set first, so that what sign_in() sets is taken back even where it was not set before.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("google.colab", "google.colab.auth"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's Application Default Credentials, as gcloud writes them."""
    file = tmp_path / "credentials.json"
    file.write_text(
        '{"type": "authorized_user", "client_id": "id.apps.googleusercontent.com",'
        ' "client_secret": "very-secret", "refresh_token": "very-secret"}'
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


def fake_gcloud(folder: Path, script: str) -> Path:
    """Put a gcloud on the PATH that records its arguments and then runs `script`."""
    record = folder.parent / "arguments"
    gcloud = folder / "gcloud"
    gcloud.write_text(f'#!/bin/sh\necho "$@" > "{record}"\n{script}\n')
    gcloud.chmod(0o755)
    return record


class Colab:
    """Stands in for Colab's own package, which exists nowhere else: the real call's shape."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[bool, str | None]] = []
        package, auth = ModuleType("google.colab"), ModuleType("google.colab.auth")

        def authenticate_user(clear_output: bool = True, project_id: str | None = None) -> None:
            self.calls.append((clear_output, project_id))

        auth.authenticate_user = authenticate_user  # type: ignore[attr-defined]
        package.auth = auth  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "google.colab", package)
        monkeypatch.setitem(sys.modules, "google.colab.auth", auth)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("COLAB_ENTERPRISE", "Colab Enterprise"),
        ("WORKBENCH_INSTANCE", WORKBENCH),
        ("WORKBENCH_CUSTOM_CONTAINER", WORKBENCH),
    ],
)
@pytest.mark.parametrize("with_colab", [False, True])
def test_detects_googles_notebook_products(
    product: str, name: str, with_colab: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERTEX_PRODUCT", product)
    if with_colab:
        Colab(monkeypatch)
    assert detect_environment() == name
    assert str(detect_environment()) == name


@pytest.mark.parametrize("product", ["", "SOMETHING_ELSE"])
def test_detects_colab_and_local(product: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEX_PRODUCT", product)
    assert detect_environment() is Environment.LOCAL
    Colab(monkeypatch)
    assert detect_environment() is Environment.COLAB


@pytest.mark.parametrize("project_id", [None, ""])
def test_without_a_project_the_tutorial_runs_offline(
    project_id: str | None,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = fake_gcloud(machine, "exit 0")
    assert sign_in(project_id) is None
    colab = Colab(monkeypatch)
    assert sign_in(project_id) is None
    assert said(capsys) == f"{OFFLINE} {OFFLINE}"
    assert not record.exists()
    assert colab.calls == []
    assert "GOOGLE_CLOUD_PROJECT" not in os.environ


def test_signs_in_to_colab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    colab = Colab(monkeypatch)
    assert sign_in("my-project") == "my-project"
    assert colab.calls == [(True, "my-project")]
    assert said(capsys) == ("Signed in to Google Cloud from Colab; the project is my-project.")
    assert os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"


@pytest.mark.usefixtures("credentials")
def test_finds_credentials_and_sets_gclouds_project(
    machine: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    record = fake_gcloud(machine, "echo someone@example.com; echo someone@example.com >&2")
    assert sign_in("my-project") == "my-project"
    assert capsys.readouterr() == (
        "Found Application Default Credentials; the project is\nmy-project.\n"
        "gcloud's project is now my-project.\n",
        "",
    )
    assert record.read_text() == "config set project my-project --quiet\n"
    assert os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert list(recwarn) == []


@pytest.mark.usefixtures("credentials")
def test_takes_the_project_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "example.com:my-project")
    assert sign_in() == "example.com:my-project"
    assert said(capsys) == (
        "Found Application Default Credentials; the project is example.com:my-project."
    )


def test_says_what_to_run_without_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    assert sign_in("my-project") == "my-project"
    assert said(capsys) == NO_CREDENTIALS


def test_names_the_product_whose_credentials_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VERTEX_PRODUCT", "WORKBENCH_INSTANCE")
    colab = Colab(monkeypatch)
    sign_in("my-project")
    assert f"no Application Default Credentials in {WORKBENCH}" in said(capsys)
    assert colab.calls == []


def test_broken_credentials_count_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.json"
    file.write_text('{"type": "authorized_user", "refresh_token": "very-secret"')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    sign_in("my-project")
    assert said(capsys) == NO_CREDENTIALS


def test_goes_on_without_google_auth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    assert sign_in("my-project") == "my-project"
    assert "memorystore-chat[google]" in said(capsys)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("#!/bin/sh\necho secret >&2; exit 3", "gcloud did not set the project (exit status 3)."),
        ("#!/bin/sh\nexec /bin/sleep 5", "gcloud could not be run (TimeoutExpired)."),
        ("#!/nonexistent/interpreter", "gcloud could not be run (FileNotFoundError)."),
    ],
)
@pytest.mark.usefixtures("credentials")
def test_a_failing_gcloud_is_said(
    script: str,
    what: str,
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("memorystore_tutorial.environment.GCLOUD_TIMEOUT", 0.3)
    (machine / "gcloud").write_text(f"{script}\n")
    (machine / "gcloud").chmod(0o755)
    assert sign_in("my-project") == "my-project"
    assert said(capsys).endswith(
        f"my-project. {what} Run it yourself to see why: gcloud config set project my-project"
    )


@pytest.mark.parametrize("project_id", ["My Project", "-x", "--account=me", "a;b", 7])
def test_refuses_what_is_no_project_id(project_id: object, machine: Path) -> None:
    record = fake_gcloud(machine, "exit 0")
    words = (
        rf"must be a project's id, .* not {project_id!r}\. List yours with: gcloud projects list"
    )
    with pytest.raises(ValueError, match=words):
        sign_in(project_id)  # type: ignore[arg-type]
    assert not record.exists()
