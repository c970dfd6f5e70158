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
from urllib.parse import parse_qs, urlsplit

from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from gemini_rules import refusal
from memorystore_tutorial.demo_model import DemoChatModel

_PATH = re.compile(
    r"/v1(?:beta1)?/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)"
    r"/publishers/google/models/(?P<model>[^/:]+):(?P<method>\w+)"
)

_TYPES = ["unspecified", "string", "number", "integer", "boolean", "array", "object", "null"]


@dataclass(frozen=True)
class Request:
    """A call as it arrived: what is in its path, its headers in lower case, its JSON."""

    project: str
    location: str
    model: str
    method: str
    headers: dict[str, str]
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
        self._refusals: list[tuple[int, str, str]] = []
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
            return {"api_endpoint": self.url, "credentials": AnonymousCredentials()}
        # This client asks for a token before each call, which anonymous credentials cannot give.
        return {"base_url": self.url, "credentials": Credentials("anonymous")}

    def refuse(self, code: int, status: str, message: str = "refused", *, times: int = 1) -> None:
        """Answer the next `times` calls with an error, such as ``429, "RESOURCE_EXHAUSTED"``."""
        self._refusals += [(code, status, message)] * times


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gemini: GeminiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what goes wrong, but not that a client dropped a connection it had kept."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        gemini: GeminiServer = self.server.gemini  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = _PATH.fullmatch(url.path)
        if found is None:
            return self._send_error(404, "NOT_FOUND", f"no such path: {url.path}")
        headers = {name.lower(): value for name, value in self.headers.items()}
        gemini.requests.append(Request(**found.groupdict(), headers=headers, body=body))
        if gemini._refusals:
            return self._send_error(*gemini._refusals.pop(0))
        if refused := refusal(body.get("contents", [])):
            return self._send_error(400, "INVALID_ARGUMENT", refused)
        reply = _reply(body)
        if found["method"] == "generateContent":
            return self._send(
                200, "application/json", json.dumps(_response(reply, found["model"], last=reply))
            )
        chunks = [
            json.dumps(_response(piece, found["model"], last=last))
            for piece, last in _pieces(reply)
        ]
        if parse_qs(url.query).get("alt") == ["sse"]:
            events = "".join(f"data: {chunk}\r\n\r\n" for chunk in chunks)
            return self._send(200, "text/event-stream", events)
        return self._send(200, "application/json", "[" + ",\r\n".join(chunks) + "]")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the tests' output free of access logs."""

    def _send_error(self, code: int, status: str, message: str) -> None:
        error = {"error": {"code": code, "status": status, "message": message}}
        self._send(code, "application/json", json.dumps(error))

    def _send(self, code: int, content_type: str, text: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _reply(body: dict[str, Any]) -> AIMessage:
    """Answer a request with the demo model's rules."""
    declared = [
        declaration
        for tool in body.get("tools", [])
        for declaration in tool.get("functionDeclarations", [])
    ]
    tools = [
        {
            "title": declaration["name"],
            "description": declaration.get("description", ""),
            **_json_schema(
                declaration.get("parameters") or declaration.get("parametersJsonSchema") or {}
            ),
        }
        for declaration in declared
    ]
    return DemoChatModel().bind_tools(tools).invoke(list(_messages(body)))


def _messages(body: dict[str, Any]) -> Iterator[BaseMessage]:
    """Read a request's contents as LangChain messages."""
    system = body.get("systemInstruction", {}).get("parts", [])
    if system:
        yield SystemMessage("\n".join(part["text"] for part in system))
    for content in body["contents"]:
        parts = content["parts"]
        text = "\n".join(part["text"] for part in parts if "text" in part)
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if content.get("role") == "model":
            yield AIMessage(
                text,
                tool_calls=[
                    {"name": call["name"], "args": call.get("args", {}), "id": call["name"]}
                    for call in calls
                ],
            )
        elif answers:
            for answer in answers:
                name = answer["name"]
                yield ToolMessage(_answered(answer), tool_call_id=name, name=name)
        else:
            yield HumanMessage(text)


def _answered(answer: dict[str, Any]) -> str:
    """Return a function's result as the text its tool returned."""
    response = answer["response"]
    for key in ("output", "content"):
        if response.keys() == {key}:
            return str(response[key])
    return json.dumps(response)


def _json_schema(schema: Any) -> Any:
    """Write ``{"type": "STRING"}`` or ``{"type": 1}`` as JSON Schema does, at every depth."""
    if isinstance(schema, list):
        return [_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _json_schema(value) for key, value in schema.items()}
    if isinstance(kind := plain.get("type"), int | str):
        # google.cloud.aiplatform's REST client sends the number of its Type enum.
        plain["type"] = _TYPES[kind] if isinstance(kind, int) else kind.lower()
    return plain


def _shown(part: dict[str, Any]) -> str:
    if "functionCall" in part:
        call = part["functionCall"]
        return f"call {call['name']} {json.dumps(call.get('args', {}))}"
    if "functionResponse" in part:
        return f"result {part['functionResponse']['name']} {_answered(part['functionResponse'])}"
    return str(part.get("text", ""))


def _pieces(reply: AIMessage) -> list[tuple[AIMessage, AIMessage | None]]:
    """Cut a reply into what a stream sends; the last piece carries the usage."""
    if reply.tool_calls:
        return [(reply, reply)]
    *pieces, end = (AIMessage(word) for word in re.findall(r"\s*\S+", reply.text))
    return [*((piece, None) for piece in pieces), (end, reply)]


def _response(piece: AIMessage, model: str, *, last: AIMessage | None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"text": piece.text}] if piece.text else []
    parts += [
        {"functionCall": {"name": call["name"], "args": call["args"]}} for call in piece.tool_calls
    ]
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if last is None:
        return {"candidates": [candidate], "modelVersion": model}
    usage = last.usage_metadata
    assert usage is not None
    return {
        "candidates": [{**candidate, "finishReason": "STOP"}],
        "modelVersion": model,
        "usageMetadata": {
            "promptTokenCount": usage["input_tokens"],
            "candidatesTokenCount": usage["output_tokens"],
            "totalTokenCount": usage["total_tokens"],
        },
    }
