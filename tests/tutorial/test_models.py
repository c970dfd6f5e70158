"""The real Google clients, as `chat_model` makes them, against a server on this machine."""

import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from gemini_server import GeminiServer
from memorystore_chat.errors import MemorystoreChatError
from memorystore_tutorial import models
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.models import ChatModelError, chat_model
from printed import said

Provider = Literal["vertexai", "google-genai"]
WAYS = ["invoke", "astream"]  # the others are made of these

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
    """The server, in an environment with a project."""
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


def test_says_which_model_and_why(
    gemini: GeminiServer, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chat_model(provider=provider, **gemini.options(provider))
    named = {"vertexai": "ChatVertexAI", "google-genai": "ChatGoogleGenerativeAI"}[provider]
    library = {"vertexai": "langchain_google_vertexai", "google-genai": "langchain_google_genai"}
    assert type(model).__name__ == named
    assert isinstance(model, getattr(sys.modules[library[provider]], named))
    assert said(capsys) == (
        f"Chat model: {named}, gemini-3.8-flash in project my-project, location global, because "
        "GOOGLE_CLOUD_PROJECT is set."
    )


def test_no_deprecation_warning_reaches_the_reader(gemini: GeminiServer) -> None:
    models._vertexai.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            chat_model(provider="vertexai", **gemini.options("vertexai")).bind_tools(
                [get_weather]
            ).invoke("Hello")
    assert [each for each in caught if issubclass(each.category, DeprecationWarning)] == []


def test_history_arrives_in_order_with_roles(gemini: GeminiServer, provider: Provider) -> None:
    options = gemini.options(provider)
    where = {"project": "p", "location": "europe-west1"}
    reply = chat_model("gemini-other", provider=provider, **where, **options).invoke(HISTORY)
    assert reply.text == "Your name is Ada."
    [request] = gemini.requests
    assert {"project": request.project, "location": request.location} == where
    assert (request.model, request.method) == ("gemini-other", "generateContent")
    said = [("user", HISTORY[1].text), ("model", HISTORY[2].text), ("user", HISTORY[3].text)]
    assert request.turns == said
    assert request.body["systemInstruction"]["parts"] == [{"text": "You are a helpful assistant."}]


async def test_streaming_and_async(gemini: GeminiServer, model: BaseChatModel) -> None:
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
    gemini: GeminiServer, model: BaseChatModel, streaming: bool
) -> None:
    bound = model.bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage("What is the weather in Paris?")]
    if streaming:
        chunks = [chunk async for chunk in bound.astream(messages)]
        call_message: AIMessage = sum(chunks[1:], chunks[0])
    else:
        call_message = bound.invoke(messages)
    [call] = call_message.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    messages += [call_message, get_weather.invoke(call)]
    reply = await bound.ainvoke(messages)
    assert reply.text == "It is sunny in Paris."
    first, second = gemini.requests
    [declared] = first.body["tools"][0]["functionDeclarations"]
    assert (declared["name"], declared["description"]) == ("get_weather", "Look up the weather.")
    assert second.turns == [
        ("user", "What is the weather in Paris?"),
        ("model", 'call get_weather {"city": "Paris"}'),
        ("user", "result get_weather It is sunny in Paris."),
    ]


REFUSALS = {
    (401, "UNAUTHENTICATED"): "gcloud auth application-default login",
    (403, "PERMISSION_DENIED"): "roles/aiplatform.user",
    (404, "NOT_FOUND"): "no model 'gemini-3.8-flash' for project my-project in location global",
    (429, "RESOURCE_EXHAUSTED"): "quota for gemini-3.8-flash",
    (503, "UNAVAILABLE"): r"\(HTTP 503\).*refused",
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("way", WAYS)
async def test_refusals_say_the_next_step(
    gemini: GeminiServer, model: BaseChatModel, refusal: tuple[int, str], way: str
) -> None:
    gemini.refuse(*refusal)
    with pytest.raises(ChatModelError, match=REFUSALS[refusal]) as error:
        await _call(model, way)
    assert isinstance(error.value, MemorystoreChatError)
    assert error.value.__cause__ is not None
    assert (await model.ainvoke("Hello")).text == "Hello. What is your name?"


async def _call(
    model: BaseChatModel, way: str, messages: str | Sequence[BaseMessage] = "Hello"
) -> None:
    if way == "invoke":
        model.invoke(messages)
    else:
        [chunk async for chunk in model.astream(messages)]


def test_a_full_context_keeps_its_own_error(gemini: GeminiServer) -> None:
    """The error that makes LangChain's summarization step in is passed on as it is."""
    from langchain_core.exceptions import ContextOverflowError

    model = chat_model(provider="google-genai", **gemini.options("google-genai"))
    gemini.refuse(400, "INVALID_ARGUMENT", "input exceeds the maximum number of tokens allowed")
    with pytest.raises(ContextOverflowError):
        model.invoke("Hello")


def test_missing_credentials_say_how_to_sign_in(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    model = chat_model(project="my-project", provider=provider)
    with pytest.raises(ChatModelError, match=REFUSALS[401, "UNAUTHENTICATED"]):
        model.invoke("Hello")


def test_errors_hold_no_token(gemini: GeminiServer, provider: Provider) -> None:
    from google.oauth2.credentials import Credentials

    option = "api_endpoint" if provider == "vertexai" else "base_url"
    options: dict[str, Any] = {option: gemini.url, "credentials": Credentials("secret-token")}
    model = chat_model(provider=provider, max_retries=1, **options)
    gemini.refuse(403, "PERMISSION_DENIED")
    with pytest.raises(ChatModelError) as error:
        model.invoke("Hello")
    assert "secret-token" not in "".join(traceback.format_exception(error.value))
    assert "secret-token" not in repr(model)


def call(*names: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": n, "args": {}, "id": f"id-{n}"} for n in names])


def text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("empty", "sent"),
    [
        (AIMessage(""), []),
        (AIMessage([text_block("")]), []),
        (AIMessage("", response_metadata={"finish_reason": "MAX_TOKENS"}), []),
        (HumanMessage(""), [" "]),
        (AIMessage([text_block(""), text_block("Hm.")]), ["Hm."]),
        (SystemMessage(""), []),
    ],
)
def test_empty_turns_are_mended(
    gemini: GeminiServer, model: BaseChatModel, empty: BaseMessage, sent: list[str]
) -> None:
    model.invoke([HumanMessage("One."), AIMessage("Two."), empty, HumanMessage("Three.")])
    [request] = gemini.requests
    assert [text for _, text in request.turns] == ["One.", "Two.", *sent, "Three."]


def test_result_of_a_call_that_was_not_parsed_is_not_sent(
    gemini: GeminiServer, model: BaseChatModel
) -> None:
    """Such a call is not sent either, so that its result would answer nothing."""
    bad: Any = {"name": "a", "args": "{", "id": "x", "error": "no JSON"}
    conversation = [
        HumanMessage("One."),
        AIMessage("", invalid_tool_calls=[bad]),
        ToolMessage("It was not JSON.", tool_call_id="x", name="a"),
        HumanMessage("Two."),
    ]
    assert model.invoke(conversation).text
    assert [text for _, text in gemini.requests[0].turns] == ["One.", "Two."]


def test_of_two_results_the_second_is_sent(gemini: GeminiServer, model: BaseChatModel) -> None:
    """As when a history hands out a stand-in for the result that is passed after it."""
    results = [ToolMessage(text, tool_call_id="id-a", name="a") for text in ("None.", "Sunny.")]
    assert model.invoke([HumanMessage("One."), call("a"), *results]).text
    assert gemini.requests[0].turns[2:] == [("user", "result a Sunny.")]


@pytest.mark.parametrize("way", WAYS)
async def test_refused_conversation_is_not_to_be_repeated(model: BaseChatModel, way: str) -> None:
    with pytest.raises(ChatModelError, match=r"HTTP 400.*refused again.*history.messages"):
        await _call(model, way, [HumanMessage("One."), call("a"), HumanMessage("Two.")])


@pytest.mark.parametrize("project", [None, ""])
def test_without_a_project_it_is_the_demo_model(
    project: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    assert isinstance(chat_model("gemini-any", project=project, temperature=0), DemoChatModel)
    assert "DemoChatModel, offline" in said(capsys)
    with pytest.raises(ValueError, match="'google-genai' or 'vertexai'"):
        chat_model(provider="openai")  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
def test_names_the_missing_extra(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    library = {"vertexai": "langchain_google_vertexai", "google-genai": "langchain_google_genai"}
    monkeypatch.setitem(sys.modules, library[provider], None)
    models._vertexai.cache_clear()
    models._google_genai.cache_clear()
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
