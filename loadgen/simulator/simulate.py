"""From words to figures: a workload, policies, an engine and a cost by their names, simulated one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fairness import CostFunction, parse_cost, parse_policy
from loadgen.errors import LoadgenError
from loadgen.judge.results import Comparison
from loadgen.progress import Progress
from loadgen.simulator.engine import EngineConfig, parse_engine
from loadgen.simulator.predict import check_predict
from loadgen.simulator.simulation import Simulation
from loadgen.workloads.catalogue import load_workload
from loadgen.workloads.weights import read_weights
from loadgen.workloads.workload import Workload


def simulate(
    workload: str,
    policies: Iterable[str],
    *,
    weights: str | Path | Mapping[str, float] | None = None,
    cost: str | Mapping[str, object] = "weighted",
    predict: str = "none",
    engine: str = "a10g-7b",
    time_scale: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Run `workload` (a name or a trace file) under each policy.

    `weights` is a file (see `loadgen.workloads.weights`) or a mapping; without it, those of the workload. `time_scale`
    above 1 stretches the arrivals. `seed` jitters them by up to 50 ms; 0: none. `predict` is none, ewma, oracle, or the
    noise of an oracle. Everything is checked before the first run starts.

    Raises ValueError (LoadgenError, CostError) that names the offending part and the accepted forms.
    """
    if not (0 < time_scale < float("inf")):
        raise LoadgenError(f"time scale {time_scale!r}: expected a finite number above 0")
    specs = [spec.strip() for spec in policies]
    if not specs:
        raise LoadgenError("no policy; expected at least one, like vtc")
    for spec in specs:
        parse_policy(spec)
    check_predict(predict)
    cost_function, config = parse_cost(cost), parse_engine(engine)
    load = load_workload(workload).stretched(time_scale).jittered(seed)
    weight = _weights(weights, load)
    runs = []
    for spec in specs:
        simulation = Simulation(
            load, spec, cost=cost_function, weights=weight, engine=config, predict=predict, seed=seed
        )
        runs.append(simulation.run(progress))
    settings = {"cost": str(cost), "predict": predict, "engine": engine, "time scale": f"{time_scale:g}"}
    return Comparison(
        load.name, seed, service_bound(cost_function, config, weight, load.tenants), tuple(runs), weight, settings
    )


def service_bound(
    cost: CostFunction, engine: EngineConfig, weights: Mapping[str, float], tenants: Iterable[str]
) -> float:
    """2U / min(w) over the tenants of the workload (OSDI'24, section 4), in service units over weight. M is the
    pool; `loadgen.simulator.engine` says what that leaves out."""
    pool = engine.pool_tokens
    return 2 * cost.most_rise(pool, pool, pool) / min(weights.get(tenant, 1.0) for tenant in tenants)


def _weights(weights: str | Path | Mapping[str, float] | None, load: Workload) -> dict[str, float]:
    if weights is None:
        return dict(load.weights)
    if isinstance(weights, str | Path):
        return read_weights(Path(weights), load.tenants)
    return dict(weights)
