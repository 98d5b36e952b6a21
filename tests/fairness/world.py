"""A small world that plays any sequence of operations on a scheduler and checks the law after every one.

An operation is (kind, a, b) with a and b any whole numbers: they select a tenant, a ticket, a size. So every
sequence means something, hypothesis can shrink it, and the same sequence can be played on two schedulers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairness import (
    MILLI,
    CostFunction,
    MaxTokens,
    NoPrediction,
    Piecewise,
    Predictor,
    Profiled,
    Scheduler,
    State,
    Ticket,
    Weighted,
    Worker,
    WorkerRoom,
)
from fairness.policies import Policy, Vtc

from .reference import Reference, levels, parent

Op = tuple[str, int, int]

KINDS = ("submit", "fill", "pick", "pick_all", "charge", "run", "finish", "cancel", "requeue", "correct", "expire")
UNUSUAL = ("weight", "resize", "health")
TENANTS = ("a", "b", "c", "d")
TREE = ("x/a", "x/b", "x/y/c", "x/y/d", "z/a", "x")

COSTS: tuple[CostFunction, ...] = (
    Weighted(),
    Weighted(1.0, 2.0, 0.25),
    Weighted(3.0, 1.0),
    Weighted(2.0, 0.3, 0.7),
    Profiled(),
    Profiled(2.0, 0.5, 0.05, 0.001, 3.0, 0.5),
    Piecewise(((0, 0), (10, 30), (50, 40)), ((0, 5), (8, 8), (20, 44))),
)


class Guess(NoPrediction):
    """Wrong in both directions, but the same for the same ticket."""

    def predict(self, ticket: Ticket) -> int:
        return (ticket.seq * 7919 + ticket.input_tokens * 31) % (2 * ticket.max_tokens)


PREDICTORS: tuple[Callable[[], Predictor], ...] = (NoPrediction, MaxTokens, Guess)


class Setting(NamedTuple):
    """What a world is made of."""

    cost: CostFunction = Weighted()
    workers: tuple[tuple[int, int], ...] = ((4, 100),)  # (slots, tokens)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    predictor: Callable[[], Predictor] = NoPrediction
    scheduler: Callable[..., Scheduler] = Scheduler
    policy: Callable[[], Policy] = Vtc
    tenants: tuple[str, ...] = TENANTS
    reference: Callable[..., Reference] = Reference
    bounded: bool = True  # the policy promises the bound


def random_setting(
    chance: random.Random, scheduler: Callable[..., Scheduler] = Scheduler, tenants: tuple[str, ...] = TENANTS
) -> Setting:
    return Setting(
        chance.choice(COSTS),
        tuple((chance.randint(1, 12), chance.randint(20, 120)) for _ in range(chance.randint(1, 3))),
        tuple(chance.choice((0.5, 1.0, 1.0, 2.0, 3.0)) for _ in TENANTS),
        chance.choice(PREDICTORS),
        scheduler,
        tenants=tenants,
    )


def random_ops(chance: random.Random, length: int, kinds: Sequence[str] = KINDS) -> list[Op]:
    return [(chance.choice(kinds), chance.randrange(1000), chance.randrange(1000)) for _ in range(length)]


@dataclass
class Pair:
    """Two tenants that both wait: the extremes of the difference of their weighted service since both do."""

    low: float
    high: float
    bound: float


@dataclass
class World:
    setting: Setting
    tickets: list[Ticket] = field(default_factory=list)
    now: float = 0.0
    turns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.setting
        self.paths = sorted({level for tenant in s.tenants for level in levels(tenant)})
        names = sorted({path.removesuffix("/") for path in self.paths})
        weights = dict(zip(names, s.weights * len(names), strict=False))
        self.room = WorkerRoom([Worker(f"w{i}", slots, tokens) for i, (slots, tokens) in enumerate(s.workers)])
        self.scheduler = s.scheduler(s.policy(), s.cost, self.room, weights=weights, predictor=s.predictor())
        self.reference = s.reference(s.cost, weights)
        self.received = dict.fromkeys(self.paths, 0.0)  # weighted service, kept apart from the scheduler's counters
        self.seen: dict[Ticket, float] = {}
        self.weights: dict[Ticket, dict[str, float]] = {}  # by level, at its last dispatch
        self.pairs: dict[tuple[str, str], Pair] = {}
        self.ahead: dict[tuple[str, str], Pair] = {}
        self.widest = 0.0  # the largest part of the bound that was reached

    # -- playing -----------------------------------------------------------------------------------------------

    def play(self, ops: Sequence[Op]) -> World:
        for kind, a, b in ops:
            getattr(self, f"do_{kind}")(a, b)
            self.check()
        return self

    def do_submit(self, a: int, b: int) -> None:
        tenant = self.setting.tenants[a % len(self.setting.tenants)]
        n_in = 1 + b % (24 if b % 2 else 3)
        deadline = self.now + 3 + b % 5 if b % 3 == 0 else float("inf")
        ticket = Ticket(f"t{len(self.tickets)}", tenant, n_in, 1 + a // 4 % 50, deadline)
        before = self.counter(tenant)
        refusal = self.scheduler.submit(ticket, self.now)
        if refusal is not None:
            assert n_in + 1 > self.room.capacity().largest
            return
        self.tickets.append(ticket)
        self.reference.submit(ticket.id, tenant, n_in)
        assert self.counter(tenant) >= before or "/" in tenant, "a tenant that joins is never lowered"

    def do_fill(self, a: int, b: int) -> None:
        for i in range(2 + b % 5):
            self.do_submit(a + len(self.setting.tenants) * i * b, a + b * i)

    def do_pick(self, a: int, b: int) -> bool:
        expected = self.reference.next()
        grant = self.scheduler.pick()
        if grant is None:
            assert expected is None or not self._fits(expected), "work conserving: a head that fits is dispatched"
            return False
        ticket = grant.ticket
        assert ticket.id == expected, f"dispatched {ticket.id}, the law says {expected}"
        self.turns.append(ticket.id)
        self.reference.dispatch(ticket.id, ticket.predicted)
        self.weights[ticket] = {path: self.reference.weight(path) for path in levels(ticket.tenant)}
        self._receive(ticket)
        return True

    def do_pick_all(self, a: int, b: int) -> None:
        while self.do_pick(a, b):
            self.check()

    def do_charge(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            self._charge(ticket, ticket.produced + b % 6)

    def do_run(self, a: int, b: int) -> None:
        """A few decode steps for everything in flight; what has reached its end finishes."""
        for _ in range(1 + b % 6):
            for ticket in self.all(State.RUNNING):
                self._charge(ticket, ticket.produced + 1)
                if ticket.produced >= ticket.max_tokens:
                    self._end(ticket, self.scheduler.finish)

    def do_finish(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            self._end(ticket, self.scheduler.finish)

    def do_cancel(self, a: int, b: int) -> None:
        if b % 2 and (ticket := self.one(State.WAITING, a)):
            self.scheduler.cancel(ticket)
            self.reference.leave(ticket.id)
        elif ticket := self.one(State.RUNNING, a):
            self._end(ticket, self.scheduler.cancel)

    def do_requeue(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            self.scheduler.requeue(ticket)
            self.reference.requeue(ticket.id)
            self._receive(ticket)

    def do_correct(self, a: int, b: int) -> None:
        if ticket := self.one(State.RUNNING, a):
            n_in = 1 + b % 30
            self.scheduler.correct(ticket, n_in, b // 30 % 20)
            self.reference.correct(ticket.id, n_in, b // 30 % 20)
            self._receive(ticket)

    def do_expire(self, a: int, b: int) -> None:
        self.now += a % 4
        due = [t for t in self.all(State.WAITING) if t.deadline <= self.now]
        expired = self.scheduler.expire(self.now)
        assert sorted(t.id for t in expired) == sorted(t.id for t in due)
        for ticket in expired:
            self.reference.leave(ticket.id)
        left = [t.deadline for t in self.all(State.WAITING)]
        assert self.scheduler.next_deadline() == min(left, default=float("inf"))

    def do_weight(self, a: int, b: int) -> None:
        tenant, weight = self.paths[a % len(self.paths)].removesuffix("/"), (0.5, 1.0, 2.0, 3.0)[b % 4]
        self.scheduler.set_weight(tenant, weight)
        self.reference.set_weight(tenant, weight)

    def do_resize(self, a: int, b: int) -> None:
        names = sorted(self.room.workers)
        self.room.set_worker(names[a % len(names)], tokens=20 + b % 100, slots=1 + b % 5)

    def do_health(self, a: int, b: int) -> None:
        names = sorted(self.room.workers)
        self.room.set_worker(names[a % len(names)], healthy=bool(b % 3))

    # -- inside ------------------------------------------------------------------------------------------------

    def all(self, state: State) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def one(self, state: State, index: int) -> Ticket | None:
        found = self.all(state)
        return found[index % len(found)] if found else None

    def counter(self, tenant: str) -> float:
        state = self.scheduler.snapshot().tenants.get(tenant)
        return state.counter if state else 0.0

    def _charge(self, ticket: Ticket, produced: int) -> None:
        self.scheduler.charge(ticket, produced)
        self.reference.charge(ticket.id, produced)
        self._receive(ticket)

    def _end(self, ticket: Ticket, how: Callable[[Ticket], None]) -> None:
        how(ticket)
        self.reference.end(ticket.id)
        self._receive(ticket)
        self.seen.pop(ticket)

    def _receive(self, ticket: Ticket) -> None:
        """The world's own ledger of what was charged or refunded, in service units over the weight at dispatch."""
        owed = 0.0
        if ticket.state is State.RUNNING:
            most = max(ticket.predicted, ticket.produced)
            owed = self.setting.cost.service(ticket.input_tokens, most, ticket.cached_tokens)
        elif ticket.state in (State.DONE, State.CANCELLED):
            owed = self.setting.cost.service(ticket.input_tokens, ticket.produced, ticket.cached_tokens)
        change = owed - self.seen.get(ticket, 0.0)
        self.seen[ticket] = owed
        for path, weight in self.weights[ticket].items():
            self.received[path] += change / weight

    def _fits(self, name: str) -> bool:
        ticket = next(t for t in self.tickets if t.id == name)
        largest = self.room.capacity().largest
        wanted = max(0, min(self.scheduler.predictor.predict(ticket), ticket.max_tokens, largest - ticket.input_tokens))
        return any(worker.fits(ticket.input_tokens + wanted) for worker in self.room.workers.values())

    # -- the promises ------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.scheduler.check_integrity()
        self._check_counters()
        if self.setting.bounded:
            self._check_bound()
            self._check_pairs()
            self._check_backlogged()

    def rounding(self) -> float:
        """Each ticket's charge is rounded once, to a thousandth: what that can add to a difference of two counters."""
        return len(self.tickets) / MILLI + 1e-6

    def _check_counters(self) -> None:
        snapshot = self.scheduler.snapshot()
        lift_target = self.reference.lift_targets.get("", 0)
        assert round(snapshot.lift_target * MILLI) == lift_target, "the lift target"
        for path, counter in self.reference.counters.items():
            if parent(path):
                continue  # a forgotten group begins again at 0: its members' counters are the same up to a shift
            state = {**snapshot.tenants, **snapshot.groups}.get(path)
            if state is None:
                assert counter <= lift_target, f"{path} was forgotten while its counter matters"
            else:
                assert round(state.counter * MILLI) == counter, f"{path}: {state.counter} is not {counter / MILLI}"

    def _check_bound(self) -> None:
        gap, bound = self.scheduler.gap(), self.scheduler.bound()
        assert gap <= bound + self.rounding(), f"the counters are {gap} apart, the bound is {bound}"
        self.widest = max(self.widest, gap / bound if gap else 0.0)

    def _check_pairs(self) -> None:
        bound = self.scheduler.bound()
        waiting = [path for path in self.paths if self.scheduler.queue_length(path)]
        pairs = {(f, g) for i, f in enumerate(waiting) for g in waiting[i + 1 :] if parent(f) == parent(g)}
        self.pairs = {names: pair for names, pair in self.pairs.items() if names in pairs}
        for f, g in pairs:
            difference = self.received[f] - self.received[g]
            pair = self.pairs.setdefault((f, g), Pair(difference, difference, bound))
            pair.low, pair.high = min(pair.low, difference), max(pair.high, difference)
            pair.bound = max(pair.bound, bound)
            assert pair.high - pair.low <= 2 * pair.bound + self.rounding(), f"{f} and {g}: service beyond 2 U / min w"

    def _check_backlogged(self) -> None:
        """Whoever waits throughout an interval is not further behind anyone, waiting or not, than 4 U / min w."""
        bound = self.scheduler.bound()
        waiting = [path for path in self.paths if self.scheduler.queue_length(path)]
        pairs = {(f, g) for f in waiting for g in self.paths if f != g and parent(f) == parent(g)}
        self.ahead = {names: pair for names, pair in self.ahead.items() if names in pairs}
        for f, g in pairs:
            difference = self.received[g] - self.received[f]
            pair = self.ahead.setdefault((f, g), Pair(difference, difference, bound))
            pair.low, pair.bound = min(pair.low, difference), max(pair.bound, bound)
            assert difference - pair.low <= 4 * pair.bound + self.rounding(), f"{f} fell behind {g} by more than 4 U"
