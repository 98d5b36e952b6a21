"""Two batches on their way at once: whatever becomes of the connection, each is applied once, in order, and its answer
is heard. The store after every fault is compared with one where nothing happened."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import pytest
import redis

from gateway.config.schema import StoreConfig
from gateway.pools.shared.flight import Batch, Flight
from gateway.pools.shared.machine import machine
from gateway.pools.shared.protocol import Finish, Join, Op, Remembered, Reply, Submit, WorkerReport
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError
from gateway.store.wire import command

from .calls import Setup
from .cut import Cut

LONG = 3600.0
FIRST: list[Op] = [Submit("t1", "a", 100, 50), Submit("t2", "b", 100, 50)]
SECOND: list[Op] = [Finish("t1", 100, 0, 7), Submit("t3", "c", 20, 10)]
_names = count()


class Replica:
    """What its flight told: the batches answered, in order."""

    def __init__(self, url: str, key: str) -> None:
        self.key = key
        self.client = StoreClient(StoreConfig(url=url, timeout_s=30.0))
        self.heard: list[tuple[int, Reply | None]] = []
        self.trouble = asyncio.Event()
        clock = asyncio.get_running_loop().time
        self.flight = Flight(self.client, key, "r1", clock, self._answered, self.trouble.set)

    def _answered(self, batch: Batch, reply: Reply | None) -> None:
        self.heard.append((batch.number, reply))

    def send(self, ops: list[Op], within: float = LONG) -> None:
        self.flight.send(ops, "", within=within, again=within)

    async def join(self) -> None:
        self.send([Join(Setup().settings(), 1, [], [], {}, Remembered({}, 0, 0), joined=False, alone={})])
        await self.flight.mend()
        self.send([WorkerReport.of_health("w1", True, 3_600_000)])
        await self.rest()
        self.heard.clear()
        self.trouble.clear()

    async def rest(self) -> None:
        """Until nothing is on its way."""
        async with asyncio.timeout(60):
            while self.flight:
                await self.flight.mend()
                await asyncio.sleep(0)

    async def close(self) -> None:
        self.flight.drop()
        await self.client.close()

    async def __aenter__(self) -> Replica:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def look(client: redis.Redis[bytes], key: str) -> Any:
    """All the store knows of the pool, and the number of its calls."""
    seen = json.loads(client.fcall(machine().function("inspect"), 1, key))
    return seen, client.hget(f"{key}:replicas", "r1")


def told(replies: list[tuple[int, Reply | None]]) -> list[Any]:
    """What a replica acts on, without times."""
    return [
        (number, reply and (reply.decisions, reply.refusals, reply.queued, reply.shares)) for number, reply in replies
    ]


async def test_two_are_on_their_way_and_no_more(client: redis.Redis[bytes], url: str) -> None:
    async with Replica(url, f"{{flight:{next(_names)}}}") as replica:
        await replica.join()
        flight = replica.flight
        assert flight.takes(urgent=False)
        replica.send(FIRST)
        assert not flight.takes(urgent=False), "what nobody waits for waits for the call before it"
        assert flight.takes(urgent=True)
        replica.send(SECOND)
        assert not flight.takes(urgent=True)
        await replica.rest()
        assert [number for number, _ in replica.heard] == [3, 4]


async def undisturbed(client: redis.Redis[bytes], url: str) -> tuple[Any, Any, dict[str, int]]:
    """What a replica hears and the store knows when nothing happens, and how many bytes that takes."""
    cut = Cut(url)
    async with cut.listening() as through, Replica(through, f"{{flight:{next(_names)}}}") as replica:
        await replica.join()
        cut.armed = True
        replica.send(FIRST)
        replica.send(SECOND)
        await replica.rest()
        return told(replica.heard), look(client, replica.key), cut.passed


@pytest.mark.parametrize("what", ["calls", "answers"])
async def test_a_connection_that_breaks_anywhere(client: redis.Redis[bytes], url: str, what: str) -> None:
    """After any number of bytes of the calls, or of the answers: the store applied neither, the first, or both."""
    heard, known, passed = await undisturbed(client, url)
    for place in [*range(0, passed[what], 23), passed[what] - 1]:
        cut = Cut(url)
        setattr(cut, what, place)
        async with cut.listening() as through, Replica(through, f"{{flight:{next(_names)}}}") as replica:
            await replica.join()
            cut.armed = True
            replica.send(FIRST)
            replica.send(SECOND)
            async with asyncio.timeout(60):
                await cut.broken.wait()
            await replica.rest()
            assert told(replica.heard) == heard, f"cut after {place} bytes of {what}"
            assert look(client, replica.key) == known, f"cut after {place} bytes of {what}"


async def test_the_first_is_late_while_the_second_is_on_its_way(client: redis.Redis[bytes], url: str) -> None:
    """Neither is answered, both were applied: the replica joins, and the store has what the replica says."""
    cut = Cut(url)
    async with cut.listening() as through, Replica(through, f"{{flight:{next(_names)}}}") as replica:
        await replica.join()
        cut.armed = cut.holding = True
        replica.send(FIRST, within=0.05)
        replica.send(SECOND)
        async with asyncio.timeout(60):
            await replica.trouble.wait()
            with pytest.raises(StoreError):
                await replica.flight.mend()
        assert replica.heard == []
        replica.flight.drop()
        cut.armed = False
        await replica.join()
        seen, _ = look(client, replica.key)
        assert (seen["waiting"], seen["running"], seen["held"]) == (0, 0, 0)
        replica.send(FIRST)
        await replica.rest()
        assert [number for number, _ in replica.heard] == [7]


async def test_what_is_behind_a_refused_batch_is_not_applied(client: redis.Redis[bytes], url: str) -> None:
    """The store has forgotten the replica: both are refused, and one word of that is enough."""
    async with Replica(url, f"{{flight:{next(_names)}}}") as replica:
        await replica.join()
        client.delete(f"{replica.key}:replicas")
        replica.send(FIRST)
        replica.send(SECOND)
        await replica.rest()
        assert replica.heard == [(3, None)]
        await replica.join()


async def test_the_second_does_not_overtake_a_first_that_failed_alone(client: redis.Redis[bytes], url: str) -> None:
    """The library was gone for one call and was back for the next: that is not applied before the other."""
    heard, known, _ = await undisturbed(client, url)
    async with Replica(url, f"{{flight:{next(_names)}}}") as replica:
        await replica.join()
        client.function_flush()
        replica.send(FIRST)
        wire = replica.flight._wire
        assert wire is not None
        wire.send(command("FUNCTION", "LOAD", "REPLACE", machine().source), LONG, lambda answer: None)
        replica.send(SECOND)
        await replica.rest()
        assert told(replica.heard) == heard
        assert look(client, replica.key) == known
