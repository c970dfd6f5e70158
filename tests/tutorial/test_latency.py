"""Measuring and drawing how long turns take."""

import base64
import struct
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

import servers
from memorystore_chat import ConnectError
from memorystore_chat.tutorial import latency
from memorystore_chat.tutorial.latency import Latency, Turns
from proxy import Proxy

ROWS = [Turns(10, 200, 0.2, 0.9), Turns(100, 150, 1.5, 12.34), Turns(500, 3, 20.0, 250.0)]


def test_turns_are_measured_and_nothing_is_left(client: Any, key_prefix: str) -> None:
    """One row for each window, ascending; the session is gone, and nobody else's."""
    client.set(f"{key_prefix}other", "x")
    measured = latency.measure(client, key_prefix=key_prefix, windows=(50, 3), turns=20)
    assert [row.window for row in measured] == [3, 50]
    assert all(row.turns == 20 and 0 < row.p50 <= row.p99 < 5000 for row in measured)
    assert len(measured) == 2
    assert measured[:1] == [measured[0]]
    assert list(client.scan_iter(match=f"{key_prefix}*")) == [f"{key_prefix}other".encode()]


def test_a_turn_is_two_round_trips_and_loads_its_window(
    valkey_server: servers.Server, key_prefix: str
) -> None:
    """What is timed is one read and one append; the way through the network is in the figures."""
    with Proxy(valkey_server.host, valkey_server.port, delay=0.02) as proxy:
        slow = valkey_server.client(port=proxy.port)
        latency.measure(slow, key_prefix=key_prefix, windows=(5,), turns=1, seconds=0.01)
        proxy.reset()
        (row,) = latency.measure(slow, key_prefix=key_prefix, windows=(5,), turns=5)
        turns = 5 + 10  # ten to warm up
        assert proxy.requests[b"LRANGE"] == turns
        assert proxy.requests[b"EVALSHA"] == turns + 1  # the first fills the session
        assert proxy.round_trips == 2 * turns + 2  # and the last deletes it
        slow.close()
    assert 40 <= row.p50 <= row.p99 < 400


def test_a_slow_server_is_not_measured_for_ever(
    valkey_server: servers.Server, key_prefix: str
) -> None:
    """After the seconds a window ends, with what it has."""
    with Proxy(valkey_server.host, valkey_server.port, delay=0.02) as proxy:
        slow = valkey_server.client(port=proxy.port)
        (row,) = latency.measure(slow, key_prefix=key_prefix, windows=(5,), turns=500, seconds=0.7)
        slow.close()
    assert 1 <= row.turns < 20


def test_an_outage_is_an_error(key_prefix: str) -> None:
    """A server that is gone has no latency."""
    with servers.valkey() as server:
        gone = server.client(retry=None)
        server.kill()
        with pytest.raises(ConnectError):
            latency.measure(gone, key_prefix=key_prefix, turns=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": ()}, "windows is empty"),
        ({"windows": (10, 0)}, "a window is 0; it takes a whole number of messages"),
        (
            {"windows": (10, None)},
            "a window is None, of type NoneType; it takes a whole number of messages",
        ),
        ({"windows": 10}, r"windows is a int; it takes numbers of messages, such as \(10, 100\)"),
        ({"windows": "10"}, "windows is a str; it takes numbers of messages"),
        ({"seconds": "2"}, "seconds is a str; it takes a number of seconds above 0"),
        ({"turns": 0}, "turns is 0; it takes a whole number of turns"),
        ({"seconds": 0}, "seconds is 0; it takes a number of seconds above 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_bad_options_are_refused(client: Any, options: dict[str, Any], message: str) -> None:
    """The error says what was given and what is accepted, before anything is stored."""
    with pytest.raises((TypeError, ValueError), match=message):
        latency.measure(client, key_prefix="x", **options)


def test_the_text_is_a_table() -> None:
    """A terminal, and whoever cannot see the plot, gets the figures."""
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
    """PNG, which is shown everywhere, with an alternative text; the table is its plain text."""
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
    """Both lines, the windows below, the last figures beside their lines."""
    (axes,) = Latency(ROWS)._figure().axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.2, 1.5, 20.0], [0.9, 12.34, 250]]
    assert {line.get_marker() for line in axes.lines} == {"o", "s"}  # color is not the only sign
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "100", "500"]
    assert [text.get_text().strip() for text in axes.texts] == ["p50 20.0", "p99 250"]
    assert axes.get_title(loc="left") == "A turn's time in memory"


@pytest.mark.parametrize("value", [0.001, 0.2, 0.999, 1.0, 5.0, 10.0, 4321.0])
def test_any_figure_can_be_drawn(value: float) -> None:
    """Also one on a line, one row only, and equal percentiles."""
    (axes,) = Latency([Turns(1, 1, value, value)])._figure().axes
    low, high = axes.get_ylim()
    assert low < value < high
