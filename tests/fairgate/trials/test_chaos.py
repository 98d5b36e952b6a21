"""Chaos over real processes in short, and that its judges see what they are there to see."""

from array import array
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from fairgate.progress import progress_bar
from fairgate.trials.chaos import ChaosPlan, Fault, run_chaos
from fairgate.trials.inspection import StoreState, shares_without_sum
from fairgate.trials.verdicts import Death, Evidence, judge_answers, judge_bills, judge_death, judge_endings, judge_rest
from loadgen.client.record import Ending, Exchange, LoadRecord
from loadgen.judge.engines import EngineRecord
from loadgen.service_log import Served

ENGINE = Path("engine-0.service.log")
HERE, THERE = "http://127.0.0.1:1", "http://127.0.0.1:2"
ZERO = 1_000_000.0  # Unix time at which the load of the tests below begins


def test_ten_seconds_of_chaos(tmp_path):
    """Every fault once, in an order from a fixed seed; all that is promised is checked by the run itself."""
    said = StringIO()
    plan = ChaosPlan(seed=11, seconds=10.0, call_s=1.0)
    with progress_bar() as progress:
        kept = run_chaos(plan, tmp_path, Console(file=said, width=200), progress)
    assert kept, said.getvalue()
    assert "seed 11" in said.getvalue()
    assert [fault for fault in Fault if fault not in said.getvalue()] == []
    assert "✗" not in said.getvalue()


def test_a_seed_decides_what_happens_when():
    plans = [ChaosPlan(seed).schedule() for seed in range(20)]
    assert ChaosPlan(3).schedule() == plans[3]
    assert all(sorted(one.fault for one in plan) == sorted(Fault) for plan in plans)
    assert len({tuple(one.fault for one in plan) for plan in plans}) > 10, "the order hardly ever changes"
    assert all(0 < one.at_s < other.at_s < 60 for plan in plans for one, other in pairwise(plan))
    assert len(ChaosPlan(1, seconds=180).schedule()) == 15


def exchange(number=0, **said):
    whole = {"status": 200, "ending": Ending.FINISHED, "done_markers": 1, "gateway": HERE, "end_s": 9.0, "ended": True}
    one = Exchange("a", "mock", 1.0, 16, 3, sent_s=1.0, request_id=f"run.{number}", input_tokens=16)
    one.counts, one.times_s = array("l", [1, 2, 3]), array("d", [2.0, 3.0, 4.0])
    for name, value in (whole | said).items():
        setattr(one, name, value)
    return one


def evidence(exchanges, deaths=(), engines=EngineRecord({}, ())):  # noqa: B008
    return Evidence(LoadRecord(exchanges, 10.0, 0.0, ZERO), engines, deaths, {"a": 4.0, "b": 2.0})


def judged(one, *deaths):
    """Whether a request ended as it should, and whether anything was cut that no engine's death explains."""
    ended, cut, _ = judge_endings(evidence([one], deaths))
    return ended.kept, cut.kept


FAILED = {"ending": Ending.FAILED, "done_markers": 0}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param({}, (True, True), id="finished"),
        pytest.param(FAILED | {"error_events": 1, "code": "upstream_closed"}, (True, True), id="an engine died"),
        pytest.param(FAILED | {"error_events": 1, "code": "internal_error"}, (True, False), id="an error of our own"),
        pytest.param(FAILED | {"status": 503, "code": "store_lost"}, (True, False), id="refused"),
        pytest.param({"done_markers": 2}, (False, True), id="ended twice"),
        pytest.param({"error_events": 1}, (False, True), id="ended and failed"),
        pytest.param({"counts": array("l", [1, 2])}, (False, True), id="a token is missing"),
        pytest.param(FAILED | {"code": "truncated"}, (False, False), id="no end at all"),
        pytest.param(FAILED | {"error_events": 2, "code": "upstream_closed"}, (False, True), id="two errors"),
        pytest.param(FAILED | {"status": None, "code": "connection_lost"}, (False, False), id="connection lost"),
        pytest.param({"ending": Ending.ABORTED, "code": "drain_ended", "done_markers": 0}, (False, False), id="hangs"),
        pytest.param(
            FAILED | {"status": 502, "code": "unreadable_error"}, (False, False), id="an error without a form"
        ),
    ],
)
def test_a_request_ends_exactly_once(said, expected):
    assert judged(exchange(**said)) == expected


def death(url=HERE, at=5.0, back=7.0, **book):
    return Death(url, "gateway-0", ZERO + at, book, ZERO + back)


def test_only_what_was_with_a_gateway_that_died_is_excused():
    lost = FAILED | {"code": "cut", "end_s": 5.0}
    assert judged(exchange(**lost), death()) == (True, True)
    assert judged(exchange(**lost), death(url=THERE)) == (False, False)
    assert judged(exchange(**lost), death(at=5.5)) == (False, False), "it was over before the gateway died"
    refused = FAILED | {"status": None, "code": "connect_failed", "sent_s": 6.0}
    assert judged(exchange(**refused), death()) == (True, True)
    assert judged(exchange(**refused), death(back=5.5)) == (False, False), "the gateway was back by then"


def served(*lines):
    return EngineRecord(
        {}, tuple(Served(ZERO + t, ENGINE, event, "a", name, tokens) for t, event, name, tokens in lines)
    )


def test_an_answer_given_twice_is_seen():
    once = [(2.0, "input", "run.0-1-1", 16), (3.0, "output", "run.0-1-1", 1), (3.0, "end", "run.0-1-1", 1)]
    again = [(t + 1, event, "run.0-1-2", tokens) for t, event, _, tokens in once]
    assert judge_answers(served(*once, *again[:2])).kept, "a retry whose first run did not end"
    assert judge_answers(served(*once, *again)).kept is False


def test_what_a_death_may_cost():
    """One request was over, one had 16 input and 40 output tokens when its gateway died: 22 + 96 service units. A third
    had not begun: its 16 input tokens may have been charged. In the last tenth of a second an engine made two tokens
    for each, and had begun one more."""
    over, waits = exchange(0, end_s=4.8), exchange(2, **FAILED | {"status": None, "code": "connection_lost"})
    open_ = exchange(1, **FAILED | {"code": "cut", "end_s": 5.0})
    output = [(2.0 + n / 20, "output", "run.1-2-1", 1) for n in range(40)]
    engines = served((2.0, "input", "run.1-2-1", 16), *output, (5.5, "output", "run.1-2-1", 1))

    def kept(charged):
        one = death(a=round(charged * 1000 / 4.0))  # a has the weight 4
        return judge_death(one, evidence([over, open_, waits], [one], engines), 0.1, 0.05).kept

    assert kept(22 + 96)
    assert kept(22 + 96 - 3 * 2)
    assert not kept(22 + 96 - 4 * 2)
    assert not kept(96), "a request that was over has been forgotten"
    assert kept(22 + 96 + 16)
    assert not kept(2 * 22 + 96 + 16), "a request has been charged twice"
    over.end_s = 4.95
    assert kept(22 + 96 - 6 * 2), "what was over a moment ago may not have been told either"
    assert not kept(22 + 96 - 7 * 2)


def test_bills_are_what_clients_received():
    """16 input and 3 output tokens are 22 service units; of b they count for half the weight of a's."""
    both = [exchange(0), exchange(1, tenant="b")]
    refused = exchange(2, **FAILED | {"status": 503, "code": "store_lost"})
    assert judge_bills(evidence([*both, refused]), {HERE: {"a": 5500, "b": 11000}}).kept
    assert not judge_bills(evidence(both), {HERE: {"a": 5500, "b": 11001}}).kept
    assert not judge_bills(evidence(both), {HERE: {"a": 5500}}).kept
    assert not judge_bills(evidence(both), {HERE: {"a": 5500, "b": 11000, "c": 1}}).kept
    assert judge_bills(evidence(both, [death()]), {HERE: {}}).kept, "they were another process's, which is dead"


def state(**changes):
    """A store at rest after gateway `g` has charged 5,000 thousandths, on top of a lift of 2,000."""
    look = {
        "workers": [{"running": 0, "reserved": 0}], "waiting": 0, "running": 0, "held": 0,
        "shares": {"": {"lifted": "0", "counter": "0"}, "a": {"lifted": "2000", "counter": "7000"}},
    }  # fmt: skip
    whole = StoreState(look, {"g": {"a": 5000}}, 0, frozenset({"pool", "shares", "book:g", "leases"}))
    return replace(whole, **changes)


def broken(found, own=None, modes=("shared",)):
    return [p.text for p in judge_rest(found, own or {"g": {"a": 5000}}, modes) if not p.kept]


def test_what_is_left_in_the_store_is_seen():
    look = state().look
    assert broken(state()) == []
    assert "1 waiting" in broken(state(look={**look, "waiting": 1}))[0]
    assert "(1, 48)" in broken(state(look={**look, "workers": [{"running": 1, "reserved": 48}]}))[0]
    assert "0 tickets" in broken(state(keys=frozenset({"of:g"})))[0]
    assert "1 tickets" in broken(state(tickets=1))[0]
    assert "alone" in broken(state(), modes=("alone",))[0]
    assert "the store knows 2 of 1" in broken(state(books={"g": {"a": 4000}, "gone": {"a": 1000}}))[0]


def test_books_must_agree_to_the_unit():
    assert "own, to the unit" in broken(state(), own={"g": {"a": 5001}})[0]
    assert "own, to the unit" in broken(state(), own={"g": {"a": 5000, "b": 1}})[0]
    assert "own, to the unit" in broken(state(books={"g": {}}), own={"g": {}})[0], "nothing was charged at all"


def test_a_counter_is_its_lifts_and_its_books():
    assert shares_without_sum(state()) == []
    assert shares_without_sum(state(books={"g": {"a": 4999}})) == ["a: 2000 lifted + 4999 booked, counter 7000"]
