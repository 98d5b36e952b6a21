"""A search for the worst: sequences are changed at random and kept when they widen the gap. It comes to the bound, so
the bound is tight; and it never passes it, or `World` would have said so."""

from __future__ import annotations

import random

import pytest

from .world import KINDS, TENANTS, TREE, UNUSUAL, Op, Setting, World, random_ops, random_setting

STEPS = 120


def mutated(chance: random.Random, ops: list[Op]) -> list[Op]:
    ops = list(ops)
    for _ in range(chance.randint(1, 4)):
        place, (new,) = chance.randrange(len(ops)), random_ops(chance, 1, (*KINDS, *UNUSUAL))
        if chance.random() < 0.6:
            ops[place] = new
        elif len(ops) < 100:
            ops.insert(place, new)
        else:
            del ops[place]
    return ops


def climb(setting: Setting, chance: random.Random) -> tuple[float, float]:
    """The widest gap, as a part of the bound, before and after the search."""
    ops = random_ops(chance, 50, (*KINDS, *UNUSUAL))
    first = widest = World(setting).play(ops).widest
    for _ in range(STEPS):
        changed = mutated(chance, ops)
        found = World(setting).play(changed).widest
        if found >= widest:
            widest, ops = found, changed
    return first, widest


@pytest.mark.parametrize("tenants", [TENANTS, TREE], ids=["flat", "tree"])
def test_a_search_for_the_widest_gap_comes_near_the_bound_and_never_passes_it(tenants: tuple[str, ...]) -> None:
    reached = []
    for seed in (2, 4):
        chance = random.Random(seed)
        first, widest = climb(random_setting(chance, tenants=tenants), chance)
        assert widest >= first
        reached.append(widest)
    assert max(reached) > 0.8, "the search has power"
