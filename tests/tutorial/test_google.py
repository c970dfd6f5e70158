"""Google Cloud from notebooks: signing in, and Gemini through its real clients."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

import memorystore_tutorial
import series
from gemini_server import GeminiServer
from memorystore_tutorial import chat_model, detect_environment, sign_in
from memorystore_tutorial.google import ChatModelError
from servers import Server

CLIENTS = {
    "vertexai": ("langchain_google_vertexai", "ChatVertexAI"),
    "google-genai": ("langchain_google_genai", "ChatGoogleGenerativeAI"),
}
QUESTION = HumanMessage("What is the weather in Paris?")
# What gcloud writes; google-auth knows gcloud by its client's number.
USER = (
    '{"type": "authorized_user", "client_id": "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur'
    '.apps.googleusercontent.com", "client_secret": "hunter2", "refresh_token": "h"}'
)
LOGIN = "gcloud auth application-default login --project=my-project"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, joined; each printed line fits a notebook in a narrow window."""
    out = capsys.readouterr().out
    assert all(len(line) <= 60 or " " not in line for line in out.split("\n"))
    return " ".join(out.split())


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a project and credentials."""
    kept = {k: v for k, v in os.environ.items() if not re.match("GEMINI|GOOGLE|VERTEX", k)}
    kept |= {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path)}
    monkeypatch.setattr(os, "environ", kept)


@pytest.fixture(params=CLIENTS)
def gemini(request: pytest.FixtureRequest) -> Iterator[GeminiServer]:
    """The server, in an environment with a project."""
    os.environ["GOOGLE_CLOUD_PROJECT"] = "my-project"  # of this test only
    with GeminiServer(request.param) as server:
        yield server


@pytest.fixture
def model(gemini: GeminiServer) -> BaseChatModel:
    return chat_model(**gemini.options)


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for Colab's own package, which exists nowhere else; the projects it is asked for."""
    asked: list[str] = []
    auth: Any = SimpleNamespace(authenticate_user=lambda project_id: asked.append(project_id))
    monkeypatch.setitem(sys.modules, "google.colab", auth)
    monkeypatch.setitem(sys.modules, "google.colab.auth", auth)
    return asked


def test_detects_where_it_runs(colab: list[str]) -> None:
    workbench = "Agent Platform Workbench (Vertex AI Workbench)"
    found = {"": "Colab", "COLAB_ENTERPRISE": "Colab Enterprise", "WORKBENCH_INSTANCE": workbench}
    for product, name in (found | {"SOMETHING_ELSE": "Colab"}).items():
        os.environ["VERTEX_PRODUCT"] = product
        assert str(detect_environment()) == name
    del sys.modules["google.colab"]
    assert str(detect_environment()) == "local"


def test_signs_in_to_colab_if_there_is_a_project(
    colab: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign_in(None) is sign_in("") is None
    assert "offline" in said(capsys)
    assert colab == []
    assert "GOOGLE_CLOUD_PROJECT" not in os.environ
    assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
    assert "from Colab" in said(capsys)
    for wrong in ("My Project", "-x", "a;b"):
        with pytest.raises(ValueError, match="project's id"):
            sign_in(wrong)
    assert colab == ["my-project"]


@pytest.mark.filterwarnings("error::UserWarning")  # as google-auth's, of a missing quota project
def test_looks_for_credentials_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "application_default_credentials.json"
    for stored, told in ((USER[:-5], LOGIN), ("", LOGIN), (USER, "Found Application Default")):
        file.write_text(stored)
        assert sign_in("my-project") == os.environ["GOOGLE_CLOUD_PROJECT"] == "my-project"
        assert told in (shown := said(capsys))
        assert "hunter2" not in shown
    assert sign_in(None) == "my-project"
    assert "Found" in said(capsys)


async def test_a_history_arrives_whole_however_it_is_sent(
    gemini: GeminiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    history = [
        SystemMessage("You are a helpful assistant."),
        HumanMessage("My name is Ada."),
        AIMessage("Nice to meet you, Ada."),
        HumanMessage("What is my name?"),
    ]
    model = chat_model("gemini-other", project="p", location="europe-west1", **gemini.options)
    library, name = CLIENTS[gemini.options["provider"]]
    assert said(capsys) == (
        f"Chat model: {name}, gemini-other in project p, location europe-west1, because the "
        "project is given."
    )
    assert isinstance(model, getattr(sys.modules[library], name))
    assert "secret-token" not in repr(model)
    assert model.invoke(history).text == (await model.ainvoke(history)).text == "Your name is Ada."
    streamed = [chunk.text for chunk in model.stream(history)]
    assert streamed[:4] == ["Your", " name", " is", " Ada."]
    assert [chunk.text async for chunk in model.astream(history)] == streamed
    methods = ["generateContent"] * 2 + ["streamGenerateContent"] * 2
    for request, method in zip(gemini.requests, methods, strict=True):
        assert request == ("p", "europe-west1", "gemini-other", method, history)


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (401, "gcloud auth application-default login"),
        (403, "roles/aiplatform.user"),
        (404, "no model 'gemini-3.8-flash' for project my-project in location global"),
        (429, "quota for gemini-3.8-flash in project my-project"),
        (503, r"\(HTTP 503\).*refused.*run this again"),
        (400, r"HTTP 400.*refused.*refused again.*history.messages"),
    ],
)
async def test_refusals_say_the_next_step_and_no_secret(
    gemini: GeminiServer, model: BaseChatModel, code: int, step: str
) -> None:
    gemini.refusals += [(code, "refused")] * 2
    with pytest.raises(ChatModelError, match=step) as error:
        model.invoke("Hello")
    with pytest.raises(ChatModelError, match=step):
        [chunk async for chunk in model.astream("Hello")]
    assert error.value.__cause__ is not None
    assert "secret-token" not in "".join(traceback.format_exception(error.value))
    assert model.invoke("Hello").text == "Hello. What is your name?"


def test_no_answer_has_other_reasons(gemini: GeminiServer, model: BaseChatModel) -> None:
    """No credentials, no network, and a full context, upon which LangChain summarizes."""
    provider = gemini.options["provider"]
    with pytest.raises(ChatModelError, match="gcloud auth application-default login"):
        chat_model(provider=provider).invoke("Hello")
    if provider == "google-genai":
        gemini.refusals += [(400, "input exceeds the maximum number of tokens allowed")]
        with pytest.raises(ContextOverflowError):
            model.invoke("Hello")
    gemini.server_close()
    with pytest.raises(ChatModelError, match=r"did not answer: .*run this again"):
        model.invoke("Hello")


BAD: Any = {"name": "a", "args": "{", "id": "x", "error": "no JSON"}
GOOD: Any = {"name": "b", "args": {}, "id": "b"}
CALLED = AIMessage("", tool_calls=[GOOD])
X, B = (ToolMessage(f"{id_}.", tool_call_id=id_, name=id_) for id_ in "xb")


@pytest.mark.parametrize(
    ("between", "sent"),
    [
        ([CALLED, B, AIMessage(""), AIMessage([])], [CALLED, B]),
        ([AIMessage("Two."), AIMessage([{"type": "text", "text": ""}])], [AIMessage("Two.")]),
        ([AIMessage("", tool_calls=[GOOD], invalid_tool_calls=[BAD]), X, B], [CALLED, B]),
        ([AIMessage("Two."), CALLED, B], [AIMessage("Two.", tool_calls=[GOOD]), B]),
    ],
)
def test_what_gemini_refuses_is_not_sent(
    gemini: GeminiServer, model: BaseChatModel, between: list[Any], sent: list[BaseMessage]
) -> None:
    """A malformed call is not sent either, so that its result would answer nothing."""
    messages = [QUESTION, *between, QUESTION]
    assert model.invoke(messages).text == "".join(chunk.text for chunk in model.stream(messages))
    plain = [message.model_copy(update={"name": None}) for message in sent]
    for request in gemini.requests:
        assert request.messages == [QUESTION, *plain, QUESTION]


def test_notebooks_through_gemini(
    gemini: GeminiServer,
    valkey_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Run All ends without an error or a warning, and prints what it prints offline.

    Not in kernels, since the clients take ten seconds to import.
    """
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.setattr(memorystore_tutorial, "chat_model", partial(chat_model, **gemini.options))
    monkeypatch.setattr(memorystore_tutorial, "key_prefix", "tutorial-{}:".format)
    provider = gemini.options["provider"]
    for name in ("04_chain_integration", "05_agent_memory"):
        names = {"__name__": "__main__"}
        for cell in series.code_cells(series.load(series.FOLDER / f"{name}.ipynb"))[1:]:
            code = cell.source.replace('PROVIDER = "google-genai"', f'PROVIDER = "{provider}"')
            exec(compile(code, name, "exec"), names)
            printed = capsys.readouterr().out
            if "chat_model(" in cell.source:
                given = f"{CLIENTS[provider][1]}, gemini-3.8-flash in project my-project"
                assert f"Chat model: {given}" in " ".join(printed.split())
            else:
                assert printed == "".join(output.get("text", "") for output in cell.outputs)
    assert {record.name for record in caplog.records} <= {"google.auth._default"}  # no credentials
    warnings = [each for each in recwarn if each.category is not ResourceWarning]  # other tests'
    assert [str(each.message) for each in warnings] == []
    assert len(gemini.requests) > 20
    assert {request.project for request in gemini.requests} == {"my-project"}


def test_an_unknown_provider_and_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    provider: Any = "openai"
    with pytest.raises(ValueError, match="'google-genai' or 'vertexai'"):
        chat_model(provider=provider)
    for provider, (library, _) in CLIENTS.items():
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ModuleNotFoundError, match=rf"memorystore-chat\[{provider}\]"):
            chat_model(project="p", provider=provider)


def test_importing_brings_no_google_library() -> None:
    libraries = {"google.auth", "google.genai", "langchain", "langgraph", "vertexai"}
    code = f"import sys, memorystore_tutorial; print({libraries} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
