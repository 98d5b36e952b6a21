"""The gateway as a process: signals, logging, what it tells of itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import uvloop

from fairness import BUILD
from gateway.app import SERVING, Gateway, build
from gateway.config.load import load_config
from gateway.config.schema import GatewayConfig
from gateway.config.surprises import surprises
from gateway.errors import ConfigError, ListenError
from gateway.http.listener import describe
from gateway.log.stderr import log_to_stderr
from gateway.log.writer import LogWriter
from gateway.siblings import Place

READY_POLL = 0.05
logger = logging.getLogger("gateway")

Moment = Literal["waits", "ready", "drains", "stopped"]
Tell = Callable[[Moment, str], None]
"""Where a gateway has come to, and a line that says so."""


def run(config: GatewayConfig | Path | str) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return 0. A second signal ends the drain at once.

    Prints one line when a worker answers and requests can be served, and warnings about surprising configuration.
    Raises ConfigError and ListenError, whose text is meant for the user.
    """
    if not isinstance(config, GatewayConfig):
        config = load_config(config)
    warn(config)
    return serve(config, lambda _, line: say(line))


def say(line: str) -> None:
    """To standard output. Nobody there, or no room on its disk, is no reason to stop serving."""
    with suppress(OSError):
        print(line, flush=True)


def warn(config: GatewayConfig) -> None:
    """Print what is surprising in it, on standard error."""
    with log_to_stderr():
        for surprise in surprises(config):
            logger.warning("gateway: warning: %s", surprise)


def serve(config: GatewayConfig, tell: Tell, place: Place | None = None) -> int:
    """`run` without a word to the terminal but the log. With a `place` it is one of several processes on one port, and
    listens to their parent: SIGTERM asks to drain, however often it comes (a service manager may send it to everybody),
    SIGINT to end at once. Raises ListenError, ConfigError (files that it names)."""
    with log_to_stderr() as log, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, tell, log, place))


def cannot_listen(config: GatewayConfig, error: OSError | UnicodeError) -> ListenError:
    where = config.listen.unix or f"{config.listen.host}:{config.listen.port}"
    why = (error.strerror if isinstance(error, OSError) else None) or error
    return ListenError(f"gateway: cannot listen on {where}: {why}; expected a free address of this machine")


class _Asked:
    """What signals have asked for: to `drain`, and then to end `now`."""

    def __init__(self, place: Place | None) -> None:
        self.drain, self.now = asyncio.Event(), asyncio.Event()
        on_term, on_int = (self._next, self._next) if place is None else (self.drain.set, self._end)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, on_term)
        loop.add_signal_handler(signal.SIGINT, on_int)

    def _next(self) -> None:
        (self.now if self.drain.is_set() else self.drain).set()

    def _end(self) -> None:
        self.drain.set()
        self.now.set()


async def _serve(config: GatewayConfig, tell: Tell, log: LogWriter, place: Place | None) -> int:
    asked = _Asked(place)
    gateway = build(config, log, place)
    try:
        await gateway.start()
    except (OSError, UnicodeError) as error:
        await gateway.close()
        raise cannot_listen(config, error) from None
    except ConfigError:
        await gateway.close()
        raise
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _renew, gateway)
    _collect_rarely()
    announcer = asyncio.create_task(_announce(gateway, tell))
    await asked.drain.wait()
    announcer.cancel()
    tell("drains", f"gateway drains, for {config.timeouts.drain_s:g} s at most")
    await _drain(gateway, asked.now)
    await gateway.close()
    tell("stopped", "gateway stopped")
    return 0


def _collect_rarely() -> None:
    """What is there at the start stays, so the garbage collector need not look at it again (`freeze`). Requests leave
    hardly any cycles behind, so it need not look as often as every 700 objects, which took 4 % of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


async def _announce(gateway: Gateway, tell: Tell) -> None:
    """Say when it is ready, and what it waits for when that takes more than two seconds."""
    address = describe(gateway.config.listen, gateway.port)
    waited = 0.0
    while not gateway.ready():
        await asyncio.sleep(READY_POLL)
        waited += READY_POLL
        if 2 <= waited < 2 + READY_POLL:
            lost = any(pool.standing().mode not in SERVING for pool in gateway.pools.values())
            missing = "the store" if lost else "a worker"
            tell("waits", f"gateway listens on {address}, waits for {missing} to answer ...")
    pools = ", ".join(f"{name} ({pool.policy})" for name, pool in gateway.config.pools.items())
    tenants = len(gateway.config.tenants)
    tell("ready", f"gateway ready on {address}, pools: {pools}, tenants: {tenants}, build: {BUILD}")


def _renew(gateway: Gateway) -> None:
    """SIGHUP: whoever sends it expects a program that reads its files again, and not one that ends."""
    if gateway.config.listen.tls is None:
        logger.info("gateway: SIGHUP: of its files a gateway reads those of listen.tls again, and there are none")
        return
    try:
        gateway.server.renew_certificate()
    except ConfigError as error:
        logger.warning("gateway: the certificate stays as it was: %s", error)
    else:
        logger.info("gateway: the certificate was read again")


async def _drain(gateway: Gateway, now: asyncio.Event) -> None:
    draining, again = asyncio.create_task(gateway.drain()), asyncio.create_task(now.wait())
    await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, again):
        task.cancel()
