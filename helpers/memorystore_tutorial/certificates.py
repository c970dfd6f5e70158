"""TLS for the servers on this machine: certificates, and a front for a server built without it."""

import asyncio
import socket
import ssl
import threading
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from memorystore_chat.extras import require
from memorystore_tutorial.launching import HOST


class Front:
    """Decrypts what arrives at a port and hands it to a unix socket, in a thread of its own."""

    def __init__(self, path: Path, certificate: str, key: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = path.parent / "tls.pem"  # the ssl module reads files only
        pair.touch(mode=0o600)
        pair.write_text(key + certificate)
        context.load_cert_chain(pair)
        pair.unlink()
        listener = socket.create_server((HOST, 0))
        self.port: int = listener.getsockname()[1]
        self._loop, self._ending = asyncio.new_event_loop(), asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.CancelledError):  # the server or the front is gone
                answers, upstream = await asyncio.open_unix_connection(path)
                await asyncio.gather(_pump(reader, upstream), _pump(answers, writer))
            writer.transport.abort()

        async def serve() -> None:
            front = await asyncio.start_server(handle, sock=listener, ssl=context)
            await self._ending.wait()
            front.close()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(serve())  # at its end the runner cancels the connections

        self._thread = threading.Thread(target=run, name="practice-tls", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError), closing(writer):  # one side hangs up: so every connection ends
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


def certificate(*names: str, key_identifiers: bool = True) -> tuple[str, str, str]:
    """Make a certificate authority, and a server's certificate that it signed.

    Args:
        *names: Host names that the server's certificate is valid for; or `HOST`, an address.
        key_identifiers: False leaves the Subject and Authority Key Identifiers out, as
            Memorystore for Redis does; Python 3.13 refuses such an authority by default.

    Returns:
        The authority, the server's certificate and its private key, each as PEM text.
    """
    require("cryptography", extra="tutorial")
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    # Two authorities of one name would be mixed up by whoever trusts both.
    issuer = name(f"memorystore-chat {x509.random_serial_number():x}")

    def signed(subject: x509.Name, whose: Any, *extensions: x509.ExtensionType) -> str:
        now, day, serial = datetime.now(UTC), timedelta(days=1), x509.random_serial_number()
        signing = x509.CertificateBuilder(issuer, subject, whose, serial, now - day, now + 7 * day)
        if key_identifiers:
            by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
            extensions += (x509.SubjectKeyIdentifier.from_public_key(whose), by)
        for each in extensions:
            critical = isinstance(each, x509.BasicConstraints | x509.KeyUsage)
            signing = signing.add_extension(each, critical)
        return signing.sign(authority, SHA256()).public_bytes(Encoding.PEM).decode()

    # The nine uses of a key in order; it signs, and signs certificates and lists of revoked ones.
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    address = x509.IPAddress(ip_address(HOST))
    valid_for = [address if each == HOST else x509.DNSName(each) for each in names]
    return (
        signed(issuer, authority.public_key(), x509.BasicConstraints(True, None), usage),
        signed(name("server"), key.public_key(), x509.SubjectAlternativeName(valid_for)),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
