"""What a live run was like for each tenant, as a terminal table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.judge.results import Percentiles
from loadgen.report.numbers import number

TIMES: dict[str, Callable[[Exchange], float | None]] = {
    "ttft_s": lambda exchange: exchange.ttft_s,
    "tpot_s": lambda exchange: exchange.tpot_s,
    "queue_s": lambda exchange: exchange.queue_s,
}
TITLES = {"ttft_s": "TTFT (s)", "tpot_s": "time per token (s)", "queue_s": "in the queue (s)"}


def load_to_json(record: LoadRecord) -> dict[str, object]:
    """Per tenant the endings, tokens, and p50, p90, p99 of time to first token, time per output token and time in
    the queue (seconds); reasons for not finishing; how late the latest request left (the loop was open if little)."""
    return {
        "duration_s": record.duration_s,
        "lateness_s": record.lateness_s,
        "reasons": dict(record.codes()),
        "tenants": {tenant: _tenant(_of(record, tenant)) for tenant in record.tenants()},
    }


def print_load(record: LoadRecord, console: Console) -> None:
    """One row per tenant: what became of its requests, and its times at the 50th and 99th percentile."""
    view = Table(box=SIMPLE_HEAD)
    for title in ("tenant", *Ending, *(f"{title}\np50 / p99" for title in TITLES.values())):
        view.add_column(title, justify="left" if title == "tenant" else "right")
    for tenant in record.tenants():
        exchanges = _of(record, tenant)
        endings = (f"{_ended(exchanges, ending):,}" for ending in Ending)
        view.add_row(Text(tenant), *endings, *(_two(_percentiles(exchanges, name)) for name in TIMES))
    console.print(view)
    for reason, count in record.codes().items():
        console.print(f"not finished, {reason}: {count:,}", highlight=False, markup=False)
    console.print(f"requests left at most {1000 * record.lateness_s:,.0f} ms after they were due", highlight=False)


def _of(record: LoadRecord, tenant: str) -> list[Exchange]:
    return [exchange for exchange in record.exchanges if exchange.tenant == tenant]


def _tenant(exchanges: Sequence[Exchange]) -> dict[str, object]:
    return {
        "requests": {ending.value: _ended(exchanges, ending) for ending in Ending},
        "input_tokens": sum(exchange.input_tokens for exchange in exchanges),
        "output_tokens": sum(exchange.output_tokens for exchange in exchanges),
        **{name: _percentiles(exchanges, name).to_json() for name in TIMES},
    }


def _ended(exchanges: Iterable[Exchange], ending: Ending) -> int:
    return sum(exchange.ending is ending for exchange in exchanges)


def _percentiles(exchanges: Iterable[Exchange], name: str) -> Percentiles:
    return Percentiles.of(value for value in map(TIMES[name], exchanges) if value is not None)


def _two(percentiles: Percentiles) -> str:
    return f"{_short(percentiles.p50)} / {_short(percentiles.p99)}"


def _short(value: float | None) -> str:
    return number(value) if value is None or value >= 0.1 else f"{value:.3f}"
