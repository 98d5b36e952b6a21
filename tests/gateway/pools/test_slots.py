"""How many requests a worker is trusted with."""

from __future__ import annotations

from gateway.pools.slots import SlotLimit


def test_slots_shrink_at_once_and_grow_a_round_at_a_time() -> None:
    limit = SlotLimit(8)
    first = limit.overflowed(running=4)
    assert limit.limit == 0, "nothing may be sent while it is held off"
    limit.resume()
    assert limit.limit == 4
    assert limit.overflowed(running=0) == 2 * first, "an engine that stays full is asked less and less often"
    limit.resume()
    assert limit.limit == 1, "with nothing of ours running, one request must probe"
    for rounds in range(1, 8):
        for _ in range(limit.limit):
            limit.served()
        assert limit.limit == 1 + rounds
    limit.served()
    assert limit.limit == 8


def test_one_request_may_wait_inside_the_engine() -> None:
    limit = SlotLimit(32)
    limit.waiting(1, running=17)
    assert limit.limit == 32
    limit.waiting(16, running=32)
    assert limit.limit == 17
