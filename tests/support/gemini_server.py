"""A stand-in for Gemini on Vertex AI that listens on this machine.

It speaks ``generateContent`` and ``streamGenerateContent`` the way both Google clients expect:
a JSON array for the REST transport of `ChatVertexAI`, server-sent events for
`ChatGoogleGenerativeAI`. The rules of `DemoChatModel` write its replies, so a notebook gets from
it what it gets offline, through the real client. It keeps every request it received, and refuses
the conversations that Gemini refuses (`gemini_rules`).
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from gemini_rules import refusal
from memorystore_tutorial.demo_model import DemoChatModel

_PATH = re.compile(
    r"/v1(?:beta1)?/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)"
    r"/publishers/google/models/(?P<model>[^/:]+):(?P<method>\w+)"
)
# google.cloud.aiplatform's REST client sends the number of its Type enum.
_TYPES = ["unspecified", "string", "number", "integer", "boolean", "array", "object", "null"]


@dataclass(frozen=True)
class Request:
    """A call as it arrived: what is in its path, and its JSON."""

    project: str
    location: str
    model: str
    method: str
    body: dict[str, Any]

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The conversation as (role, text or called or answered function) pairs."""
        return [
            (content.get("role", "user"), _shown(part))
            for content in self.body["contents"]
            for part in content.get("parts", [])
        ]


@dataclass
class GeminiServer:
    """Serves from entering the ``with`` block to leaving it, on a free loopback port.

    Attributes:
        requests: What arrived, oldest first.

    Example:
        >>> with GeminiServer() as gemini:
        ...     gemini.url.startswith("http://127.0.0.1:")
        True
    """

    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.refusals: list[tuple[int, str, str]] = []
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.gemini = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Address for ``api_endpoint`` or ``base_url``."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def options(self, provider: str) -> dict[str, Any]:
        """Options for `chat_model` that send its calls here, without credentials of anybody's."""
        if provider == "vertexai":
            login = AnonymousCredentials()
            return {"api_endpoint": self.url, "api_transport": "rest", "credentials": login}
        # This client asks for a token before each call, which anonymous credentials cannot give.
        return {"base_url": self.url, "credentials": Credentials("anonymous")}

    def refuse(self, code: int, status: str, message: str = "refused") -> None:
        """Answer the next call with an error, such as ``429, "RESOURCE_EXHAUSTED"``."""
        self.refusals.append((code, status, message))

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """Return the status and the pieces of an answer."""
        code, status, words = 404, "NOT_FOUND", f"no such path: {path}"
        if found := _PATH.match(path):
            self.requests.append(Request(**found.groupdict(), body=body))
            code, status, words = 400, "INVALID_ARGUMENT", refusal(body.get("contents", [])) or ""
        if self.refusals:
            code, status, words = self.refusals.pop(0)
        if words:
            return code, [{"error": {"code": code, "status": status, "message": words}}]
        message = DemoChatModel().bind_tools(_tools(body)).invoke([*_messages(body)])
        texts = re.findall(r"\s*\S+", message.text) if "stream" in path else [message.text]
        parts: list[dict[str, Any]] = [{"text": text} for text in texts if text]
        parts += [{"functionCall": {k: c[k] for k in ("name", "args")}} for c in message.tool_calls]
        pieces: list[dict[str, Any]] = [{"content": {"role": "model", "parts": [p]}} for p in parts]
        pieces[-1]["finishReason"] = "STOP"
        return 200, [{"candidates": [{"index": 0} | piece]} for piece in pieces]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gemini: GeminiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what goes wrong, but not that a client dropped a connection it had kept."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        code, pieces = self.server.gemini.reply(self.path, body)
        texts, kind = [json.dumps(piece) for piece in pieces], "application/json"
        if "alt=sse" in self.path and code == 200:
            text, kind = "".join(f"data: {each}\r\n\r\n" for each in texts), "text/event-stream"
        else:
            text = f"[{','.join(texts)}]" if code == 200 and "stream" in self.path else texts[0]
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the tests' output free of access logs."""


def _tools(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the declared functions as tools with JSON Schema."""
    declared = [d for tool in body.get("tools", []) for d in tool.get("functionDeclarations", [])]
    return [
        {"title": each["name"], "description": each.get("description", "")}
        | _json_schema(each.get("parameters") or each.get("parametersJsonSchema") or {})
        for each in declared
    ]


def _json_schema(schema: Any) -> Any:
    """Write ``{"type": "STRING"}`` or ``{"type": 1}`` as JSON Schema does, at every depth."""
    if not isinstance(schema, dict):
        return schema
    plain = {key: _json_schema(value) for key, value in schema.items()}
    if isinstance(kind := plain.get("type"), int | str):
        plain["type"] = _TYPES[kind] if isinstance(kind, int) else kind.lower()
    return plain


def _messages(body: dict[str, Any]) -> Iterator[BaseMessage]:
    """Read a request's contents as LangChain messages."""
    if system := body.get("systemInstruction", {}).get("parts", []):
        yield SystemMessage("\n".join(part["text"] for part in system))
    for content in body["contents"]:
        parts = content["parts"]
        text = "\n".join(part["text"] for part in parts if "text" in part)
        if content.get("role") == "model":
            asked = [part["functionCall"] for part in parts if "functionCall" in part]
            calls: Any = [{"args": {}, "id": call["name"]} | call for call in asked]
            yield AIMessage(text, tool_calls=calls)
            continue
        for name, answer in (_answered(part) for part in parts if "functionResponse" in part):
            yield ToolMessage(answer, tool_call_id=name, name=name)
        if text:
            yield HumanMessage(text)


def _answered(part: dict[str, Any]) -> tuple[str, str]:
    """Return a function's name, and its result as the text its tool returned."""
    response = part["functionResponse"]["response"]
    text = response.get("output", response.get("content", json.dumps(response)))
    return part["functionResponse"]["name"], str(text)


def _shown(part: dict[str, Any]) -> str:
    if "functionCall" in part:
        call = part["functionCall"]
        return f"call {call['name']} {json.dumps(call.get('args', {}))}"
    if "functionResponse" in part:
        return "result {} {}".format(*_answered(part))
    return str(part.get("text", ""))
