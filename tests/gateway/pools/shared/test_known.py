"""What a replica knows of counters: from replies, from its own charges, and from a time alone."""

from __future__ import annotations

from gateway.pools.shared.known import Known
from gateway.pools.shared.protocol import Remembered, ShareState


def knowing(own: dict[str, int]) -> Known:
    known = Known(lambda path: own.get(path, 0))
    told = {"org/a": ShareState(10, 100, 0, 7), "org/b": ShareState(0, 40, 0, 7), "org/": ShareState(0, 140, 30, 7)}
    known.heard({**told, "": ShareState(0, 0, 20, 7)})
    return known


def test_own_charges_are_added_to_what_was_told() -> None:
    own = {"org/a": 60}
    known = knowing(own)
    own |= {"org/a": 90, "new": 5}
    assert known.counters(["new"]) == {"org/a": 130, "org/b": 40, "org/": 140, "new": 5}
    assert known.lift_targets() == {"org/": 30, "": 20}


def test_the_next_time_alone_begins_where_the_last_one_ended() -> None:
    """To the unit, with the lift target of every group. Of b, which was forgotten, what was known before is kept."""
    own = {"org/a": 60}
    known = knowing(own)
    own |= {"org/a": 2**60, "org/c": 7}
    counters, lift_targets = {"org/a": 2**60 + 40, "org/c": 507, "org/": 2**60 + 81}, {"org/": 500, "": 80}
    known.reached(counters, lift_targets)
    assert known.counters(()) == counters | {"org/b": 40}
    assert known.lift_targets() == lift_targets


def test_what_is_told_after_a_time_alone() -> None:
    """c and org/ were lifted, by 500 and 60; a was charged only."""
    own = {"org/a": 60, "org/": 60}
    known = knowing(own)
    own |= {"org/a": 90, "org/": 97, "org/c": 7}
    known.reached({"org/a": 130, "org/c": 507, "org/": 237}, {"org/": 500, "": 80})
    assert known.lifted_alone() == {"org/c": 507, "org/": 237}
    shares = {
        "org/a": ShareState(10, 130, 0, 7),
        "org/b": ShareState(0, 40, 0, 7),
        "org/c": ShareState(500, 507, 0, 7),
        "org/": ShareState(60, 237, 500, 7),
        "": ShareState(0, 0, 80, 7),
    }
    assert known.remembered() == Remembered(shares, 0, 0)
    known.joined()
    assert known.lifted_alone() == {}


def test_who_was_lifted_and_then_forgotten_is_not_told_of_as_lifted() -> None:
    known = knowing({})
    known.reached({"org/b": 600, "org/": 700}, {"org/": 500, "": 80})
    known.reached({"org/": 900}, {"org/": 600, "": 80})
    assert known.lifted_alone() == {"org/": 900}
