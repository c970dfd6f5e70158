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


@lru_cache(maxsize=32)
def tls_context(ca_data: str | None, host: str, check_hostname: bool) -> ssl.SSLContext:
    """Return what trusts the authorities in ``ca_data`` (PEM), or else the system's.

    With ``ca_data``, the certificate need not name an IP address or this machine (the near end of a
    tunnel) unless ``check_hostname`` says so: Memorystore's do not always name the address, and no
    other server has a certificate of an instance's own authority.
    """
    context = ssl.create_default_context(cadata=ca_data)
    if ca_data is not None:
        named = not (host == "localhost" or parse_address(host))
        context.check_hostname = named or check_hostname
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
        kind = type(item).__name__
        raise TypeError(f"ca_certs= takes PEM text or paths of PEM files, not {kind}.")
    is_text = isinstance(item, str) and "-----BEGIN" in item
    try:
        text = str(item) if is_text else Path(item).read_text(encoding="utf-8")
        # Only the certificates: the comments of a bundle may hold what ssl does not take.
        found = "\n".join(_PEM.findall(text))
        ssl.create_default_context(cadata=found or "no certificate")
    except (OSError, ValueError) as error:  # those of ssl and of Unicode are among them
        shown = "the PEM text" if is_text else f"the file {os.fspath(item)!r}"
        raise EndpointError(
            f"ca_certs=: {shown} cannot be read, or holds no certificate in PEM form. Give PEM "
            "text or the path of a PEM file."
        ) from error
    return found
