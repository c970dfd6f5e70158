"""Measuring and drawing how long turns take."""

import base64
import struct
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

import servers
from memorystore_chat import ConnectError, MemorystoreChatMessageHistory
from memorystore_tutorial import latency
from memorystore_tutorial.latency import Latency, Turns
from proxy import Proxy

ROWS = [Turns(10, 200, 0.2, 0.9), Turns(100, 150, 1.5, 12.34), Turns(500, 3, 20.0, 250.0)]


def test_turns_are_measured_and_nothing_is_left(
    client: Any, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "WINDOWS", (3, 50))
    monkeypatch.setattr(latency, "TURNS", 20)
    client.set(f"{key_prefix}other", "x")
    measured = latency.measure(client, key_prefix=key_prefix)
    assert [row.window for row in measured] == [3, 50]
    assert all(row.turns == 20 and 0 < row.p50 <= row.p99 < 5000 for row in measured)
    assert list(client.scan_iter(match=f"{key_prefix}*")) == [f"{key_prefix}other".encode()]


@pytest.mark.parametrize(
    ("turns", "seconds", "asked"), [(5, 60, 15), (500, 0.6, None)], ids=["all", "in time"]
)
def test_a_turn_is_two_round_trips_and_loads_its_window(
    valkey_server: servers.Server,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    turns: int,
    seconds: float,
    asked: int | None,
) -> None:
    monkeypatch.setattr(latency, "WINDOWS", (5,))
    monkeypatch.setattr(latency, "TURNS", turns)
    monkeypatch.setattr(latency, "SECONDS", seconds)
    with (
        Proxy(valkey_server.host, valkey_server.port, delay=0.02) as proxy,
        valkey_server.client(port=proxy.port) as slow,
    ):
        # The server knows the script from now on, and the connection is open.
        MemorystoreChatMessageHistory(slow, "other", key_prefix=key_prefix).add_user_message("x")
        proxy.reset()
        (row,) = latency.measure(slow, key_prefix=key_prefix)
        taken = proxy.requests[b"LRANGE"]
        assert proxy.requests[b"EVALSHA"] == taken + 1  # the first fills the session
        assert proxy.round_trips == 2 * taken + 2  # and the last deletes it
    assert taken == asked if asked else taken < 20
    assert row.turns == (taken - 10 if taken > 10 else taken)  # ten warm up
    assert 40 <= row.p50 <= row.p99 < 400


def test_an_outage_is_an_error(key_prefix: str) -> None:
    with servers.valkey() as server:
        gone = server.client(retry=None)
        server.kill()
        with pytest.raises(ConnectError):
            latency.measure(gone, key_prefix=key_prefix)


def test_the_text_is_a_table() -> None:
    assert str(Latency(ROWS)) == repr(Latency(ROWS))
    assert str(Latency(ROWS)) == (
        "A turn's time in memory\n\n"
        "window  turns  p50, ms  p99, ms\n"
        "------  -----  -------  -------\n"
        "    10    200     0.20     0.90\n"
        "   100    150     1.50     12.3\n"
        "   500      3     20.0      250"
    )


def test_a_notebook_shows_a_picture_and_keeps_the_figures() -> None:
    measured = Latency(ROWS)
    data, metadata = DisplayFormatter().format(measured)
    assert set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == str(measured)
    assert metadata["image/png"]["alt"] == (
        "A turn's time in memory. Median and 99th percentile in ms, by window: 10: 0.20 and 0.90; "
        "100: 1.50 and 12.3; 500: 20.0 and 250"
    )
    png = base64.b64decode(data["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    assert (width, metadata["image/png"]["width"]) == (1440, 720)
    assert 0.3 < height / width < 0.8


def test_the_plot_has_every_figure_in_its_place() -> None:
    (axes,) = Latency(ROWS)._axes().figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.2, 1.5, 20.0], [0.9, 12.34, 250]]
    assert {line.get_marker() for line in axes.lines} == {"o", "s"}  # color is not the only sign
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "100", "500"]
    assert [text.get_text().strip() for text in axes.texts] == ["p50 20.0", "p99 250"]
    assert axes.get_title(loc="left") == "A turn's time in memory"


@pytest.mark.parametrize("value", [0.001, 0.2, 0.999, 1.0, 5.0, 10.0, 4321.0])
def test_any_figure_can_be_drawn(value: float) -> None:
    (axes,) = Latency([Turns(1, 1, value, value)])._axes().figure.axes
    low, high = axes.get_ylim()
    assert low < value < high
