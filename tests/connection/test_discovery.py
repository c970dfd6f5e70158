"""Discovery: Google's three client libraries over REST, against documented answers on loopback."""

import re
import socket
import sys
from functools import partial
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials

from memorystore_chat.connection import connect, discovery
from memorystore_chat.connection.discovery import discover
from memorystore_chat.connection.endpoint import Endpoint
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.errors import EndpointError

PARENT = "projects/my-project/locations/europe-west1"
INSTANCE = f"{PARENT}/instances/chat"
CLUSTER = f"{PARENT}/clusters/chat"
REDIS = f"//redis.googleapis.com/{INSTANCE}"
VALKEY = f"//memorystore.googleapis.com/{INSTANCE}"
PEMS = [f"-----BEGIN CERTIFICATE-----\n{n}\n-----END CERTIFICATE-----" for n in "AB"]
AUTHORITY = {"managedServerCa": {"caCerts": [{"certificates": [pem]} for pem in PEMS]}}


def psc(kind: str, address: str, how: str = "pscAutoConnection") -> dict[str, Any]:
    kind = f"CONNECTION_TYPE_{kind}"
    return {how: {"ipAddress": address, "port": 6379, "connectionType": kind}}


PLACES = [psc("READER", "10.0.0.9"), psc("PRIMARY", "10.0.0.6"), psc("DISCOVERY", "10.0.0.5")]
USUAL: dict[str, dict[str, Any]] = {
    REDIS: {"host": "10.0.0.3", "port": 6378, "state": "READY"},
    CLUSTER: {
        "state": "ACTIVE",
        "authorizationMode": "AUTH_MODE_DISABLED",
        "transitEncryptionMode": "TRANSIT_ENCRYPTION_MODE_DISABLED",
        "discoveryEndpoints": [{"address": "10.0.0.4", "port": 6379, "pscConfig": {}}],
    },
    VALKEY: {
        "state": "ACTIVE",
        "mode": "CLUSTER",
        "authorizationMode": "AUTH_DISABLED",
        "transitEncryptionMode": "TRANSIT_ENCRYPTION_DISABLED",
        "endpoints": [{"connections": PLACES}],
    },
}
USUAL[INSTANCE] = USUAL[REDIS]
TLS = {"transitEncryptionMode": "SERVER_AUTHENTICATION"}
CLUSTER_TLS = {"transitEncryptionMode": "TRANSIT_ENCRYPTION_MODE_SERVER_AUTHENTICATION"}
PER_INSTANCE = {"serverCaMode": "GOOGLE_MANAGED_PER_INSTANCE_CA"}
REGIONAL = {"serverCaMode": "GOOGLE_MANAGED_SHARED_CA"}
CUSTOM = {"serverCaMode": "CUSTOMER_MANAGED_CAS_CA"}
AUTH = {"authEnabled": True, "serverCaCerts": [{"cert": pem} for pem in PEMS]}
UNSPECIFIED = psc("UNSPECIFIED", "10.1.0.1", "pscConnection")
BY_HAND = {"endpoints": [{"connections": [PLACES[0], UNSPECIFIED]}]}
DEPRECATED = {"endpoints": [], "discoveryEndpoints": [{"address": "10.1.0.3"}]}


def says(google: Any, name: str, **differs: Any) -> str:
    """Have Google Cloud describe a resource; what differs from the usual."""
    resource = name.partition(".com/")[2] or name
    google.says(resource, USUAL[name] | differs)
    google.says(f"{resource}/authString", {"authString": "hunter2"})
    google.says(f"{resource}/certificateAuthority", AUTHORITY)
    return resource


def ask(google: Any, name: str | Endpoint, timeout: float = 20) -> Endpoint:
    somebody = AnonymousCredentials()
    return discover(name, credentials=somebody, api_endpoint=google.url, timeout=timeout)


@pytest.mark.parametrize(
    ("name", "differs", "url", "cluster", "iam"),
    [
        (REDIS, {}, "redis://10.0.0.3:6378", False, False),
        (REDIS, AUTH | TLS, "rediss://:***@10.0.0.3:6378", False, False),
        (CLUSTER, CLUSTER_TLS, "rediss://10.0.0.4:6379", True, False),
        (CLUSTER, {"authorizationMode": "AUTH_MODE_IAM_AUTH"}, "redis://10.0.0.4:6379", True, True),
        (VALKEY, TLS | PER_INSTANCE, "rediss://10.0.0.5:6379", True, False),
        (VALKEY, TLS | REGIONAL, "rediss://10.0.0.5:6379", True, False),
        (VALKEY, TLS | CUSTOM, "rediss://10.0.0.5:6379", True, False),
        (VALKEY, {"authorizationMode": "IAM_AUTH"}, "redis://10.0.0.5:6379", True, True),
        (VALKEY, {"authorizationMode": "TOKEN"}, "redis://:***@10.0.0.5:6379", True, False),
        (VALKEY, {"mode": "CLUSTER_DISABLED"}, "redis://10.0.0.6:6379", False, False),
        # Connections made by hand, without a kind; the deprecated field; modes of other times.
        (VALKEY, BY_HAND | {"mode": "CLUSTER_DISABLED"}, "redis://10.1.0.1:6379", False, False),
        (VALKEY, DEPRECATED | {"mode": "UNKNOWN"}, "redis://10.1.0.3:6379", None, False),
    ],
)
def test_what_google_cloud_says(
    google: Any, name: str, differs: dict[str, Any], url: str, cluster: bool | None, iam: bool
) -> None:
    """The address for its mode, TLS with every authority, and the login.

    Names are checked if others share the authority.
    """
    resource = says(google, name, **differs)
    # A password that is given is left out unless the instance takes one.
    found = ask(google, Endpoint.parse(name, password=None if name == REDIS else "given"))
    assert (str(found), found.cluster, found.resource) == (url, cluster, resource)
    assert found.ca_certs == (tuple(PEMS) if found.tls else ())
    shared = differs.get("serverCaMode", "").endswith(("SHARED_CA", "CAS_CA"))
    assert found.check_hostname == shared
    assert isinstance(found.credential_provider, IamCredentials) == iam
    if found.password:
        assert found.password == ("hunter2" if name == REDIS else "given")
    # What is there already is not asked for, which spares the permission to read it.
    google.asked.clear()
    again = ask(google, found)
    assert (again.password, again.ca_certs) == (found.password, found.ca_certs)
    assert google.asked == [resource]


def test_a_name_becomes_a_client(
    google: Any, tls_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """connect() with the name of an instance with AUTH and TLS: nothing else is needed."""
    place = {"host": tls_server.host, "port": tls_server.port}
    authorities = [{"cert": tls_server.tls.ca.read_text()}]
    says(google, REDIS, **place, **TLS, authEnabled=True, serverCaCerts=authorities)
    monkeypatch.setattr(discovery, "discover", partial(ask, google))
    for password in (None, "hunter2"):
        connect(INSTANCE, password=password).close()
    says(google, REDIS, **place)
    with pytest.raises(EndpointError, match="AUTH switched off"):
        connect(REDIS, password="hunter2")


PLACE = "=europe-west1 --project=my-project"
GRANT = "gcloud projects add-iam-policy-binding my-project --member=user:YOU --role=roles/"
REASON = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
OFF = {"error": {"message": "API has not been used in project 1 before", "details": [REASON]}}
IT_IS_OFF = {"error": {"message": "API has not been used in project 1 or it is disabled. Enable"}}
DELETING = USUAL[REDIS] | {"state": "DELETING"}


@pytest.mark.parametrize(
    ("name", "status", "body", "text"),
    [
        (REDIS, 404, {}, f"gcloud redis instances list --region{PLACE}"),
        (CLUSTER, 404, {}, f"gcloud redis clusters list --region{PLACE}"),
        (VALKEY, 400, {}, f"no Memorystore .*gcloud memorystore instances list --location{PLACE}"),
        (REDIS, 200, DELETING, f"no address.* redis instances describe chat --region{PLACE}"),
        (VALKEY, 200, USUAL[VALKEY] | {"endpoints": []}, "no address"),
        (VALKEY, 403, OFF, "gcloud services enable memorystore.googleapis.com --project=my-p"),
        (CLUSTER, 403, OFF, "enable redis.googleapis.com"),
        (CLUSTER, 403, IT_IS_OFF, "enable redis.googleapis.com"),
        (INSTANCE, 403, {}, f"{GRANT}redis.viewer.*memorystore.viewer"),
        (f"{REDIS}/authString", 403, {}, f"AUTH string.*password=.*{GRANT}redis.admin"),
        (REDIS, 401, {}, "gcloud auth application-default login"),
        (REDIS, 500, {}, r"does not answer.*reaches redis\.googleapis\.com"),
    ],
)
def test_an_answer_of_no_use(google: Any, name: str, status: int, body: Any, text: str) -> None:
    """What Google Cloud answers about a resource, or its AUTH string: the service's next step."""
    named = name.removesuffix("/authString")
    says(google, named, authEnabled=True)
    google.says(name.partition(".com/")[2] or name, body, status)
    with pytest.raises(EndpointError) as caught:
        ask(google, named)
    assert re.search(text, str(caught.value))


def test_short_names_are_looked_for_in_both(google: Any) -> None:
    """Where Redis has none of that name, Valkey is asked; so where its API is not enabled."""
    says(google, INSTANCE, state="MAINTENANCE")
    assert ask(google, INSTANCE).product == "redis"
    for first in ((404, {}), (403, OFF)):
        google.answers[INSTANCE] = partial(next, iter([first, (200, USUAL[VALKEY])]))
        assert ask(google, INSTANCE).product == "valkey"


def test_no_answer_no_sign_in_no_library(signed_out: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given time is kept to; what is missing is named, with how to get it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EndpointError, match="does not answer"):
            discover(REDIS, credentials=AnonymousCredentials(), api_endpoint=url, timeout=0.5)
    for attempt in (discover, connect):
        with pytest.raises(EndpointError, match="gcloud auth application-default login"):
            attempt(REDIS)
    monkeypatch.setitem(sys.modules, "google.cloud.redis_v1", None)
    with pytest.raises(ModuleNotFoundError, match=r"memorystore-chat\[google\]"):
        discover(REDIS, credentials=AnonymousCredentials())
