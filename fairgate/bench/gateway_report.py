"""The figures of `fairgate bench gateway` as a table, for README too, and as data."""

from __future__ import annotations

import os
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from fairgate.bench.gateway import BULK, SHORT, STREAMS, GatewayFound, Load
from fairgate.bench.gateway_servers import NGINX, ROUTER
from fairgate.bench.rounds import table

TITLES = ("", "us a request", "requests/s of a core", "CPU ms per 1,000 events", "events/s of a core", "added us")


def figures(found: GatewayFound) -> dict[str, dict[str, float]]:
    """By server; `of` are the ratios to the yardstick."""
    return {
        name: {
            "request_us": median(found.cost_us(SHORT, name)),
            "request_of": found.ratio(SHORT, name),
            "event_us": median(found.cost_us(STREAMS, name)),
            "event_of": found.ratio(STREAMS, name),
            "bulk_events_s": 1e6 / median(found.cost_us(BULK, name)),
            "bulk_of": found.ratio(BULK, name),
            "added_us": found.added_us(name),
        }
        for name in found.windows[SHORT.name]
    }


def rows(found: GatewayFound) -> list[list[str]]:
    """In brackets: as a multiple of the yardstick's processor time."""
    return [
        [
            name,
            f"{own['request_us']:.1f} ({own['request_of']:.1f})",
            f"{1e6 / own['request_us']:,.0f}",
            f"{own['event_us']:.1f} ({own['event_of']:.1f})",
            f"{own['bulk_events_s']:,.0f}",
            f"{own['added_us']:.0f}",
        ]
        for name, own in figures(found).items()
    ]


def markdown(found: GatewayFound) -> str:
    return f"{table(TITLES, rows(found))}\n\n{notes(found)}\n"


def terminal(found: GatewayFound, console: Console) -> None:
    shown = Table(*TITLES)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows(found):
        shown.add_row(*row)
    console.print(shown)
    console.print(notes(found))


def notes(found: GatewayFound) -> str:
    """What the figures mean, and where they come from."""
    plan, (own, beside) = found.plan, found.cores
    where = f"Servers on core {own}, engine and client on core {beside}"
    where += "; there is no other core, all share it" if own == beside else f" of {os.cpu_count()}"
    missing = [name for name in (NGINX, ROUTER) if name not in found.windows[SHORT.name]]
    told = [
        f"{where}. Medians of {plan.rounds} interleaved windows of {plan.seconds:g} s, {plan.tenants} tenants; in "
        f"brackets the multiple of {found.yardstick}'s processor time (the median of the rounds' ratios).",
        f"Requests: {_load(SHORT)}. Events: {_load(STREAMS)}. Events/s: {_load(BULK)}. Added: at one request at a "
        "time, all on one core, median less that of the engine itself.",
        f"Other programs kept {found.others():.2f} cores busy.",
    ]
    if plan.compiler is None:
        told.append("Engine and client are the slow ones in Python: there is no C compiler here.")
    if missing:
        told.append(f"Not found here, and left out: {', '.join(missing)}.")
    return "\n".join(told)


def _load(load: Load) -> str:
    kind = f"streams of {load.tokens} tokens" if load.stream else f"whole answers of {load.tokens} tokens"
    pace = f", {load.gap_ms} ms a token" if load.gap_ms else ""
    return f"{load.connections} connections, {kind}{pace}"


def as_data(found: GatewayFound) -> dict[str, Any]:
    """All windows too."""
    windows = {
        load: {name: [{**one.counted._asdict(), "cpu_s": one.cpu_s} for one in own] for name, own in by_name.items()}
        for load, by_name in found.windows.items()
    }
    return {
        "cores": found.cores,
        "yardstick": found.yardstick,
        "others": found.others(),
        "figures": figures(found),
        "windows": windows,
    }
