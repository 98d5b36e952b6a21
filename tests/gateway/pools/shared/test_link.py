"""The life of a replica at the store: wherever it is cut off nothing is left open, and a fault in a callback ends in a
join. `test_flight.py` has the calls, `test_faults.py` what becomes of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import redis

from gateway.config.schema import StoreConfig
from gateway.pools.shared.link import Link
from gateway.pools.shared.protocol import Decision, Finish, Join, Op, Remembered, Reply, Submit, WorkerReport
from gateway.store.client import StoreClient

from ...conftest import PATIENT, until
from ...test_disconnect import stepped
from .calls import Setup
from .cut import Cut

NOTHING = Remembered({}, 0, 0)
_names = count()


class Replica:
    """Holds no tickets. Raises when it is first told `fails_at`."""

    revision = 0  # so that it asks for the configuration in force
    lease_s = 20.0

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[str] = []
        self._fails_at = fails_at

    def joining(self) -> list[Op]:
        self._note("joining")
        return [Join(Setup().settings(), 1, [], [], {}, NOTHING, joined=False, alone={})]

    def applied(self, reply: Reply, ops: list[Op]) -> None:
        self._note("applied")

    def lost(self, reason: str) -> None:
        self._note(f"lost: {reason}")

    def heard(self, decision: Decision) -> None:
        self._note("heard")

    def adopt(self, text: str) -> bool:
        self.revision = 1
        self._note("adopt")
        return False

    def inspected(self, view: dict[str, Any]) -> None:
        self._note("inspected")

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what == self._fails_at:
            self._fails_at = ""
            raise ZeroDivisionError(what)


def link_of(replica: Replica, url: str) -> tuple[Link, StoreClient]:
    config = StoreConfig(url=url, heartbeat_s=0.02, **PATIENT)
    client = StoreClient(config)
    clock = asyncio.get_running_loop().time
    return Link(replica, client, config, key=f"{{link:{next(_names)}}}", name="r1", clock=clock), client


async def live(link: Link, replica: Replica, cut: Cut, over: Callable[[], bool]) -> None:
    """Join, serve a ticket, lose all connections with another on its way, and leave. Stops when it is `over`."""

    async def come_to(reached: Callable[[], bool]) -> None:
        await until(lambda: over() or reached())

    def answered() -> bool:
        return not link._flight and not link._outbox.due

    await come_to(lambda: link.joins > 0)
    link.tell(WorkerReport.of_health("w1", True, 3_600_000))
    link.tell(Submit("t1", "a", 10, 5))
    await come_to(answered)
    link.tell(Submit("t2", "a", 10, 5))
    cut.break_all()
    await come_to(answered)
    link.tell(Finish("t1", 10, 0, 5))
    await come_to(lambda: answered() and "inspected" in replica.told)
    await link.leave()


async def cut_off_at(place: int, url: str) -> bool:
    """Live, with the link's task cancelled at its `place`-th await. False: it was over before."""
    cut, awaits, before = Cut(url), 0, asyncio.all_tasks()

    def at_await() -> None:
        nonlocal awaits
        awaits += 1
        if awaits == place:
            task.cancel()

    async def run() -> None:
        await stepped(link._run(), at_await)

    async with cut.listening() as through:
        replica = Replica()
        link, client = link_of(replica, through)
        task = link._task = asyncio.create_task(run())
        await live(link, replica, cut, task.done)
        await client.close()
    await until(lambda: asyncio.all_tasks() == before)
    assert link.lease_until == 0
    return awaits >= place


async def test_cut_off_at_every_await_nothing_is_left(client: redis.Redis, url: str) -> None:
    """No task, no connection (a socket that is left open is a warning, and that an error)."""
    connected = client.info("clients")["connected_clients"]
    place = 1
    while await cut_off_at(place, url):
        await until(lambda: client.info("clients")["connected_clients"] == connected)
        place += 1
    assert place > 10


@pytest.mark.parametrize("where", ["joining", "applied", "adopt", "inspected"])
async def test_a_fault_in_a_callback_is_told_and_ends_in_a_join(
    client: redis.Redis, url: str, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    cut = Cut(url)
    async with cut.listening() as through:
        replica = Replica(fails_at=where)
        link, store = link_of(replica, through)
        link.start()
        await until(lambda: link.joins > 0)
        link.tell(WorkerReport.of_health("w1", True, 3_600_000))
        await until(lambda: "lost: internal error" in replica.told and replica.told.count("joining") == 2)
        await live(link, replica, cut, lambda: False)
        await store.close()
    assert "the fault is the gateway's own" in caplog.text
    assert f"ZeroDivisionError: {where}" in caplog.text
