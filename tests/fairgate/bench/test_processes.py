"""`fairgate bench processes`: that it counts what it says. How fast anything is, is not tested."""

import sys

import pytest

from fairgate.bench.processes import ProcessesFound, ProcessesPlan, Turn, bench_processes, markdown


@pytest.mark.skipif(sys.platform != "linux", reason="reads processor time of other processes, which Linux tells")
def test_both_take_their_turns_and_only_many_have_a_store(tmp_path):
    found = bench_processes(ProcessesPlan(rounds=2, seconds=0.3), tmp_path)
    assert {count: len(turns) for count, turns in found.turns.items()} == {1: 1, 2: 1}
    [one], [many] = found.turns.values()
    assert one.rate > 0 < many.rate
    assert one.gateway_us > 0 < many.gateway_us
    assert one.store_us == 0 < many.store_us


def test_the_table_has_medians_and_ratios_within_rounds():
    found = ProcessesFound(
        {1: [Turn(100, 10, 0, 0), Turn(1000, 10, 0, 0), Turn(300, 30, 0, 0)],
         2: [Turn(200, 20, 5, 0), Turn(1000, 10, 5, 0), Turn(450, 60, 0, 0)]}
    )  # fmt: skip
    one, many = markdown(found).splitlines()[-2:]
    assert one == "| 1 | 300 | 10 | 0 | 1.00 | 1.00 |"
    assert many == "| 2 | 450 | 20 | 5 | 1.50 | 2.00 |"
