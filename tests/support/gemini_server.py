"""A stand-in for Gemini on Vertex AI that listens on this machine, for both Google clients.

`ChatVertexAI` over REST streams a JSON array, `ChatGoogleGenerativeAI` server-sent events. The
rules of `DemoChatModel` write the replies, so a notebook gets here what it gets offline; arguments
of functions are texts. What Gemini refuses is refused, in words reported in langchain-ai/langchain
#27799 and #30140, google-gemini/gemini-cli#11814 and #26956, and pydantic/pydantic-ai#2032.
"""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from google.oauth2.credentials import Credentials
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from memorystore_tutorial.demo_model import DemoChatModel

_PATH = re.compile(
    r"/v1(?:beta1)?/projects/([^/]+)/locations/([^/]+)/publishers/google/models/([^/:]+):(\w+)"
)


class Request(NamedTuple):
    """A call as it arrived: what is in its path, and what is in its body."""

    project: str
    location: str
    model: str
    method: str
    messages: list[BaseMessage]


class GeminiServer(ThreadingHTTPServer):
    """Serves from entering the ``with`` block to leaving it, on a free loopback port.

    Attributes:
        options: What `chat_model` takes to call it as this provider, with nobody's credentials.
        requests: What arrived, oldest first.
        refusals: A status and a sentence for each of the next calls, which are refused.
    """

    daemon_threads = True

    def __init__(self, provider: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        url = f"http://127.0.0.1:{self.server_port}"
        rest = {"api_endpoint": url, "api_transport": "rest"}
        self.options: dict[str, Any] = {"provider": provider, "max_retries": 1}
        self.options |= rest if provider == "vertexai" else {"base_url": url}
        self.options["credentials"] = Credentials("secret-token")
        self.requests: list[Request] = []
        self.refusals: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """Return the status and the pieces of an answer."""
        found, messages = _PATH.match(path), [*_messages(body)]
        code, words = (400, _refusal(body["contents"])) if found else (404, f"no such path: {path}")
        if self.refusals:
            code, words = self.refusals.pop(0)
        if words or not found:
            return code, [{"error": {"code": code, "message": words}}]
        self.requests.append(Request(found[1], found[2], found[3], found[4], messages))
        message = DemoChatModel().bind_tools([*_tools(body)]).invoke(messages)
        texts = re.findall(r"\s*\S+", message.text) if "stream" in path else [message.text]
        parts: list[dict[str, Any]] = [{"text": text} for text in texts if text]
        parts += [{"functionCall": {k: c[k] for k in ("name", "args")}} for c in message.tool_calls]
        pieces: list[dict[str, Any]] = [{"content": {"role": "model", "parts": [p]}} for p in parts]
        pieces[-1]["finishReason"] = "STOP"
        return 200, [{"candidates": [{"index": 0} | piece]} for piece in pieces]


class _Handler(BaseHTTPRequestHandler):
    server: GeminiServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        code, pieces = self.server.reply(self.path, body)
        texts = [json.dumps(piece) for piece in pieces]
        text = f"[{','.join(texts)}]" if code == 200 and "stream" in self.path else texts[0]
        if code == 200 and "alt=sse" in self.path:
            text = "".join(f"data: {each}\r\n\r\n" for each in texts)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_request(self, *_: object) -> None:
        """Keep the tests' output free of access logs."""


def _tools(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Write the declared functions as OpenAI does."""
    for declared in (
        each for tool in body.get("tools", []) for each in tool["functionDeclarations"]
    ):
        schema = declared.get("parameters") or declared.get("parametersJsonSchema") or {}
        properties = {name: {"type": "string"} for name in schema.get("properties", ())}
        parameters = {"properties": properties, "required": schema.get("required")}
        yield {"type": "function", "function": declared | {"parameters": parameters}}


def _messages(body: dict[str, Any]) -> Iterator[BaseMessage]:
    """Read a request's contents as LangChain messages; a call's id is its function's name."""
    if system := body.get("systemInstruction"):
        yield SystemMessage("\n".join(part["text"] for part in system["parts"]))
    for content in body["contents"]:
        text = "\n".join(part["text"] for part in content["parts"] if "text" in part)
        asked = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        for part in content["parts"]:
            if answer := part.get("functionResponse"):
                result = answer["response"].get("output", answer["response"].get("content"))
                yield ToolMessage(str(result), tool_call_id=answer["name"])
        if content.get("role") == "model":
            calls: Any = [{"args": {}, "id": call["name"]} | call for call in asked]
            yield AIMessage(text, tool_calls=calls)
        elif text:
            yield HumanMessage(text)


def _refusal(contents: list[dict[str, Any]]) -> str:
    """Say what Gemini says to a request's contents; nothing if it accepts them."""
    role, pending = "", 0  # of the turn before
    for content in contents:
        parts = content["parts"]
        # A signature may come in a part of its own, with an empty text.
        if not all(any(v for key, v in part.items() if key != "thought") for part in parts):
            return "Unable to submit request because it must have a text parameter."
        if sum("functionResponse" in part for part in parts) != pending:
            return (
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn."
            )
        pending = sum("functionCall" in part for part in parts)
        if pending and role != "user":
            return (
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn."
            )
        role = content.get("role", "user")
    if role != "user":
        return "Please ensure that multiturn requests end with a user role or a function response."
    return ""
