"""The conservation laws, recomputed from the tickets. Tests call this after every step."""

from __future__ import annotations

from fairness.cost import CostFunction
from fairness.forest import Forest
from fairness.shares import Group, Share, Tenant, milli
from fairness.ticket import LawError, Ticket


def check_forest(forest: Forest, cost: CostFunction) -> list[Ticket]:
    """Returns the tickets in flight. Raises LawError that says which law is broken, and where."""
    for group in forest.groups():
        _check_group(group)
    for share in forest.shares():
        _check_share(share, cost)
    return [ticket for root in forest.roots() for ticket in root.running]


def _check_group(group: Group) -> None:
    name = group.path or "the pool"
    members = group.members.values()
    _hold(group.waiting == sum(member.waiting for member in members), f"{name}: the queue length is wrong")
    _hold(
        set(group.running) == {ticket for member in members for ticket in member.running}, f"{name}: in flight is wrong"
    )
    waiting = [member for member in members if member.waiting]
    _hold(group.members_waiting == len(waiting), f"{name}: the number of members that wait is wrong")
    live = {entry for entry in group.order if entry[2].entry == entry}
    _hold(len(live) == len(waiting), f"{name}: a member that waits is missing from the order")
    for entry in live:
        member = entry[2]
        true = (member.counter // group.quantum, member.precedence())
        _hold(entry[:2] <= true, f"{member.path}: its key is ahead of itself")


def _check_share(share: Share, cost: CostFunction) -> None:
    charged = 0
    for ticket in share.running:
        (account,) = [account for account in ticket.accounts if account.share is share]
        produced = max(ticket.predicted, ticket.produced)
        service = cost.service(ticket.input_tokens, produced, ticket.cached_tokens) + ticket.load
        due = milli(service, account.weight)
        _hold(account.charged == due, f"{ticket.id}: {share.path} is charged {account.charged}, due {due}")
        charged += account.charged
    _hold(share.counter == share.base + charged, f"{share.path}: its counter is not lifts plus charges")
    _hold((share.entry is not None) == bool(share.waiting), f"{share.path}: its place in the order is wrong")
    if isinstance(share, Tenant):
        _hold(share.waiting == len(share.tickets()), f"{share.path}: waiting is not the number of tickets that wait")


def _hold(condition: bool, broken: str) -> None:
    if not condition:
        raise LawError(broken)
