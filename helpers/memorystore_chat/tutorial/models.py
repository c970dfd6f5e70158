"""Chat models for the tutorial: Gemini on Vertex AI, or a small offline model.

`chat_model` picks one and says which. Without a Google Cloud project it is `DemoChatModel`, a
handful of rules that answer from the conversation they are given, so what a chat history does
can be seen without an account. With a project it is Gemini, through `ChatVertexAI` or
`ChatGoogleGenerativeAI`, with errors that say what to do next.
"""

import json
import os
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from memorystore_chat._extras import require
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.tutorial.demo import Tool, answer

DEFAULT_MODEL = "gemini-3.6-flash"
API_ENDPOINT_VARIABLE = "MEMORYSTORE_CHAT_API_ENDPOINT"

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
    **options: Any,
) -> BaseChatModel:
    """Return Gemini on Vertex AI when there is a project, else the offline `DemoChatModel`.

    Prints one line that says which model it is and why.

    Both Gemini clients raise `ChatModelError` with the next step when Google Cloud refuses a
    call; Google's own error is its cause. The deprecation warnings that `ChatVertexAI` gives
    when it is made are kept from the reader: they say that it goes away in version 4 of
    langchain-google-vertexai and that `ChatGoogleGenerativeAI` takes its place, which is
    ``provider="google-genai"`` here.

    With ``api_transport="rest"`` the async methods of `ChatVertexAI` run its REST calls in a
    thread, because its own async client cannot await a REST answer; with the default transport,
    gRPC, they are its own.

    For tests, the environment variable ``MEMORYSTORE_CHAT_API_ENDPOINT`` points the client at a
    stand-in for the API on this machine, such as ``http://127.0.0.1:8080``. It takes loopback
    addresses only, and the client then presents no credentials of yours: whoever sets a
    variable in your environment can send neither your messages nor your tokens elsewhere. Any
    other endpoint is passed in code, as ``api_endpoint=`` or ``base_url=``.

    Args:
        model: Name of a Gemini model; ``"gemini-3.6-flash"`` by default. The demo model has no
            use for it.
        project: Google Cloud project id; by default ``$GOOGLE_CLOUD_PROJECT``.
        location: Vertex AI location, such as ``"global"`` or ``"europe-west1"``.
        provider: ``"vertexai"`` for `ChatVertexAI` (langchain-google-vertexai) or
            ``"google-genai"`` for `ChatGoogleGenerativeAI` (langchain-google-genai).
        **options: Passed on to the client as they are: ``temperature``, ``api_endpoint``,
            ``api_transport``, ``base_url``, ``credentials``, ``max_retries``, ... Unless they
            say otherwise, an endpoint with a scheme (``http://...``) is spoken to over REST, and
            `ChatVertexAI`, which repeats refused calls too, tries twice instead of six times.

    Raises:
        ValueError: The provider is not known, or ``MEMORYSTORE_CHAT_API_ENDPOINT`` is not a
            loopback address.
        ModuleNotFoundError: The provider's library is missing; the message says how to
            install it.

    Example:
        >>> model = chat_model(project="my-project")  # doctest: +SKIP
        Chat model: ChatVertexAI, gemini-3.6-flash in project my-project, location global, because
        the project is given.
    """
    if provider not in ("vertexai", "google-genai"):
        raise ValueError(f"provider must be 'vertexai' or 'google-genai', not {provider!r}.")
    reason = "the project is given"
    if not project:
        project = os.environ.get("GOOGLE_CLOUD_PROJECT")
        reason = "GOOGLE_CLOUD_PROJECT is set"
    if not project:
        print(  # noqa: T201
            "Chat model: DemoChatModel, offline, because no project is given and "
            "GOOGLE_CLOUD_PROJECT is not set."
        )
        return DemoChatModel()

    detour = ""
    if not {"api_endpoint", "base_url"} & options.keys() and (endpoint := _loopback_endpoint()):
        options |= _loopback_options(endpoint, provider)
        detour = f" Its calls go to {endpoint}, as {API_ENDPOINT_VARIABLE} says."
    name = model or DEFAULT_MODEL
    if provider == "vertexai":
        chosen = _chat_vertexai(name, project, location, options)
    else:
        chosen = _chat_google_genai(name, project, location, options)
    print(  # noqa: T201
        f"Chat model: {type(chosen).__name__}, {name} in project {project}, location {location}, "
        f"because {reason}.{detour}"
    )
    return chosen


def _loopback_endpoint() -> str | None:
    """Return the loopback URL that ``MEMORYSTORE_CHAT_API_ENDPOINT`` holds, if it is set."""
    value = os.environ.get(API_ENDPOINT_VARIABLE)
    if not value:
        return None
    refused = ValueError(
        f"{API_ENDPOINT_VARIABLE} must be an address on this machine, such as "
        f"http://127.0.0.1:8080, not {value!r}. Pass any other endpoint in code: "
        "chat_model(api_endpoint=...)."
    )
    try:
        url = urlsplit(value)
        host, port = url.hostname or "", url.port
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        raise refused from None
    literal = f"[{host}]" if ":" in host else host
    # Rebuilt from its parts and compared, so that no other reading of the text is possible.
    rebuilt = f"{url.scheme}://{literal}:{port}"
    if not loopback or url.scheme not in ("http", "https") or rebuilt != value.rstrip("/"):
        raise refused
    return rebuilt


def _loopback_options(endpoint: str, provider: str) -> dict[str, Any]:
    """Return the options that send a client to `endpoint` without any credentials."""
    if provider == "vertexai":
        credentials = require("google.auth.credentials", install="google-auth")
        return {"api_endpoint": endpoint, "credentials": credentials.AnonymousCredentials()}
    # This client asks for a token before each call, which anonymous credentials cannot give.
    oauth2 = require("google.oauth2.credentials", install="google-auth")
    return {"base_url": endpoint, "credentials": oauth2.Credentials("anonymous")}


def _chat_vertexai(
    name: str, project: str, location: str, options: dict[str, Any]
) -> BaseChatModel:
    """Make a `ChatVertexAI`, without the warnings of its deprecation."""
    endpoint = options.get("api_endpoint") or options.get("base_url") or ""
    if "://" in endpoint and not {"api_transport", "transport"} & options.keys():
        options["api_transport"] = "rest"
    options.setdefault("max_retries", 2)
    # Subclassing it warns, and so does every construction.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _vertexai_class()(model=name, project=project, location=location, **options)


def _chat_google_genai(
    name: str, project: str, location: str, options: dict[str, Any]
) -> BaseChatModel:
    """Make a `ChatGoogleGenerativeAI` that calls Vertex AI."""
    chat = _google_genai_class()
    return chat(model=name, vertexai=True, project=project, location=location, **options)


@cache
def _vertexai_class() -> Callable[..., BaseChatModel]:
    library: Any = require("langchain_google_vertexai", install="langchain-google-vertexai")
    google = require("google.api_core.exceptions", install="google-api-core")
    auth = require("google.auth.exceptions", install="google-auth")
    requests = require("requests.exceptions", install="requests")

    class ChatVertexAI(_Explained, _AsyncOverRest, library.ChatVertexAI):  # type: ignore[misc]
        explained_errors: ClassVar[tuple[type[Exception], ...]] = (
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

    class ChatGoogleGenerativeAI(_Explained, library.ChatGoogleGenerativeAI):  # type: ignore[misc]
        explained_errors: ClassVar[tuple[type[Exception], ...]] = (
            chat.ChatGoogleGenerativeAIError,
            genai.APIError,
            auth.GoogleAuthError,
            httpx.TransportError,
        )

    return ChatGoogleGenerativeAI


class _AsyncOverRest(_ChatModel):
    """Runs the REST calls of `ChatVertexAI` in a thread when they are awaited."""

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if getattr(self, "api_transport", None) == "rest":
            # This form runs the sync method in a thread.
            return await BaseChatModel._agenerate(self, messages, stop, run_manager, **kwargs)
        return await super()._agenerate(messages, stop, run_manager, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if getattr(self, "api_transport", None) == "rest":
            chunks = BaseChatModel._astream(self, messages, stop, run_manager, **kwargs)
        else:
            chunks = super()._astream(messages, stop, run_manager, **kwargs)
        async for chunk in chunks:
            yield chunk


class _Explained(_ChatModel):
    """Turns what Google Cloud refuses into a `ChatModelError` that says what to do next."""

    explained_errors: ClassVar[tuple[type[Exception], ...]]

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._explaining():
            return super()._generate(messages, stop, run_manager, **kwargs)  # type: ignore[safe-super]

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._explaining():
            return await super()._agenerate(messages, stop, run_manager, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with self._explaining():
            yield from super()._stream(messages, stop, run_manager, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self._explaining():
            async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
                yield chunk

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        settings: Any = self
        try:
            yield
        except ContextOverflowError:
            # LangChain's summarization waits for this one.
            raise
        except self.explained_errors as error:
            name = getattr(settings, "model_name", None) or settings.model
            raise ChatModelError(
                _next_step(_status(error), name, settings.project, settings.location)
            ) from error


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error of either client, 401 for missing credentials."""
    while error is not None:
        if type(error).__module__.startswith("google.auth"):
            return 401
        # google-api-core and google-genai both name it so; gRPC's own errors have a method there.
        if isinstance(code := getattr(error, "code", None), int):
            return int(code)
        error = error.__cause__
    return None


def _next_step(status: int | None, model: str, project: str, location: str) -> str:
    """Say why Gemini did not answer and what to do about it."""
    if status == 401:
        return (
            "Google Cloud got no valid credentials. Run sign_in(), or in a terminal: "
            "gcloud auth application-default login"
        )
    if status == 403:
        return (
            f"This account may not call Gemini in project {project}. Enable the API with "
            f"gcloud services enable aiplatform.googleapis.com --project={project}, ask for the "
            "role roles/aiplatform.user, and allow some minutes for both to take effect."
        )
    if status == 404:
        return (
            f"Vertex AI has no model {model!r} for project {project} in location {location}. "
            "Check the name, or pass another: chat_model('MODEL', location='LOCATION')."
        )
    if status == 429:
        return (
            f"The quota for {model} in project {project} is used up for now. Wait a minute and "
            "run this again, pass another model or location to chat_model(), or ask for more on "
            "the Quotas page of the Google Cloud console."
        )
    number = f" (HTTP {status})" if status else ""
    return (
        f"Gemini ({model}) did not answer{number}. The error above this one has the reason; if it "
        "is a passing one, run this again."
    )


class DemoChatModel(BaseChatModel):
    """A small rule-based chat model that runs offline and reads its history.

    It answers from the messages it is given and from nothing else, so the same messages always
    get the same reply (only the message's ``id`` is LangChain's run id). It remembers a name and
    favorite things, knows what was asked before, counts and summarizes the conversation, and
    calls a bound tool when it is asked plainly: "What is the weather in Paris?" for a tool
    ``get_weather(city)``, or "use get_weather with city Paris". Then it answers with what the
    tool said. Everything else gets a line that says what it can do.

    It streams word by word, has async methods of its own, and reports usage. Its token counts
    are words, split at white space, which is an approximation: a real model's tokenizer counts
    differently.

    Options of real models that it has no use for, such as ``temperature``, are accepted and
    ignored, so that it can stand in for one.

    Args:
        model: The name it reports in ``response_metadata["model_name"]``.
        stop: A reply ends before the first of these strings, or of those given to a call.

    Example:
        >>> from langchain_core.messages import AIMessage, HumanMessage
        >>> history = [HumanMessage("My name is Ada."), AIMessage("Nice to meet you, Ada.")]
        >>> DemoChatModel().invoke([*history, HumanMessage("What is my name?")]).text
        'Your name is Ada.'
        >>> DemoChatModel().invoke("What is my name?").text
        'You have not told me your name yet.'
    """

    model: str = "demo"
    stop: list[str] | None = None

    @property
    def _llm_type(self) -> str:
        return "memorystore-chat-demo"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools it may call.

        Args:
            tools: Functions, LangChain tools, pydantic classes, typed dicts or JSON schemas.
            tool_choice: ``None`` or ``"auto"``: a call when asked plainly. ``"any"``,
                ``"required"`` or ``True``: always a call; an argument that the text does not
                give is then made up from it. A tool's name: always that tool. ``"none"``: never.
            **kwargs: Bound as they are.

        Raises:
            ValueError: `tool_choice` names none of the tools.

        Example:
            >>> def get_weather(city: str) -> str:
            ...     "Look up the weather."
            ...     return f"It is sunny in {city}."
            >>> model = DemoChatModel().bind_tools([get_weather])
            >>> model.invoke("What is the weather in Paris?").tool_calls[0]["args"]
            {'city': 'Paris'}
        """
        schemas = [convert_to_openai_tool(each) for each in tools]
        if isinstance(tool_choice, dict):
            tool_choice = str(tool_choice.get("function", tool_choice).get("name"))
        choice = {None: "auto", False: "auto", True: "any", "required": "any"}.get(
            tool_choice, tool_choice
        )
        names = [schema["function"]["name"] for schema in schemas]
        if choice not in ("auto", "any", "none", *names):
            raise ValueError(
                f"tool_choice must be 'auto', 'any', 'none' or one of {names}, not {choice!r}."
            )
        return self.bind(tools=schemas, tool_choice=choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, stop, kwargs))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, stop, kwargs)
        chunks = [
            AIMessageChunk(content=word) for word in re.findall(r"\s*\S+\s*$|\s*\S+", reply.text)
        ]
        chunks += [
            AIMessageChunk(
                content="",
                tool_call_chunks=[
                    tool_call_chunk(
                        name=call["name"],
                        args=json.dumps(call["args"], ensure_ascii=False),
                        id=call["id"],
                        index=index,
                    )
                ],
            )
            for index, call in enumerate(reply.tool_calls)
        ]
        last = chunks[-1] if chunks else AIMessageChunk(content="")
        last.usage_metadata = reply.usage_metadata
        last.response_metadata = reply.response_metadata
        last.chunk_position = "last"
        for chunk in chunks or [last]:
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, stop, **kwargs):
            yield chunk

    def _reply(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> AIMessage:
        tools = [Tool.from_schema(schema) for schema in kwargs.get("tools") or ()]
        reply = answer(messages, tools, kwargs.get("tool_choice") or "auto")
        text = reply if isinstance(reply, str) else ""
        calls = [] if isinstance(reply, str) else reply
        for end in stop or self.stop or ():
            text = text.partition(end)[0] if end else text
        read = sum(len(message.text.split()) for message in messages)
        written = len(text.split()) + sum(len(json.dumps(call["args"]).split()) for call in calls)
        return AIMessage(
            text,
            tool_calls=calls,
            usage_metadata=UsageMetadata(
                input_tokens=read, output_tokens=written, total_tokens=read + written
            ),
            response_metadata={
                "model_name": kwargs.get("model") or self.model,
                "finish_reason": "tool_calls" if calls else "stop",
            },
        )
