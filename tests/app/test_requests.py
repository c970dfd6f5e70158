"""What the web app accepts and refuses, asked over HTTP."""

import base64
import importlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest import mock
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.testclient import TestClient
from google.auth import crypt, jwt

import servers
from web_app import APP, ENDED, Replica, Visitor, text_of

JSON = {"content-type": "application/json"}
NOTHING = {"titles": [], "lines": [], "waits": "a question"}


def test_talk_is_remembered_in_its_conversation_and_the_guest_in_all(shared: Replica) -> None:
    ada = Visitor(shared.url)
    events = ada.ask("My name is Ada. Remember that I like green tea.")
    first = events[0]["id"]
    assert {"type": "tool", "text": "remember"} in events
    assert "Ada" in text_of(ada.ask("What is my name?", conversation=first))
    assert "green tea" in text_of(ada.ask("What do I like?"))
    assert "Ada" not in text_of(Visitor(shared.url).ask("What is my name?"))
    titles = [each["title"] for each in ada.shown()["titles"]]
    assert titles == ["What do I like?", "My name is Ada. Remember that I like green tea."]
    ada.ask("Thanks", conversation=first)
    newest = {"id": first, "title": titles[1]}
    assert ada.shown()["titles"][0] == newest, "the last used comes first"


def test_what_is_somebody_elses_is_not_found(shared: Replica) -> None:
    ada, grace = Visitor(shared.url), Visitor(shared.url)
    *_, approval, _ = events = ada.ask("Please cancel booking 42.")
    hers = events[0]["id"]
    for id_ in (hers, uuid4().hex):
        assert grace.http.get(f"/api/conversations/{id_}").status_code == 404
        assert grace.refused("What is my name?", conversation=id_) == 404
        yes = {"decision": "approve", "interrupt": approval["interrupt"]}
        assert grace.refused(conversation=id_, **yes) == 404
    assert grace.shown() == NOTHING
    assert ada.shown(hers)["waits"] == "a yes or no"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"text": "x" * 2001}, {}, 422),
        ({"text": ""}, {}, 422),
        ({"decision": "edit", "interrupt": "x"}, {}, 422),
        ({"conversation": "../secret"}, {}, 422),
        ({"decision": "approve", "interrupt": "x"}, {}, 409),
        ({"text": "x", "decision": "approve", "interrupt": "x"}, {}, 409),
        ({}, {}, 409),
        (b'{"text": "\\ud800"}', {}, 422),
        (b"{", {}, 422),
        (b'{"text": ' + b"[" * 9000, {}, 400),
        ({"text": "x", "more": "x" * 30_000}, {}, 403),
        ({"text": "x"}, {"sec-fetch-site": "cross-site"}, 403),
        ({"text": "x"}, {"content-type": "text/plain"}, 403),
        ({"text": "x"}, {"content-type": "application/x-www-form-urlencoded"}, 403),
    ],
)
def test_what_the_page_would_not_send_is_refused(
    shared: Replica, body: Any, headers: dict[str, str], status: int
) -> None:
    ada = Visitor(shared.url, **JSON | headers)
    content = body if isinstance(body, bytes) else json.dumps(body)
    assert ada.http.post("/api/turns", content=content).status_code == status
    assert ada.shown() == NOTHING


def test_pages_carry_a_strict_policy(shared: Replica) -> None:
    for path in ("/", "/chat.js", "/api/conversations", "/none"):
        headers = httpx.get(shared.url + path).headers
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    cookie = httpx.get(f"{shared.url}/api/conversations").headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict"} <= set(cookie.split("; "))


def test_forged_cookie_is_a_new_guest(shared: Replica) -> None:
    ada = Visitor(shared.url)
    ada.ask("My name is Ada.")
    good = ada.http.cookies["guest"]
    name, _, rest = good.partition(".")
    for forged in (name, f"{uuid4().hex}.{rest}", f"{good[:-4]}AAAA", "x" * 3000, f"{good}.x"):
        answer = httpx.get(f"{shared.url}/api/conversations", cookies={"guest": forged})
        assert answer.json() == NOTHING
        assert answer.cookies["guest"].partition(".")[0] != name
    assert len(ada.shown()["titles"]) == 1


def test_decision_fits_what_waits(shared: Replica) -> None:
    """A new question, a foreign decision, and the rest of nothing are refused, and harm nothing."""
    ada = Visitor(shared.url)
    *_, approval, _ = events = ada.ask("Please cancel booking 42.")
    chat, interrupt = events[0]["id"], approval["interrupt"]
    assert approval["text"].startswith("May I cancel booking 42?")
    assert ada.refused("And?", conversation=chat) == 409
    assert ada.refused(conversation=chat) == 409
    assert ada.refused(conversation=chat, decision="approve", interrupt="x") == 409
    assert ada.shown(chat)["lines"][-1] == approval
    done = ada.ask(conversation=chat, decision="approve", interrupt=interrupt)
    assert "canceled" in text_of(done)
    assert ada.refused(conversation=chat, decision="approve", interrupt=interrupt) == 409
    more = {"conversation": chat, "interrupt": interrupt}  # one that a question has no use for
    *_, approval, _ = ada.ask("Please cancel booking 7.", **more)
    no = {"decision": "reject", "interrupt": approval["interrupt"]}
    assert "canceled" not in text_of(ada.ask(conversation=chat, **no))
    tools = [line["text"] for line in ada.shown(chat)["lines"] if line["type"] == "tool"]
    assert tools == ["cancel booking", "cancel booking (not done)"]


def test_one_turn_at_a_time_and_some_a_minute(shared: Replica, slow: Replica) -> None:
    """A turn goes on when its guest leaves; until it ends, no replica begins another one."""
    ada = Visitor(slow.url)
    with ada.begun("help") as (chat, _):
        twin = ada.at(shared)
    assert twin.refused("What is my name?", conversation=chat) == 409
    assert twin.shown(chat)["waits"] == "a turn"
    assert twin.http.post("/api/forget", json={}).status_code == 409
    servers.wait_until(lambda: twin.shown(chat)["waits"] == "a question", "the answer", 30)
    assert [line["type"] for line in twin.shown(chat)["lines"]] == ["guest", "concierge"]
    # More than twice as many as are accepted, as another minute may begin.
    assert {twin.refused(decision="approve") for _ in range(45)} == {409, 429}
    assert Visitor(shared.url).refused() == 409, "another guest may go on"


def test_forgetting_deletes_everything_and_says_what(shared: Replica, valkey_server: Any) -> None:
    ada = Visitor(shared.url)
    for text in ("Remember that I like green tea.", "Remember that I am allergic to nuts.", "Hi"):
        chat = ada.ask(text)[0]["id"]
    guest = ada.http.cookies["guest"].partition(".")[0]
    assert ada.http.post("/api/forget", json={}).json() == {"conversations": 3, "memories": 2}
    assert ada.shown() == NOTHING
    assert ada.refused("Hi", conversation=chat) == 409, "it is locked for a moment"
    with valkey_server.client() as client:
        left = list(client.scan_iter(match=f"*{guest}*"))
        index = [client.zrange(key, 0, -1) for key in client.scan_iter(match="*}#*")]
    assert all(b":minute:" in key or b":lock:" in key for key in left), left
    assert guest not in repr(index), "nor is it the name of a namespace"
    assert "green" not in text_of(ada.ask("What do I like?"))


def test_health(shared: Replica, valkey_server: Any) -> None:
    """Alive while the server is away, and ready only when it answers."""
    valkey_server.pause()
    try:
        with ThreadPoolExecutor() as threads:  # each waits for ten seconds
            ready = threads.submit(httpx.get, f"{shared.url}/readyz", timeout=20)
            refused = threads.submit(Visitor(shared.url).refused, "Hello")
            assert httpx.get(f"{shared.url}/healthz").status_code == 200
            assert (ready.result().status_code, refused.result()) == (503, 503)
    finally:
        valkey_server.resume()
    assert shared.ready()


def test_ended_replica_finishes_a_short_answer(slow: Replica, shared: Replica) -> None:
    """A long one is left to the other replica, and at once."""
    ada, grace = Visitor(slow.url), Visitor(slow.url)
    with ada.begun("My name is Ada.") as (_, rest), grace.begun("help") as (chat, _):
        slow.process.send_signal(signal.SIGTERM)
        assert "Ada" in text_of(list(rest))
    assert slow.process.wait(10) in ENDED
    assert "remember" in text_of(grace.at(shared).ask(conversation=chat))


AUDIENCE, ASSERTION = "/projects/1/locations/r/services/s", "x-goog-iap-jwt-assertion"
KEY = ec.generate_private_key(ec.SECP256R1())


def token(key: ec.EllipticCurvePrivateKey = KEY, **changed: Any) -> str:
    """What Identity-Aware Proxy says of a user."""
    now = int(time.time())
    claims = {"iss": "https://cloud.google.com/iap", "aud": AUDIENCE, "iat": now}
    claims |= {"exp": now + 600, "sub": "accounts.google.com:1"} | changed
    signer = crypt.EsSigner(key, "key-1")
    return str(jwt.encode(signer, {k: v for k, v in claims.items() if v}).decode())


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Import the app anew, as on Cloud Run."""
    monkeypatch.setenv("K_SERVICE", "app")
    monkeypatch.syspath_prepend(APP)
    for name in ("main", "turns", "concierge"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return partial(importlib.import_module, "main")


def test_cookies_are_refused_on_cloud_run(load: Callable[[], Any]) -> None:
    with pytest.raises(SystemExit, match="IAP_AUDIENCE"):
        load()


@pytest.fixture
def signed(
    load: Callable[[], Any], monkeypatch: Any, valkey_server: Any, key_prefix: str, caplog: Any
) -> Iterator[Visitor]:
    """A user behind the proxy; the app logs as its program does, and fetches the keys once."""
    monkeypatch.setenv("IAP_AUDIENCE", AUDIENCE)
    monkeypatch.setenv("MEMORYSTORE_ENDPOINT", valkey_server.url)
    monkeypatch.setenv("KEY_PREFIX", key_prefix)
    main = load()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    replies = [mock.Mock(**{"json.return_value": {"key-1": public.decode()}})]
    monkeypatch.setattr(main.requests, "get", lambda *_, **__: replies.pop())
    caplog.handler.setFormatter(main.JsonLines())
    with TestClient(main.app, headers={ASSERTION: token()}) as client:
        yield Visitor("", client)


def test_proxys_users_are_guests(signed: Visitor) -> None:
    chat = signed.ask("My name is Ada.")[0]["id"]
    signed.http.headers[ASSERTION] = token()
    assert "Ada" in text_of(signed.ask("What is my name?", conversation=chat))
    assert "set-cookie" not in signed.http.get("/api/conversations").headers
    signed.http.headers[ASSERTION] = token(sub="accounts.google.com:2")
    assert signed.refused("What is my name?", conversation=chat) == 404


def test_proxys_signature_is_verified(signed: Visitor) -> None:
    good, past = token(), int(time.time()) - 3600
    another = token(ec.generate_private_key(ec.SECP256R1()))
    unsigned = base64.urlsafe_b64encode(b'{"alg": "none"}').decode()
    tokens: list[Any] = [good]
    tokens += [token(aud="/projects/1/locations/r/services/other"), token(sub=None)]
    tokens += [token(iss="https://accounts.google.com"), token(iat=past, exp=past + 600)]
    tokens += [another, good[:-4] + "AAAA", f"{unsigned}.{good.split('.')[1]}."]
    tokens += ["", "x", "a.b.c", "é".encode()]
    asked = [signed.http.get("/api/conversations", headers={ASSERTION: each}) for each in tokens]
    assert [answer.status_code for answer in asked] == [200] + [401] * (len(tokens) - 1)


def test_failed_turn_is_an_event_and_no_text_is_logged(
    signed: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hours = mock.Mock(**{"get.side_effect": ValueError("SECRET of the tool")})
    monkeypatch.setattr(sys.modules["concierge"], "HOURS", hours)
    signed.ask("Remember that my SECRET is green tea.")
    events = signed.ask("When does the museum open?")
    assert events[-1] == {"type": "error", "text": "The concierge could not finish. Ask again."}
    chat = events[0]["id"]
    assert signed.shown(chat)["waits"] == "the rest"
    assert signed.refused("Hello?", conversation=chat) == 409
    assert signed.ask(conversation=chat)[-1]["type"] == "error"
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert [line["error"] for line in lines if line["severity"] == "ERROR"] == ["ValueError"] * 2
    for secret in ("SECRET", "museum", signed.http.headers[ASSERTION], chat):
        assert secret not in caplog.text
