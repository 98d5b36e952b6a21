"""What one shard carries: the function that is a pool's state machine, driven without gateways.

A replica in this process keeps a few calls on their way, so that the server hardly idles. A request is submitted, its
tokens are reported twice (or more often), and it ends. A call carries what `size` requests have to say at each of these
stages, or (`alone`) one stage of one request. What counts is the server's processor time, not the clock: a shard that
has a core to itself carries the reciprocal.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from hashlib import sha256
from itertools import cycle
from statistics import median

from redis import Redis

from fairgate.bench.rounds import quieter_half
from fairgate.errors import ProcessError
from fairgate.topology.cpu_time import CpuTime
from fairgate.topology.stores import StoreServer
from gateway.config.load import parse_config
from gateway.pools.shared.machine import machine
from gateway.pools.shared.protocol import (
    Charge,
    Finish,
    Join,
    Op,
    Remembered,
    Submit,
    WorkerReport,
    read_reply,
    write_call,
)
from gateway.pools.shared.settings import shared_settings_of
from loadgen.progress import Progress, quiet

MOST_UNREAD = 4
FILL = 250  # tickets in a call while the queue is filled
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20
ENGINE = "http://engine:8000"
LONG_S = 3600.0
REPLICA = "bench"
KEY = "{bench:main}"


@dataclass(frozen=True)
class StoreCase:
    """`waiting` tickets wait all the while, of `tenants` tenants in turn. `reports` of tokens for each request."""

    size: int = 1
    alone: bool = False
    waiting: int = 0
    tenants: int = 100
    reports: int = 2

    @property
    def slots(self) -> int:
        """Of the engine: what is in some stage and on its way, and as much again."""
        return 2 * (self.reports + 2 + MOST_UNREAD) * self.size

    @property
    def calls_per_request(self) -> float:
        return self.reports + 2 if self.alone else 1 / self.size

    def __str__(self) -> str:
        what = "one stage" if self.alone else f"{self.size} requests"
        return f"{what} a call, {self.reports} reports, {self.waiting:,} waiting of {self.tenants:,} tenants"


@dataclass(frozen=True)
class StoreFound:
    """Medians over the quieter half of the rounds. `us`: the server's processor time per request, in microseconds;
    `rate`: requests a second by the clock, while the server was `busy` (1: a core); `call_us` and `call_p99_us`: inside
    the function, per call; `inspect_us`: one look at the whole pool, as each gateway takes it once a heartbeat;
    `others`: cores that were busy with anything but the server and this process."""

    case: StoreCase
    us: float
    rate: float
    busy: float
    call_us: float
    call_p99_us: float
    inspect_us: float
    others: float = 0.0

    @property
    def capacity(self) -> float:
        """Requests a second of a server that does nothing else."""
        return 1e6 / self.us


def measure_store(
    server: StoreServer, cases: Iterable[StoreCase], rounds: int, seconds: float, progress: Progress = quiet
) -> list[StoreFound]:
    """Every case on an emptied server, all of them in each round. Raises ProcessError when the function does not do
    what it should."""
    laps: dict[StoreCase, list[StoreFound]] = {case: [] for case in cases}
    for number in range(rounds):
        for place, (case, found) in enumerate(laps.items()):
            progress(f"the store alone: {case}", (number + place / len(laps)) / rounds)
            found.append(_lap(server, case, seconds))
    return [_middle(case, found) for case, found in laps.items()]


def _middle(case: StoreCase, laps: list[StoreFound]) -> StoreFound:
    figures = [astuple(lap)[1:] for lap in quieter_half(laps, lambda lap: lap.others)]
    return StoreFound(case, *map(median, zip(*figures, strict=True)))


def _lap(server: StoreServer, case: StoreCase, seconds: float) -> StoreFound:
    """One round."""
    server.flush()
    with server.client() as client:
        driver = Driver(client, case)
        driver.run(seconds / 4)
        server.command("CONFIG RESETSTAT")
        cpu_time = CpuTime(server=[server.pid], driver=[os.getpid()])
        served, spent = driver.run(seconds), cpu_time.spent()
        wall, cpu = spent.wall_s, spent.cpu_s["server"]
        if not served:
            raise ProcessError(f"the store served no request in {wall:.1f} s ({case})")
        info = server.command("INFO", "all")
        call_us, p99_us = info["cmdstat_fcall"]["usec_per_call"], info["latency_percentiles_usec_fcall"]["p99"]
        rates = (1e6 * cpu / served, served / wall, cpu / wall)
        return StoreFound(case, *rates, call_us, p99_us, _inspect_us(server), spent.others)


def _inspect_us(server: StoreServer) -> float:
    server.command("CONFIG RESETSTAT")
    for _ in range(5):
        server.command("FCALL", machine().function("inspect"), 1, KEY)
    return float(server.command("INFO", "commandstats")["cmdstat_fcall"]["usec_per_call"])


def _settings(case: StoreCase) -> str:
    """Of a pool with one engine, as a gateway makes them from its file. Tenants beyond 100 are not named there."""
    tenants = [
        {"id": _tenant(n), "keys_sha256": [sha256(_tenant(n).encode()).hexdigest()]}
        for n in range(min(case.tenants, 100))
    ]
    queue = {"max_requests": 10_000_000, "max_requests_per_tenant": 10_000_000, "timeout_s": LONG_S}
    worker = {"url": ENGINE, "slots": case.slots, "kv_tokens": 1000 * case.slots}
    config = parse_config(
        {
            "pools": {"main": {"models": ["m"], "workers": [worker], "queue": queue}},
            "tenants": tenants,
            "store": {"url": "redis://store", "lease_s": LONG_S},
            "revision": 1,
        }
    )
    return shared_settings_of(config.pools["main"], config).text


def _tenant(number: int) -> str:
    return f"tenant-{number}"


class Driver:
    """The replica. Requests so far: `submitted`, and of those `served`."""

    def __init__(self, client: Redis, case: StoreCase) -> None:
        self.submitted = self.served = 0
        self._case = case
        self._function = machine().function("apply")
        self._connection = client.connection_pool.get_connection()
        self._sent = self._read = 0  # batches
        self._tenants: dict[str, str] = {}  # by ticket
        self._next_tenants = deque[str]()  # of requests that ended: they ask again
        self._new_tenants = cycle([_tenant(number) for number in range(case.tenants)])
        self._stages = [deque[str]() for _ in range(case.reports + 1)]  # what runs, by how often it was reported
        self._calls = self._alone() if case.alone else self._together()
        client.function_load(machine().source, replace=True)
        self._join()
        self._fill()

    def run(self, seconds: float) -> int:
        """How many requests ended in about so many seconds."""
        before, until = self.served, time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._send(next(self._calls))
            self._hear(MOST_UNREAD)
        self._hear(0)
        return self.served - before

    def _join(self) -> None:
        nothing = Remembered({}, 0, 0)
        join = Join(_settings(self._case), 1, [], [], {}, nothing, joined=False, alone={})
        self._send([join, WorkerReport.of_health(ENGINE, True, round(1000 * LONG_S))])
        self._hear(0)

    def _fill(self) -> None:
        left = self._case.waiting and self._case.waiting + self._case.slots
        while left > 0:
            self._send([self._submit() for _ in range(min(FILL, left))])
            self._hear(0)
            left -= FILL

    def _together(self) -> Iterator[list[Op]]:
        while True:
            submits = [self._submit() for _ in range(self._case.size)]
            reports = [op for stage in self._latest_first() for op in self._advance(stage, self._case.size)]
            yield [*reports, *submits]

    def _alone(self) -> Iterator[list[Op]]:
        while True:
            yield [self._submit()]
            for stage in self._latest_first():
                if ops := self._advance(stage, 1):
                    yield ops

    def _latest_first(self) -> Iterator[int]:
        return reversed(range(len(self._stages)))

    def _submit(self) -> Op:
        self.submitted += 1
        ticket = f"t:{self.submitted}"
        tenant = self._next_tenants.popleft() if self._next_tenants else next(self._new_tenants)
        self._tenants[ticket] = tenant
        return Submit(ticket, tenant, INPUT_TOKENS, OUTPUT_TOKENS)

    def _advance(self, stage: int, most: int) -> list[Op]:
        """Up to `most` tickets at this stage go on to the next, or end."""
        told, reports = self._stages[stage], self._case.reports
        tickets = [told.popleft() for _ in range(min(most, len(told)))]
        if stage < reports:
            self._stages[stage + 1].extend(tickets)
            produced = OUTPUT_TOKENS * (stage + 1) // (reports + 1)
            return [Charge(ticket, INPUT_TOKENS, 0, produced) for ticket in tickets]
        self._next_tenants.extend(self._tenants.pop(ticket) for ticket in tickets)
        self.served += len(tickets)
        return [Finish(ticket, INPUT_TOKENS, 0, OUTPUT_TOKENS) for ticket in tickets]

    def _send(self, ops: list[Op]) -> None:
        self._sent += 1
        call = write_call(REPLICA, self._sent, self._read, "", ops)
        self._connection.send_command("FCALL", self._function, 1, KEY, call)  # type: ignore[no-untyped-call]

    def _hear(self, most_unread: int) -> None:
        """Read answers until at most so many are missing."""
        while self._sent - self._read > most_unread:
            answer = self._connection.read_response()
            self._read += 1
            reply = read_reply(answer)
            if reply is None or reply.refusals:
                raise ProcessError(f"the store answered {answer[:10]!r} to a benchmark; expected every request queued")
            self._stages[0].extend(decision.ticket for decision in reply.decisions)
