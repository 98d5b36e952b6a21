"""What `fairgate serve` and `fairgate cluster` run until Ctrl-C: the packaged demonstration.

`serve` is a worker and a gateway, and ends when one of them does. `cluster` is what compose.yaml runs, as processes of
this machine: a store, workers, gateways that share it, nginx in front and Prometheus beside where they are installed. A
program of it that ends by itself, or is killed to see what happens, is reported, and the others go on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from fairgate.errors import ProcessError
from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import FRONT, PROMETHEUS, MockEngine, ModelWorker, Plan, numbered
from fairgate.topology.processes import Stopped, free_ports, go_on, stop_signals
from fairgate.topology.settings import demo_settings
from fairgate.topology.welcome import cluster_welcome, serve_welcome

LOOK_S = 0.2


def serve_plan(folder: Path, model: str, port: int) -> Plan:
    engine = ModelWorker(model)
    ports = {"gateway": port, **free_ports({"worker": 8100})}
    return Plan(folder, engine, demo_settings(engine.served_name), ports=ports, logs=False)


def cluster_plan(
    folder: Path, *, gateways: int = 2, workers: int = 2, model: str = "smollm2", mock: bool = False, port: int = 8080
) -> Plan:
    """`port` is that in front, and wanted like all others: another one is taken where it is not free."""
    threads = max(1, ((os.cpu_count() or 1) - 1) // workers)
    engine = MockEngine() if mock else ModelWorker(model, {"threads": threads})
    wanted = {FRONT: port, PROMETHEUS: 9090}
    wanted |= {f"worker-{n}": 8100 + n for n in range(1, workers + 1)}
    wanted |= {f"gateway-{n}": 8200 + n for n in range(1, gateways + 1)}
    return Plan(
        folder,
        engine,
        demo_settings(engine.served_name),
        workers=numbered("worker", range(1, workers + 1)),
        gateways=numbered("gateway", range(1, gateways + 1)),
        store={},
        nginx=shutil.which("nginx"),
        prometheus=shutil.which("prometheus"),
        ports=free_ports(wanted),
    )


def serve_demo(model: str, port: int) -> int:
    """Serve until a signal arrives. Returns the exit status. Raises ProcessError when a program ends by itself."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fairgate-") as folder, stop_signals() as signals:
        look = partial(go_on, signals)
        try:
            with Deployment(serve_plan(Path(folder), model, port), look=look) as deployment:
                deployment.start()
                console.print(serve_welcome(deployment), highlight=False, markup=False, soft_wrap=True)
                _watch_all(deployment, look)
        except Stopped:
            console.print("stopped", highlight=False)
    return 0


def serve_cluster(plan: Plan) -> int:
    """Serve until a signal arrives or the last gateway is gone. Returns the exit status. Raises ProcessError."""
    say = partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    with stop_signals() as signals, Deployment(plan, say, partial(go_on, signals)) as deployment:
        try:
            deployment.start()
            say(cluster_welcome(deployment))
            _watch_gateways(deployment, partial(go_on, signals), say)
        except Stopped:
            say("stopping; streams that run may end first")
    say(f"stopped; logs are in {plan.folder}")
    return 0


def _watch_all(deployment: Deployment, look: Callable[[], None]) -> None:
    """Raises ProcessError when a program has ended, and what `look` raises."""
    while True:
        look()
        for program in deployment.programs.values():
            program.check()
        time.sleep(LOOK_S)


def _watch_gateways(deployment: Deployment, look: Callable[[], None], say: Callable[[str], None]) -> None:
    """Report what ends. Raises ProcessError when no gateway is left, and what `look` raises."""
    alive = dict(deployment.programs)
    if deployment.store:
        alive["store"] = deployment.store.program
    while any(name in alive for name in deployment.plan.gateways):
        look()
        for name, program in list(alive.items()):
            try:
                program.check()
            except ProcessError as error:
                del alive[name]
                say(f"{error}\nThe others go on.")
        time.sleep(LOOK_S)
    raise ProcessError(f"no gateway is left; logs are in {deployment.plan.folder}")
