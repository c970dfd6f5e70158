"""`discover`: ask Google Cloud for an instance's address, TLS, certificates, login and mode."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

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
    products: list[Product] = [wanted.product] if wanted.product else ["redis", "valkey"]
    refusals: list[EndpointError] = []
    for product in products:
        try:
            return _SERVICES[product](wanted, timeout, credentials, api_endpoint).find()
        except _NotHereError as refusal:
            refusals.append(refusal)
    # With two services asked, one that has more to say than "not found" says why.
    raise next((one for one in refusals if not isinstance(one, _NotFoundError)), refusals[-1])


class _NotHereError(EndpointError):
    """This service does not have it, as far as one can see; another one may."""


class _NotFoundError(_NotHereError):
    """This service does not have it."""


_AUTH_STRING = "get_instance_auth_string"
_SIGN_IN = (
    "Run: gcloud auth application-default login (in a notebook: memorystore_tutorial.sign_in()), "
    "or connect with the address itself."
)


@dataclass
class _Service:
    """One of Google's services, asked about one resource."""

    product: ClassVar[Product]
    title: ClassVar[str]
    library: ClassVar[str]
    client: ClassVar[str]
    method = "get_instance"
    api = "redis.googleapis.com"
    role = "roles/redis"
    gcloud: ClassVar[str]
    region_flag = "--region"

    wanted: Endpoint
    timeout: float
    credentials: "Credentials | None"
    api_endpoint: str | None
    answer: Any = None

    @property
    def name(self) -> str:
        return str(self.wanted.resource)

    def place(self) -> tuple[str, int, bool | None]:
        """Host and port, if there are any, and whether it is a cluster."""
        raise NotImplementedError

    def certificates(self) -> list[str]:
        """The authorities of a resource that uses TLS."""
        raise NotImplementedError

    def password(self) -> str | None:
        """The given password, unless the resource takes none."""
        # Older libraries do not know TOKEN_AUTH.
        off = self.answer.authorization_mode.name.endswith("DISABLED")
        return None if off else self.wanted.password

    def find(self) -> Endpoint:
        """The endpoint that the service describes, once it is sure to be usable."""
        answer = self.answer = self.ask(self.method)
        host, port, cluster = self.place()
        describe, listing = self._command("describe"), self._command("list")
        useless = {
            "CREATING": f"is creating. Wait until it is ready, some minutes; look with: {describe}",
            "DELETING": f"is deleting. See what there is besides: {listing}",
        }.get(answer.state.name)
        if not useless and not host:
            useless = f"has no address to connect to. Check its network connections: {describe}"
        if useless:
            raise EndpointError(f"{self.name} {useless}")
        # The three services spell their modes with different beginnings.
        tls = answer.transit_encryption_mode.name.endswith("SERVER_AUTHENTICATION")
        authorities = self.wanted.ca_certs
        if tls and not authorities:
            authorities = tuple(self.certificates())
            if not authorities:
                raise EndpointError(
                    f"{self.name} uses TLS, and Google Cloud names no certificate authority of "
                    "its own for it: give it as ca_certs=."
                )
        authorization = getattr(answer, "authorization_mode", None)
        iam = authorization is not None and authorization.name.endswith("IAM_AUTH")
        return replace(
            self.wanted,
            host=host,
            port=port or 6379,
            tls=tls,
            ca_certs=authorities,
            cluster=cluster,
            product=self.product,
            password=None if iam else self.password(),
            credential_provider=IamCredentials(self.credentials) if iam else None,
            check_hostname=self.wanted.check_hostname or self._shares_its_authority(),
        )

    def _shares_its_authority(self) -> bool:
        """Whether other servers have certificates of the same authority."""
        mode = getattr(self.answer, "server_ca_mode", None)  # older libraries do not know it
        return mode is not None and mode.name.endswith(("SHARED_CA", "CUSTOMER_MANAGED_CAS_CA"))

    def ask(self, method: str, of: str = "") -> Any:
        """Call a method of the service's client; failures become sentences."""
        library = require(self.library, extra="google")
        core = require("google.api_core.exceptions", extra="google")
        auth = require("google.auth.exceptions", extra="google")
        requests = require("requests", extra="google")
        options = {"api_endpoint": self.api_endpoint} if self.api_endpoint else None
        try:
            # Over REST all three answer alike; gRPC refuses the name of Valkey's authority.
            client = getattr(library, self.client)(
                transport="rest", credentials=self.credentials, client_options=options
            )
            return getattr(client, method)(name=self.name + of, timeout=self.timeout)
        except core.NotFound as error:
            raise _NotFoundError(
                f"There is no {self.title} {self.name}. See what there is: {self._command('list')}"
            ) from error
        except core.Forbidden as error:
            raise self._forbidden(error, method) from error
        except core.BadRequest as error:
            raise _NotHereError(
                f"Google Cloud does not take {self.name} for a {self.title}: check "
                "project, region and name."
            ) from error
        except (core.Unauthorized, auth.DefaultCredentialsError, auth.RefreshError) as error:
            raise EndpointError(
                f"Asking Google Cloud for {self.name} needs a sign-in that it accepts. {_SIGN_IN}"
            ) from error
        except (core.GoogleAPIError, auth.GoogleAuthError, requests.RequestException) as error:
            raise EndpointError(
                f"Google Cloud does not answer about {self.name} ({type(error).__name__}). Check "
                f"that this machine reaches {self.api}, or give the address itself."
            ) from error

    def _forbidden(self, error: Any, method: str) -> EndpointError:
        project = self.name.split("/")[1]
        # error.reason would do, but older releases of google-api-core fail on what REST answers.
        said = f"{error} {error.details}"
        if "SERVICE_DISABLED" in said or "it is disabled" in said:
            return _NotHereError(
                f"The API of {self.title} is not enabled in {project}. Enable it: "
                f"gcloud services enable {self.api} --project={project}"
            )
        grant = (
            f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role={self.role}"
        )
        if method == _AUTH_STRING:
            return EndpointError(
                f"You may not read the AUTH string of {self.name}. Give it as password=, or have "
                f"someone grant a role with redis.instances.getAuthString: {grant}.admin"
            )
        return _NotHereError(
            f"You may not read {self.name} (it may also not exist). Have someone grant the role: "
            f"{grant}.viewer"
        )

    def _command(self, verb: str) -> str:
        """The gcloud command that lists or describes such a resource."""
        _, project, _, region, _, name = self.name.split("/")
        subject = verb if verb == "list" else f"{verb} {name}"
        return f"gcloud {self.gcloud} {subject} {self.region_flag}={region} --project={project}"


class _Redis(_Service):
    product = "redis"
    title = "Memorystore for Redis instance"
    library, client = "google.cloud.redis_v1", "CloudRedisClient"
    gcloud = "redis instances"

    def place(self) -> tuple[str, int, bool | None]:
        return self.answer.host, self.answer.port, False

    def certificates(self) -> list[str]:
        return [item.cert for item in self.answer.server_ca_certs]

    def password(self) -> str | None:
        if not self.answer.auth_enabled:
            return None
        return self.wanted.password or self.ask(_AUTH_STRING).auth_string or None


class _RedisCluster(_Service):
    product = "redis-cluster"
    title = "Memorystore for Redis Cluster"
    library, client = "google.cloud.redis_cluster_v1", "CloudRedisClusterClient"
    method = "get_cluster"
    gcloud = "redis clusters"

    def place(self) -> tuple[str, int, bool | None]:
        return *_first(self.answer.discovery_endpoints), True

    def certificates(self) -> list[str]:
        return _chain(self.ask("get_cluster_certificate_authority", "/certificateAuthority"))


class _Valkey(_Service):
    product = "valkey"
    title = "Memorystore for Valkey instance"
    library, client = "google.cloud.memorystore_v1", "MemorystoreClient"
    api, role = "memorystore.googleapis.com", "roles/memorystore"
    gcloud, region_flag = "memorystore instances", "--location"

    def place(self) -> tuple[str, int, bool | None]:
        modes = {"CLUSTER": True, "CLUSTER_DISABLED": False, "STANDALONE": False}
        cluster = modes.get(self.answer.mode.name)
        wanted = "PRIMARY" if cluster is False else "DISCOVERY"
        # Replicas' read addresses are of no use here.
        places = [
            place
            for endpoint in self.answer.endpoints
            for connection in endpoint.connections
            for place in (connection.psc_auto_connection, connection.psc_connection)
            if place.ip_address and "READER" not in place.connection_type.name
        ]
        if not places:
            return *_first(self.answer.discovery_endpoints), cluster
        # The wanted kind, else the first of the answer.
        best = max(places, key=lambda place: place.connection_type.name.endswith(wanted))
        return best.ip_address, best.port, cluster

    def certificates(self) -> list[str]:
        return _chain(self.ask("get_certificate_authority"))


def _chain(authority: Any) -> list[str]:
    chains = authority.managed_server_ca.ca_certs
    return [certificate for chain in chains for certificate in chain.certificates]


def _first(endpoints: Iterable[Any]) -> tuple[str, int]:
    return next(((one.address, one.port) for one in endpoints), ("", 0))


_SERVICES: dict[str, type[_Service]] = {
    one.product: one for one in (_Redis, _RedisCluster, _Valkey)
}
