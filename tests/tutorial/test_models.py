"""The real Google clients, as `chat_model` makes them, against a server on this machine."""

import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from gemini_server import GeminiServer
from memorystore_tutorial import models
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.models import ChatModelError, chat_model
from printed import said

Provider = Literal["vertexai", "google-genai"]
CLIENTS = {"vertexai": "ChatVertexAI", "google-genai": "ChatGoogleGenerativeAI"}
HISTORY: list[BaseMessage] = [
    SystemMessage("You are a helpful assistant."),
    HumanMessage("My name is Ada."),
    AIMessage("Nice to meet you, Ada."),
    HumanMessage("What is my name?"),
]


@tool
def get_weather(city: str) -> str:
    """Look up the weather."""
    return f"It is sunny in {city}."


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    """The server, in an environment with a project."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
        yield server


@pytest.fixture(params=["vertexai", "google-genai"])
def provider(request: pytest.FixtureRequest) -> Provider:
    chosen: Provider = request.param
    return chosen


@pytest.fixture
def model(gemini: GeminiServer, provider: Provider) -> BaseChatModel:
    return chat_model(provider=provider, max_retries=1, **gemini.options(provider))


def test_says_which_model_and_why_without_a_warning(
    gemini: GeminiServer, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    models._client.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model = chat_model(provider=provider, **gemini.options(provider))
            model.bind_tools([get_weather]).invoke("Hello")
    assert [each for each in caught if issubclass(each.category, DeprecationWarning)] == []
    library = sys.modules[
        "langchain_" + {"vertexai": "google_vertexai"}.get(provider, "google_genai")
    ]
    assert isinstance(model, getattr(library, CLIENTS[provider]))
    assert said(capsys).endswith(
        f"Chat model: {CLIENTS[provider]}, gemini-3.8-flash in project my-project, location "
        "global, because GOOGLE_CLOUD_PROJECT is set."
    )


async def test_a_history_arrives_whole_however_it_is_sent(
    gemini: GeminiServer, provider: Provider
) -> None:
    where = {"project": "p", "location": "europe-west1"}
    model = chat_model("gemini-other", provider=provider, **where, **gemini.options(provider))
    assert model.invoke(HISTORY).text == (await model.ainvoke(HISTORY)).text == "Your name is Ada."
    streamed = [chunk.text for chunk in model.stream(HISTORY)]
    assert streamed[:4] == ["Your", " name", " is", " Ada."]
    assert [chunk.text async for chunk in model.astream(HISTORY)] == streamed
    for number, request in enumerate(gemini.requests):
        assert {"project": request.project, "location": request.location} == where
        method = "streamGenerateContent" if number > 1 else "generateContent"
        assert (request.model, request.method) == ("gemini-other", method)
        roles = ["user", "model", "user"]
        assert request.turns == [(r, m.text) for r, m in zip(roles, HISTORY[1:], strict=True)]
        assert request.body["systemInstruction"]["parts"] == [{"text": HISTORY[0].text}]


async def test_tool_call_goes_out_and_result_comes_back(
    gemini: GeminiServer, model: BaseChatModel
) -> None:
    bound = model.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    chunks: list[Any] = [chunk async for chunk in bound.astream([question])]
    for asked in (sum(chunks[1:], chunks[0]), bound.invoke([question])):
        [call] = asked.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
        reply = await bound.ainvoke([question, asked, get_weather.invoke(call)])
        assert reply.text == "It is sunny in Paris."
    [declared] = gemini.requests[0].body["tools"][0]["functionDeclarations"]
    assert (declared["name"], declared["description"]) == ("get_weather", "Look up the weather.")
    assert gemini.requests[-1].turns == [
        ("user", question.text),
        ("model", 'call get_weather {"city": "Paris"}'),
        ("user", "result get_weather It is sunny in Paris."),
    ]


async def test_refusals_say_the_next_step_and_no_secret(
    gemini: GeminiServer, provider: Provider
) -> None:
    from google.oauth2.credentials import Credentials

    options = gemini.options(provider) | {"credentials": Credentials("secret-token")}
    model = chat_model(provider=provider, max_retries=1, **options)
    for code, status, step in [
        (401, "UNAUTHENTICATED", "gcloud auth application-default login"),
        (403, "PERMISSION_DENIED", "roles/aiplatform.user"),
        (404, "NOT_FOUND", "no model 'gemini-3.8-flash' for project my-project in location global"),
        (429, "RESOURCE_EXHAUSTED", "quota for gemini-3.8-flash"),
        (503, "UNAVAILABLE", r"\(HTTP 503\).*refused.*run this again"),
        (400, "INVALID_ARGUMENT", r"HTTP 400.*refused.*refused again.*history.messages"),
    ]:
        gemini.refuse(code, status)
        with pytest.raises(ChatModelError, match=step) as error:
            model.invoke("Hello")
        gemini.refuse(code, status)
        with pytest.raises(ChatModelError, match=step):
            [chunk async for chunk in model.astream("Hello")]
        assert error.value.__cause__ is not None
        assert "secret-token" not in "".join(traceback.format_exception(error.value))
    assert "secret-token" not in repr(model)
    assert model.invoke("Hello").text == "Hello. What is your name?"


def test_a_full_context_keeps_its_own_error(gemini: GeminiServer) -> None:
    """The error that makes LangChain's summarization step in is passed on as it is."""
    model = chat_model(provider="google-genai", **gemini.options("google-genai"))
    gemini.refuse(400, "INVALID_ARGUMENT", "input exceeds the maximum number of tokens allowed")
    with pytest.raises(ContextOverflowError):
        model.invoke("Hello")


def test_missing_credentials_say_how_to_sign_in(
    gemini: GeminiServer, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(ChatModelError, match="gcloud auth application-default login"):
        chat_model(provider=provider).invoke("Hello")


BAD: Any = {"name": "a", "args": "{", "id": "x", "error": "no JSON"}
GOOD: Any = {"name": "b", "args": {}, "id": "y"}
RESULTS = {id_: ToolMessage(f"{id_}.", tool_call_id=id_, name=id_) for id_ in ("x", "y")}


def test_what_gemini_refuses_is_not_sent(gemini: GeminiServer, model: BaseChatModel) -> None:
    """A malformed call is not sent either, so that its result would answer nothing."""
    question, empty = HumanMessage("One."), AIMessage([{"type": "text", "text": ""}])
    both = AIMessage("", tool_calls=[GOOD], invalid_tool_calls=[BAD])
    called = AIMessage("", tool_calls=[GOOD])
    cases: list[tuple[list[BaseMessage], list[str]]] = [
        ([AIMessage("Two."), AIMessage("")], ["Two."]),
        ([AIMessage("Two."), empty], ["Two."]),
        ([AIMessage("", invalid_tool_calls=[BAD]), RESULTS["x"]], []),
        ([both, RESULTS["x"], RESULTS["y"]], ["call b {}", "result y y."]),
        ([AIMessage("Two."), called, RESULTS["y"]], ["Two.", "call b {}", "result y y."]),
    ]
    for between, sent in cases:
        messages: list[BaseMessage] = [question, *between, HumanMessage("Three.")]
        assert model.invoke(messages).text
        shown = [text.replace("result b", "result y") for _, text in gemini.requests[-1].turns]
        assert shown == ["One.", *sent, "Three."]


def test_without_a_project_it_is_the_demo_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for project in (None, ""):
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "")
        assert isinstance(chat_model("gemini-any", project=project, temperature=0), DemoChatModel)
    assert "DemoChatModel, offline" in said(capsys)
    provider: Any = "openai"
    with pytest.raises(ValueError, match="'google-genai' or 'vertexai'"):
        chat_model(provider=provider)


def test_names_the_missing_extra(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("langchain_google_vertexai", "langchain_google_genai"):
        monkeypatch.setitem(sys.modules, library, None)
    models._client.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=rf"memorystore-chat\[{provider}\]"):
        chat_model(project="p", provider=provider)


def test_importing_brings_no_google_library() -> None:
    code = (
        "import sys, memorystore_tutorial;"
        "print([name for name, module in sys.modules.items() if name.split('.')[0] in"
        " ('google', 'langchain', 'langgraph', 'vertexai', 'langchain_google_vertexai')"
        # Some Google packages have Python make their empty namespaces when it starts.
        " and getattr(module, '__file__', None)])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
