"""Figures 3 to 10: synthetic workloads, Llama-2-7B on an A10G (OSDI'24, section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fairness import Weighted
from loadgen.judge.metrics import Floats, waiting
from loadgen.judge.results import Run
from loadgen.paper.curves import accumulated, accumulated_difference, response_times, service_rates
from loadgen.paper.experiment import UNKNOWN, Check, Experiment, Shown
from loadgen.paper.jobs import Job, Results
from loadgen.report.curves import Panel
from loadgen.report.numbers import number
from loadgen.simulator.engine import ENGINES
from loadgen.simulator.simulate import service_bound

COST = Weighted()
SERVICE = "service per second"
WAIT = "time to first token (s)"
DIFFERENCE = "accumulated service difference"
BOUND = service_bound(COST, ENGINES["a10g-7b"], {}, ["one", "other"])
POINTS = 30

Span = tuple[float, float]
STEADY: Span = (60.0, 600.0)


# -- parts that several figures share --------------------------------------------------------------------------


def moments_of(run: Run, points: int = POINTS) -> Floats:
    """Even moments from just after 0 to the last arrival."""
    return np.linspace(0, run.last_arrival_s, points + 1)[1:]


def service_panel(run: Run, title: str) -> Panel:
    x = moments_of(run)
    return Panel(title, "time (s)", SERVICE, x, _by_tenant(run, service_rates(run.records, COST, x)))


def response_panel(run: Run, title: str, marked: Sequence[str] = ()) -> Panel:
    x = moments_of(run)
    return Panel(title, "time (s)", WAIT, x, _by_tenant(run, response_times(run.records, x)), marked)


def difference_panel(runs: Mapping[str, Run], title: str, points: int = POINTS, start_s: float = 0.0) -> Panel:
    x = moments_of(next(iter(runs.values())), points)
    lines = {name: accumulated_difference(run.records, COST, x, start_s) for name, run in runs.items()}
    return Panel(title, "time (s)", DIFFERENCE, x, lines)


def rates(run: Run, span: Span) -> list[float]:
    """Service per second over `span`, of each tenant in order of name."""
    start, end = span
    received = accumulated(run.records, COST, np.array([start, end]))
    return [float(rate) for rate in (received[:, 1] - received[:, 0]) / (end - start)]


def wait(run: Run, tenants: Sequence[str], span: Span = (0.0, float("inf"))) -> float:
    """Mean time to first token, in seconds, of requests of `tenants` whose first token came within `span`."""
    start, end = span
    waits = [
        record.ttft_s
        for record in run.records
        if record.ttft_s is not None and record.tenant in tenants and start <= record.arrival_s + record.ttft_s < end
    ]
    return float(np.mean(waits)) if waits else float("nan")


def rate_checks(run: Run, span: Span, published: Sequence[float], of: str = "") -> list[Check]:
    """Service per second against the recorded runs, which had arrivals of another phase: within a tenth."""
    return [
        Check(f"client {i} {of}at", found, value, 0.10)
        for i, (found, value) in enumerate(zip(rates(run, span), published, strict=True), 1)
    ]


def _by_tenant(run: Run, lines: Floats) -> dict[str, Floats]:
    return dict(zip(sorted(run.tenants), lines, strict=True))


def told(values: Sequence[float]) -> str:
    *most, last = map(number, values)
    return f"{', '.join(most)} and {last}"


# -- two overloaded clients under VTC and FCFS: figures 3, 7, 8 ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """Of the authors' run: service per second under VTC over 60-540 s, the largest accumulated difference under VTC,
    its growth per second under FCFS, and the arrivals of client 2 in the first minute."""

    rates: tuple[float, float]
    largest: float
    growth: float
    first_minute: int


def overloaded(name: str, title: str, setup: str, workload: str, recorded: Recorded) -> Experiment:
    vtc, fcfs = Job(workload), Job(workload, "fcfs")

    def show(results: Results) -> Shown:
        runs = {"vtc": results.runs[vtc], "fcfs": results.runs[fcfs]}
        panel = difference_panel(runs, "accumulated difference")
        gap, grown = runs["vtc"].service_gap_max, float(panel.lines["fcfs"][-1])
        finding = (
            f"two clients that both wait drift apart by at most {number(gap)} under VTC "
            f"({'within' if gap <= BOUND else 'BEYOND'} the bound of {number(BOUND)}), under FCFS the difference grows "
            f"to {number(grown)}"
        )
        checks = [
            *rate_checks(runs["vtc"], (60, 540), recorded.rates),
            Check("largest difference under VTC", float(panel.lines["vtc"].max()), recorded.largest, 0.5),
            Check("growth per second under FCFS", grown / runs["fcfs"].last_arrival_s, recorded.growth, 0.15),
        ]
        why = _until_both_wait(runs["vtc"], recorded.first_minute)
        panels = [panel, service_panel(runs["vtc"], "service under vtc")]
        return Shown(finding, gap <= BOUND < grown, checks, why, panels)

    return Experiment(name, title, setup, show, (vtc, fcfs))


def _until_both_wait(run: Run, first_minute: int) -> str:
    spans = waiting(run.records, "client-2")
    since = max((span for span in spans), key=lambda span: span[1] - span[0])[0]
    sent = sum(record.arrival_s < 60 for record in run.records if record.tenant == "client-2")
    return (
        f"for here client 2 waits without a break only from {number(since)} s on (it sent {sent} requests in the first "
        f"minute, {first_minute} in the recorded run), and this curve counts the time before"
    )


# -- service and waits of one run under VTC: figures 4, 5, 6, 9 ------------------------------------------------


def figure_4(results: Results) -> Shown:
    run = results.runs[Job("proportional")]
    found = rates(run, STEADY)
    light, heavy = wait(run, ["client-1", "client-2"], STEADY), wait(run, ["client-3"], STEADY)
    holds = found[2] > sum(found) / 3 and light < heavy / 10
    finding = (
        f"the two light clients get what they ask ({told(found[:2])} a second) after {number(light)} s, and the "
        f"overloaded one takes the rest ({number(found[2])}) and waits {number(heavy)} s"
    )
    return _service_and_waits(run, finding, holds, rate_checks(run, STEADY, (191, 382, 756)))


ON = ((135, 180), (255, 300), (375, 420), (495, 540))  # the on-periods from the second, less their first 15 s
OFF = ((195, 240), (315, 360), (435, 480))


def figure_5(results: Results) -> Shown:
    run = results.runs[Job("on-off-less")]
    on, off = _mean_rates(run, ON), _mean_rates(run, OFF)
    light, heavy = wait(run, ["client-1"], STEADY), wait(run, ["client-2"], STEADY)
    holds = off[1] > on[1] * 1.2 and abs(sum(on) / sum(off) - 1) < 0.1 and light < heavy / 5
    finding = (
        f"while client 1 is off, client 2 rises from {number(on[1])} to {number(off[1])} a second and the total stays "
        f"({number(sum(on))} and {number(sum(off))}); client 1 waits {number(light)} s, client 2 {number(heavy)} s"
    )
    checks = [
        Check("client 1 on at", on[0], 384, 0.1),
        Check("client 2 then at", on[1], 937, 0.1),
        Check("client 2 alone at", off[1], 1319, 0.1),
    ]
    return _service_and_waits(run, finding, holds, checks)


def _mean_rates(run: Run, spans: Sequence[Span]) -> list[float]:
    return [fmean(each) for each in zip(*(rates(run, span) for span in spans), strict=True)]


def figure_6(results: Results) -> Shown:
    run = results.runs[Job("on-off-overload")]
    found = rates(run, STEADY)
    holds = abs(found[0] / found[1] - 1) < 0.05
    finding = f"a client that stops sending but still has a queue keeps its half: {told(found)} a second"
    return _service_and_waits(run, finding, holds, rate_checks(run, STEADY, (660, 659)))


def figure_9(results: Results) -> Shown:
    run = results.runs[Job("increase")]
    first, last = (wait(run, ["client-1"], span) for span in ((0, 100), (500, 600)))
    heavy = wait(run, ["client-2"], (500, 600))
    holds = last < heavy / 10
    finding = (
        f"while client 2 rises above its share and ends up waiting {number(heavy)} s, client 1 waits {number(last)} s "
        f"({number(first)} s at the start)"
    )
    checks = [*rate_checks(run, (500, 600), (384, 977)), Check("wait of client 2 (s)", heavy, 31.46, 0.35)]
    total = sum(rates(run, (500, 600)))
    why = f"for the modelled engine serves {number(total)} a second near saturation, the recorded one served 1,361"
    return _service_and_waits(run, finding, holds, checks, why)


def _service_and_waits(run: Run, finding: str, holds: bool, checks: Sequence[Check], why: str = UNKNOWN) -> Shown:
    panels = [service_panel(run, "service under vtc"), response_panel(run, "response time under vtc")]
    return Shown(finding, holds, checks, why, panels)


def figure_10(results: Results) -> Shown:
    vtc, lcf = results.runs[Job("dist-shift")], results.runs[Job("dist-shift", "lcf")]
    both: Span = (360, 600)
    fair, unfair = rates(vtc, both), rates(lcf, both)
    holds = abs(fair[0] / fair[1] - 1) < 0.05 and unfair[0] > 1.1 * unfair[1]
    finding = (
        f"when both overload the server VTC serves them alike at once ({told(fair)} a second over 360-600 s), LCF pays "
        f"client 1 for its idle past ({told(unfair)})"
    )
    checks = [*rate_checks(vtc, both, (679, 679), "under VTC "), *rate_checks(lcf, both, (768, 591), "under LCF ")]
    return Shown(finding, holds, checks, panels=[service_panel(vtc, "vtc"), service_panel(lcf, "lcf")])


SAME = "256 input and 256 output tokens"
SYNTHETIC = (
    overloaded(
        "figure-03",
        "Figure 3: two overloaded clients",
        f"90 and 180 requests a minute, {SAME}.",
        "overload-600s",
        Recorded((687, 666), 7_674, 262_110 / 600, 180),
    ),
    Experiment(
        "figure-04",
        "Figure 4: work conservation",
        f"15, 30 and 90 requests a minute, {SAME}.",
        figure_4,
        (Job("proportional"),),
    ),
    Experiment(
        "figure-05",
        "Figure 5: on and off below its share",
        f"30 a minute every other minute, and 120, {SAME}.",
        figure_5,
        (Job("on-off-less"),),
    ),
    Experiment(
        "figure-06",
        "Figure 6: on and off above its share",
        f"120 a minute every other minute, and 180, {SAME}.",
        figure_6,
        (Job("on-off-overload"),),
    ),
    overloaded(
        "figure-07",
        "Figure 7: short and long requests",
        "Poisson: 480 a minute of 64 / 64 tokens, 90 of 256 / 256.",
        "poisson-short-long",
        Recorded((1019, 1016), 18_014, 219_127 / 584, 100),
    ),
    overloaded(
        "figure-08",
        "Figure 8: long questions and long answers",
        "Poisson: 480 a minute of 512 / 32 tokens, 90 of 32 / 512, as the recorded runs have them.",
        "poisson-short-long-2",
        Recorded((781, 780), 41_458, 339_047 / 293, 100),
    ),
    Experiment(
        "figure-09",
        "Figure 9: isolation",
        f"30 a minute, and 12 rising to 120, {SAME}.",
        figure_9,
        (Job("increase"),),
    ),
    Experiment(
        "figure-10",
        "Figure 10: the distribution shifts",
        f"Three phases of 5 minutes, {SAME}.",
        figure_10,
        (Job("dist-shift"), Job("dist-shift", "lcf")),
    ),
)
