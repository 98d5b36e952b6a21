"""The gateway as a process: signals, logging, the line that says it is ready."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import uvloop

from gateway.app import SERVING, Gateway, build
from gateway.config.load import load_config
from gateway.config.schema import GatewayConfig
from gateway.config.surprises import surprises
from gateway.errors import ListenError
from gateway.log.stderr import log_to_stderr
from gateway.log.writer import LogWriter

READY_POLL = 0.05
logger = logging.getLogger("gateway")


def run(config: GatewayConfig | Path | str) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return 0. A second signal ends the drain at once.

    Prints one line when a worker answers and requests can be served, and warnings about surprising configuration.
    Raises ConfigError and ListenError, whose text is meant for the user.
    """
    if not isinstance(config, GatewayConfig):
        config = load_config(config)
    with log_to_stderr() as log, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for surprise in surprises(config):
            logger.warning("gateway: warning: %s", surprise)
        return runner.run(_serve(config, log))


async def _serve(config: GatewayConfig, log: LogWriter) -> int:
    stop = asyncio.Queue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.put_nowait, number)
    gateway = build(config, log)
    try:
        await gateway.start()
    except OSError as error:
        await gateway.close()
        where = f"{config.listen.host}:{config.listen.port}"
        raise ListenError(f"gateway: cannot listen on {where}: {error.strerror}; expected a free address") from None
    announcer = asyncio.create_task(_announce(gateway))
    await stop.get()
    announcer.cancel()
    await _drain(gateway, stop)
    await gateway.close()
    print("gateway stopped", flush=True)
    return 0


async def _announce(gateway: Gateway) -> None:
    """Say when it is ready, and what it waits for when that takes more than two seconds."""
    address = f"http://{gateway.config.listen.host}:{gateway.port}"
    waited = 0.0
    while not gateway.ready():
        await asyncio.sleep(READY_POLL)
        waited += READY_POLL
        if 2 <= waited < 2 + READY_POLL:
            lost = any(pool.standing().mode not in SERVING for pool in gateway.pools.values())
            missing = "the store" if lost else "a worker"
            print(f"gateway listens on {address}, waits for {missing} to answer ...", flush=True)
    pools = ", ".join(f"{name} ({pool.policy})" for name, pool in gateway.config.pools.items())
    tenants = len(gateway.config.tenants)
    print(f"gateway ready on {address}, pools: {pools}, tenants: {tenants}", flush=True)


async def _drain(gateway: Gateway, stop: asyncio.Queue[int]) -> None:
    print(f"gateway drains, for {gateway.config.timeouts.drain_s:g} s at most", flush=True)
    draining = asyncio.create_task(gateway.drain())
    again = asyncio.create_task(stop.get())
    await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, again):
        task.cancel()
