"""What a TLS connection trusts: certificate authorities as PEM text or files, and which names."""

import os
import re
import ssl
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from memorystore_chat.errors import EndpointError

CaCerts = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----", re.ASCII
)


def tls_context(ca_data: str | None, host: str) -> ssl.SSLContext:
    """What a TLS connection to ``host`` trusts.

    Args:
        ca_data: PEM text of the certificate authorities to trust, and no others; None trusts what
            the system trusts.
        host: Name or address the connection goes to. The certificate must name it, unless it is
            an IP address or this machine (the near end of a tunnel) and ``ca_data`` is given:
            Memorystore's certificates do not always name the address, and no other server has a
            certificate of that authority.

    Example:
        >>> tls_context(None, "10.0.0.3").check_hostname
        True
    """
    return trusting(ca_data, ca_data is None or not _is_address(host))


@lru_cache(maxsize=32)
def trusting(ca_data: str | None, check_hostname: bool) -> ssl.SSLContext:
    """A context that trusts these authorities, or the system's, and checks the name or not."""
    context = ssl.create_default_context(cadata=ca_data)
    if ca_data is not None:
        context.check_hostname = check_hostname
        # On since Python 3.13, and refuses Memorystore's authorities, which lack the Authority Key
        # Identifier. https://docs.python.org/3/library/ssl.html#ssl.VERIFY_X509_STRICT
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def certificates(ca_certs: CaCerts) -> tuple[str, ...]:
    """The PEM texts of what was given as text or path."""
    several = [ca_certs] if isinstance(ca_certs, str | os.PathLike) else ca_certs
    if not isinstance(several, Iterable):
        raise _no_certificates(several)
    texts = tuple(map(_certificate, several))
    if not texts:
        raise EndpointError("ca_certs= is empty: give PEM text or the path of a PEM file.")
    return texts


def _no_certificates(given: object) -> EndpointError:
    return EndpointError(
        f"ca_certs= takes PEM text or paths of PEM files, not {type(given).__name__}."
    )


def _certificate(item: str | os.PathLike[str]) -> str:
    if not isinstance(item, str | os.PathLike):
        raise _no_certificates(item)
    if isinstance(item, str) and "-----BEGIN" in item:
        text, shown = item, "The PEM text in ca_certs="
    else:
        shown = f"The file {os.fspath(item)!r} in ca_certs="
        try:
            text = Path(item).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EndpointError(
                f"{shown} cannot be read: give PEM text or the path of a PEM file."
            ) from error
    # Only the certificates: the comments of a bundle may hold what ssl does not take.
    certificates = "\n".join(_PEM.findall(text))
    if not certificates:
        raise EndpointError(f"{shown} holds no certificate in PEM form.")
    try:
        ssl.create_default_context(cadata=certificates)
    except (ssl.SSLError, ValueError) as error:
        raise EndpointError(f"{shown} holds a certificate that cannot be read.") from error
    return certificates
