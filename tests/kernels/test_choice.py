"""The measured choice: fastest wins, each shape is measured once."""

from __future__ import annotations

from kernels.choice import MeasuredChoice


def test_fastest_wins_and_is_remembered_per_shape() -> None:
    runs: list[str] = []
    seconds = {"slow": 2.0, "fast": 1.0}

    def measure(run: object) -> float:
        name = candidates_by_run[run]
        runs.append(name)
        return seconds[name]

    candidates = {"slow": lambda: None, "fast": lambda: 0}
    candidates_by_run = {run: name for name, run in candidates.items()}
    choice = MeasuredChoice(measure, repeats=2)
    assert choice.pick("a", candidates) == "fast"
    assert sorted(runs) == ["fast", "fast", "slow", "slow"]
    seconds["slow"] = 0.5
    assert choice.pick("a", candidates) == "fast"
    assert choice.pick("b", candidates) == "slow"


def test_one_candidate_needs_no_measurement() -> None:
    assert MeasuredChoice(_no_measurement).pick("a", {"only": lambda: None}) == "only"


def _no_measurement(run: object) -> float:
    raise AssertionError("measured")
