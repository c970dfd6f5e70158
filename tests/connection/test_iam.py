"""IAM: the real google-auth against a token server on loopback, and servers that rotate tokens."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from google.auth import _helpers
from google.oauth2.credentials import Credentials
from langchain_core.messages import HumanMessage

import servers
from connecting import answer, opened, refused
from memorystore_chat.connection import connect
from memorystore_chat.connection.iam import IamCredentials, TokenError, TokenServerError
from memorystore_chat.errors import ConnectError
from memorystore_chat.history import MemorystoreChatMessageHistory
from servers import Cluster, Server


class Tokens:
    """Google's token service: token-1, token-2, ... on request.

    Attributes:
        ahead: Seconds to set this machine's clock ahead, for our code and Google's.
    """

    def __init__(self, google: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.issued: list[str] = []
        self.status, self.ahead, self.life = 200, 0.0, 3600
        self._google = google
        google.answers["token"] = self._answer
        clock, utcnow = time.time, cast("Any", _helpers.utcnow)
        monkeypatch.setattr(time, "time", lambda: clock() + self.ahead)
        monkeypatch.setattr(_helpers, "utcnow", lambda: utcnow() + timedelta(seconds=self.ahead))

    def _answer(self) -> tuple[int, Any]:
        time.sleep(0.02)  # so that several may ask at once
        if self.status != 200:
            return self.status, {}
        self.issued.append(f"token-{len(self.issued) + 1}")
        return 200, {"access_token": self.issued[-1], "expires_in": self.life}

    def login(self, url: str = "") -> IamCredentials:
        """Somebody's credentials, who has no token yet."""
        uri = f"{url or self._google.url}/token"
        return IamCredentials(Credentials(None, "refresh", None, uri, "client", "secret"))


@pytest.fixture
def tokens(google: Any, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    return Tokens(google, monkeypatch)


@pytest.fixture(scope="module")
def iam_server() -> Iterator[Server]:
    with servers.valkey() as server:
        yield server


def accept_only(target: Server | Cluster, token: str, *, drop: bool = True) -> None:
    """Let the server take this token and no older one, and drop who is logged in."""
    for node in target.nodes if isinstance(target, Cluster) else [target]:
        with node.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "default", "on", "resetpass", f">{token}")
            if drop:
                admin.execute_command("CLIENT", "KILL", "USER", "default")


@pytest.mark.parametrize("running", ["iam_server", "tls_cluster"], indirect=True)
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_rotation_is_not_noticed(running: Any, tokens: Tokens, way: str) -> None:
    """Tokens change, connections drop or lose their login: nothing is lost, nothing twice."""
    accept_only(running, "token-1")
    secure: Any = running.nodes[0].tls if isinstance(running, Cluster) else None
    options = {"ca_certs": secure.ca} if secure else {}
    async with opened(way, running.url, iam=tokens.login(), **options) as client:
        history = MemorystoreChatMessageHistory(client, "session")
        for number in range(8):
            if number in (2, 4, 6):
                accept_only(running, f"token-{len(tokens.issued) + 1}", drop=number != 4)
            if number == 4:  # RESET takes the login away: from here on the server answers NOAUTH
                nodes = {"target_nodes": client.get_nodes()} if options else {}
                await answer(client.execute_command("RESET", **nodes))
            await history.aadd_messages([HumanMessage(str(number))])
        found = [message.text for message in await history.aget_messages()]
        assert found == [str(number) for number in range(8)]
        assert len(tokens.issued) == 4
        await history.aclear()


def test_a_token_is_kept_while_it_is_good(
    tokens: Tokens, google: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 16 threads renews it shortly before its end, and again 10 s after Google failed.

    A good one needs no thread: all of the loop's may wait for the connection that logs in.
    """
    provider = tokens.login()
    monkeypatch.setattr(asyncio, "to_thread", None)
    with ThreadPoolExecutor(16) as pool:
        for ahead, status, newest, asked in (
            (0, 200, 1, 1),
            (3300, 200, 1, 1),
            (3400, 200, 2, 2),
            (6700, 200, 2, 2),
            (6900, 404, 2, 3),
            (6901, 404, 2, 3),
            (6930, 404, 2, 4),
        ):
            tokens.ahead, tokens.status = ahead, status
            logins = list(pool.map(lambda _: provider.get_credentials(), range(64)))
            assert logins == [("default", f"token-{newest}")] * 64
            assert asyncio.run(provider.get_credentials_async()) == logins[0]
            assert len(google.asked) == asked
    tokens.ahead = 7100
    with pytest.raises(TokenError):
        provider.get_credentials()


def test_tokens_of_other_kinds_are_kept_too(tokens: Tokens) -> None:
    """Those that live shortly, and those of an object that is not of google-auth's classes."""
    tokens.life = 200
    provider = tokens.login()
    for ahead, newest in ((0, 1), (170, 1), (190, 2), (200, 2)):
        tokens.ahead = ahead
        assert provider.get_credentials()[1] == f"token-{newest}"
    foreign: Any = SimpleNamespace(valid=True, token="lasting", expiry=None, refresh=None)
    assert IamCredentials(foreign).get_credentials() == ("default", "lasting")


def test_a_refused_token_is_reported_with_the_role(iam_server: Server, tokens: Tokens) -> None:
    """Where the new token is refused as well, the command fails for good."""
    accept_only(iam_server, "token-1")
    login = tokens.login()
    with connect(iam_server.url, iam=login) as client:
        accept_only(iam_server, "another")
        with pytest.raises(redis.AuthenticationError):
            client.get("a")
        with pytest.raises(ConnectError, match=r"refuses the login.*dbConnectionUser"):
            len(MemorystoreChatMessageHistory(client, "a"))
    assert len(tokens.issued) == 3
    said = refused(iam_server.url, iam=login)
    assert "refuses the access token" in said
    assert "roles/redis.dbConnectionUser" in said
    assert len(tokens.issued) == 5, "each of the two has renewed it more than once"


def test_google_refuses_or_is_away(auth_server: Server, tokens: Tokens, signed_out: None) -> None:
    tokens.status = 401
    for provider, kind, word in (
        (tokens.login(), TokenError, "application-default login"),
        (tokens.login("http://127.0.0.1:1"), TokenServerError, "cannot be reached"),
        (IamCredentials(), TokenError, "application-default login"),
    ):
        with pytest.raises(kind, match=word):
            provider.get_credentials()
        assert word in refused(auth_server.url, iam=provider, timeout=1)
