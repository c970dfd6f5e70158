"""The real Google clients, as `chat_model` makes them, against a server on this machine."""

import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool

from gemini_server import GeminiServer
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.tutorial import models
from memorystore_chat.tutorial.models import ChatModelError, chat_model

Provider = Literal["vertexai", "google-genai"]

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


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    """The server, with the environment pointing at it as a notebook's would."""
    with GeminiServer() as server:
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
        monkeypatch.setenv("MEMORYSTORE_CHAT_API_ENDPOINT", server.url)
        yield server


@pytest.fixture(params=["vertexai", "google-genai"])
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param


def test_says_which_model_and_why(
    gemini: GeminiServer, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the class, the model, the project, the location and the reason."""
    model = chat_model(provider=provider)
    named = {"vertexai": "ChatVertexAI", "google-genai": "ChatGoogleGenerativeAI"}[provider]
    assert type(model).__name__ == named
    assert capsys.readouterr().out == (
        f"Chat model: {named}, gemini-3.6-flash in project my-project, location global, because "
        f"GOOGLE_CLOUD_PROJECT is set. Its calls go to {gemini.url}, as "
        "MEMORYSTORE_CHAT_API_ENDPOINT says.\n"
    )


def test_is_the_class_of_the_library(gemini: GeminiServer) -> None:
    """What comes back is a ChatVertexAI, or a ChatGoogleGenerativeAI when that is asked for."""
    from langchain_google_genai import ChatGoogleGenerativeAI
    from langchain_google_vertexai import ChatVertexAI

    assert isinstance(chat_model(), ChatVertexAI)
    assert isinstance(chat_model(provider="google-genai"), ChatGoogleGenerativeAI)


def test_no_deprecation_warning_reaches_the_reader(gemini: GeminiServer) -> None:
    """Making and calling ChatVertexAI warns of nothing, the first time and later."""
    models._vertexai_class.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            chat_model().bind_tools([get_weather]).invoke("Hello")
    assert [each for each in caught if issubclass(each.category, DeprecationWarning)] == []


def test_history_arrives_in_order_with_roles(gemini: GeminiServer, provider: Provider) -> None:
    """The request body holds every message in order, under its role, and the reply uses them."""
    model = chat_model("gemini-other", project="p", location="europe-west1", provider=provider)
    reply = model.invoke(HISTORY)
    assert reply.text == "Your name is Ada."
    [request] = gemini.requests
    assert (request.project, request.location, request.model) == (
        "p",
        "europe-west1",
        "gemini-other",
    )
    assert request.method == "generateContent"
    assert request.body["contents"] == [
        {"role": "user", "parts": [{"text": "My name is Ada."}]},
        {"role": "model", "parts": [{"text": "Nice to meet you, Ada."}]},
        {"role": "user", "parts": [{"text": "What is my name?"}]},
    ]
    assert request.body["systemInstruction"]["parts"] == [{"text": "You are a helpful assistant."}]
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["total_tokens"] == 22
    assert reply.response_metadata["model_name"] == "gemini-other"


async def test_streaming_and_async(gemini: GeminiServer, provider: Provider) -> None:
    """Stream, ainvoke and astream get the same reply, streams in pieces."""
    model = chat_model(provider=provider)
    assert (await model.ainvoke(HISTORY)).text == "Your name is Ada."
    streamed = [chunk.text for chunk in model.stream(HISTORY)]
    astreamed = [chunk.text async for chunk in model.astream(HISTORY)]
    assert streamed[:4] == ["Your", " name", " is", " Ada."]
    assert "".join(streamed) == "".join(astreamed) == "Your name is Ada."
    assert len(astreamed) == len(streamed)
    methods = [request.method for request in gemini.requests]
    assert methods == ["generateContent", "streamGenerateContent", "streamGenerateContent"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_tool_call_goes_out_and_result_comes_back(
    gemini: GeminiServer, provider: Provider, streaming: bool
) -> None:
    """The tool is declared, its call is received, and its result is sent in the next request."""
    model = chat_model(provider=provider).bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage("What is the weather in Paris?")]
    if streaming:
        chunks = [chunk async for chunk in model.astream(messages)]
        call_message: AIMessage = sum(chunks[1:], chunks[0])
    else:
        call_message = model.invoke(messages)
    [call] = call_message.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    messages += [call_message, get_weather.invoke(call)]
    reply = await model.ainvoke(messages)
    assert reply.text == "get_weather says: It is sunny in Paris."
    first, second = gemini.requests
    [declared] = first.body["tools"][0]["functionDeclarations"]
    assert (declared["name"], declared["description"]) == ("get_weather", "Look up the weather.")
    assert second.turns == [
        ("user", "What is the weather in Paris?"),
        ("model", 'call get_weather {"city": "Paris"}'),
        ("user", "result get_weather It is sunny in Paris."),
    ]


REFUSALS = {
    (403, "PERMISSION_DENIED"): (
        "This account may not call Gemini in project my-project. Enable the API with gcloud "
        "services enable aiplatform.googleapis.com --project=my-project, ask for the role "
        "roles/aiplatform.user, and allow some minutes for both to take effect."
    ),
    (429, "RESOURCE_EXHAUSTED"): (
        "The quota for gemini-3.6-flash in project my-project is used up for now. Wait a minute "
        "and run this again, pass another model or location to chat_model(), or ask for more on "
        "the Quotas page of the Google Cloud console."
    ),
    (404, "NOT_FOUND"): (
        "Vertex AI has no model 'gemini-3.6-flash' for project my-project in location global. "
        "Check the name, or pass another: chat_model('MODEL', location='LOCATION')."
    ),
    (401, "UNAUTHENTICATED"): (
        "Google Cloud got no valid credentials. Run sign_in(), or in a terminal: "
        "gcloud auth application-default login"
    ),
    (503, "UNAVAILABLE"): (
        "Gemini (gemini-3.6-flash) did not answer (HTTP 503). The error above this one has the "
        "reason; if it is a passing one, run this again."
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
async def test_refusals_say_the_next_step(
    gemini: GeminiServer, provider: Provider, refusal: tuple[int, str], way: str
) -> None:
    """What Google Cloud refuses becomes a sentence with the next step, Google's error its cause."""
    model = chat_model(provider=provider, max_retries=1)
    gemini.refuse(*refusal)
    with pytest.raises(ChatModelError) as error:
        await _call(model, way)
    assert str(error.value) == REFUSALS[refusal]
    assert isinstance(error.value, MemorystoreChatError)
    assert error.value.__cause__ is not None
    assert (await model.ainvoke("Hello")).text == "Hello. What is your name?"


async def _call(model: BaseChatModel, way: str) -> None:
    if way == "invoke":
        model.invoke("Hello")
    elif way == "stream":
        list(model.stream("Hello"))
    elif way == "ainvoke":
        await model.ainvoke("Hello")
    else:
        [chunk async for chunk in model.astream("Hello")]


def test_a_full_context_keeps_its_own_error(gemini: GeminiServer) -> None:
    """The error that makes LangChain's summarization step in is passed on as it is."""
    from langchain_core.exceptions import ContextOverflowError

    model = chat_model(provider="google-genai")
    gemini.refuse(400, "INVALID_ARGUMENT", "input exceeds the maximum number of tokens allowed")
    with pytest.raises(ContextOverflowError):
        model.invoke("Hello")


def test_refused_calls_are_not_repeated_for_long(gemini: GeminiServer) -> None:
    """ChatVertexAI tries a refused call twice, unless max_retries says otherwise."""
    gemini.refuse(403, "PERMISSION_DENIED", times=2)
    model = chat_model(wait_exponential_kwargs={"min": 0.0, "max": 0.0})
    with pytest.raises(ChatModelError):
        model.invoke("Hello")
    assert len(gemini.requests) == 2


def test_missing_credentials_say_how_to_sign_in(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without credentials the first call says how to sign in."""
    monkeypatch.delenv("MEMORYSTORE_CHAT_API_ENDPOINT", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    model = chat_model(project="my-project", provider=provider)
    with pytest.raises(ChatModelError) as error:
        model.invoke("Hello")
    assert str(error.value) == REFUSALS[401, "UNAUTHENTICATED"]


def test_nothing_listening(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that nobody serves is an error with a next step too."""
    with GeminiServer() as gone:
        monkeypatch.setenv("MEMORYSTORE_CHAT_API_ENDPOINT", gone.url)
    model = chat_model(project="my-project", provider=provider, max_retries=1)
    with pytest.raises(ChatModelError) as error:
        model.invoke("Hello")
    assert str(error.value) == (
        "Gemini (gemini-3.6-flash) did not answer. The error above this one has the reason; if it "
        "is a passing one, run this again."
    )


def test_the_loopback_detour_presents_no_credentials(
    gemini: GeminiServer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a token nor an API key of the environment goes to the loopback server."""
    monkeypatch.setenv("GOOGLE_API_KEY", "secret-key")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/secret.json")
    chat_model(provider=provider).invoke("Hello")
    headers = gemini.requests[0].headers
    assert "secret" not in str(headers)
    assert headers.get("authorization") in (None, "Bearer anonymous")


def test_an_endpoint_in_code_wins(
    gemini: GeminiServer, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options go to the client as they are, and leave the variable out of it."""
    from google.oauth2.credentials import Credentials

    with GeminiServer() as other:
        option = "api_endpoint" if provider == "vertexai" else "base_url"
        options: dict[str, Any] = {option: other.url, "credentials": Credentials("mine")}
        model = chat_model(provider=provider, max_output_tokens=25, **options)
        assert model.invoke("Hello").text == "Hello. What is your name?"
        [request] = other.requests
    assert request.headers["authorization"] == "Bearer mine"
    assert request.body["generationConfig"]["maxOutputTokens"] == 25
    assert gemini.requests == []
    assert "Its calls go to" not in capsys.readouterr().out


def test_errors_hold_no_token(gemini: GeminiServer, provider: Provider) -> None:
    """Neither the sentence nor the model's repr shows the credentials."""
    from google.oauth2.credentials import Credentials

    option = "api_endpoint" if provider == "vertexai" else "base_url"
    options: dict[str, Any] = {option: gemini.url, "credentials": Credentials("secret-token")}
    model = chat_model(provider=provider, max_retries=1, **options)
    gemini.refuse(403, "PERMISSION_DENIED")
    with pytest.raises(ChatModelError) as error:
        model.invoke("Hello")
    assert "secret-token" not in "".join(traceback.format_exception(error.value))
    assert "secret-token" not in repr(model)
