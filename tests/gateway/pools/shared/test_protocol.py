"""What is written to the store, as it was recorded before one file owned it, and what it answers."""

from __future__ import annotations

import json
import re

import pytest

from fairness import Refusal
from gateway.pools.shared.machine import machine
from gateway.pools.shared.protocol import (
    NAMES,
    Cancel,
    Charge,
    Decision,
    Finish,
    Join,
    Leave,
    Op,
    Remembered,
    Requeue,
    RunningTicket,
    ShareState,
    Submit,
    Undo,
    WaitingTicket,
    WorkerReport,
    begins_epoch,
    read_reply,
    tickets_to_queue,
    write_call,
)

JOIN = Join(
    settings='{"revision": 3}',
    peers=2,
    running=[RunningTicket("abcd:4", "org/a", 7, 3, 0, [], 0, 3, 2, "http://w1", 4, [2.5, 1.0], [5200, 13000])],
    waiting=[WaitingTicket("abcd:5", "org/a", 7, 3, 4, ["http://w1"])],
    book={"org/a": 14000, "org/": 35000},
    known=Remembered({"org/a": ShareState(100, 5800, 0, 7), "": ShareState(0, 0, 30, 7)}, 5, 5),
    joined=True,
    alone={"b": 20000},
)
RECORDED: list[tuple[Op, str]] = [
    (Submit("abcd:1", "org/a", 7, 3), '["submit", "abcd:1", "org/a", 7, 3]'),
    (Charge("abcd:1", 9, 4, 1), '["charge", "abcd:1", 9, 4, 1]'),
    (Finish("abcd:1", 9, 0, 2), '["finish", "abcd:1", 9, 0, 2]'),
    (Cancel("abcd:2", 7, 0, 1), '["cancel", "abcd:2", 7, 0, 1]'),
    (Undo("abcd:3"), '["undo", "abcd:3"]'),
    (Requeue("abcd:1", ["http://w1", "http://w2"]), '["requeue", "abcd:1", ["http://w1", "http://w2"]]'),
    (
        WorkerReport.of_health("http://w1", True, 15000),
        '["worker", "http://w1", {"healthy": true, "ttl_ms": 15000}]',
    ),
    (
        WorkerReport("http://w1", {"slots": 5, "tokens": 20000}),
        '["worker", "http://w1", {"slots": 5, "tokens": 20000}]',
    ),
    (WorkerReport.of_overflow("http://w1"), '["worker", "http://w1", {"overflowed": true}]'),
    (WorkerReport.of_queue("http://w1", 3), '["worker", "http://w1", {"waiting": 3}]'),
    (Leave(), '["leave"]'),
    (
        JOIN,
        '["join", {"settings": "{\\"revision\\": 3}", "peers": 2, '
        '"running": [{"id": "abcd:4", "tenant": "org/a", "n_in": 7, "max": 3, "seq": 0, "avoid": [], "cached": 0, '
        '"produced": 3, "predicted": 2, "worker": "http://w1", "number": 4, "weights": [2.5, 1.0], '
        '"charged": [5200, 13000]}], '
        '"waiting": [{"id": "abcd:5", "tenant": "org/a", "n_in": 7, "max": 3, "seq": 4, "avoid": ["http://w1"]}], '
        '"book": {"org/a": 14000, "org/": 35000}, '
        '"known": {"shares": {"org/a": [100, 5800, 0, 7], "": [0, 0, 30, 7]}, "seq": 5, "number": 5}, '
        '"joined": true, "alone": {"b": 20000}}]',
    ),
]


@pytest.mark.parametrize(("op", "text"), RECORDED)
def test_an_operation_is_written_as_recorded(op: Op, text: str) -> None:
    head = '{"replica": "host-abcd", "batch": 17, "acked": 16, "seen": "5-0", "ops": '
    assert write_call("host-abcd", 17, 16, "5-0", [op]) == compact(f"{head}[{text}]}}")


def compact(text: str) -> str:
    """The same JSON without spaces between its tokens."""
    return json.dumps(json.loads(text), separators=(",", ":"))


def test_every_operation_has_a_function_in_the_machine_and_the_other_way_round() -> None:
    """With as many arguments: those of the Lua come after the replica, and a join has one."""
    functions = re.findall(r"^function op\.(\w+)\(([^)]*)\)", machine().source, flags=re.MULTILINE)
    in_lua = {name: len(parameters.split(",")) - 1 for name, parameters in functions}
    assert in_lua == {name: 1 if kind is Join else len(kind._fields) for kind, name in NAMES.items()}


def test_every_operation_is_recorded() -> None:
    assert {type(op) for op, _ in RECORDED} == set(NAMES)


def test_what_a_batch_is_about() -> None:
    assert begins_epoch([JOIN, Leave()])
    assert not begins_epoch([Leave()])
    assert not begins_epoch([])
    assert tickets_to_queue([JOIN, Submit("x", "a", 1, 1), Undo("y")]) == ["x", "abcd:5"]


def test_an_answer_is_read() -> None:
    granted = {"ticket": "t1", "epoch": 4, "number": 8, "seq": 3, "worker": "w", "predicted": 5, "weights": ["2.5"]}
    refused = {"ticket": "t2", "epoch": 4, "refused": "no_large_worker"}
    reply = read_reply(
        ["ok", 1000, 4, 7, 12, 2, 1, 250, 1, [["t3", "too_large", 900], ["t4", "rate_limit", 6, 1500]],
         [json.dumps(granted), json.dumps(refused)], [["a", 10, 30, 0, 99], ["", 0, 0, 20, 99]], [["t5", 41]]]
    )  # fmt: skip
    assert reply is not None
    assert (reply.epoch, reply.revision, reply.waiting, reply.replicas) == (4, 7, 12, 2)
    assert (reply.gathering, reply.hold_s, reply.more) == (True, 0.25, True)
    assert reply.refusals == {
        "t3": Refusal("too_large", "the request exceeds the 900 tokens of the largest worker"),
        "t4": Refusal("rate_limit", "the tenant is over its limit of 6 requests a minute", 1.5),
    }
    assert reply.decisions == [
        Decision("t1", 4, 8, 3, "w", 5, [2.5], ""),
        Decision("t2", 4, -1, -1, "", 0, [], "no_large_worker"),
    ]
    assert reply.shares == {"a": ShareState(10, 30, 0, 99), "": ShareState(0, 0, 20, 99)}
    assert reply.queued == {"t5": 41}


def test_a_store_that_does_not_know_the_replica_says_so() -> None:
    assert read_reply(["rejoin", 1000, "unknown"]) is None
