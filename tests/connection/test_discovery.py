"""Discovery: Google's three client libraries over REST, against documented answers on loopback."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials

from memorystore_chat.connection import connect, connect_async, discovery
from memorystore_chat.connection.discovery import discover
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.errors import EndpointError
from servers import Server, Tls

PARENT = "projects/my-project/locations/europe-west1"
INSTANCE = f"{PARENT}/instances/chat"
CLUSTER = f"{PARENT}/clusters/chat"
REDIS = f"//redis.googleapis.com/{INSTANCE}"
VALKEY = f"//memorystore.googleapis.com/{INSTANCE}"
PEMS = [f"-----BEGIN CERTIFICATE-----\n{n}\n-----END CERTIFICATE-----" for n in "AB"]
AUTHORITY = {
    "managedServerCa": {"caCerts": [{"certificates": [PEMS[0]]}, {"certificates": [PEMS[1]]}]}
}


class CloudApi(ThreadingHTTPServer):
    """Answers GET of a path with the status and the JSON it was told; 404 for all else."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.first_answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def says(self, name: str, body: Any, status: int = 200) -> None:
        self.answers[f"/v1/{name}"] = (status, body)


class _Answers(BaseHTTPRequestHandler):
    server: CloudApi

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path.removeprefix("/v1/"))
        unknown = (404, refusal(404, "NOT_FOUND"))
        usual = self.server.answers.get(path, unknown)
        status, body = self.server.first_answers.pop(path, usual)
        if status == 0:
            time.sleep(1)
            return
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def refusal(code: int, status: str, message: str = "", reason: str = "") -> dict[str, Any]:
    """An error as Google's services send it."""
    error: dict[str, Any] = {"code": code, "status": status, "message": message}
    if reason:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        error["details"] = [{"@type": kind, "reason": reason, "domain": "googleapis.com"}]
    return {"error": error}


@pytest.fixture
def api() -> Iterator[CloudApi]:
    server = CloudApi()
    yield server
    server.shutdown()
    server.server_close()


def ask(api: CloudApi, name: str | Endpoint, **options: Any) -> Endpoint:
    return discover(
        name, credentials=AnonymousCredentials(), api_endpoint=api.url, timeout=5, **options
    )


def redis_instance(**fields: Any) -> dict[str, Any]:
    return {
        "name": INSTANCE,
        "host": "10.0.0.3",
        "port": 6379,
        "state": "READY",
        "transitEncryptionMode": "DISABLED",
    } | fields


def redis_cluster(**fields: Any) -> dict[str, Any]:
    return {
        "name": CLUSTER,
        "state": "ACTIVE",
        "authorizationMode": "AUTH_MODE_DISABLED",
        "transitEncryptionMode": "TRANSIT_ENCRYPTION_MODE_DISABLED",
        "discoveryEndpoints": [{"address": "10.0.0.4", "port": 6379, "pscConfig": {}}],
    } | fields


def valkey_instance(*connections: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "name": INSTANCE,
        "state": "ACTIVE",
        "mode": "CLUSTER",
        "authorizationMode": "AUTH_DISABLED",
        "transitEncryptionMode": "TRANSIT_ENCRYPTION_DISABLED",
        "endpoints": [{"connections": list(connections) or [psc("DISCOVERY", "10.0.0.5")]}],
    } | fields


def psc(kind: str, address: str, *, auto: bool = True) -> dict[str, Any]:
    connection = {
        "ipAddress": address,
        "port": 6379,
        "connectionType": f"CONNECTION_TYPE_{kind}",
    }
    return {"pscAutoConnection" if auto else "pscConnection": connection}


TLS = "SERVER_AUTHENTICATION"


@pytest.mark.parametrize(("auth", "tls"), [(False, False), (True, True)])
def test_redis(api: CloudApi, auth: bool, tls: bool) -> None:
    secure = {"transitEncryptionMode": TLS, "serverCaCerts": [{"cert": pem} for pem in PEMS]}
    api.says(INSTANCE, redis_instance(authEnabled=auth, port=6378, **(secure if tls else {})))
    api.says(f"{INSTANCE}/authString", {"authString": "hunter2"})
    found = ask(api, REDIS)
    assert found == Endpoint(
        "10.0.0.3",
        6378,
        tls=tls,
        ca_certs=tuple(PEMS) if tls else (),
        password="hunter2" if auth else None,
        cluster=False,
        product="redis",
        resource=INSTANCE,
    )
    assert (f"{INSTANCE}/authString" in api.asked) == auth
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("mode", "tls"), [("DISABLED", False), ("IAM_AUTH", True), ("TOKEN_AUTH", True)]
)
def test_redis_cluster(api: CloudApi, mode: str, tls: bool) -> None:
    encryption = f"TRANSIT_ENCRYPTION_MODE_{TLS if tls else 'DISABLED'}"
    answer = redis_cluster(authorizationMode=f"AUTH_MODE_{mode}", transitEncryptionMode=encryption)
    api.says(CLUSTER, answer)
    api.says(f"{CLUSTER}/certificateAuthority", AUTHORITY)
    found = ask(api, Endpoint.parse(CLUSTER, password="given"))
    assert str(found).rpartition("@")[2].endswith("10.0.0.4:6379")
    assert (found.cluster, found.product, found.tls) == (True, "redis-cluster", tls)
    assert found.ca_certs == (tuple(PEMS) if tls else ())
    assert isinstance(found.credential_provider, IamCredentials) == (mode == "IAM_AUTH")
    assert found.password == ("given" if mode == "TOKEN_AUTH" else None)


@pytest.mark.parametrize(
    ("iam", "tls", "cluster"), [(False, False, True), (True, True, False), (True, False, True)]
)
def test_valkey(api: CloudApi, iam: bool, tls: bool, cluster: bool) -> None:
    """Valkey: the address for its mode, IAM, and every authority."""
    places = [psc("READER", "10.0.0.9"), psc("PRIMARY", "10.0.0.6"), psc("DISCOVERY", "10.0.0.5")]
    answer = valkey_instance(
        *places,
        mode="CLUSTER" if cluster else "CLUSTER_DISABLED",
        authorizationMode="IAM_AUTH" if iam else "AUTH_DISABLED",
        transitEncryptionMode=TLS if tls else "TRANSIT_ENCRYPTION_DISABLED",
    )
    api.says(INSTANCE, answer)
    api.says(f"{INSTANCE}/certificateAuthority", AUTHORITY)
    found = ask(api, VALKEY)
    assert found.host == ("10.0.0.5" if cluster else "10.0.0.6")
    assert (found.port, found.cluster, found.product) == (6379, cluster, "valkey")
    assert found.ca_certs == (tuple(PEMS) if tls else ())
    assert isinstance(found.credential_provider, IamCredentials) == iam


MANUAL = [{"connections": [psc("UNSPECIFIED", "10.1.0.1", auto=False)]}]
DEPRECATED = {"endpoints": [], "discoveryEndpoints": [{"address": "10.1.0.3"}]}


@pytest.mark.parametrize(
    ("fields", "host", "cluster"),
    [
        ({"endpoints": MANUAL, "mode": "STANDALONE"}, "10.1.0.1", False),
        (DEPRECATED | {"mode": "MODE_UNSPECIFIED"}, "10.1.0.3", None),
    ],
)
def test_valkey_in_other_shapes(
    api: CloudApi, fields: dict[str, Any], host: str, cluster: bool | None
) -> None:
    """Connections made by hand, without a kind, the deprecated field, and older modes."""
    api.says(INSTANCE, valkey_instance(**fields))
    found = ask(api, VALKEY)
    assert (found.host, found.cluster) == (host, cluster)


@pytest.mark.parametrize(
    ("mode", "checked"),
    [
        ("GOOGLE_MANAGED_PER_INSTANCE_CA", False),
        ("GOOGLE_MANAGED_SHARED_CA", True),
        ("CUSTOMER_MANAGED_CAS_CA", True),
    ],
)
def test_names_are_checked_if_others_share_the_authority(
    api: CloudApi, mode: str, checked: bool
) -> None:
    api.says(INSTANCE, valkey_instance(transitEncryptionMode=TLS, serverCaMode=mode))
    api.says(f"{INSTANCE}/certificateAuthority", AUTHORITY)
    assert ask(api, VALKEY).check_hostname is checked


def test_short_names_are_looked_for_in_both(api: CloudApi) -> None:
    """Where Redis has none of that name, Valkey is asked; so where its API is not enabled."""
    api.says(INSTANCE, redis_instance(state="MAINTENANCE"))
    assert ask(api, INSTANCE).product == "redis"
    disabled = refusal(403, "PERMISSION_DENIED", reason="SERVICE_DISABLED")
    api.says(INSTANCE, valkey_instance())
    for first in ((404, refusal(404, "NOT_FOUND")), (403, disabled)):
        api.first_answers[f"/v1/{INSTANCE}"] = first
        assert ask(api, INSTANCE).product == "valkey"


def test_given_login_and_certificates_are_not_asked_for(api: CloudApi) -> None:
    """A password and certificates that are there already spare the permission to read them."""
    api.says(CLUSTER, redis_cluster(transitEncryptionMode=f"TRANSIT_ENCRYPTION_MODE_{TLS}"))
    found = ask(api, Endpoint(resource=CLUSTER, product="redis-cluster", ca_certs=("PEM",)))
    assert found.ca_certs == ("PEM",)
    api.says(INSTANCE, redis_instance(authEnabled=True))
    assert ask(api, Endpoint.parse(REDIS, password="given")).password == "given"
    assert api.asked == [CLUSTER, INSTANCE]


async def test_a_name_becomes_a_client(
    api: CloudApi, tls_auth_server: Server, old_style: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """connect() with the name of an instance with AUTH and TLS: nothing else is needed."""
    place = {"host": tls_auth_server.host, "port": tls_auth_server.port}
    authorities = [{"cert": old_style.ca.read_text()}]
    secure = {"authEnabled": True, "transitEncryptionMode": TLS, "serverCaCerts": authorities}
    api.says(INSTANCE, redis_instance(**place, **secure))
    api.says(f"{INSTANCE}/authString", {"authString": "hunter2"})
    options: Any = {"credentials": AnonymousCredentials(), "api_endpoint": api.url}
    monkeypatch.setattr(discovery, "discover", partial(discover, **options))
    async with await connect_async(INSTANCE) as async_client:
        assert await async_client.ping()
    ways: list[dict[str, Any]] = [{}, {"password": "hunter2"}]
    for given in ways:
        with connect(REDIS, **given) as client:
            assert client.ping()
    api.says(INSTANCE, redis_instance(**place))
    with pytest.raises(EndpointError, match="AUTH switched off"):
        connect(REDIS, password="hunter2")


def told(api: CloudApi, name: str, status: int, body: Any) -> str:
    """What discover() says if Google Cloud answers so about a resource."""
    api.says(name.partition(".com/")[2] or name, body, status)
    with pytest.raises(EndpointError) as caught:
        ask(api, name)
    return str(caught.value)


FORBIDDEN = refusal(403, "PERMISSION_DENIED", "Permission denied")
GRANT = "gcloud projects add-iam-policy-binding my-project --member=user:YOU --role=roles/"
DISABLED = "API has not been used in project 1 before or it is disabled."


@pytest.mark.parametrize(
    ("name", "service", "listing"),
    [
        (REDIS, "redis", "gcloud redis instances list --region"),
        (CLUSTER, "redis", "gcloud redis clusters list --region"),
        (VALKEY, "memorystore", "gcloud memorystore instances list --location"),
    ],
)
def test_the_next_step_is_that_of_the_service(
    api: CloudApi, name: str, service: str, listing: str
) -> None:
    said = told(api, name, 404, refusal(404, "NOT_FOUND"))
    assert "There is no Memorystore for" in said
    assert f"{listing}=europe-west1 --project=my-project" in said
    said = told(api, name, 403, FORBIDDEN)
    assert "You may not read" in said
    assert f"{GRANT}{service}.viewer" in said
    for reason in ("SERVICE_DISABLED", ""):
        said = told(api, name, 403, refusal(403, "PERMISSION_DENIED", DISABLED, reason))
        assert "is not enabled in my-project" in said
        assert f"gcloud services enable {service}.googleapis.com --project=my-project" in said


@pytest.mark.parametrize(
    ("name", "status", "body", "text"),
    [
        (INSTANCE, 404, refusal(404, "NOT_FOUND"), "gcloud redis .*gcloud memorystore instances"),
        (INSTANCE, 403, FORBIDDEN, f"{GRANT}redis.viewer.*memorystore.viewer"),
        (REDIS, 200, redis_instance(state="CREATING", host=""), "is creating.*describe chat"),
        (VALKEY, 200, valkey_instance(state="CREATING"), "is creating.*describe chat"),
        (CLUSTER, 200, redis_cluster(state="DELETING"), "is deleting"),
        (CLUSTER, 200, redis_cluster(discoveryEndpoints=[]), "no address"),
        (VALKEY, 200, valkey_instance(endpoints=[]), "no address"),
        (REDIS, 400, refusal(400, "INVALID_ARGUMENT"), "There is no Memorystore for Redis"),
        (REDIS, 401, refusal(401, "UNAUTHENTICATED"), "gcloud auth application-default login"),
        (REDIS, 500, refusal(500, "INTERNAL"), "does not answer"),
    ],
)
def test_an_answer_that_is_of_no_use(
    api: CloudApi, name: str, status: int, body: Any, text: str
) -> None:
    assert re.search(text, told(api, name, status, body))


def test_no_permission_for_the_auth_string(api: CloudApi) -> None:
    api.says(f"{INSTANCE}/authString", FORBIDDEN, 403)
    said = told(api, REDIS, 200, redis_instance(authEnabled=True))
    assert re.search(f"AUTH string.*password=.*{GRANT}redis.admin", said)


def test_no_answer(api: CloudApi) -> None:
    api.answers[f"/v1/{INSTANCE}"] = (0, None)
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"does not answer.*reaches redis\.googleapis\.com"):
        discover(REDIS, credentials=AnonymousCredentials(), api_endpoint=api.url, timeout=0.5)
    assert time.monotonic() - started < 3


def test_no_sign_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    for attempt in (discover, connect):
        with pytest.raises(EndpointError, match="gcloud auth application-default login"):
            attempt(REDIS)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.redis_v1", None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[google\]"):
        discover(REDIS, credentials=AnonymousCredentials())
