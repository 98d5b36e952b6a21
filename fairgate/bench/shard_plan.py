"""How many shards many pools need, simulated from what a call costs on one.

Each gateway has one call on its way for each pool; what comes up meanwhile goes into the next
(gateway/pools/shared/link.py).
A request is a submission that waits for the answer to its call, and an end; while its tokens come, every call of its
gateway carries a report of it, and a call is due `flush_s` after the one before. A pool is on the shard that owns the
hash slot of its keys, a shard serves one call after the other. Seconds are simulated: nothing here looks at a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, log, sqrt
from random import Random

from redis.crc import key_slot

from fairgate.bench.rounds import percentile
from fairgate.topology.stores import SLOTS

WARM_UP_S = 0.5
Z99 = 2.326  # the normal distribution's 99th percentile


@dataclass(frozen=True)
class CallCost:
    """Microseconds of a shard: each call, each request (its submission and its end together), each report of tokens.
    `spread`: the 99th percentile over the mean of a call with one operation; the times of operations are taken as
    independent, so calls with more spread less. Times are lognormal."""

    call_us: float
    request_us: float
    report_us: float
    spread: float

    def sigma(self, operations: float) -> float:
        """Of the lognormal distribution: log(spread) = Z99 * sigma - sigma**2 / 2, its smaller solution."""
        alone = Z99 - sqrt(max(0.0, Z99**2 - 2 * log(max(1.0, self.spread))))
        return alone / sqrt(max(1.0, operations))


@dataclass(frozen=True)
class PoolLoad:
    """One pool: `rate` requests a second over `gateways`, which stream for `stream_s` on average, a token each
    `token_s`. `rtt_s` is the way to the shard and back."""

    rate: float
    stream_s: float
    gateways: int = 4
    token_s: float = 0.02
    flush_s: float = 0.02
    rtt_s: float = 0.0002

    @property
    def running(self) -> float:
        """Streams at once (Little's law)."""
        return self.rate * self.stream_s


@dataclass(frozen=True)
class Simulated:
    """`busy`: utilisation of each shard that has pools; `added_s`: what requests waited for the answer to their
    submission, sorted; `calls`: a second, over all shards."""

    shards: int
    busy: Sequence[float]
    added_s: Sequence[float]
    calls: float

    def added_ms(self, part: float) -> float:
        return 1e3 * percentile(self.added_s, part)


def placed(pools: int, shards: int, *, evenly: bool) -> list[int]:
    """The shard of each pool: by the hash slot of its keys with slots in equal ranges, as a new cluster has them, or
    `evenly`, as after moving slots."""
    if evenly:
        return [pool % shards for pool in range(pools)]
    slots = [key_slot(f"{{fairgate:pool-{pool}}}".encode()) for pool in range(pools)]
    return [((slot + 1) * shards - 1) // SLOTS for slot in slots]


def simulate(
    load: PoolLoad, cost: CallCost, places: Sequence[int], shards: int, *, seconds: float = 1.0, seed: int = 1
) -> Simulated:
    """`places`: the shard of each pool. Shards do not touch each other, so each is simulated by itself."""
    used = [shard for shard in range(shards) if shard in places]
    runs = [_Shard(load, cost, places.count(shard), seconds, Random(f"{seed}/{shard}")) for shard in used]
    for run in runs:
        run.run()
    added = sorted(added for run in runs for added in run.added)
    return Simulated(shards, [run.busy_s / seconds for run in runs], added, sum(run.calls for run in runs) / seconds)


@dataclass(slots=True, eq=False)
class _Link:
    """A gateway's way to one pool."""

    submitted: list[float] = field(default_factory=list)
    ended: int = 0
    running: int = 0
    in_flight: bool = False
    taken: float = 0.0  # when the last call was sent


class _Shard:
    """A server, the links to it, and the events to come: (time, tie-breaker, what, link)."""

    def __init__(self, load: PoolLoad, cost: CallCost, pools: int, seconds: float, random: Random) -> None:
        self.added: list[float] = []
        self.busy_s = 0.0
        self.calls = 0
        self._load = load
        self._cost = cost
        self._until = WARM_UP_S + seconds
        self._random = random
        self._numbers = count()
        self._events: list[tuple[float, int, str, _Link, list[float]]] = []
        self._free_at = 0.0
        for _ in range(pools * load.gateways):
            self._begin(_Link())

    def run(self) -> None:
        while self._events:
            now, _, what, link, submitted = heapq.heappop(self._events)
            if now >= self._until:
                return
            if what == "arrive":
                link.submitted.append(now)
                self._arrival(now, link)
            elif what == "end":
                link.ended += 1
            elif what == "answer":
                self._answered(now, link, submitted)
            self._send_if_due(now, link)

    def _begin(self, link: _Link) -> None:
        """In the steady state of its streams."""
        link.running = round(self._load.running / self._load.gateways)
        for _ in range(link.running):
            self._at(self._random.expovariate(1 / self._load.stream_s), "end", link)
        self._at(self._random.random() * self._load.flush_s, "flush", link)
        self._arrival(0.0, link)

    def _at(self, time: float, what: str, link: _Link, submitted: list[float] | None = None) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, link, submitted or []))

    def _arrival(self, now: float, link: _Link) -> None:
        self._at(now + self._random.expovariate(self._load.rate / self._load.gateways), "arrive", link)

    def _send_if_due(self, now: float, link: _Link) -> None:
        flush = link.running and now - link.taken >= self._load.flush_s - 1e-9
        if not link.in_flight and (link.submitted or link.ended or flush):
            self._send(now, link)

    def _send(self, now: float, link: _Link) -> None:
        service = self._service(now, link)
        start = max(self._free_at, now + self._load.rtt_s / 2)
        self._free_at = start + service
        if now >= WARM_UP_S:
            self.busy_s += service
            self.calls += 1
        self._at(self._free_at + self._load.rtt_s / 2, "answer", link, link.submitted)
        self._at(now + self._load.flush_s, "flush", link)
        link.running -= link.ended
        link.submitted, link.ended, link.in_flight, link.taken = [], 0, True, now

    def _service(self, now: float, link: _Link) -> float:
        """Every stream with a token since the last call is reported."""
        reports = link.running * min(1.0, (now - link.taken) / self._load.token_s)
        ends = len(link.submitted) + link.ended
        mean = self._cost.call_us + ends * self._cost.request_us / 2 + reports * self._cost.report_us
        sigma = self._cost.sigma(ends + reports)
        return mean / 1e6 * self._random.lognormvariate(-(sigma**2) / 2, sigma)

    def _answered(self, now: float, link: _Link, submitted: list[float]) -> None:
        link.in_flight = False
        link.running += len(submitted)
        for sent in submitted:
            self._at(now + self._random.expovariate(1 / self._load.stream_s), "end", link)
            if sent >= WARM_UP_S:
                self.added.append(now - sent)


def shards_needed(load: PoolLoad, cost: CallCost, pools: int, most_p99_ms: float, *, evenly: bool) -> list[Simulated]:
    """More and more shards, until 99 of 100 requests wait at most so long; the last one does it, unless a shard for
    each pool is not enough."""
    tried = []
    shards = min(pools, max(1, ceil(least_busy(load, cost) * pools / 2)))
    while True:
        tried.append(simulate(load, cost, placed(pools, shards, evenly=evenly), shards))
        if tried[-1].added_ms(0.99) <= most_p99_ms or shards >= pools:
            return tried
        shards = min(pools, ceil(shards * 1.25) if shards > 3 else shards + 1)


def largest_pool(load: PoolLoad, cost: CallCost, most_p99_ms: float) -> tuple[PoolLoad, Simulated]:
    """The most of this kind of load for which one pool, so one shard, has such a 99th percentile, in steps of a tenth,
    from a tenth of the load that keeps it busy on."""
    rate = load.rate * 0.1 / least_busy(load, cost)
    best = _alone(replace(load, rate=rate), cost)
    while (more := _alone(replace(load, rate=1.1 * best[0].rate), cost))[1].added_ms(0.99) <= most_p99_ms:
        best = more
    return best


def _alone(load: PoolLoad, cost: CallCost) -> tuple[PoolLoad, Simulated]:
    return load, simulate(load, cost, [0], 1)


def least_busy(load: PoolLoad, cost: CallCost) -> float:
    """Shards that one pool keeps busy at the least: its requests and reports, with `1 / flush_s` calls a second of each
    gateway."""
    calls = load.gateways / load.flush_s * cost.call_us
    return (calls + load.rate * cost.request_us + load.running / load.flush_s * cost.report_us) / 1e6
