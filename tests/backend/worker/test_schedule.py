"""The schedule, without a model: order, chunks, slots and pages, whatever joins, ends or is aborted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.worker.config import WorkerSettings
from backend.worker.errors import Overloaded
from backend.worker.memory.pages import PAGE, PageError
from backend.worker.schedule import DECODE_ROWS, ForwardPass, Schedule, Sequence

MOST_TOKENS = 6 * PAGE


def schedule(**changes: object) -> Schedule[Sequence]:
    return Schedule(WorkerSettings.model_validate({"kv_tokens": 8 * PAGE, "prefill_chunk": 16, **changes}))


def chunks(passes: list[ForwardPass[Sequence]]) -> list[tuple[str, int]]:
    return [(chunk.sequence.id, chunk.tokens) for forward in passes for chunk in forward.chunks]


@dataclass
class Play:
    """A schedule whose sequences end after as many tokens as they were submitted with, and what it has done."""

    schedule: Schedule[Sequence]
    ends_after: dict[str, int] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    computed: dict[str, int] = field(default_factory=dict)

    def submit(self, prompt: int, output: int, ends_after: int) -> None:
        name = str(len(self.submitted))
        self.submitted.append(name)
        self.ends_after[name] = prompt + min(output, ends_after) - 1  # the last token of output is never computed
        self.schedule.submit(Sequence(name, prompt, output))

    def step(self) -> list[ForwardPass[Sequence]]:
        passes = self.schedule.next_step()
        self.started += [s.id for s in self.schedule.running if s.id not in self.started]
        for sequence, tokens in [chunk for forward in passes for chunk in forward.chunks]:
            assert sequence.computed == self.computed.get(sequence.id, 0)
            sequence.computed += tokens
            self.computed[sequence.id] = sequence.computed
            if sequence.computed >= self.ends_after[sequence.id]:
                assert self.schedule.remove(sequence.id)
        return passes


settings = st.fixed_dictionaries(
    {
        "kv_tokens": st.integers(6, 20).map(lambda pages: pages * PAGE),
        "max_running": st.integers(1, 12),
        "prefill_chunk": st.integers(1, 40),
        "deterministic": st.booleans(),
    }
)
joins = st.tuples(st.integers(1, MOST_TOKENS - 20), st.integers(1, 20), st.integers(1, 20))
moves = st.lists(st.one_of(joins, st.integers(0, 30), st.none()), max_size=40)  # a new sequence, an abort, a step


@given(settings, moves)
def test_pages_return_everyone_starts_in_order_and_every_token_is_computed_once(
    options: dict[str, object], play: list[tuple[int, int, int] | int | None]
) -> None:
    running = Play(schedule(**options))
    aborted = set()
    for move in play:
        if isinstance(move, tuple):
            running.submit(*move)
        elif move is None:
            check_step(running, options)
        else:
            aborted.add(str(move))
            running.schedule.remove(str(move))
        running.schedule.check_integrity()
    while running.schedule.busy:
        assert check_step(running, options), "it is busy and computes nothing"
    assert running.schedule.pages_used == 0
    assert running.started == sorted(running.started, key=int)
    whole = {name: end for name, end in running.ends_after.items() if name not in aborted}
    assert {name: running.computed[name] for name in whole} == whole


def check_step(play: Play, options: dict[str, object]) -> list[ForwardPass[Sequence]]:
    before = {s.id: s.prompt_left for s in (*play.schedule.waiting, *play.schedule.running)}
    decoding = {s.id for s in play.schedule.running if not s.prompt_left}
    passes = play.step()
    play.schedule.check_integrity()
    work = chunks(passes)
    assert len({name for name, _ in work}) == len(work)  # at most once in a step
    assert decoding <= {name for name, _ in work}  # a token a step, whatever prompts come
    assert len(work) <= options["max_running"]
    assert len(play.schedule.running) <= options["max_running"]
    assert sum(tokens for name, tokens in work if before[name]) <= options["prefill_chunk"]
    assert all(tokens == 1 for name, tokens in work if not before[name])
    if options["deterministic"]:
        check_shapes(passes, before, options)
    else:
        assert len(passes) <= 1
        assert all(forward.rows is None for forward in passes)
    return passes


def check_shapes(passes: list[ForwardPass[Sequence]], before: dict[str, int], options: dict[str, object]) -> None:
    """Up to DECODE_ROWS decoding rows, or one chunk that begins at a multiple of `prefill_chunk`."""
    for forward in passes:
        if before[forward.chunks[0].sequence.id]:
            [(sequence, tokens)] = forward.chunks
            assert forward.rows == options["prefill_chunk"]
            assert (sequence.computed - tokens) % forward.rows == 0
        else:
            assert forward.rows == DECODE_ROWS >= len(forward.chunks)


def test_a_prompt_that_does_not_fit_holds_back_those_behind_it() -> None:
    play = Play(schedule(kv_tokens=4 * PAGE))
    for prompt, output in [(20, 12), (30, 18), (2, 2)]:  # 2, 3 and 1 of 4 pages
        play.submit(prompt, output, output)
    play.step()
    assert [s.id for s in play.schedule.running] == ["0"]
    assert [s.id for s in play.schedule.waiting] == ["1", "2"]
    assert play.schedule.pages_used == 2
    while play.started == ["0"]:
        play.step()
    assert play.started == ["0", "1", "2"]


def test_prompts_share_the_chunk_in_the_order_in_which_they_started() -> None:
    play = Play(schedule())
    play.submit(3, 9, 9)
    play.step()
    for prompt in (10, 4, 20):
        play.submit(prompt, 4, 4)
    assert chunks(play.step()) == [("0", 1), ("1", 10), ("2", 4), ("3", 2)]
    assert chunks(play.step()) == [("0", 1), ("1", 1), ("2", 1), ("3", 16)]
    assert chunks(play.step()) == [("0", 1), ("1", 1), ("2", 1), ("3", 2)]


def test_deterministic_passes_have_two_shapes() -> None:
    play = Play(schedule(deterministic=True, prefill_chunk=5, kv_tokens=32 * PAGE))
    for _ in range(10):
        play.submit(5, 20, 20)
    play.submit(12, 4, 4)
    for _ in range(10):
        play.step()
    shapes = [[(len(forward.chunks), forward.rows) for forward in play.step()] for _ in range(2)]
    assert shapes == [[(8, DECODE_ROWS), (2, DECODE_ROWS), (1, 5)]] * 2


def test_a_full_schedule_refuses() -> None:
    full = schedule(max_running=1, max_waiting=1)
    full.submit(Sequence("a", 4, 4))
    full.submit(Sequence("b", 4, 4))
    with pytest.raises(Overloaded, match="2 requests"):
        full.submit(Sequence("c", 4, 4))
    assert not full.remove("b")
    full.submit(Sequence("c", 4, 4))


def test_the_slots_and_pages_of_who_leaves_are_free_at_once() -> None:
    small = schedule(max_running=1)
    small.submit(Sequence("runs", 40, 4))
    small.submit(Sequence("waits", 40, 4))
    small.next_step()
    assert not small.remove("waits")
    assert small.remove("runs")
    assert not small.remove("was never here")
    assert not small.busy
    assert small.pages_used == 0
    assert small.next_step() == []


def test_a_step_with_nothing_to_do_is_empty() -> None:
    assert schedule().next_step() == []
    assert schedule(deterministic=True).next_step() == []


def test_integrity_sees_a_page_that_a_sequence_lost() -> None:
    """The control: a broken schedule is found out."""
    broken = schedule()
    sequence = Sequence("a", 40, 4)
    broken.submit(sequence)
    broken.next_step()
    sequence.pages = sequence.pages[:-1]
    with pytest.raises(PageError, match="running requests hold the pages"):
        broken.check_integrity()


def test_integrity_sees_a_sequence_with_too_few_pages_for_its_tokens() -> None:
    broken = schedule()
    sequence = Sequence("a", 40, 4)
    broken.submit(sequence)
    broken.next_step()
    sequence.max_tokens = 4 * PAGE
    with pytest.raises(PageError, match=r"a holds 3 pages for 104 tokens"):
        broken.check_integrity()


@pytest.mark.parametrize("module", ["backend.worker.schedule", "backend.worker.memory.pages"])
def test_it_is_arithmetic_that_needs_no_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
