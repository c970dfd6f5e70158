"""What a TLS connection trusts: certificate authorities as PEM text or files, and which names."""

import os
import re
import ssl
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from memorystore_chat.connection.endpoint import parse_address
from memorystore_chat.errors import EndpointError

CaCerts = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----", re.ASCII
)


def tls_context(ca_data: str | None, host: str, check_hostname: bool) -> ssl.SSLContext:
    """Return what a TLS connection to ``host`` trusts.

    Args:
        ca_data: PEM text of the only certificate authorities to trust; None trusts the system's.
        host: What the certificate must name. With ``ca_data``, an IP address and this machine (the
            near end of a tunnel) are not looked for: Memorystore's certificates do not always name
            the address, and no other server has a certificate of that instance's own authority.
        check_hostname: Whether to look for those too, as other servers have certificates of this
            authority.

    Example:
        >>> tls_context(None, "10.0.0.3", False).check_hostname
        True
    """
    named = not (host == "localhost" or parse_address(host))
    return trusting(ca_data, ca_data is None or named or check_hostname)


@lru_cache(maxsize=32)
def trusting(ca_data: str | None, check_hostname: bool) -> ssl.SSLContext:
    """Return a context that trusts these authorities, or the system's, and checks names or not."""
    context = ssl.create_default_context(cadata=ca_data)
    if ca_data is not None:
        context.check_hostname = check_hostname
        # On since Python 3.13, and refuses Memorystore's authorities, which lack the Authority Key
        # Identifier. https://docs.python.org/3/library/ssl.html#ssl.VERIFY_X509_STRICT
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def certificates(ca_certs: CaCerts) -> tuple[str, ...]:
    """Return the PEM texts of what was given as text or path."""
    several: Iterable[object] = [ca_certs]
    if isinstance(ca_certs, Iterable) and not isinstance(ca_certs, str | os.PathLike):
        several = ca_certs
    texts = tuple(map(_certificate, several))
    if not texts:
        raise EndpointError("ca_certs= is empty: give PEM text or the path of a PEM file.")
    return texts


def _certificate(item: object) -> str:
    if not isinstance(item, str | os.PathLike):
        raise TypeError(
            f"ca_certs= takes PEM text or paths of PEM files, not {type(item).__name__}."
        )
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
    found = "\n".join(_PEM.findall(text))
    if not found:
        raise EndpointError(f"{shown} holds no certificate in PEM form.")
    try:
        ssl.create_default_context(cadata=found)
    except (ssl.SSLError, ValueError) as error:
        raise EndpointError(f"{shown} holds a certificate that cannot be read.") from error
    return found
