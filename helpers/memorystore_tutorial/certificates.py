"""TLS for the servers on this machine: certificates, and a front for a server built without it."""

import asyncio
import socket
import ssl
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from memorystore_chat.extras import require
from memorystore_tutorial.launching import HOST, PATIENCE


class Front(AbstractContextManager["Front"]):
    """Decrypts what arrives at a port and hands it to a unix socket, in a thread of its own."""

    def __init__(self, path: Path, certificate: str, key: str) -> None:
        self._path = path
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = path.parent / "tls.pem"  # the ssl module reads files only
        pair.touch(mode=0o600)
        pair.write_text(key + certificate)
        self._context.load_cert_chain(pair)
        pair.unlink()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="practice-tls", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Its end cancels what is left: the connections.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        front = await asyncio.start_server(self._handle, sock=self._listener, ssl=self._context)
        await self._ending.wait()
        front.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_unix_connection(self._path)
            await asyncio.gather(_pump(reader, upstream), _pump(upstream_reader, writer))
        except (OSError, asyncio.CancelledError):  # the server is gone, or the front is to go
            writer.transport.abort()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(PATIENCE)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side hung up, which is how every connection ends
    finally:
        writer.close()


def certificate(*names: str, key_identifiers: bool = True) -> tuple[str, str, str]:
    """A certificate authority made on the spot, and a server's certificate that it signed.

    Args:
        *names: Host names and IP addresses that the server's certificate is valid for.
        key_identifiers: False leaves the Subject and Authority Key Identifiers out, as
            Memorystore for Redis does; Python 3.13 refuses such an authority by default.

    Returns:
        The authority, the server's certificate and its private key, each as PEM text.
    """
    x509: Any = require("cryptography.x509", extra="tutorial")
    hazmat = "cryptography.hazmat.primitives"
    ec: Any = require(f"{hazmat}.asymmetric.ec", extra="tutorial")
    sha256: Any = require(f"{hazmat}.hashes", extra="tutorial").SHA256()
    form: Any = require(f"{hazmat}.serialization", extra="tutorial")
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> Any:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    # Two authorities of one name would be mixed up by whoever trusts both.
    ca_name = name(f"memorystore-chat {x509.random_serial_number():x}")

    def sign(subject: Any, public_key: Any, authority: bool, *extensions: tuple[Any, bool]) -> str:
        builder = (
            x509.CertificateBuilder(ca_name, subject, public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if key_identifiers:
            own = x509.SubjectKeyIdentifier.from_public_key(public_key)
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
            extensions += ((own, False), (issuer, False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        signed: bytes = builder.sign(ca_key, sha256).public_bytes(form.Encoding.PEM)
        return signed.decode()

    # The nine uses of a key in order; it signs, and signs certificates and lists of revoked ones.
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    alternatives = x509.SubjectAlternativeName([_alternative(x509, each) for each in names])
    private: bytes = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    )
    return (
        sign(ca_name, ca_key.public_key(), True, (usage, True)),
        sign(name("server"), key.public_key(), False, (alternatives, False)),
        private.decode(),
    )


def _alternative(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
