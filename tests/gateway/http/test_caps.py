"""How many may be connected: who comes in, who has to go, and what is left for workers and for those who look."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from gateway.http.census import SPARE
from gateway.http.files import KEPT_BACK, most_connections

from ..engine import Engine
from .conftest import Edge, MakeEdge, Wire, page, program, request, until


async def served(edge: Edge, how_many: int) -> list[Wire]:
    """Connections that each have a request under way."""
    edge.desk.how = edge.desk.wait
    wires = [await edge.connect() for _ in range(how_many)]
    for wire in wires:
        wire.send(request(b"1"))
    await until(lambda: edge.desk.entered == how_many)
    return wires


async def test_the_one_waited_for_longest_makes_room(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=3)
    first, second, third = [await edge.connect() for _ in range(3)]
    await until(lambda: len(edge.server.census) == 3)
    first.send(request(b"1"))  # so it has been waited for less long than the second
    await first.answer()
    newcomer = await edge.connect()
    newcomer.send(request(b"2"))
    assert (await newcomer.answer())[0] == 200
    assert await second.closed()
    for wire in (first, third, newcomer):
        wire.send(request(b"3"))
        assert (await wire.answer())[0] == 200
        await wire.close()
    assert edge.server.census.evicted == 1


async def test_half_a_head_makes_room_too(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=1)
    slow = await edge.connect()
    slow.send(b"POST ")
    await until(lambda: len(edge.server.census) == 1)
    newcomer = await edge.connect()
    newcomer.send(request())
    assert (await newcomer.answer())[0] == 200
    assert await slow.closed()
    await newcomer.close()


async def test_one_that_does_not_read_its_last_answer_makes_room_too(make_edge: MakeEdge) -> None:
    """Else whoever asks for large pages and reads none holds a place for as long as an answer may take to go."""

    edge = await make_edge(max_connections=1)
    edge.desk.how = edge.desk.swell
    with socket.create_connection(("127.0.0.1", edge.port)) as deaf:
        deaf.sendall(request(b"1", "Connection: close"))
        await until(lambda: edge.desk.entered == 1)
        edge.desk.how = edge.desk.echo
        newcomer = await edge.connect()
        newcomer.send(request(b"2"))
        assert (await newcomer.answer())[0] == 200
        await newcomer.close()
    assert edge.server.census.evicted == 1


async def test_those_who_are_refused_make_room_at_once(make_edge: MakeEdge) -> None:
    """And not when they have been waited for, in case they are still sending."""
    edge = await make_edge(max_connections=4)
    refused = [await edge.connect() for _ in range(4)]
    for wire in refused:
        wire.send(b"\0\1\r\n")
        assert (await wire.answer())[0] == 400
    newcomer = await edge.connect()
    newcomer.send(request(b"1"))
    assert (await newcomer.answer())[0] == 200
    for wire in (newcomer, *refused):
        await wire.close()


async def test_a_request_under_way_never_makes_room(make_edge: MakeEdge) -> None:
    """When all are being served, newcomers get a page but no request: 503. And when there are too many of them, too."""
    edge = await make_edge(max_connections=2)
    wires = await served(edge, 2)
    for _ in range(2 * SPARE):
        newcomer = await edge.connect()
        newcomer.send(page("healthz"))
        status, fields, _ = await newcomer.answer()
        assert (status, fields["connection"]) == (200, "close"), "the place is for one page"
        await newcomer.close()
        newcomer = await edge.connect()
        newcomer.send(request())
        status, fields, _ = await newcomer.answer()
        assert (status, fields["retry-after"], fields["connection"]) == (503, "1", "close")
        await newcomer.close()
    edge.desk.go.set()
    for wire in wires:
        assert (await wire.answer())[0] == 200
        await wire.close()


async def test_a_place_that_becomes_free_is_for_who_waits(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=1)
    (wire,) = await served(edge, 1)
    newcomer = await edge.connect()
    await until(lambda: len(edge.server.census) == 2)
    edge.desk.go.set()
    await wire.answer()
    await wire.close()
    await until(lambda: len(edge.server.census) == 1)
    newcomer.send(request())
    assert (await newcomer.answer())[0] == 200
    await newcomer.close()


async def test_a_place_that_only_idles_is_for_who_asks(make_edge: MakeEdge) -> None:
    """Whoever came in while all were served, and asks when one of them is not any more, is served in its place."""
    edge = await make_edge(max_connections=1)
    (first,) = await served(edge, 1)
    newcomer = await edge.connect()
    await until(lambda: len(edge.server.census) == 2)
    edge.desk.go.set()
    assert (await first.answer())[0] == 200
    newcomer.send(request(b"2"))
    assert (await newcomer.answer())[::2] == (200, b"2")
    assert await first.closed()
    await newcomer.close()


async def test_beyond_the_spare_places_the_door_is_shut(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections=2)
    wires = await served(edge, 2)
    # those in the spare places have a whole request under way as well, so that nobody can make room
    census = edge.server.census
    late = [await edge.connect() for _ in range(SPARE)]
    await until(lambda: len(census) == 2 + SPARE)
    for guest in census.guests():
        census.serves(guest)
    newcomer = await edge.connect()
    found, _ = await newcomer.rest()
    assert found == [503]
    assert census.turned_away == 1
    edge.desk.go.set()
    for wire in (*wires, *late):
        await wire.close()


async def test_429_per_address(make_edge: MakeEdge) -> None:
    edge = await make_edge(max_connections_per_address=2)
    wires = [await edge.connect() for _ in range(2)]
    await until(lambda: len(edge.server.census) == 2)
    newcomer = await edge.connect()
    found, raw = await newcomer.rest()
    assert found == [429]
    assert b"too_many_connections_from_address" in raw
    assert edge.server.census.turned_away == 1
    await wires.pop().close()
    await until(lambda: len(edge.server.census) == 1)
    again = await edge.connect()
    again.send(request())
    assert (await again.answer())[0] == 200
    for wire in (*wires, again):
        await wire.close()


def test_half_of_the_files_are_for_workers() -> None:
    for files in (100, 1024, 20_000, 1 << 20):
        most = most_connections(files)
        assert 2 * most + KEPT_BACK <= files
    assert most_connections(10) == 1


CONFIG = """
listen: {port: 0}
pools: {main: {models: [m], workers: [{url: "ENGINE", slots: 8, kv_tokens: 10000}]}}
# the key is "key"
tenants: [{id: a, keys_sha256: [2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683]}]
health: {interval_s: 0.05}
limits: LIMITS
"""
CROWD = """
import asyncio, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
async def main(port):
    crowd = []
    for _ in range(1200):
        link = socket.socket(); link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
        crowd.append(link)
    print("here", flush=True)
    await asyncio.Event().wait()
asyncio.run(main(int(sys.argv[1])))
"""
GATEWAY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
from gateway.main import run
run(sys.argv[1])
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="4,096 open files are not allowed")
@pytest.mark.parametrize("limits", ["{}", "{max_connections: 5000}"], ids=["by default", "more than files"])
async def test_1200_idle_connections_against_1024_files(tmp_path: Path, limits: str) -> None:
    """In a process of its own with few files: healthz answers, the worker stays healthy, requests are served. Also with
    more connections configured than there can be files."""
    engine = await Engine().start()
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.replace("ENGINE", engine.url).replace("LIMITS", limits))
    async with program(GATEWAY, str(config), "gateway ready on http://127.0.0.1:") as (gateway, line):
        port = line.split(",")[0].rpartition(":")[2]
        async with program(CROWD, port, "here"):
            for _ in range(5):
                assert (await ask(port, page("healthz")))[0] == 200
                assert (await ask(port, page("readyz")))[0] == 200
                status, _, body = await ask(port, request(b'{"model":"m","messages":[],"max_tokens":1}', key="key"))
                assert status == 200, body
            metrics = (await ask(port, page("metrics")))[2].decode()
            healthy = f'fairgate_worker_healthy{{pool="main",worker="{engine.url}"}} 1'
            assert healthy in metrics
    assert gateway.returncode == 0
    await engine.stop()


async def ask(port: str, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    wire.send(raw)
    answer = await wire.answer()
    await wire.close()
    return answer
