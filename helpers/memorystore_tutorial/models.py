"""Chat models for the tutorial: `chat_model`, Gemini or a small offline model.

Gemini comes through LangChain's own clients; what is added is a request that Gemini accepts and an
error that says what to do next. The offline model needs no account.
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
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
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
    `ChatModelError` with the next step. An answer without text, as a used-up token limit or a
    safety filter leaves, is not sent to it, and an empty question is sent as a blank. Asynchronous
    calls run in a thread.

    Args:
        model: Name of a Gemini model; ``"gemini-3.8-flash"`` by default. The demo model has no
            use for it.
        project: Google Cloud project id; by default ``$GOOGLE_CLOUD_PROJECT``.
        location: Where the model runs; the default model runs in ``"global"`` and in
            multi-regions such as ``"eu"``.
        provider: ``"google-genai"`` for `ChatGoogleGenerativeAI` (langchain-google-genai), or
            ``"vertexai"`` for `ChatVertexAI` (langchain-google-vertexai), which is deprecated.
        **model_options: Passed on to the client as they are: ``temperature``, ``max_retries``,
            ``credentials``, and for a private endpoint ``base_url`` (`ChatGoogleGenerativeAI`) or
            ``api_endpoint`` (`ChatVertexAI`, which speaks REST to one that begins with a scheme).

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
    out if its call could not be parsed, and so is the first of two results. Answers that follow
    each other become one turn, because a call must come after a question or a result.
    """
    kept: list[BaseMessage] = []
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage)}
    answers = [message for message in messages if isinstance(message, AIMessage)]
    unparsed = {call["id"] for message in answers for call in message.invalid_tool_calls}
    unparsed -= {call["id"] for message in answers for call in message.tool_calls}
    for message in messages:
        content = message.content
        if isinstance(content, list):
            content = [block for block in content if not _is_empty(block)]
        if isinstance(message, ToolMessage):
            if message is not results[message.tool_call_id] or message.tool_call_id in unparsed:
                continue
        elif not content and not getattr(message, "tool_calls", None):
            if not isinstance(message, HumanMessage):
                continue
            content = " "
        changed = content != message.content
        message = message.model_copy(update={"content": content}) if changed else message
        before = next((m for m in reversed(kept) if not isinstance(m, SystemMessage)), None)
        if (
            isinstance(message, AIMessage)
            and isinstance(before, AIMessage)
            and not before.tool_calls
        ):
            place = next(place for place, each in enumerate(kept) if each is before)
            kept[place] = before.model_copy(
                update={
                    "content": [*_blocks(before), *_blocks(message)],
                    "tool_calls": message.tool_calls,
                    "additional_kwargs": before.additional_kwargs | message.additional_kwargs,
                }
            )
        else:
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
    status, words = 0, ""
    cause: BaseException | None = error
    while cause is not None:
        code, message = getattr(cause, "code", None), getattr(cause, "message", None)
        if type(cause).__module__.startswith("google.auth"):
            status = status or 401
        elif isinstance(code, int):  # gRPC's own errors have a method there
            status = status or int(code)
        if isinstance(message, str):
            # google-api-core puts the method and the address before it.
            words = words or re.sub(r"^[A-Z]+ \S+: ", "", message)[:500]
        cause = cause.__cause__
    if status in _NEXT_STEPS:
        return _NEXT_STEPS[status].format(**names)
    said = f': "{words}"' if words else "."
    if status == 400:
        return (
            f"Gemini ({names['model']}) refuses this request (HTTP 400){said} The same request "
            "will be refused again. Change what the sentence names, in the options, the tools or "
            "the messages: a conversation from history.messages is one that Gemini accepts."
        )
    number = f" (HTTP {status})" if status else ""
    return (
        f"Gemini ({names['model']}) did not answer{number}{said} If the cause is a passing one, "
        "run this again."
    )


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
