"""The law: who is next and who pays. Pure and synchronous; time is an argument, nothing here waits.

Theory (Sheng et al., "Fairness in Serving Large Language Models", OSDI'24, sections 3 and 4)
    Service of tenant i:  W_i = sum of h(n_in, n_out) over its requests, each token once.  Weight w_i.
    Virtual counter c_i:  rises by dh / w_i, with the input at dispatch and with each output token as it is seen.
    Pick                  among tenants with a waiting request the smallest c_i (ties: the oldest head), and of
                          that tenant the oldest request. If it does not fit the room, nothing is dispatched.
    Lift                  when a tenant's queue becomes non-empty:  c = max(c, min c of the others that wait), and
                          when nobody waits,  c = max(c, c of the tenant whose request left the queue last).

Bound
    Let M be the KV tokens of the pool and U the most that one tenant's service can rise, and another's fall, between
    two of its turns: the input of its last dispatch and all output of what is in flight, which together fit the room.
    For weighted tokens U = w_q M + max(0, w_p - w_q) L_in (`CostFunction.most_rise`). Then
        max c - min c over tenants that wait                           <= U / min w        (paper, section 4)
        |W_f / w_f - W_g / w_g| while f and g both wait throughout     <= 2 U / min w      (paper, section 4)
        W_f >= W_g - 4 U  for f that waits throughout, against any g                       (paper, section 4)
    and no work-conserving scheduler without preemption can promise less than w_q M (paper, section 4).
    Why the first: at f's last turn c_f <= c_g, or g was lifted later to no less; since then f rose, and g fell, by no
    more than tickets in flight at that turn can still be charged or refunded, and those fit the room together.

Where the plan fails the bound is what was measured (`Exposure`), so that it holds all the same
    - output beyond its prediction, or input beyond its estimate: the most that one tenant gained so between two turns
      is added to M, to the largest request and to L_in;
    - capacity lowered under what runs: M is the most that was in flight after a dispatch;
    - input refunded (an estimate too high, a cached prefix) where input is dearer than output: L_in becomes M;
    - a weight that was once smaller: min w is over all weights ever set;
    - a requeue: while its engine held the ticket its tenant did not hold others back, so it may come back behind
      them by more than U. The distance is added until it has been made up (`Ledger.owed`);
    - rounding: a thousandth for each ticket in flight, which `bound` leaves out and the auditor allows.

Differences to the paper and its artifact
    1. U. The paper's max(w_p L_in, w_q M) holds for its own prices; ours holds for any cost function.
    2. The lift with an empty queue is in the paper and missing in the artifact, where a burst that arrives at an
       empty queue takes nearly all service for minutes.
    3. The lift target never decreases, even when a refund lowers the counters it came from. So a tenant that is
       gone and not above it can be forgotten: when it returns, the lift sets the same counter.
    4. Prediction (section 4.4) is reserve-and-settle: h(n_in, predicted) is charged at dispatch *and reserved in
       the room*, then only what exceeds it is charged, and the rest refunded at the end. A refund is never larger
       than what the ticket reserved, so the bound stays.
    5. Requeue is the exact inverse of dispatch: the charge undone, the place in the queue and the tenant that left
       last restored, no lift.
    6. Counters are integers in thousandths of a service unit: the cumulative h / w of a ticket is rounded once and
       differences of it are charged, so another implementation agrees to the last unit.
    7. A tree of shares (`fairness.shares`): every rule holds among the members of each group. Ties between groups go
       to the one that took its last turn, or began to wait, first.
    8. With a slack s (service / weight) a ticket whose adapter is at hand may be taken while its counter is at most
       min c + s at every level; the bound becomes U / min w + s. A head that lacks only an adapter slot may be passed
       within the slack, and the next slot that frees is kept for it.
    9. Strict classes by `Ticket.priority` on top (`policies.priority`): each is a fair queue of its own, and the
       bound holds within each.
   10. A weight that changes prices what is dispatched from then on. A ticket keeps its weights to its end: a refund
       goes back at the price it was charged at, and a machine elsewhere (shared state) prices each ticket once.

Every operation is O(log n) in tenants that wait, except `requeue`, O(queue of the tenant), and what says otherwise.
`charge` does not touch the heap at all: a key that only rose is found stale, and moved, when it reaches the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from fairness.admission import Admission
from fairness.auditor import Auditor
from fairness.cost import CostFunction
from fairness.forest import Balances, Forest
from fairness.integrity import check_forest
from fairness.ledger import Ledger
from fairness.locality import Locality
from fairness.objective import Objective
from fairness.policies.base import Policy
from fairness.predict import NoPrediction, Predictor
from fairness.queue import Queue
from fairness.room import Residency, Room
from fairness.shares import MILLI, Group, Tenant
from fairness.snapshot import Snapshot, snapshot_of, widest_gap
from fairness.ticket import Grant, LawError, Refusal, State, Ticket


class Scheduler:
    """The queue of one pool: `submit` tickets, `pick` until it returns None, report with `charge` and `finish`.

    `weights` are those of tenants and groups that differ from `default_weight`. `max_waiting` bounds the whole queue,
    `max_waiting_per_tenant` each tenant's (and `tenant_bounds` a named tenant's own). `residency` is the room once
    more where it knows what its workers hold: a policy with slack asks it, and `adapter_load` is the service charged
    when a dispatch brings an adapter in. `auditor` follows the counters and raises the alarm when they pass the bound;
    `objective` turns away what cannot start in time.
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
        residency: Residency | None = None,
        adapter_load: float = 0.0,
        auditor: Auditor | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.policy = policy
        self.cost = cost
        self.room = room
        self.predictor = predictor or NoPrediction()
        self.auditor = auditor
        self._measure = policy.measure(cost)
        self._ledger = Ledger(self._measure, room)
        self.objective = objective
        self._forest = Forest(policy, weights or {}, default_weight)
        self._queue = Queue(self._forest, self._ledger, lifts=policy.lifts, auditor=auditor)
        self._admission = Admission(max_waiting, max_waiting_per_tenant, tenant_bounds or {})
        self._adapter_load = adapter_load
        self._residency = residency
        self._locality = Locality(residency, policy.slack, self._predict) if residency and policy.slack else None
        if auditor is not None:
            auditor.attach(lambda: (self.bound(), self._ledger.rounding()))

    # -- the queue ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> Refusal | None:
        """Queue a new ticket, or say why not. `now` in seconds on the caller's clock."""
        self._expect(ticket, State.NEW)
        largest = self.room.capacity().largest
        refusal = self._admission.refuse(ticket, largest, self.queue_length) or self.policy.admit(ticket, now)
        if refusal is None and self.objective is not None:
            refusal = self.objective.admit(ticket, now, self._forest.ahead(ticket))
        if refusal is not None:
            return refusal
        self._queue.join(ticket)
        return None

    def pick(self, now: float | None = None) -> Grant | None:
        """The next turn: reserves its room and charges its input in the same step. None: nobody waits, or the
        head does not fit (then nothing else may pass). An objective learns the drain rate from `now`, in seconds."""
        grant = self._take_turn()
        if self.objective is not None and now is not None:
            self.objective.looked(grant.ticket if grant is not None else None, now, self.queue_length())
        return grant

    def expire(self, now: float) -> list[Ticket]:
        """Cancel and return the tickets that still wait at or after their deadline."""
        expired = []
        for ticket in self._queue.due(now):
            self.cancel(ticket)
            expired.append(ticket)
        return expired

    def next_deadline(self) -> float:
        """When `expire` next has something to look at; infinity when nothing that waits has a deadline."""
        return self._queue.next_deadline()

    # -- reports of what runs ----------------------------------------------------------------------------------

    def charge(self, ticket: Ticket, produced: int, now: float | None = None) -> None:
        """`produced` output tokens have been seen so far: a total, so a repeated or late report charges nothing."""
        if ticket.state is not State.RUNNING:
            self._expect(ticket, State.RUNNING)
        before = ticket.produced
        if produced <= before:
            return
        ticket.produced = produced
        beyond = produced - (before if before > ticket.predicted else ticket.predicted)
        if beyond > 0:
            self._ledger.settle(ticket, produced, beyond)
        if before == 0 and self.objective is not None and now is not None:
            self.objective.started(ticket, now)

    def correct(self, ticket: Ticket, input_tokens: int, cached_tokens: int = 0) -> None:
        """The engine counted the input: `input_tokens` in all, `cached_tokens` of them from its prefix cache."""
        self._expect(ticket, State.RUNNING)
        self._ledger.correct(ticket, input_tokens, min(cached_tokens, input_tokens))

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
        ticket.state = State.CANCELLED
        self._queue.drop(ticket)

    def requeue(self, ticket: Ticket) -> None:
        """Undo the dispatch of a ticket whose engine did not serve it: as if it had never left the queue."""
        self._expect(ticket, State.RUNNING)
        if self.objective is not None:
            self.objective.ended(ticket)
        self._ledger.undo(self._forest.root(ticket), ticket)
        self._queue.put_back(ticket)

    # -- moving in ---------------------------------------------------------------------------------------------

    def export(self) -> Balances:
        """What another scheduler of this pool needs to go on from here: `seed` takes it as it is. Counters are net:
        what a ticket that runs is charged is left out, because `resume` will charge it there. Changes nothing. O(n).

        Example, at h = n_in + 2 n_out and weight 1: tenant a was served a ticket of 10 and 5 tokens (20) and runs one
        of 10 tokens, with 3 seen so far (16). Its counter is 36,000 thousandths; 20,000 are exported. The scheduler
        that is seeded with them and resumes the ticket has a at 36,000 again. Had it been given 36,000, it would have
        charged the 16 twice; were the ticket lost and never resumed, its 16 would be, too.

        Members that were forgotten are missing: the lift target of their group stands for them. Who left the queue
        last, and in which order groups took their turns, is not told (see `seed` for what takes its place).

        Raises LawError where the policy has classes: a path may be in several.
        """
        self._expect_no_classes()
        return self._forest.export()

    def seed(self, balances: Balances) -> None:
        """Go on where another scheduler of this pool ended, whose `export` this is. Then `resume` what runs, in the
        order of dispatch, and `submit` what waits, the oldest first.

        A member begins at its counter when it has work here. What is submitted before the first `pick` is taken to
        have waited before: a member with a seeded counter is lifted to the given target, not to those that were
        submitted earlier; any other member is lifted as always. Who left the queue last is not known: where nothing
        waits or runs it is taken to be the member with the highest counter, and a new member is lifted to that. What
        the counters are apart beyond the bound is added to it until it has been made up. A member without work is
        forgotten as always.

        Raises LawError after the first submit, and where the policy has classes: a path may be in several.
        """
        self._expect_no_classes()
        if self._forest.roots():
            raise LawError("expected an empty pool to seed")
        self._queue.seed(balances)

    def resume(self, ticket: Ticket, worker: str) -> None:
        """A new ticket already runs on `worker`, dispatched elsewhere: it takes its room there, whether it fits or
        not, and is charged for its input and max(predicted, produced) output, which the caller has set with
        `input_tokens` and `cached_tokens`, at the weights of now. So the counter seeded for its tenant, and for each
        group above it, must be net of what is charged here. It is not lifted. From here on it is a ticket like any
        other that runs.

        Raises LawError for a ticket that is not new, or a worker that the room does not know.
        """
        self._expect(ticket, State.NEW)
        self.room.take(ticket, worker)
        ticket.worker = worker
        ticket.state = State.RUNNING
        self._queue.take_over(ticket)
        self._ledger.take_over(self._forest.tenant(ticket), ticket)
        if self.auditor is not None:
            self.auditor.refresh()

    # -- weights and inspection --------------------------------------------------------------------------------

    def weight(self, path: str) -> float:
        return self._forest.weight(path)

    def set_weight(self, path: str, weight: float) -> None:
        """The weight of a tenant or a group for what is dispatched from now on; what runs keeps the weight that it was
        dispatched at. Raises ValueError for a weight that is not positive."""
        self._forest.set_weight(path, weight)

    def bound(self) -> float:
        """The most that the counters of two siblings that wait can differ, in service units / weight: U / min w, and
        what the policy allows, and what a requeued ticket missed while its engine held it."""
        most_rise = self._ledger.most_rise() / self._forest.least_weight
        return most_rise + self.policy.allowance + self._ledger.owed() / MILLI

    def gap(self) -> float:
        """The largest max c - min c over siblings that wait now, in service units / weight. O(n): for tests and
        snapshots; an auditor knows it without."""
        return widest_gap(self._forest)

    def queue_length(self, tenant_id: str | None = None) -> int:
        return self._queue.length(tenant_id)

    def snapshot(self) -> Snapshot:
        return snapshot_of(self._forest, self.policy.spec, self.bound(), self.room.capacity())

    def check_integrity(self) -> None:
        """Recompute the conservation laws from the tickets. Raises LawError that says which one is broken."""
        in_flight = check_forest(self._forest, self._measure)
        self.room.check_integrity(in_flight)
        held = sum(ticket.input_tokens + max(ticket.predicted, ticket.produced) for ticket in in_flight)
        if self._ledger.held != held:
            raise LawError(f"{self._ledger.held} tokens are said to be in flight, {held} are")

    # -- inside ------------------------------------------------------------------------------------------------

    def _take_turn(self) -> Grant | None:
        root = self._queue.class_in_turn()
        tenant = self._in_turn(root) if root is not None else None
        if root is None or tenant is None:
            return None
        ticket = tenant.head()
        ticket.predicted = self._predict(ticket)
        loads = self._residency is not None and not self._residency.resident(ticket)
        worker = self.room.place(ticket)
        if worker is None:
            return None
        ticket.worker = worker
        ticket.load = self._adapter_load if loads else 0.0
        self._forest.pass_over(root)
        self._dispatch(tenant, ticket)
        return Grant(ticket, worker)

    def _predict(self, ticket: Ticket) -> int:
        room_left = self.room.capacity().largest - ticket.input_tokens
        return max(0, min(self.predictor.predict(ticket), ticket.max_tokens, room_left))

    def _dispatch(self, tenant: Tenant, ticket: Ticket) -> None:
        ticket.state = State.RUNNING
        self._ledger.open(tenant, ticket)
        self._queue.take(tenant)
        if self.auditor is not None:
            self.auditor.refresh()
        self._ledger.settle(ticket, ticket.predicted)

    def _end(self, ticket: Ticket, state: State) -> None:
        ticket.state = state
        self._ledger.close(self._forest.root(ticket), ticket)
        if self.objective is not None:
            self.objective.ended(ticket)

    def _in_turn(self, root: Group) -> Tenant | None:
        first = root.first()
        return first if first is None or self._locality is None else self._locality.choose(root, first)

    def _expect_no_classes(self) -> None:
        if self.policy.aging:
            raise LawError(f"policy {self.policy.spec} has classes; expected a policy without them to seed or export")

    def _expect(self, ticket: Ticket, state: State) -> None:
        if ticket.state is not state:
            raise LawError(f"ticket {ticket.id} is {ticket.state.value}; expected {state.value}")
