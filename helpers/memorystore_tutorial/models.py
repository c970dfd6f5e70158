"""Chat models for the tutorial: Gemini on Vertex AI, or a small offline model.

Gemini comes through `ChatVertexAI` or `ChatGoogleGenerativeAI`, with errors that say what to do
next. The offline model needs no account and answers from the conversation it is given.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require
from memorystore_tutorial.text import say
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.gemini_turns import mended, refused

# Generally available in the location "global":
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides/gemini-3-8-flash
DEFAULT_MODEL = "gemini-3.8-flash"

# The mixins below sit in front of the Google clients, which are imported only when they are used.
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
    provider: Literal["vertexai", "google-genai"] = "vertexai",
    **model_options: Any,
) -> BaseChatModel:
    """Return Gemini on Vertex AI when there is a project, else the offline `DemoChatModel`.

    Prints which model it is and why. When Google Cloud refuses a call, Gemini raises
    `ChatModelError` with the next step. An answer without text, as a used-up token limit or a
    safety filter leaves, is not sent to it, and an empty question is sent as a blank. Asynchronous
    calls run in a thread.

    Args:
        model: Name of a Gemini model; ``"gemini-3.8-flash"`` by default. The demo model has no
            use for it.
        project: Google Cloud project id; by default ``$GOOGLE_CLOUD_PROJECT``.
        location: Vertex AI location, such as ``"global"`` or ``"europe-west1"``.
        provider: ``"vertexai"`` for `ChatVertexAI` (langchain-google-vertexai) or
            ``"google-genai"`` for `ChatGoogleGenerativeAI` (langchain-google-genai).
        **model_options: Passed on to the client as they are: ``temperature``, ``max_retries``,
            ``credentials``, and for a private endpoint ``api_endpoint`` (`ChatVertexAI`) or
            ``base_url`` (`ChatGoogleGenerativeAI`). Unless they say otherwise, `ChatVertexAI`
            speaks REST to an endpoint with a scheme (``http://...``), and tries a call twice.

    Raises:
        ValueError: The provider is not known.
        ModuleNotFoundError: The provider's library is missing.

    Example:
        >>> model = chat_model(project="my-project")  # doctest: +SKIP
        Chat model: ChatVertexAI, gemini-3.8-flash in project my-project, location global, because
        the project is given.
    """
    if provider not in ("vertexai", "google-genai"):
        raise ValueError(f"provider must be 'vertexai' or 'google-genai', not {provider!r}.")
    reason = "the project is given"
    if not project:
        project = os.environ.get("GOOGLE_CLOUD_PROJECT")
        reason = "GOOGLE_CLOUD_PROJECT is set"
    if not project:
        say(
            "Chat model: DemoChatModel, offline, because no project is given and "
            "GOOGLE_CLOUD_PROJECT is not set."
        )
        return DemoChatModel()

    name = model or DEFAULT_MODEL
    options: dict[str, Any] = {"project": project, "location": location, **model_options}
    if provider == "vertexai":
        chosen = _chat_vertexai(model=name, **options)
    else:
        chosen = _google_genai_class()(model=name, vertexai=True, **options)
    say(
        f"Chat model: {type(chosen).__name__}, {name} in project {project}, location {location}, "
        f"because {reason}."
    )
    return chosen


def _chat_vertexai(**options: Any) -> BaseChatModel:
    endpoint = options.get("api_endpoint") or options.get("base_url") or ""
    if "://" in endpoint and not {"api_transport", "transport"} & options.keys():
        options["api_transport"] = "rest"
    options.setdefault("max_retries", 2)
    # Subclassing it warns, and so does every construction: ChatGoogleGenerativeAI succeeds it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _vertexai_class()(**options)


@cache
def _vertexai_class() -> Callable[..., BaseChatModel]:
    library: Any = require("langchain_google_vertexai", install="langchain-google-vertexai")
    google = require("google.api_core.exceptions", install="google-api-core")
    auth = require("google.auth.exceptions", install="google-auth")
    requests = require("requests.exceptions", install="requests")

    class ChatVertexAI(_Gemini, library.ChatVertexAI):  # type: ignore[misc]
        google_errors: ClassVar[tuple[type[Exception], ...]] = (
            google.GoogleAPICallError,
            auth.GoogleAuthError,
            requests.ConnectionError,
        )

    return ChatVertexAI


@cache
def _google_genai_class() -> Callable[..., BaseChatModel]:
    library: Any = require("langchain_google_genai", install="langchain-google-genai")
    chat = require("langchain_google_genai.chat_models", install="langchain-google-genai")
    genai = require("google.genai.errors", install="google-genai")
    auth = require("google.auth.exceptions", install="google-auth")
    httpx = require("httpx", install="httpx")

    class ChatGoogleGenerativeAI(_Gemini, library.ChatGoogleGenerativeAI):  # type: ignore[misc]
        google_errors: ClassVar[tuple[type[Exception], ...]] = (
            chat.ChatGoogleGenerativeAIError,
            genai.APIError,
            auth.GoogleAuthError,
            httpx.TransportError,
        )

    return ChatGoogleGenerativeAI


class _Gemini(_ChatModel):
    """Sends what Gemini accepts, and says what to do next if Google Cloud refuses it."""

    google_errors: ClassVar[tuple[type[Exception], ...]]

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self._next_steps(messages):
            return super()._generate(mended(messages), stop, run_manager, **kwargs)  # type: ignore[safe-super]

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self._next_steps(messages):
            yield from super()._stream(mended(messages), stop, run_manager, **kwargs)

    # In a thread, which serves both: the async client of ChatVertexAI cannot await a REST answer.
    _agenerate = BaseChatModel._agenerate
    _astream = BaseChatModel._astream

    @contextmanager
    def _next_steps(self, messages: list[BaseMessage]) -> Iterator[None]:
        settings: Any = self
        try:
            yield
        except ContextOverflowError:
            # LangChain's summarization waits for this one.
            raise
        except self.google_errors as error:
            names = {name: getattr(settings, name) for name in ("project", "location")}
            names["model"] = getattr(settings, "model_name", None) or settings.model
            raise ChatModelError(_next_step(error, messages, **names)) from error


def _told(error: BaseException | None) -> tuple[int, str]:
    """The HTTP status behind an error of either client, 0 if there is none, and Google's words."""
    status, words = 0, ""
    while error is not None:
        code, message = getattr(error, "code", None), getattr(error, "message", None)
        if type(error).__module__.startswith("google.auth"):
            status = status or 401
        elif isinstance(code, int):  # gRPC's own errors have a method there
            status = status or int(code)
        if isinstance(message, str):
            # google-api-core puts the method and the address before it.
            words = words or re.sub(r"^[A-Z]+ \S+: ", "", message)[:500]
        error = error.__cause__
    return status, words


def _next_step(error: Exception, messages: Sequence[BaseMessage], **names: str) -> str:
    """Say why Gemini did not answer and what to do about it."""
    status, words = _told(error)
    if status in _NEXT_STEPS:
        return _NEXT_STEPS[status].format(**names)
    said = f': "{words}"' if words else ""
    if status == 400:
        return (
            f"Gemini ({names['model']}) refuses this request (HTTP 400){said} {refused(messages)}"
        )
    number = f" (HTTP {status})" if status else ""
    return (
        f"Gemini ({names['model']}) did not answer{number}{said or '.'} If the cause is a passing "
        "one, run this again."
    )


_NEXT_STEPS = {
    401: "Google Cloud got no valid credentials. Run sign_in(), or in a terminal: "
    "gcloud auth application-default login",
    403: "This account may not call Gemini in project {project}. Enable the API with "
    "gcloud services enable aiplatform.googleapis.com --project={project}, ask for the role "
    "roles/aiplatform.user, and allow some minutes for both to take effect.",
    404: "Vertex AI has no model {model!r} for project {project} in location {location}. "
    "Check the name, or pass another: chat_model('MODEL', location='LOCATION').",
    429: "The quota for {model} in project {project} is used up for now. Wait a minute and "
    "run this again, pass another model or location to chat_model(), or ask for more on "
    "the Quotas page of the Google Cloud console.",
}
