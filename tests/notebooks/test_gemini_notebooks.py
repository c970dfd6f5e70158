"""The notebooks with a model, through the real Gemini client and a stand-in for its API."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from gemini_server import GeminiServer
from servers import Server

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


PROVIDERS = {"vertexai": "ChatVertexAI", "google-genai": "ChatGoogleGenerativeAI"}
OPTIONS = {
    "vertexai": "from google.auth.credentials import AnonymousCredentials\n"
    "options = {'api_endpoint': %r, 'credentials': AnonymousCredentials()}\n",
    "google-genai": "from google.oauth2.credentials import Credentials\n"
    "options = {'base_url': %r, 'credentials': Credentials('anonymous')}\n",
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["04_chain_integration", "05_agent_memory"])
def test_notebook_through_gemini(
    name: str, provider: str, valkey_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run All ends without an error or a warning, and every answer came over the API.

    The model's cell is the reader's behind a private endpoint: options name it. The server refuses
    what Gemini refuses.
    """
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cell = next(cell for cell in book.cells if "model = chat_model(" in cell.source)
    # No credentials of the machine's.
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    with GeminiServer() as gemini:
        call = f"project=project, provider={provider!r}, **options)"
        assert "project=project)" in cell.source
        cell.source = OPTIONS[provider] % gemini.url + cell.source.replace("project=project)", call)
        NotebookClient(book, timeout=60, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
        requests = list(gemini.requests)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert f"Chat model: {PROVIDERS[provider]}" in " ".join(text.split())
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert len(requests) > 10
    assert {request.project for request in requests} == {"my-project"}
