"""The stand-in for Gemini refuses what Gemini refuses, through both Google clients."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

import gemini_rules
from gemini_server import GeminiServer


def call(*names: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": n, "args": {}, "id": f"id-{n}"} for n in names])


def result(name: str) -> ToolMessage:
    return ToolMessage("sunny", tool_call_id=f"id-{name}", name=name)


ASK, SAID = HumanMessage("Weather?"), AIMessage("Sunny.")


@pytest.fixture
def gemini() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


def plain(gemini: GeminiServer, provider: str) -> BaseChatModel:
    """A client of the library as it is, without what `chat_model` adds."""
    options: dict[str, Any] = gemini.options(provider)
    options |= {"project": "p", "location": "global", "max_retries": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if provider == "vertexai":
            from langchain_google_vertexai import ChatVertexAI

            return ChatVertexAI(model="gemini-3.8-flash", api_transport="rest", **options)
        from langchain_google_genai import ChatGoogleGenerativeAI

        return ChatGoogleGenerativeAI(model="gemini-3.8-flash", vertexai=True, **options)


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
@pytest.mark.parametrize(
    "messages",
    [
        [ASK],
        [ASK, SAID, ASK],
        [ASK, ASK],
        [ASK, call("a"), result("a")],
        [ASK, call("a", "b"), result("a"), result("b"), SAID, ASK],
        [ASK, call("a"), result("a"), call("b"), result("b"), ASK],
    ],
)
def test_accepts_what_gemini_accepts(
    gemini: GeminiServer, provider: str, messages: list[BaseMessage]
) -> None:
    assert plain(gemini, provider).invoke(messages).text


@pytest.mark.parametrize("provider", ["vertexai", "google-genai"])
@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([call("a"), result("a"), ASK], gemini_rules.CALL_TURN),
        ([ASK, call("a"), ASK], gemini_rules.RESPONSE_COUNT),
        ([ASK, call("a", "b"), result("a"), ASK], gemini_rules.RESPONSE_COUNT),
        ([ASK, SAID], gemini_rules.LAST_TURN),
    ],
)
def test_refuses_what_gemini_refuses(
    gemini: GeminiServer, provider: str, messages: list[BaseMessage], words: str
) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011
        plain(gemini, provider).invoke(messages)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([], gemini_rules.NO_CONTENTS),
        ([{"role": "assistant", "parts": [{"text": "Hi"}]}], gemini_rules.ROLE),
        ([{"role": "user", "parts": []}], gemini_rules.NO_PARTS),
        ([{"role": "user"}], gemini_rules.NO_PARTS),
        ([{"role": "user", "parts": [{"text": ""}]}], gemini_rules.EMPTY_TEXT),
        (
            [{"role": "user", "parts": [{"functionResponse": {"name": "a", "response": {}}}]}],
            gemini_rules.RESPONSE_TURN,
        ),
    ],
)
def test_refuses_malformed_turns(contents: list[dict[str, Any]], words: str) -> None:
    assert gemini_rules.refusal(contents) == words


def test_empty_answer_makes_a_session_unusable_without_help(gemini: GeminiServer) -> None:
    """What ChatVertexAI sends for an empty answer is refused, the fault `chat_model` mends."""
    with pytest.raises(Exception, match="at least one parts field"):
        plain(gemini, "vertexai").invoke([ASK, AIMessage(""), ASK])


def test_options_send_no_credentials() -> None:
    with GeminiServer() as server:
        assert isinstance(server.options("vertexai")["credentials"], AnonymousCredentials)
