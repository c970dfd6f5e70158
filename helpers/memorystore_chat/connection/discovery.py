"""`discover`: ask Google Cloud for an instance's address, TLS, certificates, login and mode."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from memorystore_chat.connection.endpoint import Endpoint, Product
from memorystore_chat.connection.iam import IamCredentials
from memorystore_chat.errors import EndpointError
from memorystore_chat.extras import require

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

    Needs the ``google`` extra, and ``roles/redis.viewer`` or ``roles/memorystore.viewer``.

    Args:
        resource: ``projects/P/locations/R/instances/I``, ``projects/P/locations/R/clusters/C`` or
            either as a full resource name. An instance without its service is looked for in
            Memorystore for Redis, then for Valkey. An `Endpoint` with a ``resource`` may bring the
            password or the certificates, which are then not asked for.
        timeout: Seconds to wait for each answer.
        credentials: From google-auth, for IAM too; by default ``google.auth.default()``.
        api_endpoint: Address of the service, such as one of Private Service Connect.

    Returns:
        The endpoint, with a credential provider if the instance uses IAM.

    Raises:
        EndpointError: Google Cloud does not say; the message names the command or role that helps.

    Example:
        >>> discover("10.0.0.3")
        Traceback (most recent call last):
        memorystore_chat.errors.EndpointError: redis://10.0.0.3:6379 is no resource name: ...
    """
    wanted = resource if isinstance(resource, Endpoint) else Endpoint.parse(resource)
    if wanted.resource is None:
        raise EndpointError(f"{wanted} is no resource name: there is nothing to ask Google Cloud.")
    products: list[Product] = [wanted.product] if wanted.product else ["redis", "valkey"]
    refusals: list[EndpointError] = []
    for product in products:
        try:
            return _Question(product, wanted, timeout, credentials, api_endpoint).answered()
        except _NotHereError as refusal:
            refusals.append(refusal)
    raise EndpointError(" ".join(map(str, refusals))) from refusals[-1]


class _NotHereError(EndpointError):
    """This service does not have it, as far as one can see; another one may."""


_CLIENTS = {
    "redis": ("google.cloud.redis_v1", "CloudRedisClient"),
    "redis-cluster": ("google.cloud.redis_cluster_v1", "CloudRedisClusterClient"),
    "valkey": ("google.cloud.memorystore_v1", "MemorystoreClient"),
}
_GCLOUD = {
    "redis": "gcloud redis instances {} --region={}",
    "redis-cluster": "gcloud redis clusters {} --region={}",
    "valkey": "gcloud memorystore instances {} --location={}",
}
_AUTH_STRING = "get_instance_auth_string"
_AUTHORITY = {
    "redis-cluster": ("get_cluster_certificate_authority", "/certificateAuthority"),
    "valkey": ("get_certificate_authority", ""),
}
_IS_CLUSTER = {"redis": False, "redis-cluster": True, "CLUSTER_DISABLED": False, "CLUSTER": True}


@dataclass(frozen=True)
class _Question:
    """One of Google's services, asked about one resource."""

    product: Product
    wanted: Endpoint
    timeout: float
    credentials: "Credentials | None"
    api_endpoint: str | None

    @property
    def api(self) -> str:
        return "memorystore" if self.product == "valkey" else "redis"

    def answered(self) -> Endpoint:
        """The endpoint that the service describes, once it is sure to be usable."""
        answer = self.ask("get_cluster" if self.product == "redis-cluster" else "get_instance")
        wanted = self.wanted
        mode = answer.mode.name if self.product == "valkey" else self.product
        cluster = _IS_CLUSTER.get(mode)
        host, port = _address(answer, cluster)
        if not host or answer.state.name in ("CREATING", "DELETING"):
            state = answer.state.name.lower().replace("_", " ")
            raise EndpointError(
                f"{wanted.resource} is {state}, and has no address to connect to (any more). If "
                f"it is creating, wait some minutes; look with: {self._command('describe')}"
            )
        # The three services spell their modes with different beginnings.
        tls = answer.transit_encryption_mode.name.endswith("SERVER_AUTHENTICATION")
        ca_certs = wanted.ca_certs or (self._authorities(answer) if tls else ())
        # Older libraries do not know this mode.
        shared = getattr(getattr(answer, "server_ca_mode", None), "name", "")
        password, iam = self._login(answer)
        return replace(
            wanted,
            host=host,
            port=port or 6379,
            tls=tls,
            ca_certs=ca_certs,
            cluster=cluster,
            product=self.product,
            password=password,
            credential_provider=IamCredentials(self.credentials) if iam else None,
            check_hostname=wanted.check_hostname
            or shared.endswith(("SHARED_CA", "CUSTOMER_MANAGED_CAS_CA")),
        )

    def _authorities(self, answer: Any) -> tuple[str, ...]:
        if self.product == "redis":
            return tuple(item.cert for item in answer.server_ca_certs)
        chains = self.ask(*_AUTHORITY[self.product]).managed_server_ca.ca_certs
        return tuple(certificate for chain in chains for certificate in chain.certificates)

    def _login(self, answer: Any) -> tuple[str | None, bool]:
        """Return the password, if the resource takes one, and whether it uses IAM."""
        password = self.wanted.password
        if self.product == "redis":
            if not answer.auth_enabled:
                return None, False
            return password or self.ask(_AUTH_STRING).auth_string or None, False
        mode = answer.authorization_mode.name
        iam = mode.endswith("IAM_AUTH")
        return None if iam or mode.endswith("DISABLED") else password, iam

    def ask(self, method: str, below: str = "") -> Any:
        """Call a method of the service's client; failures become sentences."""
        library, kind = _CLIENTS[self.product]
        module = require(library, extra="google")
        core = require("google.api_core.exceptions", extra="google")
        auth = require("google.auth.exceptions", extra="google")
        options = {"api_endpoint": self.api_endpoint} if self.api_endpoint else None
        try:
            # Over REST all three answer alike; gRPC refuses the name of Valkey's authority.
            client = getattr(module, kind)(
                transport="rest", credentials=self.credentials, client_options=options
            )
            return getattr(client, method)(
                name=f"{self.wanted.resource}{below}", timeout=self.timeout
            )
        except (core.NotFound, core.Forbidden, core.BadRequest) as error:
            raise self._refusal(error, method) from error
        except (core.Unauthorized, auth.DefaultCredentialsError, auth.RefreshError) as error:
            raise EndpointError(
                f"Asking Google Cloud for {self.wanted.resource} needs a sign-in that it accepts. "
                "Run: gcloud auth application-default login, or connect with the address itself."
            ) from error
        except (core.GoogleAPIError, auth.GoogleAuthError, OSError) as error:  # those of requests
            raise EndpointError(
                f"Google Cloud does not answer about {self.wanted.resource}. Check that this "
                f"machine reaches {self.api}.googleapis.com, or give the address itself."
            ) from error

    def _refusal(self, error: Any, method: str) -> EndpointError:
        name, api, title = self.wanted.resource, self.api, self.product.title()
        project = str(name).split("/")[1]
        grant = (
            f"Have someone grant a role: gcloud projects add-iam-policy-binding {project} "
            f"--member=user:YOU --role=roles/{api}"
        )
        if error.code != 403:
            listing = self._command("list")
            return _NotHereError(f"There is no Memorystore for {title} {name}. See: {listing}")
        # error.reason would do, but older releases of google-api-core fail on what REST answers.
        if any(it in f"{error} {error.details}" for it in ("SERVICE_DISABLED", "it is disabled")):
            return _NotHereError(
                f"The API of Memorystore for {title} is not enabled in {project}. Enable it: "
                f"gcloud services enable {api}.googleapis.com --project={project}"
            )
        if method == _AUTH_STRING:
            return EndpointError(
                f"You may not read the AUTH string of {name}. Give it as password=. {grant}.admin"
            )
        return _NotHereError(f"You may not read {name} (it may also not exist). {grant}.viewer")

    def _command(self, verb: str) -> str:
        """The gcloud command that lists or describes such a resource."""
        _, project, _, region, _, name = str(self.wanted.resource).split("/")
        subject = verb if verb == "list" else f"{verb} {name}"
        return f"{_GCLOUD[self.product].format(subject, region)} --project={project}"


def _address(answer: Any, cluster: bool | None) -> tuple[str, int]:
    """Return host and port; an empty host if there is none yet."""
    if hasattr(answer, "host"):
        return answer.host, answer.port
    wanted = "PRIMARY" if cluster is False else "DISCOVERY"
    places = [
        place
        for endpoint in getattr(answer, "endpoints", ())
        for connection in endpoint.connections
        for place in (connection.psc_auto_connection, connection.psc_connection)
        # Replicas' read addresses are of no use here.
        if place.ip_address and "READER" not in place.connection_type.name
    ]
    # The wanted kind, else the first of the answer.
    places.sort(key=lambda place: not place.connection_type.name.endswith(wanted))
    found = [(place.ip_address, place.port) for place in places]
    found += [(one.address, one.port) for one in answer.discovery_endpoints]
    return found[0] if found else ("", 0)
