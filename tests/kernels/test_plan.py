"""The batch plan groups every token with an adapter exactly once, and no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import KernelError, plan_attention, plan_batch

SLOTS = st.lists(st.integers(-1, 6), max_size=80)


@given(SLOTS)
def test_every_token_with_an_adapter_is_in_one_segment_of_its_adapter(slots: list[int]) -> None:
    plan = plan_batch(slots)
    found = {row: s.slot for s in plan.segments for row in plan.order[s.start : s.stop].tolist()}
    assert found == {row: slot for row, slot in enumerate(slots) if slot >= 0}
    assert len(plan.order) == len(found)


@given(SLOTS)
def test_segments_ascend_and_keep_the_order_of_the_batch(slots: list[int]) -> None:
    plan = plan_batch(slots)
    assert [s.slot for s in plan.segments] == sorted({slot for slot in slots if slot >= 0})
    for segment in plan.segments:
        rows = plan.order[segment.start : segment.stop].tolist()
        assert rows == sorted(rows)


@given(SLOTS, st.integers(1, 20))
def test_tiles_cut_the_segments_without_a_gap(slots: list[int], length: int) -> None:
    plan = plan_batch(slots)
    tiles = plan.tile_table(length).tolist()
    assert all(0 < stop - start <= length for _, start, stop in tiles)
    covered = [(slot, at) for slot, start, stop in tiles for at in range(start, stop)]
    assert covered == [(s.slot, at) for s in plan.segments for at in range(s.start, s.stop)]


def test_a_slot_below_none_is_refused_with_its_place() -> None:
    with pytest.raises(KernelError, match=r"token_slots\[1\] is -2; expected"):
        plan_batch([0, -2])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), max_size=5), st.integers(1, 8), st.integers(1, 4))
def test_attention_tiles_name_every_new_token_once(
    lengths: list[tuple[int, int]], page_tokens: int, queries: int
) -> None:
    new, contexts = [n for n, _ in lengths], [n + past for n, past in lengths]
    tables = [list(range(-(-context // page_tokens))) for context in contexts]
    plan = plan_attention(tables, new, contexts, page_tokens)
    tokens = [
        (sequence, row + i, position + i)
        for sequence, row, position, count in plan.tile_table(queries).tolist()
        for i in range(count)
    ]
    rows = iter(range(sum(new)))
    assert tokens == [
        (s, next(rows), p) for s, (n, c) in enumerate(zip(new, contexts, strict=True)) for p in range(c - n, c)
    ]


def test_new_tokens_go_to_their_pages() -> None:
    plan = plan_attention([[7, 2], [5]], [3, 1], [5, 2], page_tokens=3)
    assert plan.new_slots.tolist() == [7 * 3 + 2, 2 * 3, 2 * 3 + 1, 5 * 3 + 1]


@pytest.mark.parametrize(
    ("pages", "new", "context", "words"),
    [
        ([0], 0, 3, "sequence 0: 0 new tokens in a context of 3"),
        ([0], 4, 3, "sequence 0: 4 new tokens in a context of 3"),
        ([0], 1, 5, "sequence 0: a context of 5 in 1 pages of 4 tokens"),
    ],
)
def test_a_sequence_that_cannot_be_is_refused(pages: list[int], new: int, context: int, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        plan_attention([pages], [new], [context], page_tokens=4)
