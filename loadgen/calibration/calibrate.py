"""Measure what requests cost on a live engine, one at a time over a grid, and fit cost functions to it.

A streaming request of n_out tokens tells the time of every length up to n_out, so a grid needs one request for each
input length, repeated. The first is thrown away: engines compile and warm up on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
import yaml

from loadgen.calibration.cost_fit import Fit, Sample, fit_piecewise, fit_profiled
from loadgen.client.open_loop import run_load
from loadgen.client.record import Ending, Exchange
from loadgen.client.target import Target, TargetError
from loadgen.progress import Progress, quiet
from loadgen.workloads.prompts import Prompts
from loadgen.workloads.workload import Request

INPUTS = (16, 64, 128, 256, 512)
OUTPUTS = 64
REPEATS = 3
_TENANT = "calibrate"


class Calibration(NamedTuple):
    model: str
    samples: list[Sample]
    fits: dict[str, Fit]  # by kind of cost function

    def best(self) -> str:
        """The kind with the smaller mean error."""
        return min(self.fits, key=lambda kind: self.fits[kind].mean_error)


async def calibrate(
    url: str,
    *,
    model: str = "",
    key: str = "",
    inputs: Sequence[int] = INPUTS,
    outputs: int = OUTPUTS,
    repeats: int = REPEATS,
    progress: Progress = quiet,
) -> Calibration:
    """Measure `inputs` x 1..`outputs` tokens on the engine at `url`, keep the fastest of `repeats`, fit both forms.

    `model` is the first that the engine offers unless it is named. Raises TargetError when the engine does not
    answer or does not finish a request, LoadgenError when there are too few points.
    """
    model = model or await _first_model(url)
    target = Target(url, {_TENANT: key}, model)
    prompts = Prompts()
    plan = [inputs[0], *(n_in for _ in range(repeats) for n_in in inputs)]
    fastest: dict[tuple[int, int], Sample] = {}  # by wanted input and output: whatever disturbs only adds
    for done, n_in in enumerate(plan):
        progress(f"{n_in} input tokens", done / len(plan))
        exchange = await _measure(target, prompts, n_in, outputs)
        for sample in samples_of(exchange) if done else ():
            known = fastest.setdefault((n_in, sample.output_tokens), sample)
            fastest[n_in, sample.output_tokens] = min(known, sample, key=lambda either: either.seconds)
    samples = [sample for _, sample in sorted(fastest.items())]
    return Calibration(model, samples, {"profiled": fit_profiled(samples), "piecewise": fit_piecewise(samples)})


def samples_of(exchange: Exchange) -> list[Sample]:
    """The request at output lengths 1, 2, 4, ... and its last: as many short ones as long ones."""
    seen = dict(zip(exchange.counts, exchange.times_s, strict=True))
    last = exchange.output_tokens
    wanted = {1 << i for i in range(last.bit_length())} | {last}
    return [
        Sample(exchange.input_tokens, count, seen[count] - exchange.sent_s) for count in sorted(wanted & seen.keys())
    ]


def to_yaml(calibration: Calibration, kind: str = "") -> str:
    """The `cost` of a pool as the gateway reads it; the better fit unless `kind` names one."""
    kind = kind or calibration.best()
    fit = calibration.fits[kind]
    head = (
        f"# Measured on {calibration.model}, {len(calibration.samples)} points, one request at a time; service in ms.\n"
        f"# Error of the fit: mean {fit.mean_error:.1%}, largest {fit.largest_error:.1%}.\n"
    )
    return head + yaml.safe_dump({"cost": fit.settings}, sort_keys=False, default_flow_style=None)


def markdown(calibration: Calibration) -> str:
    """Every point beside its fits."""
    kinds = list(calibration.fits)
    head = ["input tokens", "output tokens", "measured ms", *(f"{kind} ms (error)" for kind in kinds)]
    lines = [_row(head), "|" + "--:|" * len(head)]
    for i, (n_in, n_out, seconds) in enumerate(calibration.samples):
        points = [calibration.fits[kind].points[i] for kind in kinds]
        cells = [f"{point.fitted_ms:.1f} ({point.error:+.1%})" for point in points]
        lines.append(_row([str(n_in), str(n_out), f"{1000 * seconds:.1f}", *cells]))
    means = [f"mean {fit.mean_error:.1%}, largest {fit.largest_error:.1%}" for fit in calibration.fits.values()]
    return "\n".join([*lines, _row(["", "", "error", *means])])


# -- inside --------------------------------------------------------------------------------------------------------


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


async def _first_model(url: str) -> str:
    address = Target(url, {}, "").url("/v1/models")
    try:
        async with aiohttp.ClientSession() as session, session.get(address) as response:
            models = (await response.json(content_type=None))["data"]
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{address} names no models ({error}); expected an OpenAI-compatible server") from None
    if not models:
        raise TargetError(f"{address} names no models; expected at least one")
    return str(models[0]["id"])


async def _measure(target: Target, prompts: Prompts, n_in: int, n_out: int) -> Exchange:
    record = await run_load(target, [Request(0.0, _TENANT, n_in, n_out)], prompts=prompts)
    (exchange,) = record.exchanges
    if exchange.ending is not Ending.FINISHED:
        raise TargetError(
            f"{target.base_url}: a request of {n_in} + {n_out} tokens ended as {exchange.ending} {exchange.code}; "
            "expected it to finish"
        )
    return exchange
