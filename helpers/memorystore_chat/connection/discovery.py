"""`discover`: ask Google Cloud for an instance's address, TLS, certificates, login and mode."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from memorystore_chat._extras import require
from memorystore_chat.connection.endpoint import Endpoint, Product
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.errors import EndpointError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


def discover(
    resource: str | Endpoint,
    *,
    timeout: float = 15.0,
    credentials: "Credentials | None" = None,
    api_endpoint: str | None = None,
) -> Endpoint:
    """Ask Google Cloud where a Memorystore resource is and how to log in to it.

    Needs the ``google`` extra, and an identity that may read the resource (``roles/redis.viewer``
    or ``roles/memorystore.viewer``; an AUTH string needs more).

    Args:
        resource: ``projects/P/locations/R/instances/I``, ``projects/P/locations/R/clusters/C`` or
            either as a full resource name. A name of an instance without its service is looked for
            in Memorystore for Redis, then in Memorystore for Valkey. An `Endpoint` with a
            ``resource`` may bring the password or the certificates, which are then not asked for.
        timeout: Seconds to wait for each answer.
        credentials: From google-auth; by default ``google.auth.default()``. Logging in with IAM
            uses them too.
        api_endpoint: Address of the service instead of Google's public one, such as one of
            Private Service Connect.

    Returns:
        The endpoint with host, port, TLS, every certificate authority, product, and the AUTH
        string, or a credential provider if the instance uses IAM.

    Raises:
        EndpointError: No such resource, no permission, API not enabled, not ready yet, no sign-in,
            or no answer; the message names the command or the role that helps.
        ModuleNotFoundError: The client library is missing; the message says how to install it.

    Example:
        >>> discover("10.0.0.3")
        Traceback (most recent call last):
        memorystore_chat.errors.EndpointError: redis://10.0.0.3:6379 is no resource name: ...
    """
    wanted = resource if isinstance(resource, Endpoint) else Endpoint.parse(resource)
    if wanted.resource is None:
        raise EndpointError(f"{wanted} is no resource name: there is nothing to ask Google Cloud.")
    products = [wanted.product] if wanted.product else ["redis", "valkey"]
    refusals: list[EndpointError] = []
    for product in products:
        asked = _Question(_SERVICES[product], wanted, timeout, credentials, api_endpoint)
        try:
            return asked.service.read(asked)
        except _ElsewhereError as refusal:
            refusals.append(refusal)
    # With two services asked, one that has more to say than "not found" says why.
    raise next((one for one in refusals if not isinstance(one, _NotFoundError)), refusals[-1])


class _ElsewhereError(EndpointError):
    """This service does not have it, as far as one can see; another one may."""


class _NotFoundError(_ElsewhereError):
    """This service does not have it."""


@dataclass(frozen=True)
class _Service:
    product: Product
    title: str
    library: str
    install: str
    client: str
    api: str
    viewer: str
    gcloud: str
    region_flag: str
    read: "Callable[[_Question], Endpoint]"


@dataclass(frozen=True)
class _Question:
    """One service, asked about one resource."""

    service: _Service
    wanted: Endpoint
    timeout: float
    credentials: "Credentials | None"
    api_endpoint: str | None

    @property
    def name(self) -> str:
        return str(self.wanted.resource)

    def client(self) -> Any:
        library = require(self.service.library, install=self.service.install)
        options = {"api_endpoint": self.api_endpoint} if self.api_endpoint else None
        # Over REST all three answer alike; gRPC refuses the name of Valkey's authority.
        return getattr(library, self.service.client)(
            transport="rest", credentials=self.credentials, client_options=options
        )

    def ask(self, method: str, name: str, *, of: str) -> Any:
        """Call a method of the service's client with a name; failures become sentences."""
        core = require("google.api_core.exceptions", install=self.service.install)
        auth = require("google.auth.exceptions", install=self.service.install)
        requests = require("requests", install="requests")
        try:
            return getattr(self.client(), method)(name=name, timeout=self.timeout)
        except core.NotFound as error:
            raise _NotFoundError(
                f"There is no {self.service.title} {self.name}. See what there is: "
                f"{self.command('list')}"
            ) from error
        except core.Forbidden as error:
            raise self._forbidden(error, of) from error
        except core.Unauthorized as error:
            raise EndpointError(f"Google Cloud does not accept the sign-in. {_SIGN_IN}") from error
        except core.BadRequest as error:
            raise _ElsewhereError(
                f"Google Cloud does not take {self.name} for a {self.service.title}: check "
                "project, region and name."
            ) from error
        except auth.DefaultCredentialsError as error:
            raise EndpointError(
                f"Asking Google Cloud for {self.name} needs a sign-in. {_SIGN_IN}"
            ) from error
        except auth.RefreshError as error:
            raise EndpointError(f"The Google sign-in is no longer good. {_SIGN_IN}") from error
        except (core.GoogleAPIError, auth.GoogleAuthError, requests.RequestException) as error:
            raise EndpointError(
                f"Google Cloud does not answer about {self.name} ({type(error).__name__}). Check "
                f"that this machine reaches {self.service.api}, or give the address itself."
            ) from error

    def _forbidden(self, error: Any, of: str) -> EndpointError:
        project = self.name.split("/")[1]
        if _is_disabled(error):
            return _ElsewhereError(
                f"The API of {self.service.title} is not enabled in {project}. Enable it: "
                f"gcloud services enable {self.service.api} --project={project}"
            )
        if of == "AUTH string":
            return EndpointError(
                f"You may not read the AUTH string of {self.name}. Give it as password=, or have "
                f"someone grant a role with redis.instances.getAuthString: {self._grant('admin')}"
            )
        return _ElsewhereError(
            f"You may not read {self.name} (it may also not exist). Have someone grant the role: "
            f"{self._grant('viewer')}"
        )

    def _grant(self, level: str) -> str:
        role = self.service.viewer.replace("viewer", level)
        project = self.name.split("/")[1]
        return f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role={role}"

    def command(self, verb: str) -> str:
        """The gcloud command that lists or describes such a resource."""
        _, project, _, region, _, name = self.name.split("/")
        subject = "" if verb == "list" else f" {name}"
        return (
            f"gcloud {self.service.gcloud} {verb}{subject} "
            f"--{self.service.region_flag}={region} --project={project}"
        )

    def found(
        self,
        answer: Any,
        *,
        host: str,
        port: int,
        cluster: bool | None,
        certificates: Callable[[], list[str]],
        password: Callable[[], str | None],
    ) -> Endpoint:
        """The endpoint that an answer describes, once it is sure to be usable."""
        state = answer.state.name
        if state in ("CREATING", "DELETING"):
            raise EndpointError(
                f"{self.name} is {state.lower()}. "
                + (
                    f"Wait until it is ready, some minutes; look with: {self.command('describe')}"
                    if state == "CREATING"
                    else f"See what there is besides: {self.command('list')}"
                )
            )
        if not host:
            raise EndpointError(
                f"{self.name} has no address to connect to. Check its network connections: "
                f"{self.command('describe')}"
            )
        # The three services spell their modes with different beginnings.
        tls = answer.transit_encryption_mode.name.endswith("SERVER_AUTHENTICATION")
        authorization = getattr(answer, "authorization_mode", None)
        iam = authorization is not None and authorization.name.endswith("IAM_AUTH")
        authorities = self.wanted.ca_certs
        if tls and not authorities:
            authorities = tuple(certificates())
            if not authorities:
                raise EndpointError(
                    f"{self.name} uses TLS, and Google Cloud names no certificate authority of "
                    "its own for it: give it as ca_certs=."
                )
        return replace(
            self.wanted,
            host=host,
            port=port or 6379,
            tls=tls,
            ca_certs=authorities,
            cluster=cluster,
            product=self.service.product,
            password=None if iam else password(),
            credential_provider=IamCredentials(self.credentials) if iam else None,
        )


_SIGN_IN = (
    "Run: gcloud auth application-default login (in a notebook: sign_in() of memorystore_chat), "
    "or connect with the address itself."
)


def _read_redis(asked: _Question) -> Endpoint:
    instance = asked.ask("get_instance", asked.name, of="instance")

    def password() -> str | None:
        if not instance.auth_enabled:
            return None
        if asked.wanted.password:
            return asked.wanted.password
        answer = asked.ask("get_instance_auth_string", asked.name, of="AUTH string")
        return answer.auth_string or None

    return asked.found(
        instance,
        host=instance.host,
        port=instance.port,
        cluster=False,
        certificates=lambda: [item.cert for item in instance.server_ca_certs],
        password=password,
    )


def _read_cluster(asked: _Question) -> Endpoint:
    cluster = asked.ask("get_cluster", asked.name, of="cluster")
    places = list(cluster.discovery_endpoints)
    return asked.found(
        cluster,
        host=places[0].address if places else "",
        port=places[0].port if places else 0,
        cluster=True,
        certificates=lambda: _chain(
            asked.ask(
                "get_cluster_certificate_authority",
                f"{asked.name}/certificateAuthority",
                of="certificates",
            )
        ),
        password=lambda: _token_password(asked, cluster),
    )


def _read_valkey(asked: _Question) -> Endpoint:
    instance = asked.ask("get_instance", asked.name, of="instance")
    cluster = {"CLUSTER": True, "CLUSTER_DISABLED": False, "STANDALONE": False}.get(
        instance.mode.name
    )
    host, port = _valkey_address(instance, "PRIMARY" if cluster is False else "DISCOVERY")
    return asked.found(
        instance,
        host=host,
        port=port,
        cluster=cluster,
        certificates=lambda: _chain(
            asked.ask("get_certificate_authority", asked.name, of="certificates")
        ),
        password=lambda: _token_password(asked, instance),
    )


def _token_password(asked: _Question, answer: Any) -> str | None:
    """The given password, unless the service takes none; older libraries do not know TOKEN_AUTH."""
    takes_none = answer.authorization_mode.name.endswith(("IAM_AUTH", "DISABLED"))
    return None if takes_none else asked.wanted.password


def _is_disabled(error: Any) -> bool:
    """Whether Google Cloud says that an API is not enabled.

    ``error.reason`` would do, but older releases of google-api-core fail on what REST answers.
    """
    reasons = [
        detail.get("reason") if isinstance(detail, dict) else getattr(detail, "reason", None)
        for detail in error.details or ()
    ]
    return "SERVICE_DISABLED" in reasons or "it is disabled" in str(error)


def _chain(authority: Any) -> list[str]:
    chains = authority.managed_server_ca.ca_certs
    return [certificate for chain in chains for certificate in chain.certificates]


def _valkey_address(instance: Any, wanted: str) -> tuple[str, int]:
    """The address for writing; replicas' read addresses are of no use here."""
    places = []
    for endpoint in instance.endpoints:
        for connection in endpoint.connections:
            for kind in ("psc_auto_connection", "psc_connection"):
                place = getattr(connection, kind)
                if place.ip_address and "READER" not in place.connection_type.name:
                    places.append(place)
    # Sorting is stable: the wanted kind first, else the order of the answer.
    places.sort(key=lambda place: not place.connection_type.name.endswith(wanted))
    if places:
        return places[0].ip_address, places[0].port
    for old in instance.discovery_endpoints:
        return old.address, old.port
    return "", 0


_SERVICES: dict[str, _Service] = {
    "redis": _Service(
        product="redis",
        title="Memorystore for Redis instance",
        library="google.cloud.redis_v1",
        install="google-cloud-redis",
        client="CloudRedisClient",
        api="redis.googleapis.com",
        viewer="roles/redis.viewer",
        gcloud="redis instances",
        region_flag="region",
        read=_read_redis,
    ),
    "redis-cluster": _Service(
        product="redis-cluster",
        title="Memorystore for Redis Cluster",
        library="google.cloud.redis_cluster_v1",
        install="google-cloud-redis-cluster",
        client="CloudRedisClusterClient",
        api="redis.googleapis.com",
        viewer="roles/redis.viewer",
        gcloud="redis clusters",
        region_flag="region",
        read=_read_cluster,
    ),
    "valkey": _Service(
        product="valkey",
        title="Memorystore for Valkey instance",
        library="google.cloud.memorystore_v1",
        install="google-cloud-memorystore",
        client="MemorystoreClient",
        api="memorystore.googleapis.com",
        viewer="roles/memorystore.viewer",
        gcloud="memorystore instances",
        region_flag="location",
        read=_read_valkey,
    ),
}
