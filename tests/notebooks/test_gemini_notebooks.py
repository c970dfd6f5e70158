"""The notebooks with a model, through the real Gemini client and a stand-in for its API."""

from pathlib import Path

import pytest
from nbclient import NotebookClient

import series
from gemini_server import GeminiServer
from servers import Server

NOTEBOOKS = [
    path for path in series.PATHS if path.stem in ("04_chain_integration", "05_agent_memory")
]
CLIENTS = {"vertexai": "ChatVertexAI", "google-genai": "ChatGoogleGenerativeAI"}
OPTIONS = {
    "vertexai": "from google.auth.credentials import AnonymousCredentials\n"
    "options = {'api_endpoint': %r, 'credentials': AnonymousCredentials(),"
    " 'api_transport': 'rest'}\n",
    "google-genai": "from google.oauth2.credentials import Credentials\n"
    "options = {'base_url': %r, 'credentials': Credentials('anonymous')}\n",
}


@pytest.mark.parametrize("library", CLIENTS)
def test_notebooks_through_gemini(
    library: str, valkey_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run All ends without an error or a warning, and every answer came over the API.

    The model's cell is the reader's behind a private endpoint: options name it. The server refuses
    what Gemini refuses. One kernel runs both, since the client alone takes ten seconds to import.
    """
    book, agents = map(series.load, NOTEBOOKS)
    book.cells += agents.cells
    # No credentials of the machine's.
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    with GeminiServer() as gemini:
        for cell in series.code_cells(book):
            cell.source = cell.source.replace('"google-genai"  #', f'"{library}"  #')
            if "model = chat_model(" in cell.source:
                mine = cell.source.replace("project=project)", "project=project, **options)")
                cell.source = OPTIONS[library] % gemini.url + mine
        resources = {"metadata": {"path": str(series.FOLDER)}}
        NotebookClient(book, timeout=60, resources=resources).execute()
        requests = list(gemini.requests)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    text = " ".join("".join(output.get("text", "") for output in outputs).split())
    assert text.count(f"Chat model: {CLIENTS[library]}") == len(NOTEBOOKS)
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert len(requests) > 20
    assert {request.project for request in requests} == {"my-project"}
