"""Chat models for the tutorial: `chat_model`, Gemini or a small offline model.

Gemini comes through LangChain's own clients; what is added is a request that Gemini accepts and an
error that says what to do next. The offline model needs no account.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.text import say

# Generally available in the location "global":
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides/gemini-3-8-flash
DEFAULT_MODEL = "gemini-3.8-flash"

# The mixin below sits in front of the Google clients, which are imported only when they are used.
if TYPE_CHECKING:
    _ChatModel = BaseChatModel
else:
    _ChatModel = object


class ChatModelError(MemorystoreChatError):
    """Gemini did not answer: the credentials, a permission, the quota or the model's name."""


def chat_model(
    model: str | None = None,
    *,
    project: str | None = None,
    location: str = "global",
    provider: Literal["google-genai", "vertexai"] = "google-genai",
    **model_options: Any,
) -> BaseChatModel:
    """Return Gemini on Google Cloud when there is a project, else the offline `DemoChatModel`.

    Prints which model it is and why. When Google Cloud refuses a call, Gemini raises
    `ChatModelError` with the next step. Turns without text, which Gemini refuses, are not sent to
    it. Asynchronous calls run in a thread.

    Args:
        model: Name of a Gemini model; ``"gemini-3.8-flash"`` by default.
        project: Google Cloud project id; by default ``$GOOGLE_CLOUD_PROJECT``.
        location: Where the model runs.
        provider: ``"google-genai"`` for `ChatGoogleGenerativeAI` (langchain-google-genai), or
            ``"vertexai"`` for `ChatVertexAI` (langchain-google-vertexai), which is deprecated.
        **model_options: Passed on to the client as they are, such as ``temperature``.

    Raises:
        ValueError: The provider is not known.
        ModuleNotFoundError: The provider's library is missing.

    Example:
        >>> model = chat_model(project="my-project")  # doctest: +SKIP
        Chat model: ChatGoogleGenerativeAI, gemini-3.8-flash in project my-project, location global,
        because the project is given.
    """
    if provider not in ("google-genai", "vertexai"):
        raise ValueError(f"provider must be 'google-genai' or 'vertexai', not {provider!r}.")
    reason = "the project is given" if project else "GOOGLE_CLOUD_PROJECT is set"
    project = project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        say(
            "Chat model: DemoChatModel, offline, because no project is given and "
            "GOOGLE_CLOUD_PROJECT is not set."
        )
        return DemoChatModel()
    options = {"model": model or DEFAULT_MODEL, "project": project, "location": location}
    # Subclassing ChatVertexAI warns, and so does every construction.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if provider == "google-genai":
            chosen = _google_genai()(vertexai=True, **options, **model_options)
        else:
            rest = "://" in str(model_options.get("api_endpoint"))
            defaults = {"max_retries": 2} | ({"api_transport": "rest"} if rest else {})
            chosen = _vertexai()(**options, **(defaults | model_options))
    say(
        f"Chat model: {type(chosen).__name__}, {options['model']} in project {project}, location "
        f"{location}, because {reason}."
    )
    return chosen


@cache
def _google_genai() -> Callable[..., BaseChatModel]:
    library: Any = require("langchain_google_genai", extra="google-genai")
    chat = require("langchain_google_genai.chat_models", extra="google-genai")
    genai = require("google.genai.errors", extra="google-genai")
    auth = require("google.auth.exceptions", extra="google")
    httpx = require("httpx", extra="google-genai")

    class ChatGoogleGenerativeAI(_Gemini, library.ChatGoogleGenerativeAI):  # type: ignore[misc]
        google_errors: ClassVar[tuple[type[Exception], ...]] = (
            chat.ChatGoogleGenerativeAIError,
            genai.APIError,
            auth.GoogleAuthError,
            httpx.TransportError,
        )

    return ChatGoogleGenerativeAI


@cache
def _vertexai() -> Callable[..., BaseChatModel]:
    library: Any = require("langchain_google_vertexai", extra="vertexai")
    google = require("google.api_core.exceptions", extra="vertexai")
    auth = require("google.auth.exceptions", extra="vertexai")
    requests = require("requests.exceptions", extra="google")

    class ChatVertexAI(_Gemini, library.ChatVertexAI):  # type: ignore[misc]
        google_errors: ClassVar[tuple[type[Exception], ...]] = (
            google.GoogleAPICallError,
            auth.GoogleAuthError,
            requests.ConnectionError,
        )

    return ChatVertexAI


class _Gemini(_ChatModel):
    """Sends what Gemini accepts, and says what to do next if Google Cloud refuses it."""

    google_errors: ClassVar[tuple[type[Exception], ...]]

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self._next_steps():
            return super()._generate(_acceptable(messages), stop, run_manager, **kwargs)  # type: ignore[safe-super]

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self._next_steps():
            yield from super()._stream(_acceptable(messages), stop, run_manager, **kwargs)

    # In a thread, which serves both: the async client of ChatVertexAI cannot await a REST answer.
    _agenerate = BaseChatModel._agenerate
    _astream = BaseChatModel._astream

    @contextmanager
    def _next_steps(self) -> Iterator[None]:
        settings: Any = self
        try:
            yield
        except ContextOverflowError:
            raise  # LangChain's summarization waits for this one
        except self.google_errors as error:
            names = {name: getattr(settings, name) for name in ("project", "location")}
            names["model"] = getattr(settings, "model_name", None) or settings.model
            raise ChatModelError(_next_step(error, **names)) from error


def _acceptable(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages in turns that Gemini accepts, as `sendable` has mended them.

    An empty answer or instruction is left out, an empty question becomes a blank, a result is left
    out if its call could not be parsed or another result follows, and answers in a row become one.
    """
    kept: list[BaseMessage] = []
    answers = [message for message in messages if isinstance(message, AIMessage)]
    unparsed = {call["id"] for message in answers for call in message.invalid_tool_calls}
    unparsed -= {call["id"] for message in answers for call in message.tool_calls}
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage)}
    for message in messages:
        content = message.content
        if isinstance(content, list):
            content = [block for block in content if not _is_empty(block)]
        if isinstance(message, ToolMessage):
            if message.tool_call_id in unparsed or message is not results[message.tool_call_id]:
                continue
        elif not content and isinstance(message, HumanMessage):
            content = " "
        elif not content and not getattr(message, "tool_calls", None):
            continue
        if content != message.content:
            message = message.model_copy(update={"content": content})
        before = kept[-1] if kept else None
        in_a_row = isinstance(message, AIMessage) and isinstance(before, AIMessage)
        if before and in_a_row and not getattr(before, "tool_calls", None):
            content = [*_blocks(before), *_blocks(message)]
            more = before.additional_kwargs | message.additional_kwargs
            message = message.model_copy(update={"content": content, "additional_kwargs": more})
            kept.pop()
        kept.append(message)
    return kept


def _blocks(message: BaseMessage) -> list[Any]:
    if isinstance(message.content, list):
        return message.content
    return [{"type": "text", "text": message.content}] if message.content else []


def _is_empty(block: str | dict[str, Any]) -> bool:
    if isinstance(block, str):
        return not block
    # A signature may come with an empty text, and has to be sent.
    is_signed = {"extras", "signature", "thought_signature"} & block.keys()
    return block.get("type") == "text" and not block.get("text") and not is_signed


def _next_step(error: Exception, **names: str) -> str:
    """Say why Gemini did not answer and what to do about it."""
    status, words = 0, str(error)[:500]
    cause: BaseException | None = error
    while cause is not None and not status:
        code = getattr(cause, "code", None)  # gRPC's own errors have a method there
        status = int(code) if isinstance(code, int) else 0
        status = 401 if type(cause).__module__.startswith("google.auth") else status
        cause = cause.__cause__
    if status in _NEXT_STEPS:
        return _NEXT_STEPS[status].format(**names)
    again = "If the cause is a passing one, run this again."
    if status == 400:
        again = (
            "The same request will be refused again. Change what the sentence names: a "
            "conversation from history.messages is one that Gemini accepts."
        )
    number = f" (HTTP {status})" if status else ""
    return f'Gemini ({names["model"]}) did not answer{number}: "{words}" {again}'


_NEXT_STEPS = {
    401: "Google Cloud got no valid credentials. Run sign_in(), or in a terminal: "
    "gcloud auth application-default login",
    403: "This account may not call Gemini in project {project}. Enable the API with "
    "gcloud services enable aiplatform.googleapis.com --project={project}, ask for the role "
    "roles/aiplatform.user, and allow some minutes for both to take effect.",
    404: "Google Cloud has no model {model!r} for project {project} in location {location}. "
    "Check the name, or pass another: chat_model('MODEL', location='LOCATION').",
    429: "The quota for {model} in project {project} is used up for now. Wait a minute and "
    "run this again, pass another model or location to chat_model(), or ask for more on "
    "the Quotas page of the Google Cloud console.",
}
