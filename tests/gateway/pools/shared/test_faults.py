"""Stores that lose answers, pause, restart, forget, and fall over to a replica that lags; gateways that die. No request
is lost and none is served twice, and in the end all agree on every counter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fairgate.topology.stores import StoreServer

from ...conftest import PATIENT, until
from ...engine import Engine, Script
from .conftest import Fleet, MakeFleet, answers
from .test_replicas import queued, served


class Wire:
    """A TCP proxy in front of a store. `drop_answers` times it lets a call through and closes without its answer.
    Answers wait for `go`; `late` of them have come."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.drop_answers = 0
        self.dropped = 0
        self.go = asyncio.Event()
        self.go.set()
        self.late = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            self.break_all()

    def break_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_store = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers |= {writer, to_store}
        calls = asyncio.create_task(self._copy(reader, to_store, answers=False))
        await self._copy(upstream, writer, answers=True)
        calls.cancel()
        await asyncio.gather(calls, return_exceptions=True)
        for side in (writer, to_store):
            side.transport.abort()
            self._writers.discard(side)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await source.read(2**16):
                if answers and b"$2\r\nok" in data:
                    if self.drop_answers:
                        self.drop_answers -= 1
                        self.dropped += 1
                        return
                    self.late += not self.go.is_set()
                    await self.go.wait()
                sink.write(data)
        except ConnectionError:
            return


async def test_a_batch_whose_answer_was_lost_is_applied_once(make_fleet: MakeFleet, server: StoreServer) -> None:
    wire = Wire(server.url)
    async with wire.listening() as url:
        fleet = await make_fleet(Engine(prompt_tokens=9), store={"url": url, **PATIENT})
        for number, who in enumerate("abab"):
            wire.drop_answers = 2
            assert await answers([fleet[number % 2].post(who)]) == [200]
        await fleet.settled()
        assert wire.dropped == 8
        assert all(member.pool.link.joins == 1 for member in fleet.members), "a lost answer cost more than a repetition"
        assert sum(member.pool.book.total("a") for member in fleet.members) == 2 * (9 + 2 * 3) * 1000
        for member in fleet.members:
            await member.gateway.close()


async def test_connections_that_break_cost_nothing(make_fleet: MakeFleet, server: StoreServer) -> None:
    """Calls and streams of grants go on over new connections, in the same epoch."""
    wire = Wire(server.url)
    async with wire.listening() as url:
        fleet = await make_fleet(Engine(hold_before=0), store={"url": url, **PATIENT})
        calls = await queued(fleet, [(0, "a"), (1, "b")] * 4)
        wire.break_all()
        fleet.engine.go.set()
        while not all(call.done() for call in calls):
            seen = len(fleet.engine.seen)
            await until(lambda seen=seen: len(fleet.engine.seen) > seen or all(call.done() for call in calls))
            wire.break_all()
        assert await answers(calls) == [200] * 9
        assert served(fleet) == "abababab"
        await fleet.settled()
        assert all(member.pool.link.joins == 1 for member in fleet.members)
        for member in fleet.members:
            await member.gateway.close()


async def test_a_replica_that_dies_is_reaped(make_fleet: MakeFleet) -> None:
    """Its room comes back, what it had waiting is gone, and what it was charged stays."""
    fleet = await make_fleet(Engine(hold_before=0))
    dead = fleet[1]
    calls = [dead.post("a"), dead.post("a"), fleet[0].post("b")]
    await fleet.engine.until(lambda: fleet.engine.active == 1)
    await until(lambda: fleet.look()["waiting"] == 2)
    dead.abandon()
    fleet.members.remove(dead)
    await fleet.engine.until(lambda: fleet.engine.active == 2)  # one slot, given a second time after the lease
    fleet.engine.go.set()
    assert (await calls[2])[0] == 200
    await fleet.settled()
    assert int(fleet.look()["shares"].get("a", {"counter": 7000})["counter"]) >= 7000
    for call in calls[:2]:
        call.cancel()


@pytest.mark.parametrize("trouble", ["script flush", "flush", "restart", "restart empty", "pause", "kill"])
async def test_trouble_under_load(make_fleet: MakeFleet, server: StoreServer, trouble: str) -> None:
    """Requests run and wait on both gateways when it happens; all are served, once each."""
    fleet = await make_fleet(Engine(hold_before=0), worker={"slots": 2})
    calls = [fleet[n % 2].post(who, user=f"{who}{n}") for n, who in enumerate("aaabbbab")]
    await fleet.engine.until(lambda: fleet.engine.active == 2)
    await until(lambda: fleet.waiting() == 6 and fleet.look()["waiting"] == 6)
    await happen(fleet, server, trouble)
    more = [fleet[n % 2].post(who, user=f"more-{who}{n}") for n, who in enumerate("abab")]
    fleet.engine.go.set()
    assert await answers(calls + more) == [200] * 12
    users = [body["user"] for body in fleet.engine.seen]
    assert sorted(users) == sorted(set(users)), "a request was served twice"
    await fleet.settled()
    charged = sum(m.pool.book.total(who) for m in fleet.members for who in "ab")
    assert charged == 12 * (7 + 2 * 3) * 1000


async def happen(fleet: Fleet, server: StoreServer, trouble: str) -> None:
    if trouble == "script flush":
        server.script_flush()
    elif trouble == "flush":
        server.flush()
    elif trouble == "restart":
        await asyncio.to_thread(server.restart)
    elif trouble == "restart empty":
        await asyncio.to_thread(server.restart, keep=False)
    elif trouble == "pause":
        server.pause()
        await until(lambda: all(member.lost() for member in fleet.members))
        server.resume()
    else:
        server.kill()
        await until(lambda: all(member.lost() for member in fleet.members))
        await asyncio.to_thread(server.start)


async def test_alone_requests_are_served_and_the_way_back_loses_none(
    make_fleet: MakeFleet, server: StoreServer
) -> None:
    """While the store is away each gateway serves what it holds and what comes, with its part of the room."""
    fleet = await make_fleet(Engine(hold_before=0), worker={"slots": 4})
    calls = [fleet[n % 2].post("ab"[n % 2]) for n in range(8)]
    await fleet.engine.until(lambda: fleet.engine.active == 4)
    server.kill()
    await until(lambda: all(member.lost() for member in fleet.members))
    for member in fleet.members:
        status, body = await member.readyz()
        assert (status, body["pools"]["main"]["mode"]) == (200, "alone")
        assert await member.metric("fairgate_store_up") == 0
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 8
    fleet.engine.go.clear()
    calls = [fleet[n % 2].post("a") for n in range(8)]
    await fleet.engine.until(lambda: fleet.engine.active == 4)
    assert [len(member.pool.held.running()) for member in fleet.members] == [2, 2]
    await asyncio.to_thread(server.start)
    await until(fleet.shared)
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 8
    assert fleet.engine.most_active <= 4 + 2, "at the loss one gateway may have run all 4, and the other has its 2"
    assert await fleet[0].metric("fairgate_store_up") == 1
    await fleet.settled()
    assert fleet.look()["shares"]


async def test_closed_refuses_what_comes_and_keeps_what_waits(make_fleet: MakeFleet, server: StoreServer) -> None:
    fleet = await make_fleet(Engine(hold_before=1), store={"on_store_loss": "closed"})
    calls = await queued(fleet, [(0, "a"), (1, "b")])
    server.kill()
    await until(lambda: all(member.lost() for member in fleet.members))
    status, body = await fleet[0].post("a")
    assert (status, body["error"]["code"]) == (503, "store_lost")
    assert (await fleet[0].readyz())[0] == 503
    fleet.engine.go.set()
    assert (await calls[0])[0] == 200, "what runs, finishes"
    assert fleet.waiting() == 2
    await asyncio.to_thread(server.start)
    assert await answers(calls[1:]) == [200, 200]
    await fleet.settled()
    assert (await fleet[0].readyz())[0] == 200


async def test_closed_what_waits_hears_of_its_timeout(make_fleet: MakeFleet, server: StoreServer) -> None:
    queue = {"queue": {"timeout_s": 1.0}}
    fleet = await make_fleet(Engine(hold_before=1), store={"on_store_loss": "closed"}, pool=queue)
    calls = await queued(fleet, [(0, "a")])
    server.kill()
    assert (await calls[1])[0] == 504
    fleet.engine.go.set()
    assert await answers(calls[:1]) == [200]
    await asyncio.to_thread(server.start)
    await fleet.settled()


@pytest.mark.parametrize("mode", ["local", "closed"])
async def test_a_gateway_starts_without_its_store(make_fleet: MakeFleet, server: StoreServer, mode: str) -> None:
    server.kill()
    fleet = await make_fleet(store={"on_store_loss": mode}, wait=False)
    await until(lambda: all(member.lost() and member.pool.healthy() for member in fleet.members))
    status, _ = await fleet[0].post("a")
    assert status == (200 if mode == "local" else 503)
    assert (await fleet[0].readyz())[0] == status
    await asyncio.to_thread(server.start)
    await until(fleet.shared)
    assert await answers([fleet[0].post("a"), fleet[1].post("b")]) == [200, 200]
    await fleet.settled()


async def test_a_fail_over_to_a_replica_that_lags(
    make_fleet: MakeFleet, server: StoreServer, binary: Path, tmp_path: Path
) -> None:
    """What the new primary has not heard of, it hears from the gateways; nobody starts again at zero."""
    fleet = await make_fleet(Engine())
    assert await answers([fleet[n % 2].post("ab"[n % 2]) for n in range(4)]) == [200] * 4
    with StoreServer(binary, tmp_path / "replica") as replica:
        replica.replicate(server)
        replica.promote()  # from here on it lags
        fleet.engine.default = Script(hold_before=0)
        calls = [fleet[0].post("limited")]
        await until(lambda: fleet.running() == 1)
        calls += [fleet[n % 2].post("aab"[n % 3]) for n in range(9)]
        await until(lambda: fleet.look()["waiting"] == 9 and all(fleet.heard()))
        counters = {path: int(share["counter"]) for path, share in fleet.look()["shares"].items() if path}
        await asyncio.to_thread(replica.take_over, server)
        server, fleet.store = replica, replica
        await until(lambda: fleet.shared() and all(member.pool.link.joins >= 2 for member in fleet.members))
        after = {path: int(share["counter"]) for path, share in fleet.look()["shares"].items() if path}
        assert all(after[path] >= counter for path, counter in counters.items())
        fleet.engine.go.set()
        assert await answers(calls) == [200] * 10
        assert fleet.engine.most_active <= 2
        await fleet.settled()


async def test_counters_survive_a_store_that_forgets(make_fleet: MakeFleet, server: StoreServer) -> None:
    """a is far ahead of b when the store forgets. Both wait; b is served until it has caught up."""
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(0, "a"), (1, "b")] * 3)
    before = fleet.look()["shares"]
    server.flush()
    await until(lambda: fleet.shared() and all(member.pool.link.joins >= 2 for member in fleet.members))
    after = fleet.look()["shares"]
    for path in ("a", "b", "limited"):
        assert after[path]["counter"] == before[path]["counter"]
    fleet.engine.go.set()
    assert await answers(calls) == [200] * 7
    assert served(fleet) == "ababab"
    await fleet.settled()


async def test_a_gateway_that_was_paused_past_its_lease_forwards_nothing_stale(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant that is read after the lease has ended is not obeyed: the replica joins anew."""
    fleet = await make_fleet(Engine(hold_before=0))
    calls = await queued(fleet, [(1, "a")])
    paused = fleet[1].pool
    joins = paused.link.joins
    with monkeypatch.context() as patched:
        patched.setattr(paused._state, "clock", lambda: inf)
        fleet.engine.go.set()
        await until(lambda: paused.link.joins > joins)
        assert len(fleet.engine.seen) == 1
    assert await answers(calls) == [200, 200]
    await fleet.settled()
