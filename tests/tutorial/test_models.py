"""Which model the factory chooses."""

import subprocess
import sys
from typing import Literal

import pytest

from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.models import chat_model
from printed import said


@pytest.fixture
def no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)


@pytest.mark.parametrize("project", [None, ""])
def test_without_a_project_it_is_the_demo_model(
    project: str | None, no_project: None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chat_model("gemini-any", project=project, temperature=0)
    assert isinstance(model, DemoChatModel)
    assert said(capsys) == (
        "Chat model: DemoChatModel, offline, because no project is given and "
        "GOOGLE_CLOUD_PROJECT is not set."
    )


def test_refuses_an_unknown_provider(no_project: None) -> None:
    with pytest.raises(ValueError, match=r"must be 'vertexai' or 'google-genai', not 'openai'\."):
        chat_model(provider="openai")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("provider", "library"),
    [("vertexai", "langchain-google-vertexai"), ("google-genai", "langchain-google-genai")],
)
def test_names_the_missing_library(
    provider: Literal["vertexai", "google-genai"],
    library: str,
    no_project: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memorystore_tutorial import models

    monkeypatch.setitem(sys.modules, library.replace("-", "_"), None)
    models._vertexai_class.cache_clear()
    models._google_genai_class.cache_clear()
    with pytest.raises(ModuleNotFoundError) as error:
        chat_model(project="p", provider=provider)
    assert str(error.value).endswith(f"pip install {library}")


def test_importing_brings_no_google_library() -> None:
    code = (
        "import sys, memorystore_tutorial.models, memorystore_tutorial.environment;"
        "print([name for name, module in sys.modules.items() if name.split('.')[0] in"
        " ('google', 'langchain', 'langgraph', 'vertexai', 'langchain_google_vertexai')"
        # Some Google packages have Python make their empty namespaces when it starts.
        " and getattr(module, '__file__', None)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
