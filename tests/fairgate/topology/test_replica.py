"""How long to wait before what ended is started again."""

from fairgate.topology.replica import FIRST_PAUSE_S, LIVED_S, LONGEST_PAUSE_S, Pauses


def test_pauses_grow_to_the_longest_and_are_short_again_for_one_that_lived():
    now = 0.0
    pauses = Pauses(lambda: now)
    assert pauses.over(), "the first start need not wait"
    seen = []
    for _ in range(8):
        pauses.began()
        seen.append(pauses.ended())
        assert not pauses.over()
        now += seen[-1]
        assert pauses.over()
    assert seen[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert seen[-2:] == [LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    pauses.began()
    now += 2 * LIVED_S
    assert pauses.ended() == FIRST_PAUSE_S
