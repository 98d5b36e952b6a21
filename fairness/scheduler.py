"""The law: who is next and who pays. Pure and synchronous; time is an argument, nothing here waits.

Theory (Sheng et al., "Fairness in Serving Large Language Models", OSDI'24, sections 3 and 4)
    Service of tenant i:  W_i = sum of h(n_in, n_out) over its requests, each token once.  Weight w_i.
    Virtual counter c_i:  rises by dh / w_i, with the input at dispatch and with each output token as it is seen.
    Pick                  among tenants with a waiting request the smallest c_i (ties: the oldest head), and of
                          that tenant the oldest request. If it does not fit the room, nothing is dispatched.
    Lift                  when a tenant's queue becomes non-empty:  c = max(c, min c of the others that wait), and
                          when nobody waits,  c = max(c, c of the tenant whose request left the queue last).

Bound
    Let M be the KV tokens of the pool and U the most that one tenant's service can rise between two of its turns:
    the input of its last dispatch and all output of what it has in flight, which together fit the room. For
    weighted tokens U = w_q M + max(0, w_p - w_q) L_in (`CostFunction.most_rise`). Then
        max c - min c over tenants that wait                           <= U / min w        (paper, lemma 4.3)
        |W_f / w_f - W_g / w_g| while f and g both wait throughout     <= 2 U / min w      (paper, theorem 4.4)
        W_f >= W_g - 4 U  for f that waits throughout, against any g                       (paper, theorem 4.9)
    and no work-conserving scheduler without preemption can promise less than w_q M (paper, theorem 4.8).

Differences to the paper and its artifact
    1. U. The paper's max(w_p L_in, w_q M) holds for its own prices; ours holds for any cost function.
    2. The lift with an empty queue is in the paper and missing in the artifact, where a burst that arrives at an
       empty queue takes nearly all service for minutes.
    3. The lift target never decreases, even when a refund lowers the counters it came from. So a tenant that is
       gone and not above it can be forgotten: when it returns, the lift sets the same counter.
    4. Prediction (section 4.4) is reserve-and-settle: h(n_in, predicted) is charged at dispatch *and reserved in
       the room*, then only what exceeds it is charged, and the rest refunded at the end. A refund is never larger
       than what the ticket reserved, so the bound stays. Tokens beyond a prediction that was too small were not in
       the room; the most of them that one tenant produced between two turns (`overrun`) is added to M.
    5. Requeue is the exact inverse of dispatch: the charge undone, the place in the queue and the tenant that left
       last restored, no lift.
    6. Counters are integers in thousandths of a service unit: the cumulative h / w of a ticket is rounded once and
       differences of it are charged, so another implementation agrees to the last unit.

Every operation is O(log n) in tenants that wait. `charge` does not touch the heap at all: a key that only rose is
found stale, and moved, when it reaches the top.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

from fairness.cost import CostFunction
from fairness.policies.base import Policy
from fairness.predict import NoPrediction, Predictor
from fairness.room import Capacity, Room
from fairness.ticket import Grant, LawError, Refusal, State, Ticket

MILLI = 1000  # counter units in one unit of service at weight 1

Entry = tuple[int, int, "Tenant"]  # (counter, sequence of the head, tenant): the order of tenants that wait


@dataclass(slots=True, eq=False)
class Tenant:
    """One tenant's queue and counter. Exists only while it has work or its counter still matters."""

    id: str
    weight: float
    counter: int = 0
    base: int = 0  # counter without the charges of what runs now: lifts + charges of what has ended
    queue: deque[Ticket] = field(default_factory=deque)
    waiting: int = 0  # tickets in `queue` that still wait; cancelled ones are dropped lazily
    running: dict[Ticket, None] = field(default_factory=dict)
    entry: Entry | None = None
    overrun: int = 0  # output tokens beyond their reservation since this tenant's last turn

    def head(self) -> Ticket:
        while self.queue[0].state is not State.WAITING:
            self.queue.popleft()
        return self.queue[0]


class TenantState(NamedTuple):
    counter: float  # service units / weight
    weight: float
    waiting: int
    running: int


class Snapshot(NamedTuple):
    """What a pool looks like now. Counters and `lift_target` in service units / weight."""

    policy: str
    waiting: int
    running: int
    tenants: dict[str, TenantState]
    lift_target: float
    gap: float
    bound: float
    capacity: Capacity


class Scheduler:
    """The queue of one pool: `submit` tickets, `pick` until it returns None, report with `charge` and `finish`.

    `weights` are those of tenants that differ from `default_weight`. `max_waiting` bounds the whole queue,
    `max_waiting_per_tenant` each tenant's (and `tenant_bounds` a named tenant's own).
    Raises ValueError for a weight that is not positive, LawError when a ticket is used against the protocol.
    """

    def __init__(
        self,
        policy: Policy,
        cost: CostFunction,
        room: Room,
        *,
        weights: Mapping[str, float] | None = None,
        default_weight: float = 1.0,
        predictor: Predictor | None = None,
        max_waiting: float = inf,
        max_waiting_per_tenant: float = inf,
        tenant_bounds: Mapping[str, int] | None = None,
    ) -> None:
        self.policy = policy
        self.cost = cost
        self.room = room
        self.predictor = predictor or NoPrediction()
        self._weights = dict(weights or {})
        self._default_weight = default_weight
        for weight in (default_weight, *self._weights.values()):
            _check_weight(weight)
        self._least_weight = min((default_weight, *self._weights.values()))
        self._max_waiting = max_waiting
        self._max_waiting_per_tenant = max_waiting_per_tenant
        self._tenant_bounds = dict(tenant_bounds or {})

        self._tenants: dict[str, Tenant] = {}
        self._order: list[Entry] = []
        self._idle: list[tuple[int, int, Tenant]] = []
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._seq = count()
        self._waiting = 0
        self._tenants_waiting = 0
        self._in_flight: OrderedDict[Ticket, int] = OrderedDict()  # in dispatch order -> dispatch number
        self._last_ended: tuple[int, Tenant | None] = (-1, None)  # the latest dispatch among tickets that ended
        self._dispatches = count()
        self._floor = 0  # the lift target; never decreases
        self._overrun = 0

    # -- the queue ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> Refusal | None:
        """Queue a new ticket, or say why not. `now` in seconds on the caller's clock."""
        self._expect(ticket, State.NEW)
        refusal = self._refuse(ticket) or self.policy.admit(ticket, now)
        if refusal is not None:
            return refusal
        tenant = self._tenants.get(ticket.tenant)
        if tenant is None:
            tenant = Tenant(ticket.tenant, self.weight(ticket.tenant))
            self._tenants[ticket.tenant] = tenant
        if not tenant.waiting:
            self._lift(tenant)
        ticket.seq = next(self._seq)
        self._enqueue(tenant, ticket)
        self._forget()
        return None

    def pick(self) -> Grant | None:
        """The next turn: reserves its room and charges its input in the same step. None: nobody waits, or the
        head does not fit (then nothing else may pass)."""
        tenant = self._least()
        if tenant is None:
            return None
        ticket = tenant.head()
        ticket.predicted = self._predict(ticket)
        worker = self.room.place(ticket)
        if worker is None:
            return None
        ticket.worker = worker
        tenant.queue.popleft()
        self._dequeue(tenant, ticket, State.RUNNING)
        self._dispatch(tenant, ticket)
        return Grant(ticket, worker)

    def expire(self, now: float) -> list[Ticket]:
        """Cancel and return the tickets that still wait at or after their deadline."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.state is State.WAITING:
                self.cancel(ticket)
                expired.append(ticket)
        return expired

    def next_deadline(self) -> float:
        """When `expire` next has something to look at; infinity when nothing that waits has a deadline."""
        while self._deadlines and self._deadlines[0][2].state is not State.WAITING:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else inf

    # -- reports of what runs ----------------------------------------------------------------------------------

    def charge(self, ticket: Ticket, produced: int) -> None:
        """`produced` output tokens have been seen so far: a total, so a repeated or late report charges nothing."""
        self._expect(ticket, State.RUNNING)
        if produced <= ticket.produced:
            return
        beyond = produced - max(ticket.predicted, ticket.produced)
        ticket.produced = produced
        if beyond > 0:
            tenant = self._tenants[ticket.tenant]
            tenant.overrun += self.room.grow(ticket, beyond)
            self._overrun = max(self._overrun, tenant.overrun)
            self._settle(tenant, ticket, produced)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int = 0) -> None:
        """The engine counted the input: `input_tokens` in all, `cached_tokens` of them from its prefix cache."""
        self._expect(ticket, State.RUNNING)
        tenant = self._tenants[ticket.tenant]
        tenant.overrun += self.room.grow(ticket, input_tokens - ticket.input_tokens)
        self._overrun = max(self._overrun, tenant.overrun)
        ticket.input_tokens = input_tokens
        ticket.cached_tokens = min(cached_tokens, input_tokens)
        self._settle(tenant, ticket, max(ticket.predicted, ticket.produced))

    def finish(self, ticket: Ticket) -> None:
        """The ticket ended by itself: refund what was predicted and not produced, give back its room."""
        self._expect(ticket, State.RUNNING)
        self._end(ticket, State.DONE)
        self.predictor.observe(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """The ticket leaves, waiting or running: what it really consumed stays charged, predictions are refunded."""
        if ticket.state is State.RUNNING:
            self._end(ticket, State.CANCELLED)
            return
        self._expect(ticket, State.WAITING)
        tenant = self._tenants[ticket.tenant]
        self._dequeue(tenant, ticket, State.CANCELLED)
        if len(tenant.queue) > 2 * tenant.waiting + 8:
            tenant.queue = deque(t for t in tenant.queue if t.state is State.WAITING)
        self._rest(tenant)

    def requeue(self, ticket: Ticket) -> None:
        """Undo the dispatch of a ticket whose engine did not serve it: as if it had never left the queue."""
        self._expect(ticket, State.RUNNING)
        tenant = self._tenants[ticket.tenant]
        self.room.release(ticket)
        del tenant.running[ticket]
        del self._in_flight[ticket]
        tenant.counter -= ticket.charged
        ticket.charged = ticket.produced = ticket.predicted = ticket.cached_tokens = 0
        ticket.worker = ""
        self._enqueue(tenant, ticket)

    # -- weights and inspection --------------------------------------------------------------------------------

    def weight(self, tenant_id: str) -> float:
        return self._weights.get(tenant_id, self._default_weight)

    def set_weight(self, tenant_id: str, weight: float) -> None:
        """From now on: what has been charged stays, and a refund goes back at the weight it was charged at."""
        _check_weight(weight)
        self._weights[tenant_id] = weight
        self._least_weight = min(self._least_weight, weight)
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return
        tenant.weight = weight
        for ticket in tenant.running:
            ticket.prices.append((self._service(ticket, max(ticket.predicted, ticket.produced)), weight))

    def bound(self) -> float:
        """U / min w: the most that the counters of two tenants that wait can differ, in service units / weight."""
        capacity = self.room.capacity()
        tokens = capacity.tokens + self._overrun
        return self.cost.most_rise(tokens, capacity.largest, capacity.largest) / self._least_weight

    def gap(self) -> float:
        """max c - min c over the tenants that wait now, in service units / weight. O(n): for tests and snapshots."""
        counters = [tenant.counter for tenant in self._tenants.values() if tenant.waiting]
        return (max(counters) - min(counters)) / MILLI if counters else 0.0

    def queue_length(self, tenant_id: str | None = None) -> int:
        if tenant_id is None:
            return self._waiting
        tenant = self._tenants.get(tenant_id)
        return tenant.waiting if tenant else 0

    def snapshot(self) -> Snapshot:
        tenants = {
            tenant.id: TenantState(tenant.counter / MILLI, tenant.weight, tenant.waiting, len(tenant.running))
            for tenant in self._tenants.values()
        }
        return Snapshot(
            self.policy.name,
            self._waiting,
            len(self._in_flight),
            tenants,
            self._floor / MILLI,
            self.gap(),
            self.bound(),
            self.room.capacity(),
        )

    def check_integrity(self) -> None:
        """Recompute the conservation laws from the tickets. Raises LawError that says which one is broken."""
        for tenant in self._tenants.values():
            charged = sum(ticket.charged for ticket in tenant.running)
            _hold(tenant.counter == tenant.base + charged, f"{tenant.id}: counter is not lifts plus charges")
            waiting = sum(ticket.state is State.WAITING for ticket in tenant.queue)
            _hold(tenant.waiting == waiting, f"{tenant.id}: waiting is not the number of tickets that wait")
            _hold((tenant.entry is not None) == bool(waiting), f"{tenant.id}: its place in the order is wrong")
            for ticket in tenant.running:
                due = _price(ticket, self._service(ticket, max(ticket.predicted, ticket.produced)))
                _hold(ticket.charged == due, f"{ticket.id}: charged {ticket.charged}, due {due}")
        _hold(self._waiting == sum(t.waiting for t in self._tenants.values()), "the pool's queue length is wrong")
        _hold(len(self._in_flight) == sum(len(t.running) for t in self._tenants.values()), "in flight is wrong")
        self.room.check_integrity(self._in_flight)
        live = [entry for entry in self._order if entry[2].entry is entry]
        _hold(all(entry[:2] <= (entry[2].counter, entry[2].head().seq) for entry in live), "a key is ahead of itself")
        _hold(len(live) == self._tenants_waiting, "a tenant that waits is missing from the order")

    # -- inside ------------------------------------------------------------------------------------------------

    def _refuse(self, ticket: Ticket) -> Refusal | None:
        largest = self.room.capacity().largest
        if ticket.input_tokens + 1 > largest:
            return Refusal(
                "too_large",
                f"the input of {ticket.input_tokens} tokens and one output token exceed the {largest} tokens "
                "of the largest worker",
            )
        if self._waiting >= self._max_waiting:
            return Refusal("pool_queue_full", f"the queue is full ({self._waiting} requests wait)")
        waiting = self.queue_length(ticket.tenant)
        if waiting >= self._tenant_bounds.get(ticket.tenant, self._max_waiting_per_tenant):
            return Refusal("tenant_queue_full", f"tenant {ticket.tenant} has {waiting} requests waiting, its limit")
        return None

    def _predict(self, ticket: Ticket) -> int:
        room_left = self.room.capacity().largest - ticket.input_tokens
        return max(0, min(self.predictor.predict(ticket), ticket.max_tokens, room_left))

    def _lift(self, tenant: Tenant) -> None:
        if not self.policy.lifts:
            return
        least = self._least()
        level = least or self._last_left()
        if level is not None and level.counter > self._floor:
            self._floor = level.counter
        if tenant.counter < self._floor:
            tenant.base += self._floor - tenant.counter
            tenant.counter = self._floor

    def _last_left(self) -> Tenant | None:
        """The tenant whose request left the queue last, requeued ones aside."""
        number, tenant = self._last_ended
        if self._in_flight:
            ticket = next(reversed(self._in_flight))
            if self._in_flight[ticket] > number:
                return self._tenants[ticket.tenant]
        return tenant

    def _enqueue(self, tenant: Tenant, ticket: Ticket) -> None:
        ticket.state = State.WAITING
        if ticket.deadline != inf:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.seq, ticket))
        if tenant.queue and tenant.queue[-1].seq > ticket.seq:
            place = next(i for i, other in enumerate(tenant.queue) if other.seq > ticket.seq)
            tenant.queue.insert(place, ticket)
        else:
            tenant.queue.append(ticket)
        tenant.waiting += 1
        self._waiting += 1
        if tenant.waiting == 1:
            self._tenants_waiting += 1
        self._reorder(tenant)

    def _dequeue(self, tenant: Tenant, ticket: Ticket, state: State) -> None:
        ticket.state = state
        tenant.waiting -= 1
        self._waiting -= 1
        if not tenant.waiting:
            self._tenants_waiting -= 1
            tenant.entry = None
            tenant.queue.clear()

    def _dispatch(self, tenant: Tenant, ticket: Ticket) -> None:
        tenant.running[ticket] = None
        tenant.overrun = 0
        self._in_flight[ticket] = next(self._dispatches)
        ticket.prices = [(0.0, tenant.weight)]
        self._settle(tenant, ticket, ticket.predicted)

    def _service(self, ticket: Ticket, produced: int) -> float:
        return self.policy.measure(self.cost, ticket.input_tokens, produced, ticket.cached_tokens)

    def _settle(self, tenant: Tenant, ticket: Ticket, produced: int) -> None:
        """Charge or refund the difference between what the ticket owes and what it has been charged."""
        due = _price(ticket, self._service(ticket, produced))
        rise = due - ticket.charged
        ticket.charged = due
        tenant.counter += rise
        if rise < 0 and tenant.waiting:
            self._reorder(tenant)

    def _end(self, ticket: Ticket, state: State) -> None:
        tenant = self._tenants[ticket.tenant]
        self._settle(tenant, ticket, ticket.produced)
        self.room.release(ticket)
        del tenant.running[ticket]
        tenant.base += ticket.charged
        number = self._in_flight.pop(ticket)
        if number > self._last_ended[0]:
            self._last_ended = (number, tenant)
        ticket.state = state
        self._rest(tenant)

    def _rest(self, tenant: Tenant) -> None:
        """A tenant without work is forgotten as soon as its counter is not above the lift target."""
        if tenant.waiting or tenant.running:
            return
        if tenant.counter <= self._floor:
            self._tenants.pop(tenant.id, None)
        else:
            heapq.heappush(self._idle, (tenant.counter, next(self._seq), tenant))

    def _forget(self) -> None:
        while self._idle and self._idle[0][0] <= self._floor:
            tenant = heapq.heappop(self._idle)[2]
            gone = not tenant.waiting and not tenant.running and tenant.counter <= self._floor
            if gone and self._tenants.get(tenant.id) is tenant:
                del self._tenants[tenant.id]

    def _least(self) -> Tenant | None:
        """The tenant whose turn it is: moves stale keys down until the top one is true."""
        order = self._order
        while order:
            entry = order[0]
            tenant = entry[2]
            if tenant.entry is not entry:
                heapq.heappop(order)
                continue
            seq = tenant.head().seq
            if entry[0] == tenant.counter and entry[1] == seq:
                return tenant
            tenant.entry = (tenant.counter, seq, tenant)
            heapq.heapreplace(order, tenant.entry)
        return None

    def _reorder(self, tenant: Tenant) -> None:
        """Give a tenant that waits a new place when its key may have fallen; a key that rose is moved later."""
        key = (tenant.counter, tenant.head().seq)
        if tenant.entry is not None and tenant.entry[:2] <= key:
            return
        tenant.entry = (*key, tenant)
        heapq.heappush(self._order, tenant.entry)
        if len(self._order) > 2 * self._tenants_waiting + 64:
            self._order = [entry for entry in self._order if entry[2].entry is entry]
            heapq.heapify(self._order)

    def _expect(self, ticket: Ticket, state: State) -> None:
        if ticket.state is not state:
            raise LawError(f"ticket {ticket.id} is {ticket.state.value}; expected {state.value}")


def _price(ticket: Ticket, service: float) -> int:
    """Counter units for `service` measured units: each part at the weight that was in force when it was reached."""
    prices = ticket.prices
    if len(prices) == 1:
        return int(service * MILLI / prices[0][1] + 0.5)
    total = 0.0
    for (start, weight), (end, _) in zip(prices, [*prices[1:], (inf, 0.0)], strict=True):
        total += max(0.0, min(service, end) - start) / weight
    return int(total * MILLI + 0.5)


def _check_weight(weight: float) -> None:
    if not 0 < weight < inf:
        raise ValueError(f"weight {weight!r}: expected a finite number above 0")


def _hold(condition: bool, broken: str) -> None:
    if not condition:
        raise LawError(broken)
