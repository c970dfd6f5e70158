"""`Endpoint`: what to connect to, read from a string, the environment or Google Cloud."""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal, SupportsIndex
from urllib.parse import unquote

from redis import CredentialProvider

from memorystore_chat.errors import EndpointError

ENDPOINT_VARIABLE = "MEMORYSTORE_ENDPOINT"
PASSWORD_VARIABLE = "MEMORYSTORE_PASSWORD"  # noqa: S105 - a name, not a password
# What Cloud Run and Kubernetes set in every container.
_CONTAINERS = ("K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST")

Product = Literal["embedded", "redis", "redis-cluster", "valkey"]

_ACCEPTED = (
    'Accepted are "embedded", redis://HOST:PORT, rediss://HOST:PORT (TLS), valkey:// and '
    "valkeys://, unix:///PATH, HOST, HOST:PORT, projects/P/locations/R/instances/I and "
    "projects/P/locations/R/clusters/C, also with //SERVICE.googleapis.com/ in front"
)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_TLS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_SCHEME = re.compile(r"(?:https?|rediss?|valkeys?|unix)://", re.IGNORECASE)
# A resource's name or its beginning: nothing a password would need, and nothing behind it.
_NAME_ALIKE = re.compile(r"(?://[a-z]+\.googleapis\.com/)?projects(?:/[a-z0-9.:-]+){1,5}")
_RESOURCE = re.compile(
    r"(?://(?P<service>redis|memorystore)\.googleapis\.com/)?"
    r"(?P<name>projects/[\w.:-]+/locations/[\w-]+/(?P<kind>instances|clusters)/[\w.-]+)"
)
_PRODUCTS: dict[tuple[str | None, str], Product] = {
    ("redis", "instances"): "redis",
    ("redis", "clusters"): "redis-cluster",
    (None, "clusters"): "redis-cluster",
    ("memorystore", "instances"): "valkey",
}


class _Secret(str):
    """A password: text to log in with that is not shown, and not copied along by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __deepcopy__(self, _memo: object) -> str:
        return "***"  # what dataclasses.asdict() hands out


@dataclass(frozen=True, repr=False, slots=True)
class Endpoint:
    """Where a server is and how to log in to it.

    `str`, `repr` and ``dataclasses.asdict`` show ``***`` for the password, and an endpoint with a
    login refuses to be copied or pickled; ``dataclasses.replace`` keeps it.

    Attributes:
        host: Host name or IP address; empty if ``unix_socket`` or ``resource`` takes its place.
        port: 1 to 65535.
        tls: Whether to speak TLS.
        ca_certs: The certificate authorities to trust, each as PEM text, instead of the system's.
        user: ACL user; None logs in as the server's user ``default``.
        password: Its password.
        credential_provider: What answers user and password whenever a connection logs in, instead
            of both; see `memorystore_chat.connection.IamCredentials`.
        cluster: Whether it is a cluster; None asks the server.
        product: ``"embedded"``, ``"redis"``, ``"redis-cluster"`` or ``"valkey"``, if known.
        resource: The name of the Google Cloud resource, if known; with an empty ``host`` it
            still has to be asked for its address (`memorystore_chat.connection.discover`).
        unix_socket: Path of a unix socket, instead of ``host`` and ``port``.
        db: Number of the logical database; always 0 on a cluster.
        check_hostname: Whether the certificate must name ``host`` even where ``ca_certs`` are given
            and it is an address; `discover` sets it for an authority that several instances share.

    Raises:
        EndpointError: A value is out of range, or half a credential is given.

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
        if not 1 <= self.port <= 65535:
            raise EndpointError(f"Port {self.port} does not exist: give one from 1 to 65535.")
        if self.db < 0:
            raise EndpointError(f"Database {self.db} does not exist: give 0 or more.")
        if self.credential_provider is not None and (self.user or self.password):
            raise EndpointError(
                "Both a password and a credential provider (IAM) are given: keep one of them."
            )
        if self.password == "":
            raise EndpointError(
                "The password is empty: give one, or leave it out for a server without AUTH."
            )
        if self.user is not None and self.password is None:
            raise EndpointError(
                "There is a user and no password. Give both, as redis://USER:PASSWORD@HOST, "
                f"password= or ${PASSWORD_VARIABLE}. If what you gave is the password, write a "
                "colon in front of it: redis://:PASSWORD@HOST."
            )
        if self.password is not None:
            object.__setattr__(self, "password", _Secret(self.password))

    @classmethod
    def parse(cls, text: str, *, password: str | None = None) -> "Endpoint":
        """Read an endpoint; touches no network and no file.

        Args:
            text: ``embedded``, a ``redis://``, ``rediss://``, ``valkey://`` or ``valkeys://`` URL
                (``//USER:PASSWORD@HOST:PORT/DB``, percent-encoding understood), ``unix:///PATH``,
                ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT``, or a resource's name
                (``projects/P/locations/R/instances/I`` or ``.../clusters/C``), also with
                ``//redis.googleapis.com/`` or ``//memorystore.googleapis.com/`` in front.
            password: Used if ``text`` holds none; never for ``embedded``.

        Raises:
            EndpointError: The text is none of these; the message never repeats a password.
            TypeError: It is no text.

        Example:
            >>> Endpoint.parse("valkeys://10.0.0.3").tls
            True
        """
        if not isinstance(text, str):
            raise TypeError(f"An endpoint is a str, not {type(text).__name__}. {_ACCEPTED}.")
        text = text.strip()
        if not text:
            raise EndpointError(f"The endpoint is empty. {_ACCEPTED}.")
        if text == "embedded":
            return cls(product="embedded", cluster=False)
        if resource := _RESOURCE.fullmatch(text):
            product = _PRODUCTS.get((resource["service"], resource["kind"]))
            if product is None and resource["kind"] == "clusters":
                raise EndpointError(
                    f"{text!r}: Memorystore for Valkey has instances, no clusters; "
                    "a Redis Cluster is //redis.googleapis.com/projects/..."
                )
            return cls(password=password, product=product, resource=resource["name"])
        if text.startswith(("projects/", "//")):
            raise EndpointError(
                f"{redact(text)!r} is not the full name of an instance. {_ACCEPTED}."
            )
        if url := _URL.fullmatch(text):
            return _parse_url(url["scheme"].lower(), url["rest"], text, password)
        if "@" in text:
            raise EndpointError(
                f"{redact(text)!r} has a login but no scheme: write redis://USER:PASSWORD@HOST."
            )
        host, port = _host_and_port(text, redact(text))
        return cls(host=host, port=port, password=password)

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """Read ``$MEMORYSTORE_ENDPOINT``, by default ``embedded``, and ``$MEMORYSTORE_PASSWORD``.

        Raises:
            EndpointError: The variable holds no endpoint.

        Example:
            >>> Endpoint.from_environment()
            Endpoint('embedded', cluster=False)
        """
        text = environment_endpoint()
        return cls.parse(text, password=environment_password(text))

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The IP address in ``host``; None if it is a name."""
        return parse_address(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, as the near end of a tunnel is."""
        address = self.address
        return self.host == "localhost" or bool(address and address.is_loopback)

    @property
    def is_private(self) -> bool:
        """Whether it is an address that only its own network reaches."""
        address = self.address
        return bool(address and address.is_private and not address.is_loopback)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.password is not None or self.credential_provider is not None:
            raise TypeError(
                "This Endpoint holds a login, so it is neither copied nor pickled. Make another "
                "with dataclasses.replace(), or from the same text, where it is needed."
            )
        return super(Endpoint, self).__reduce_ex__(protocol)

    def __str__(self) -> str:
        if self.product == "embedded":
            return "embedded"
        if self.unix_socket:
            return f"unix://{self._login()}{self.unix_socket}"
        if not self.host:
            return self.resource or "no address"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "rediss" if self.tls else "redis"
        database = f"/{self.db}" if self.db else ""
        return f"{scheme}://{self._login()}{host}:{self.port}{database}"

    def _login(self) -> str:
        return f"{self.user or ''}:***@" if self.password else ""

    def __repr__(self) -> str:
        extra = "".join(
            f", {name}={value!r}"
            for name in ("product", "cluster", "resource")
            if (value := getattr(self, name)) is not None and value != str(self)
        )
        certificates = f", ca_certs={len(self.ca_certs)}" if self.ca_certs else ""
        iam = ", iam=True" if self.credential_provider else ""
        return f"Endpoint({str(self)!r}{extra}{certificates}{iam})"


def environment_endpoint() -> str:
    """Return ``$MEMORYSTORE_ENDPOINT``, or ``embedded`` if it is unset or empty.

    Raises:
        EndpointError: It is unset in a container, with which an embedded server's data would go.
    """
    if endpoint := os.environ.get(ENDPOINT_VARIABLE):
        return endpoint
    if any(os.environ.get(name) for name in _CONTAINERS):
        raise EndpointError(
            "No endpoint is given, and this runs in a container (Cloud Run or Kubernetes): the "
            "embedded server would lose every conversation with it. Set MEMORYSTORE_ENDPOINT to "
            'the instance\'s name or address; connect("embedded") uses one all the same.'
        )
    return "embedded"


def environment_password(endpoint: str | Endpoint) -> str | None:
    """Return ``$MEMORYSTORE_PASSWORD``, which is not for a socket of this machine.

    Example:
        >>> environment_password("unix:///run/valkey.sock")
    """
    local = endpoint.unix_socket if isinstance(endpoint, Endpoint) else endpoint.startswith("unix:")
    return None if local else os.environ.get(PASSWORD_VARIABLE) or None


def redact(text: str) -> str:
    """Return what of a text that is no endpoint can be shown: nothing that may be a password.

    Example:
        >>> redact("redis://me:secret@10.0.0.3:port/x")
        'redis://***@10.0.0.3:***'
    """
    if _NAME_ALIKE.fullmatch(text):
        return text
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    _login, at, place = rest.rpartition("@")
    # An address says where; a name may be anything, and so may what follows it.
    shown = "***"
    found = re.match(r"[0-9.]+|\[[0-9A-Fa-f:.]+\]|localhost\b", place)
    if found and (found[0] == "localhost" or parse_address(found[0].strip("[]"))):
        more = place[found.end() :]
        if not re.fullmatch(r"(?::[0-9]{1,5})?/?", more):
            more = ":***" if more.startswith(":") else "***"
        shown = found[0] + more
    return f"{scheme[0] if scheme else ''}{'***@' if at else ''}{shown}"


def _parse_url(scheme: str, rest: str, text: str, password: str | None) -> Endpoint:
    shown = redact(text)
    # A password may hold any character, so the login ends at the last @.
    login, _, place = rest.rpartition("@")
    user, colon, secret = login.partition(":")
    if colon:
        password = unquote(secret)
    name = unquote(user) or None
    if "?" in place or "#" in place:
        raise EndpointError(
            f"{shown!r} has options behind the address: give options to connect() by name, "
            "such as connect(ENDPOINT, password=PASSWORD, decode_responses=True)."
        )
    if scheme == "unix":
        if not place.startswith("/"):
            raise EndpointError(f"{shown!r} has no absolute path: write unix:///PATH/TO/SOCKET.")
        return Endpoint(unix_socket=unquote(place), user=name, password=password if colon else None)
    if scheme not in _TLS:
        raise EndpointError(f"{shown!r} has a scheme that is not known. {_ACCEPTED}.")
    place, _, database = place.partition("/")
    if database and not re.fullmatch(r"[0-9]{1,5}", database):
        raise EndpointError(
            f"{shown!r}: what follows the slash must be the number of a database. A password goes "
            "in front, redis://:PASSWORD@HOST, or into password=."
        )
    host, port = _host_and_port(place, shown)
    return Endpoint(
        host=host,
        port=port,
        tls=_TLS[scheme],
        user=name,
        password=password,
        db=int(database or 0),
    )


def _host_and_port(place: str, shown: str) -> tuple[str, int]:
    if place.startswith("["):
        host, closing, port = place[1:].partition("]")
        address = parse_address(host)
        if not closing or not isinstance(address, IPv6Address) or (port and port[0] != ":"):
            raise EndpointError(f"{shown!r} has no IPv6 address in its brackets: write [::1]:6379.")
        return host, _port(port[1:], shown) if port else 6379
    if isinstance(parse_address(place), IPv6Address):
        before, _, last = place.rpartition(":")
        if last.isdigit() and parse_address(before):
            raise EndpointError(
                f"{place!r} can be read in two ways: put the address in brackets, "
                f"[{before}]:{last} with a port or [{place}] without one."
            )
        return place, 6379
    host, colon, port = place.partition(":")
    if not host:
        raise EndpointError(
            f"{shown!r} names no host. {_ACCEPTED}. With a password: redis://:PASSWORD@HOST:PORT."
        )
    if re.fullmatch(r"[0-9.]+", host) and parse_address(host) is None:
        raise EndpointError(f"{shown!r} has digits and dots, and is not an IPv4 address.")
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise EndpointError(f"{shown!r} has no host name that can be read. {_ACCEPTED}.")
    return host, _port(port, shown) if colon else 6379


def _port(text: str, shown: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= 65535:
        raise EndpointError(
            f"{shown!r}: what follows the colon is not a port; give a number from 1 to 65535."
        )
    return int(text)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a text is; None if it is a name."""
    try:
        return ip_address(text)
    except ValueError:
        return None
