"""A pool gathers charges, and decides as if it had heard of each token at once.

The same operations go to a pool and to a scheduler that is charged eagerly. At each grant both have the same head, the
same worker, the same counters, the same bound and the same expectation of what comes. Time passes between all of them.
"""

from __future__ import annotations

import asyncio
import random
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import Auditor, Crossing, Grant, Objective, Scheduler, State, Ticket, Worker, parse_policy
from gateway.pools.drain_rate import DrainRate
from gateway.pools.local import LocalPool
from gateway.pools.room import HealthyRoom

from ...fairness.plain import PLAIN_ONLY
from ...fairness.world import COSTS, PREDICTORS

KINDS = ("submit", "submit", "charge", "charge", "charge", "charge", "correct", "finish", "leave", "requeue", "expire")
RARE = ("look", "resize", "health")
POLICIES = ("vtc", "vtc", "lcf", "fcfs", "drr:40", "vtc:slack=20", "priority:10")
TENANTS = ("a", "b", "c", "x/a", "x/b")


class Both:
    """A pool and its eager twin. Made on the event loop; `turn` lets the pool's dispatcher run. `gathered`: turns that
    began with charges which the pool's law had not heard of. The clock stands far ahead of the loop's, so that no timer
    of the pool fires by itself."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.now = 1e9
        self.grants = 0
        self.gathered = 0
        self._pairs: list[tuple[Ticket, Ticket]] = []  # the pool's and the twin's
        workers = [(chance.randint(1, 6), chance.randint(30, 120)) for _ in range(chance.randint(1, 3))]
        policy, cost, predictor = chance.choice(POLICIES), chance.choice(COSTS), chance.choice(PREDICTORS)
        objective_s = chance.choice((None, 3.0, 30.0))
        weights = {tenant: chance.choice((0.5, 1.0, 1.0, 3.0)) for tenant in TENANTS}

        def room() -> HealthyRoom:
            return HealthyRoom([Worker(f"w{i}", *size) for i, size in enumerate(workers)], {})

        def law(room: HealthyRoom) -> Scheduler:
            auditor = Auditor(_alarmed, lambda: self.now) if parse_policy(policy).bounded else None
            objective = Objective(objective_s) if objective_s is not None else None
            parts = (parse_policy(policy), cost, room)
            return Scheduler(*parts, weights=weights, predictor=predictor(), auditor=auditor, objective=objective)

        self.room, self.twins_room = room(), room()
        self.law, self.twin = law(self.room), law(self.twins_room)
        self.pool = LocalPool("p", self.law, self.room, clock=lambda: self.now, drain_rate=DrainRate(random.random))
        self.pool.on_grant = self._granted

    def _granted(self, grant: Grant) -> None:
        """What is asked of the law itself is what the pool asked: it has heard of all that was charged."""
        self.grants += 1
        expected = self.twin.pick(self.now)
        assert expected is not None, f"{grant.ticket.id} was granted; charged eagerly nothing would be"
        assert (grant.ticket.id, grant.worker) == (expected.ticket.id, expected.worker)
        assert self.law.snapshot() == self.twin.snapshot()
        self._same_is_expected()

    async def play(self, kind: str) -> None:
        self.now += self.chance.choice((0.0, 0.0, 0.01, 0.3))
        if kind == "submit":
            await self._submit()
        elif kind in ("expire", "look", "resize", "health"):
            getattr(self, f"_{kind}")()
        else:
            running = [pair for pair in self._pairs if pair[0].state is State.RUNNING]
            if running:
                getattr(self, f"_{kind}")(*self.chance.choice(running))

    async def turn(self) -> None:
        """Another turn of the loop. Where the pool looks for a turn to grant, it grants all that the twin would."""
        self.gathered += bool(self.pool._seen)
        looks = self.pool._woken is not None
        await asyncio.sleep(0)
        if looks:
            self._nothing_more_is_granted()
        for ours, twins in self._pairs:
            assert ours.state is twins.state

    async def end(self) -> None:
        """Everything leaves; nothing is held."""
        for ours, twins in self._pairs:
            if ours.state in (State.RUNNING, State.WAITING):
                self._leave(ours, twins)
                await self.turn()
        self._look()
        assert self.pool.idle()
        self.pool.close()

    # -- operations --------------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        chance, number = self.chance, len(self._pairs)
        deadline = self.now + chance.randint(1, 9) if chance.random() < 0.3 else float("inf")
        tenant, most_in, most_out = chance.choice(TENANTS), chance.randint(1, 25), chance.randint(1, 40)
        priority, streams = chance.randrange(2), chance.random() < 0.8
        ours, twins = (
            Ticket(f"t{number}", tenant, most_in, most_out, deadline, priority=priority, streams=streams)
            for _ in range(2)
        )
        if self.room.must_wait_for_another(ours):
            return
        self._pairs.append((ours, twins))
        refused = self.twin.submit(twins, self.now)  # before the pool, which picks in the same step
        assert (await self.pool.submit(ours) is None) is (refused is None)
        if refused is None:
            self._nothing_more_is_granted()

    def _charge(self, ours: Ticket, twins: Ticket) -> None:
        produced = twins.produced + self.chance.randint(0, 5)
        self.pool.charge(ours, produced)
        self.twin.charge(twins, produced, self.now)

    def _correct(self, ours: Ticket, twins: Ticket) -> None:
        counted, cached = self.chance.randint(1, 30), self.chance.randint(0, 20)
        self.twin.correct(twins, counted, cached)
        self.pool.correct(ours, counted, cached)

    def _finish(self, ours: Ticket, twins: Ticket) -> None:
        self.twin.finish(twins)
        self.pool.finish(ours)

    def _leave(self, ours: Ticket, twins: Ticket) -> None:
        consumed = self.chance.random() < 0.5
        if twins.state is State.RUNNING and not consumed:
            self.twin.requeue(twins)
        self.twin.cancel(twins)
        self.pool.leave(ours, consumed=consumed)

    def _requeue(self, ours: Ticket, twins: Ticket) -> None:
        self.twin.requeue(twins)
        self.pool.requeue(ours)
        self._follow()

    def _expire(self) -> None:
        """As the pool's timer does."""
        self.now += self.chance.randint(0, 3)
        self.twin.expire(self.now)
        self.pool._expire()

    def _look(self) -> None:
        assert self.pool.snapshot()[0] == self.twin.snapshot()
        self._same_is_expected()
        self.law.check_integrity()

    def _same_is_expected(self) -> None:
        """By an objective, of those who come next."""
        ours, twins = self.law.objective, self.twin.objective
        if ours is not None and twins is not None:
            assert (ours.interval_s, ours.first_token_s) == (twins.interval_s, twins.first_token_s)
            assert ours.turned_away == twins.turned_away

    def _resize(self) -> None:
        worker, tokens = self.chance.choice(sorted(self.room.workers)), self.chance.randint(40, 120)
        slots = self.room.workers[worker].slots
        self.twins_room.set_worker(worker, tokens=tokens)
        self.pool.set_size(worker, slots, tokens)
        self._follow()

    def _health(self) -> None:
        worker, healthy = self.chance.choice(sorted(self.room.workers)), self.chance.random() < 0.7
        self.twins_room.set_worker(worker, healthy=healthy)
        self.pool.set_health(worker, healthy)
        self._follow()

    def _nothing_more_is_granted(self) -> None:
        assert self.twin.pick(self.now) is None, "charged eagerly one more would have been granted"

    def _follow(self) -> None:
        """What no healthy worker is large enough for the pool turns away by itself."""
        for ours, twins in self._pairs:
            if ours.state is State.CANCELLED and twins.state is State.WAITING:
                self.twin.cancel(twins)


def _alarmed(crossing: Crossing) -> None:
    raise AssertionError(f"the bound was crossed: {crossing}")


async def _play(seed: int, length: int = 120) -> Both:
    both = Both(Random(seed))
    chance = both.chance
    for _ in range(length):
        for _ in range(chance.randint(1, 6)):
            await both.play(chance.choice(KINDS if chance.random() < 0.95 else RARE))
        await both.turn()
    await both.end()
    return both


@given(st.integers(0, 2**32))
def test_a_pool_decides_as_if_it_had_heard_of_each_token_at_once(seed: int) -> None:
    both = asyncio.run(_play(seed))
    assert both.law.snapshot() == both.twin.snapshot()


def test_much_is_granted_and_gathered() -> None:
    """Else the above would show little."""
    played = [asyncio.run(_play(seed)) for seed in range(15)]
    assert sum(both.grants for both in played) > 100
    assert sum(both.gathered for both in played) > 100


@PLAIN_ONLY
def test_a_pool_that_decides_without_having_heard_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalPool, "scheduler", property(lambda pool: pool._law))
    with pytest.raises(AssertionError):
        [asyncio.run(_play(seed)) for seed in range(20)]
