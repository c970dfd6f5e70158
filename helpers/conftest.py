"""Runs the examples of every docstring, on an embedded server of their own."""

import tempfile
from collections.abc import Iterator

import pytest

from memorystore_chat.embedded import server as embedded


@pytest.fixture(scope="session", autouse=True)
def example_server() -> Iterator[None]:
    """``connect("embedded")`` in a folder of its own, and no other server or cloud."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMORYSTORE_EMBEDDED_DIR", folder)
        for name in ("MEMORYSTORE_ENDPOINT", "MEMORYSTORE_PASSWORD", "GOOGLE_CLOUD_PROJECT"):
            patch.delenv(name, raising=False)
        yield
        embedded.stop()
