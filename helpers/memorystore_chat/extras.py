"""Optional libraries, imported where they are used."""

from importlib import import_module
from types import ModuleType


def require(module: str, *, install: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: Dotted name, such as ``"google.cloud.redis_v1"``.
        install: What to hand to ``pip install``, such as ``"google-cloud-redis"``.

    Raises:
        ModuleNotFoundError: The library is missing; the message names the command that installs
            it. An import error inside an installed library is passed on as it is.

    Example:
        >>> require("json", install="json").__name__
        'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"{module} is not installed. Install it with: pip install {install}", name=error.name
        ) from error
