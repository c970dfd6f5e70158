"""What the tests of the tutorial share: no pause between the words of the demo model."""

import pytest


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_MODEL_DELAY", "0")
