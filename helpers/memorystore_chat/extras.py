"""Optional libraries, imported where they are used."""

from importlib import import_module
from types import ModuleType


def require(module: str, *, extra: str = "", install: str = "") -> ModuleType:
    """Import a module of an optional library, or say which extra installs it.

    Args:
        module: Its dotted name, such as ``"google.cloud.redis_v1"``.
        extra: The extra of this package that installs it, such as ``"google"``.
        install: What to hand to ``pip install`` instead, for a library that no extra has.

    Raises:
        ModuleNotFoundError: The library, or one that it needs, is missing; the text names the
            command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = f'"memorystore-chat[{extra}]"' if extra else install
        raise ModuleNotFoundError(
            f"{error.name or module} is not installed. Install it with: pip install {package}",
            name=error.name,
        ) from error
