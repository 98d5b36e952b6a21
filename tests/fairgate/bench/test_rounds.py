"""What rounds are reduced to."""

import pytest

from fairgate.bench.rounds import percentile, quieter_half, table


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_one_of_the_values(part, value):
    assert percentile([4, 1, 3, 2], part) == value


@pytest.mark.parametrize(("rounds", "kept"), [([3, 1, 2], [1, 2]), ([2, 1], [1]), ([5], [5])])
def test_the_quieter_half_is_kept(rounds, kept):
    assert quieter_half(rounds, lambda others: others) == kept


def test_a_table_is_markdown():
    assert table(["", "us"], [["a", "1"]]).splitlines() == ["|  | us |", "| :-- | --: |", "| a | 1 |"]
