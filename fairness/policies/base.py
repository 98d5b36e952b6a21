"""The interface of a policy, and its defaults."""

from __future__ import annotations

from typing import ClassVar, Final

from fairness.cost import CostFunction
from fairness.ticket import Refusal, Ticket

ALL_EQUAL: Final = 2**53
"""A quantum above every counter: all of them count as equal."""


class Policy:
    """Plain VTC is the default of everything; a policy says what it does otherwise, and describes itself.

    `spec` is its text in a configuration: `parse_policy` makes the same policy of it. `forms` are the texts that it
    accepts, `help` is what it does, in a sentence.

    `bounded`: it promises that the counters of two that wait (of one class, where it has classes), measured in service,
    stay within `Scheduler.bound`.
    `quantum` (counter units, thousandths of service / weight) is the step below which counters count as equal, so
    that the oldest head goes first. `slack` (service / weight) is how far from the least counter a ticket may be
    taken for the sake of its adapter. `aging` makes strict classes of `Ticket.priority`: a class passed over that
    many times in a row has the next turn; 0 means that there are no classes. `rpm` is the number of requests a minute
    that it accepts of each tenant; 0: all. `per_request`: a request costs 1, whatever its tokens.

    `not_shared` says why gateways that share a queue cannot order by it, and what they can do; empty where they can.
    """

    forms: ClassVar[tuple[str, ...]] = ()
    help: ClassVar[str] = ""
    spec: str = ""
    bounded: bool = True
    lifts: bool = True  # a tenant whose queue becomes non-empty is lifted (DESIGN section 3, "Lift")
    tree: bool = True  # ids are paths in a tree of shares
    quantum: int = 1
    slack: float = 0.0
    aging: int = 0
    rpm: int = 0
    per_request: bool = False
    not_shared: str = ""

    @classmethod
    def parse(cls, argument: str) -> Policy | None:
        """From what its spec has after the colon, empty where there is none; None: it takes no such thing.

        Raises ValueError that says how to write it.
        """
        return None if argument else cls()

    @property
    def allowance(self) -> float:
        """What the order adds to the bound, in service units / weight."""
        return self.slack

    def measure(self, cost: CostFunction) -> CostFunction:
        """What is charged to the counters, where it is not the configured cost."""
        return cost

    def admit(self, ticket: Ticket, now: float) -> Refusal | None:
        """Turn an arrival away, or None. `now` in seconds, any origin."""
        return None

    # -- in shared state ---------------------------------------------------------------------------------------

    def wire(self) -> dict[str, object]:
        """What the machine in the store is told of it, for JSON: its quantum is 0 where all counters are equal."""
        return {
            "name": self.spec,
            "lifts": self.lifts,
            "tree": self.tree,
            "quantum": self.quantum if self.quantum < ALL_EQUAL else 0,
            "rpm": self.rpm,
            "per_request": self.per_request,
        }

    def unlimited(self) -> Policy:
        """The same order for requests that were admitted before: it turns nothing away."""
        return self

    def part(self, parts: int) -> Policy:
        """The policy of each of `parts` gateways that go on alone: all together accept about as much as this one."""
        return self


def whole_number(argument: str, form: str) -> int:
    """The number that a spec ends in, at least 1. Raises ValueError that says to write `form`."""
    if not argument.isdecimal() or int(argument) < 1:
        raise ValueError(f"write {form}")
    return int(argument)
