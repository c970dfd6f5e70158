"""What the web app accepts and refuses, asked over HTTP."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import crypt, jwt

import servers
from web_app import APP, Replica, Visitor, text_of

ENDED = (0, -signal.SIGTERM)
SLOW = {"DEMO_MODEL_DELAY": "0.1"}
Start = Callable[..., Replica]


def test_talk_is_remembered_in_its_conversation_and_the_guest_in_all(shared: Replica) -> None:
    ada = Visitor(shared.url)
    events = ada.ask("My name is Ada. Remember that I like green tea.")
    first = events[0]["id"]
    assert {"type": "tool", "text": "remember"} in events
    assert "Ada" in text_of(ada.ask("What is my name?", conversation=first))
    assert "green tea" in text_of(ada.ask("What do I like?"))
    assert "Ada" not in text_of(Visitor(shared.url).ask("What is my name?"))
    titles = [each["title"] for each in ada.http.get("/api/conversations").json()]
    assert titles == ["What do I like?", "My name is Ada. Remember that I like green tea."]
    ada.ask("Thanks", conversation=first)
    assert ada.http.get("/api/conversations").json()[0]["id"] == first, "the last used comes first"


def test_what_is_somebody_elses_is_not_found(shared: Replica) -> None:
    ada, grace = Visitor(shared.url), Visitor(shared.url)
    hers = ada.ask("My name is Ada.")[0]["id"]
    for id_ in (hers, uuid4().hex):
        assert grace.http.get(f"/api/conversations/{id_}").status_code == 404
        assert grace.refused("What is my name?", conversation=id_) == 404
    assert grace.http.get("/api/conversations").json() == []


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"text": "x" * 2001}, 422),
        ({"text": ""}, 422),
        ({"text": ["x"]}, 422),
        ({"decision": "edit", "interrupt": "x"}, 422),
        ({"decision": "approve", "interrupt": 7}, 422),
        ({"conversation": "../secret"}, 422),
        ({"decision": "approve", "interrupt": "x"}, 409),
        ({}, 409),
    ],
)
def test_what_the_page_would_not_send_is_refused(
    shared: Replica, given: dict[str, Any], status: int
) -> None:
    ada = Visitor(shared.url)
    assert ada.refused(**given) == status
    assert ada.http.get("/api/conversations").json() == []


@pytest.mark.parametrize("body", [b'{"text": "\\ud800"}', b"{", b"[]", b'{"text": ' + b"[" * 9000])
def test_broken_body_is_refused(shared: Replica, body: bytes) -> None:
    answer = httpx.post(f"{shared.url}/api/turns", content=body, headers=JSON)
    assert answer.status_code in (400, 422)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
@pytest.mark.parametrize("path", ["turns", "forget"])
def test_other_sites_may_not_post(shared: Replica, path: str, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{shared.url}/api/{path}", content=b"{}", headers=JSON | headers)
    assert answer.status_code == 403


def test_large_body_is_refused(shared: Replica) -> None:
    large = json.dumps({"text": "x", "more": "x" * 30_000}).encode()
    assert httpx.post(f"{shared.url}/api/turns", content=large, headers=JSON).status_code == 403


def test_pages_carry_a_strict_policy(shared: Replica) -> None:
    for path in ("/", "/chat.js", "/api/conversations", "/none"):
        headers = httpx.get(shared.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    cookie = httpx.get(f"{shared.url}/api/conversations").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_forged_cookie_is_a_new_guest(shared: Replica) -> None:
    ada = Visitor(shared.url)
    ada.ask("My name is Ada.")
    good = ada.http.cookies["guest"]
    name, _, rest = good.partition(".")
    for forged in (name, f"{uuid4().hex}.{rest}", good[:-1] + "_", "x" * 3000, f"{name}.{rest}.x"):
        answer = httpx.get(f"{shared.url}/api/conversations", cookies={"guest": forged})
        assert answer.json() == []
        assert answer.cookies["guest"].partition(".")[0] != name
    assert len(httpx.get(f"{shared.url}/api/conversations", cookies={"guest": good}).json()) == 1


def test_decision_fits_what_waits(shared: Replica) -> None:
    """A new question, a foreign decision, and the rest of nothing are refused, and harm nothing."""
    ada = Visitor(shared.url)
    *_, approval, _ = events = ada.ask("Please cancel booking 42.")
    chat, interrupt = events[0]["id"], approval["interrupt"]
    assert approval["text"].startswith("May I cancel booking 42?")
    assert ada.refused("And?", conversation=chat) == 409
    assert ada.refused(conversation=chat) == 409
    assert ada.refused(conversation=chat, decision="approve", interrupt="x") == 409
    assert ada.shown(chat)["waits"] == "a yes or no"
    done = ada.ask(conversation=chat, decision="approve", interrupt=interrupt)
    assert "canceled" in text_of(done)
    assert ada.refused(conversation=chat, decision="approve", interrupt=interrupt) == 409
    *_, approval, _ = ada.ask("Please cancel booking 7.", conversation=chat)
    no = {"decision": "reject", "interrupt": approval["interrupt"]}
    assert "canceled" not in text_of(ada.ask(conversation=chat, **no))


def test_one_turn_at_a_time_and_some_a_minute(start: Start) -> None:
    """Of two replicas' turns in a conversation one is refused, and a guest can't hurry."""
    one, other = start(**SLOW), start(**SLOW)
    ada = Visitor(one.url)
    with ada.begun("help") as (chat, rest):
        twin = Visitor(other.url, cookie=f"guest={ada.http.cookies['guest']}")
        assert twin.refused("What is my name?", conversation=chat) == 409
        assert twin.shown(chat)["waits"] == "a turn"
        assert twin.http.post("/api/forget", json={}).status_code == 409
        assert text_of(list(rest))
    assert [line["type"] for line in twin.shown(chat)["lines"]] == ["guest", "concierge"]
    refusals = [twin.refused(decision="approve") for _ in range(25)]
    assert set(refusals) == {409, 429}
    assert refusals[-1] == 429
    assert Visitor(one.url).refused() == 409, "another guest may go on"


def test_forgetting_deletes_everything_and_says_what(shared: Replica, valkey_server: Any) -> None:
    ada = Visitor(shared.url)
    for text in ("Remember that I like green tea.", "Remember that I am allergic to nuts.", "Hi"):
        ada.ask(text)
    guest = ada.http.cookies["guest"].partition(".")[0]
    assert ada.http.post("/api/forget", json={}).json() == {"conversations": 3, "memories": 2}
    assert ada.http.get("/api/conversations").json() == []
    with valkey_server.client() as client:
        left = list(client.scan_iter(match=f"*{guest}*"))
    # Counters, locks, and the names of namespaces, which the store drops later.
    assert all(b":minute:" in key or b":lock:" in key or b"}#" in key for key in left), left
    assert "green" not in text_of(ada.ask("What do I like?"))


BROKEN = """
import sys; sys.path.insert(0, {0!r})
import runpy, concierge
def get_opening_hours(place: str) -> str:
    '''Tell when a place opens and closes.'''
    raise ValueError("SECRET of the tool")
concierge.get_opening_hours = get_opening_hours
runpy.run_path({0!r} + "/main.py", run_name="__main__")
""".replace("{0!r}", "'{0}'")


def test_failed_turn_is_an_event_and_no_text_is_logged(start: Start) -> None:
    replica = start(BROKEN)
    ada = Visitor(replica.url)
    ada.ask("Remember that my SECRET is green tea.")
    events = ada.ask("When does the museum open?")
    assert events[-1] == {"type": "error", "text": "The concierge could not finish. Ask again."}
    chat = events[0]["id"]
    assert ada.shown(chat)["waits"] == "the rest"
    assert ada.refused("Hello?", conversation=chat) == 409
    assert ada.ask(conversation=chat)[-1]["type"] == "error"
    replica.end()
    lines = [json.loads(line) for line in replica.log.read_text().splitlines()]
    assert [line["error"] for line in lines if line["severity"] == "ERROR"] == ["ValueError"] * 2
    words = replica.log.read_text()
    for secret in ("SECRET", "museum", ada.http.cookies["guest"], chat):
        assert secret not in words


def test_health(start: Start, valkey_server: Any) -> None:
    """Alive while the server is away, and ready only when it answers."""
    replica = start()
    valkey_server.pause()
    try:
        assert httpx.get(f"{replica.url}/healthz").status_code == 200
        assert httpx.get(f"{replica.url}/readyz", timeout=20).status_code == 503
        assert Visitor(replica.url).refused("Hello") == 503
    finally:
        valkey_server.resume()
    assert replica.ready()


def test_turn_goes_on_when_the_guest_leaves(start: Start) -> None:
    replica = start(**SLOW)
    ada = Visitor(replica.url)
    with ada.begun("help") as (chat, _):
        pass
    assert ada.shown(chat)["waits"] == "a turn"
    servers.wait_until(lambda: ada.shown(chat)["waits"] == "a question", "the answer", 30)
    assert [line["type"] for line in ada.shown(chat)["lines"]] == ["guest", "concierge"]


def test_ended_replica_finishes_its_answers(start: Start) -> None:
    """SIGTERM: a short answer is finished, a long one is left to the other replica, unlocked."""
    other, replica = start(), start(DEMO_MODEL_DELAY="0.05")
    ada = Visitor(replica.url)
    with ada.begun("help") as (_, rest):
        replica.process.send_signal(signal.SIGTERM)
        assert "remember" in text_of(list(rest))
    assert replica.process.wait(10) in ENDED
    replica = start(DEMO_MODEL_DELAY="1")
    ada = Visitor(replica.url)
    with ada.begun("help") as (chat, _):
        began = time.monotonic()
        assert replica.end() in ENDED
        assert time.monotonic() - began < 9.5
    twin = Visitor(other.url, cookie=f"guest={ada.http.cookies['guest']}")
    assert twin.shown(chat)["waits"] == "the rest"
    assert "remember" in text_of(twin.ask(conversation=chat))


def test_killed_replicas_answer_is_finished_by_the_other(start: Start) -> None:
    other, replica = start(), start(**SLOW)
    ada = Visitor(replica.url)
    with ada.begun("help") as (chat, _):
        replica.end(signal.SIGKILL)
    twin = Visitor(other.url, cookie=f"guest={ada.http.cookies['guest']}")
    assert twin.refused("Hello", conversation=chat) == 409
    servers.wait_until(lambda: twin.shown(chat)["waits"] == "the rest", "the lock's end", 40)
    assert "remember" in text_of(twin.ask(conversation=chat))
    assert [line["type"] for line in twin.shown(chat)["lines"]] == ["guest", "concierge"]


# Identity-Aware Proxy


def test_cookies_are_refused_on_cloud_run() -> None:
    environment = {"K_SERVICE": "app", "PYTHONPATH": str(APP.parent / "helpers")}
    command = [sys.executable, "main.py"]
    done = subprocess.run(command, cwd=APP, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "IAP_AUDIENCE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def proxy() -> Iterator[tuple[Any, str]]:
    """A signer with a key of its own, and the address of its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"key-1": public.decode()}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with HTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signer = crypt.EsSigner.from_string(private.decode(), "key-1")
        yield signer, f"http://127.0.0.1:{server.server_port}/keys"
        server.shutdown()


AUDIENCE = "/projects/1/locations/r/services/s"
BEHIND_PROXY = """
import sys; sys.path.insert(0, '{0}')
import os, main, uvicorn
main.KEYS = os.environ["TEST_KEYS"]
uvicorn.run(main.app, port=int(os.environ["PORT"]))
"""


def test_proxys_signature_is_verified(start: Start, proxy: tuple[Any, str]) -> None:
    signer, keys = proxy
    replica = start(BEHIND_PROXY, TEST_KEYS=keys, IAP_AUDIENCE=AUDIENCE, K_SERVICE="app")
    now = datetime.now(UTC).replace(microsecond=0)

    def status(**changed: Any) -> int:
        claims = {
            "iss": "https://cloud.google.com/iap",
            "aud": AUDIENCE,
            "sub": "accounts.google.com:1",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=10)).timestamp()),
        } | changed
        token = jwt.encode(signer, {k: v for k, v in claims.items() if v}).decode()
        return asked(token)

    def asked(token: str, **more: str) -> int:
        headers = {"x-goog-iap-jwt-assertion": token, **more}
        return httpx.get(f"{replica.url}/api/conversations", headers=headers).status_code

    assert status() == 200
    assert status(aud="/projects/1/locations/r/services/other") == 401
    assert status(iss="https://accounts.google.com") == 401
    past = int(now.timestamp()) - 3600
    assert status(iat=past, exp=past + 600) == 401
    assert status(sub=None) == 401
    other = crypt.EsSigner(ec.generate_private_key(ec.SECP256R1()), "key-1")
    unsigned = base64.urlsafe_b64encode(b'{"alg": "none"}').decode()
    good = jwt.encode(signer, {"sub": "x"}).decode()
    forged = jwt.encode(other, {"aud": AUDIENCE, "sub": "x"}).decode()
    for token in ("", "x", "a.b.c", forged, good[:-4] + "AAAA", f"{unsigned}.e30.", "é".encode()):
        assert asked(token) == 401  # type: ignore[arg-type]
    cookie = Visitor(replica.url).http.get("/").headers.get("set-cookie")
    assert cookie is None


def test_proxys_users_are_guests(start: Start, proxy: tuple[Any, str]) -> None:
    signer, keys = proxy
    replica = start(BEHIND_PROXY, TEST_KEYS=keys, IAP_AUDIENCE=AUDIENCE)
    now = int(time.time())
    claims = {"iss": "https://cloud.google.com/iap", "aud": AUDIENCE, "iat": now, "exp": now + 99}

    def visitor(sub: str) -> Visitor:
        token = jwt.encode(signer, claims | {"sub": f"accounts.google.com:{sub}"}).decode()
        return Visitor(replica.url, **{"x-goog-iap-jwt-assertion": token})

    chat = visitor("1").ask("My name is Ada.")[0]["id"]
    assert "Ada" in text_of(visitor("1").ask("What is my name?", conversation=chat))
    assert visitor("2").refused("What is my name?", conversation=chat) == 404
