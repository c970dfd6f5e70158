"""`Endpoint`: what to connect to, read from a string, the environment or Google Cloud."""

import os
import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import unquote

from redis import CredentialProvider

from memorystore_chat.errors import EndpointError

# What Cloud Run and Kubernetes set in every container.
_CONTAINERS = ("K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST")

Product = Literal["embedded", "redis", "redis-cluster", "valkey"]

_ACCEPTED = (
    'Accepted are "embedded", redis://HOST:PORT, rediss://HOST:PORT (TLS), valkey:// and '
    "valkeys://, unix:///PATH, HOST, HOST:PORT, projects/P/locations/R/instances/I and "
    "projects/P/locations/R/clusters/C, also with //SERVICE.googleapis.com/ in front; a password "
    "stands in redis://:PASSWORD@HOST or in password="
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# A password may hold any character, so the login ends at the last @.
_LOGIN = r"(?:(?P<user>[^:]*)(?P<colon>:(?P<password>.*))?@)?"
_URL = re.compile(
    rf"""(?:(?P<scheme>(?i:redis|valkey))(?P<tls>[sS]?)://{_LOGIN})?
    (?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>{_LABEL}(?:\.{_LABEL})*\.?))
    (?::(?P<port>[0-9]{{1,5}}))?(?(scheme)(?:/(?P<db>[0-9]{{0,5}}))?)""",
    re.VERBOSE | re.DOTALL,
)
_SOCKET = re.compile(rf"unix://{_LOGIN}(?P<path>/.+)", re.DOTALL)
_RESOURCE = re.compile(
    r"(?://(?P<service>redis|memorystore)\.googleapis\.com/)?"
    r"(?P<name>projects/[\w.:-]+/locations/[\w-]+/(?P<kind>instances|clusters)/[\w.-]+)"
)
_PRODUCTS: dict[tuple[str | None, str], Product | None] = {
    (None, "instances"): None,
    ("redis", "instances"): "redis",
    ("redis", "clusters"): "redis-cluster",
    (None, "clusters"): "redis-cluster",
    ("memorystore", "instances"): "valkey",
}
# The text itself is not repeated: a password may stand anywhere in what is no endpoint.
_MISTAKES = (
    (
        r"(.*[/@])?(?=.*::|(.*:){6})[0-9A-Fa-f:.]+(%\w+)?",
        "an IPv6 address stands in brackets, as in [fd00::3]:6379",
    ),
    (r"//memorystore\..*/clusters/.*", "Memorystore for Valkey has instances, no clusters"),
    (r"(//|projects/).*", "it begins like the name of a resource, and is not a full one"),
    (r"(?!(?i:redis|valkey)[sS]?://|unix:)[^/@]*://.*", "its scheme is not known"),
    (r".*[?#].*", "give options to connect() by name, such as decode_responses=True"),
    (r"(?!\w+://).*@.*", "a login needs a scheme in front"),
    (r".*[^/@]:(?!//)[^:]*", "what follows the colon is not a port, from 1 to 65535"),
    (r".*", "it has no host name, IP address, or path that can be read"),
)


class _Secret(str):
    """A password: text to log in with that is not shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, repr=False, slots=True)
class Endpoint:
    """Where a server is and how to log in to it; shown, it has ``***`` for the password.

    Attributes:
        host: Host name or IP address; empty if ``unix_socket`` or ``resource`` takes its place.
        port: 1 to 65535.
        tls: Whether to speak TLS.
        ca_certs: The certificate authorities to trust, each as PEM text, instead of the system's.
        user: ACL user; None logs in as the server's user ``default``.
        password: Its password.
        credential_provider: What answers user and password instead, such as `IamCredentials`.
        cluster: Whether it is a cluster; None asks the server.
        product: ``"embedded"``, ``"redis"``, ``"redis-cluster"`` or ``"valkey"``, if known.
        resource: The name in Google Cloud, if known; `discover` finds its address.
        unix_socket: Path of a unix socket, instead of ``host`` and ``port``.
        db: Number of the logical database; always 0 on a cluster.
        check_hostname: Whether the certificate must name an address, too; see `connect`.

    Raises:
        EndpointError: Half a login is given, or two.

    Example:
        >>> Endpoint.parse("rediss://:secret@10.0.0.3:6378")
        Endpoint('rediss://:***@10.0.0.3:6378')
    """

    host: str = ""
    port: int = 6379
    tls: bool = False
    ca_certs: tuple[str, ...] = ()
    user: str | None = None
    password: str | None = None
    credential_provider: CredentialProvider | None = None
    cluster: bool | None = None
    product: Product | None = None
    resource: str | None = None
    unix_socket: str | None = None
    db: int = 0
    check_hostname: bool = False

    def __post_init__(self) -> None:
        login = self.user is not None or self.password is not None
        if login and (not self.password or self.credential_provider is not None):
            raise EndpointError(
                "A login is a user with a password that is not empty (redis://USER:PASSWORD@HOST), "
                "such a password alone (redis://:PASSWORD@HOST), or IAM: keep one of them."
            )
        if self.password is not None:
            object.__setattr__(self, "password", _Secret(self.password))

    @classmethod
    def parse(cls, text: str, *, password: str | None = None) -> "Endpoint":
        """Read an endpoint; touches no network and no file.

        Args:
            text: ``embedded``, ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:///PATH``, a URL as
                ``redis://USER:PASSWORD@HOST:PORT/DB`` (or ``rediss``, ``valkey``, ``valkeys``;
                percent-encoding understood), or a resource's short or full name.
            password: Used if ``text`` holds none; never for ``embedded``.

        Raises:
            EndpointError, TypeError: It is none of these; the message never repeats it.

        Example:
            >>> Endpoint.parse("valkeys://10.0.0.3").tls
            True
        """
        if not isinstance(text, str):
            raise TypeError(f"An endpoint is a str, not {type(text).__name__}. {_ACCEPTED}.")
        text = text.strip()
        if text == "embedded":
            return cls(product="embedded", cluster=False)
        if found := _RESOURCE.fullmatch(text):
            kind = (found["service"], found["kind"])
            if kind in _PRODUCTS:
                return cls(password=password, product=_PRODUCTS[kind], resource=found["name"])
        elif found := _SOCKET.fullmatch(text):
            user, password = _login(found, password)
            return cls(unix_socket=unquote(found["path"]), user=user, password=password)
        elif (found := _URL.fullmatch(text)) and _is_place(found):
            user, password = _login(found, password)
            return cls(
                host=found["ipv6"] or found["host"],
                port=int(found["port"] or 6379),
                tls=bool(found["tls"]),
                user=user,
                password=password,
                db=int(found["db"] or 0),
            )
        reason = next(why for form, why in _MISTAKES if re.fullmatch(form, text, re.DOTALL))
        raise EndpointError(f"The endpoint cannot be read: {reason}. {_ACCEPTED}.")

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """Read ``$MEMORYSTORE_ENDPOINT``, by default ``embedded``, and ``$MEMORYSTORE_PASSWORD``.

        Raises:
            EndpointError: It is no endpoint, or not set in a container, which loses its data.

        Example:
            >>> Endpoint.from_environment()
            Endpoint('embedded')
        """
        return with_login()

    def __str__(self) -> str:
        login = f"{self.user or ''}:***@" if self.password else ""
        if self.product == "embedded":
            return "embedded"
        if self.unix_socket:
            return f"unix://{login}{self.unix_socket}"
        if not self.host:
            return self.resource or "no address"
        host = f"[{self.host}]" if ":" in self.host else self.host
        database = f"/{self.db}" if self.db else ""
        return f"redis{'s' * self.tls}://{login}{host}:{self.port}{database}"

    def __repr__(self) -> str:
        return f"Endpoint({str(self)!r})"


def with_login(
    endpoint: str | Endpoint | None = None, password: str | None = None, iam: object = None
) -> Endpoint:
    """Return the endpoint with the password for it, each given or from the environment."""
    endpoint = _environment_endpoint() if endpoint is None else endpoint
    # A socket is of this machine, and the environment's password for a server elsewhere.
    if password is None and not iam and not str(endpoint).startswith("unix:"):
        password = os.environ.get("MEMORYSTORE_PASSWORD") or None
    if not isinstance(endpoint, Endpoint):
        return Endpoint.parse(endpoint, password=password)
    if endpoint.password or endpoint.credential_provider or endpoint.resource:
        # What Google Cloud was asked about is known to have AUTH or not.
        return endpoint
    return replace(endpoint, password=password)


def _environment_endpoint() -> str:
    """Return ``$MEMORYSTORE_ENDPOINT``, or ``embedded`` where that loses nothing."""
    if endpoint := os.environ.get("MEMORYSTORE_ENDPOINT"):
        return endpoint
    if any(os.environ.get(name) for name in _CONTAINERS):
        raise EndpointError(
            "No endpoint is given, and this runs in a container (Cloud Run or Kubernetes): the "
            "embedded server would lose every conversation with it. Set MEMORYSTORE_ENDPOINT to "
            'the instance\'s name or address; connect("embedded") uses one all the same.'
        )
    return "embedded"


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is; None if it is a name."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _login(found: re.Match[str], password: str | None) -> tuple[str | None, str | None]:
    """Return user and password of a URL, or the password that is given beside it."""
    user = unquote(found["user"] or "") or None
    return user, unquote(found["password"]) if found["colon"] else password


def _is_place(found: re.Match[str]) -> bool:
    """Whether host and port can exist; what has nothing but digits and dots is an address."""
    if not 1 <= int(found["port"] or 6379) <= 65535:
        return False
    if found["ipv6"]:
        return isinstance(parse_address(found["ipv6"]), IPv6Address)
    host = found["host"]
    named = re.search(r"[^0-9.]", host) is not None
    return len(host) < 254 and (named or parse_address(host) is not None)
