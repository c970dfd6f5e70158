"""Google Cloud in notebooks: `sign_in`, and `chat_model`, Gemini or a small offline model."""

import os
import re
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, merge_message_runs

from memorystore_chat.connection.environment import Environment, detect_environment
from memorystore_chat.errors import MemorystoreChatError
from memorystore_chat.extras import require
from memorystore_tutorial.demo_model import DemoChatModel
from memorystore_tutorial.text import say

# Generally available in the location "global":
# https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides/gemini-3-8-flash
DEFAULT_MODEL = "gemini-3.8-flash"
# Each provider's client, and the errors by which Google Cloud refuses a call.
_CLIENTS = {
    "google-genai": (
        "langchain_google_genai.ChatGoogleGenerativeAI",
        "langchain_google_genai.chat_models.ChatGoogleGenerativeAIError",
        "google.genai.errors.APIError",
        "google.auth.exceptions.GoogleAuthError",
        "httpx.TransportError",
    ),
    "vertexai": (
        "langchain_google_vertexai.ChatVertexAI",
        "google.api_core.exceptions.GoogleAPICallError",
        "google.auth.exceptions.GoogleAuthError",
        "requests.exceptions.ConnectionError",
    ),
}
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
    400: "{words} The same request will be refused again; a conversation from history.messages is "
    "one that Gemini accepts.",
}


def sign_in(project_id: str | None = None) -> str | None:
    """Sign in to Google Cloud and choose the project, as far as that is needed here.

    In Colab it opens the sign-in dialog; elsewhere it looks for Application Default Credentials.
    The project becomes ``$GOOGLE_CLOUD_PROJECT`` of this process. It prints what it did, or what to
    run if there are no credentials, which does not stop the tutorial.

    Args:
        project_id: The project's id, such as ``"my-project-123"``, not its display name; by
            default ``$GOOGLE_CLOUD_PROJECT``. The empty string counts as none.

    Returns:
        The project id, or None when the tutorial runs offline.

    Raises:
        ValueError: The project id is not one.
        ModuleNotFoundError: google-auth is missing.

    Example:
        >>> sign_in()  # doctest: +SKIP
        No project is set, so the tutorial runs offline; no account is
        needed.
    """
    project = project_id or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        say("No project is set, so the tutorial runs offline; no account is needed.")
        return None
    # A leading dash would make it an option of gcloud's; a space makes it a display name.
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", project):
        raise ValueError(
            "project_id must be a project's id, made of lower-case letters, digits and hyphens "
            f"such as 'my-project-123', not {project!r}. List yours with: gcloud projects list"
        )
    if detect_environment() is Environment.COLAB:
        require("google.colab.auth", install="google-colab").authenticate_user(project_id=project)
        told = f"Signed in to Google Cloud from Colab; the project is {project}."
    else:
        auth = require("google.auth", extra="google")
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        try:
            # With a quota project google-auth does not warn that a user's credentials lack one.
            auth.default(scopes, quota_project_id=project)
            told = f"Found Application Default Credentials; the project is {project}."
        except auth.exceptions.DefaultCredentialsError:
            told = "There are no credentials. In a terminal, run this, then this cell again: "
            told += f"gcloud auth application-default login --project={project}"
    say(told)
    os.environ["GOOGLE_CLOUD_PROJECT"] = project
    return project


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
    `ChatModelError` with the next step. Answers without text, which Gemini refuses, are not sent
    to it. Asynchronous calls run in a thread.

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
    if provider not in _CLIENTS:
        raise ValueError(f"provider must be 'google-genai' or 'vertexai', not {provider!r}.")
    why = "the project is given" if project else "GOOGLE_CLOUD_PROJECT is set"
    project = project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        why = "no project is given and GOOGLE_CLOUD_PROJECT is not set"
        say(f"Chat model: DemoChatModel, offline, because {why}.")
        return DemoChatModel()
    model = model or DEFAULT_MODEL
    paths = [path.rpartition(".") for path in _CLIENTS[provider]]
    client, *refusals = [getattr(require(path[0], extra=provider), path[2]) for path in paths]
    extra: dict[str, Any] = {"vertexai": True} if provider == "google-genai" else {"max_retries": 2}
    options = extra | {"model": model, "project": project, "location": location} | model_options
    # Subclassing ChatVertexAI warns, and so does each construction.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        made: Any = types.new_class(client.__name__, (_Gemini, client))
        made.refusals = tuple(refusals)
        chosen: BaseChatModel = made(**options)
    where = f"{model} in project {project}, location {location}"
    say(f"Chat model: {client.__name__}, {where}, because {why}.")
    return chosen


class _Gemini:
    """A client of LangChain's that sends what Gemini accepts, and says what to do if it refuses."""

    # In a thread, which serves both: the async client of ChatVertexAI cannot await a REST answer.
    _agenerate, _astream = BaseChatModel._agenerate, BaseChatModel._astream

    def _generate(self, messages: list[BaseMessage], *given: Any, **options: Any) -> Any:
        client: Any = super()
        with _next_step(self):
            return client._generate(_acceptable(messages), *given, **options)

    def _stream(self, messages: list[BaseMessage], *given: Any, **options: Any) -> Iterator[Any]:
        client: Any = super()
        with _next_step(self):
            yield from client._stream(_acceptable(messages), *given, **options)


def _acceptable(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Leave out what Gemini refuses, and join messages of one kind in a row.

    It refuses an empty answer, a result without its call (a malformed call is not sent), and an
    answer right before one that calls a tool.
    """
    called = {call["id"] for message in messages for call in getattr(message, "tool_calls", ())}

    def is_accepted(message: BaseMessage) -> bool:
        if isinstance(message, AIMessage) and not message.tool_calls:
            return message.content not in ("", [], [{"type": "text", "text": ""}])
        return not isinstance(message, ToolMessage) or message.tool_call_id in called

    return merge_message_runs([*filter(is_accepted, messages)])


@contextmanager
def _next_step(client: Any) -> Iterator[None]:
    """Raise what Google Cloud answers instead of a reply as an error that says what to do."""
    try:
        yield
    except ContextOverflowError:
        raise  # LangChain's summarization waits for this one
    except client.refusals as error:
        status, model = _status(error), getattr(client, "model_name", None) or client.model
        number = f" (HTTP {status})" if status else ""
        words = f'Gemini ({model}) did not answer{number}: "{str(error)[:500]}"'
        names = {"model": model, "project": client.project, "location": client.location}
        step = _NEXT_STEPS.get(status, "{words} If the cause is a passing one, run this again.")
        raise ChatModelError(step.format(words=words, **names)) from error


def _status(error: BaseException | None) -> int:
    """Return the HTTP status of an error or its cause: 401 without credentials, 0 if unknown."""
    if type(error).__module__.startswith("google.auth"):
        return 401
    code = getattr(error, "code", None)  # gRPC's own errors have a method there
    return int(code) if isinstance(code, int) else _status(error.__cause__) if error else 0
