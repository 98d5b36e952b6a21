"""Where the edge listens, and the PROXY header that a load balancer sends first."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema import Limits, Listen
from gateway.http.proxy_protocol import BadProxyHeader, missing, source
from gateway.http.server import HttpServer

from .conftest import CHAT, PAGES, TENANT, Desk, Edge, MakeEdge, Wire, program, request, until

# -- the PROXY header --------------------------------------------------------------------------------------------

PEER = "10.0.0.1"
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def v1(words: str) -> bytes:
    return f"PROXY {words}\r\n".encode()


def v2(family: int, rest: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 4000, 443)
V6 = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack("!HH", 4000, 443)
HEADERS = {
    v1("TCP4 192.0.2.7 198.51.100.1 4000 443"): "192.0.2.7",
    v1("TCP6 2001:db8::1 2001:db8::2 4000 443"): "2001:db8::1",
    v1("UNKNOWN"): PEER,
    v1("UNKNOWN ffff::1 ffff::2 4000 443"): PEER,
    v2(0x11, V4): "192.0.2.7",
    v2(0x21, V6): "2001:db8::1",
    v2(0x11, V4 + b"\x03\x00\x04abcd"): "192.0.2.7",  # with more about the connection behind the addresses
    v2(0x00, b""): PEER,
    v2(0x31, bytes(216)): PEER,  # a Unix socket
    v2(0x11, V4, command=0x20): PEER,  # the load balancer's own check
}
NONSENSE = [
    b"POST / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
    b"PROXX TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    v1("TCP4 192.0.2.7 198.51.100.1 4000"),
    v1("TCP4 example.org 198.51.100.1 4000 443"),
    v1("TCP5 192.0.2.7 198.51.100.1 4000 443"),
    v1("TCP4 " + "1" * 200),
    v2(0x11, V4[:8]),
    v2(0x11, V4, command=0x11),
    v2(0x11, V4, command=0x22),
    v2(0x11, bytes(5000)),
]


def read(raw: bytes) -> tuple[str, int]:
    """The address, and how many bytes were asked for."""
    header = bytearray()
    while wanted := missing(header):
        assert len(header) + wanted <= len(raw), "more is asked for than a header has"
        header += raw[len(header) : len(header) + wanted]
    return source(header, PEER), len(header)


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_read_to_its_end_and_no_further(header: bytes) -> None:
    assert read(header + request()) == (HEADERS[header], len(header))


@pytest.mark.parametrize("raw", NONSENSE)
def test_what_is_no_header(raw: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read(raw + bytes(100))


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda rest: SIGNATURE + rest)))
def test_no_bytes_break_it(raw: bytes) -> None:
    with suppress(BadProxyHeader):
        assert read(raw + bytes(6000))[0]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_request_behind_a_header(make_edge: MakeEdge, header: bytes) -> None:
    edge = await make_edge({"proxy_protocol": True})
    at_once, in_bytes = await edge.connect(), await edge.connect()
    at_once.send(header + request(b"1"))
    for byte in header:
        in_bytes.send(bytes([byte]))
        await asyncio.sleep(0)
    in_bytes.send(request(b"1"))
    for wire in (at_once, in_bytes):
        assert (await wire.answer())[::2] == (200, b"1")
        await wire.close()


@pytest.mark.parametrize("raw", [*NONSENSE, b""])
async def test_without_a_header_nobody_is_served(make_edge: MakeEdge, raw: bytes) -> None:
    edge = await make_edge({"proxy_protocol": True}, head_s=0.3)
    wire = await edge.connect()
    wire.send(raw + bytes(100) if raw else b"")
    assert await wire.closed()
    await until(lambda: len(edge.server.census) == 0)


async def test_not_switched_on_it_is_no_request(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    assert (await edge.ask(v1("TCP4 192.0.2.7 198.51.100.1 4000 443") + request()))[0] == [400]


async def test_the_address_in_the_header_counts(make_edge: MakeEdge) -> None:
    """And not that of the load balancer, which all have in common."""
    edge = await make_edge({"proxy_protocol": True}, max_connections_per_address=1)
    wires = [await edge.connect() for _ in range(3)]
    for wire, last in zip(wires, (7, 8, 7), strict=True):
        wire.send(v1(f"TCP4 192.0.2.{last} 198.51.100.1 4000 443"))
        wire.send(request(b"1"))
        if wire is not wires[2]:
            assert (await wire.answer())[0] == 200
    assert (await wires[2].rest())[0] == [429]
    for wire in wires:
        await wire.close()
    await until(lambda: len(edge.server.census) == 0)


async def test_half_a_header_makes_room(make_edge: MakeEdge) -> None:
    edge = await make_edge({"proxy_protocol": True}, max_connections=1)
    slow = await edge.connect()
    slow.send(b"PROXY ")
    await until(lambda: len(edge.server.census) == 1)
    other = await edge.connect()
    other.send(v1("UNKNOWN") + request(b"1"))
    assert (await other.answer())[0] == 200
    assert await slow.closed()
    await other.close()


# -- Unix sockets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxied", [False, True])
async def test_a_unix_socket(make_edge: MakeEdge, tmp_path: Path, proxied: bool) -> None:
    path = tmp_path / "edge.sock"
    edge = await make_edge({"unix": str(path), "proxy_protocol": proxied}, max_connections_per_address=1)
    wires = [await edge.connect() for _ in range(2)]  # who has no address is not limited by it
    for wire in wires:
        wire.send((v1("UNKNOWN") if proxied else b"") + request(b"1"))
        assert (await wire.answer())[::2] == (200, b"1")
        await wire.close()
    await edge.server.close()
    assert not path.exists()


async def test_what_a_dead_process_left_is_replaced(make_edge: MakeEdge, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    edge = await make_edge({"unix": str(path)})
    assert (await edge.ask(request(b"1")))[0] == [200]


async def test_a_living_processs_socket_is_left_alone(make_edge: MakeEdge, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    edge = await make_edge({"unix": str(path)})
    with pytest.raises(OSError, match="in use by a running process"):
        await make_edge({"unix": str(path)})
    assert (await edge.ask(request(b"1")))[0] == [200], "the first one goes on"


async def test_a_file_that_is_no_socket_is_left_alone(make_edge: MakeEdge, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="is not a socket"):
        await make_edge({"unix": str(path)})
    assert path.read_text() == "data"


# -- ports -------------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_an_error(make_edge: MakeEdge) -> None:
    edge = await make_edge()
    with pytest.raises(OSError, match="in use"):
        await make_edge({"port": edge.port})


@asynccontextmanager
async def sharing(port: int) -> AsyncIterator[Edge]:
    desk, listen = Desk(), Listen(port=port)
    server = HttpServer(desk.serve, lambda key: TENANT, {CHAT}, PAGES, Limits())
    port = await server.start(listen, reuse_port=True)
    try:
        yield Edge(server, desk, listen, port)
    finally:
        await server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system may give all connections to the last one")
async def test_two_servers_share_a_port() -> None:
    async with sharing(0) as one, sharing(one.port) as other:
        for _ in range(200):
            assert (await one.ask(request(b"1")))[0] == [200]
        assert one.desk.entered + other.desk.entered == 200
        assert one.desk.entered
        assert other.desk.entered


async def test_localhost_is_all_of_its_addresses(make_edge: MakeEdge) -> None:
    """By a free port too it is the same for all of them."""
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    edge = await make_edge({"host": "localhost"})
    for address in found:
        _, writer = await asyncio.open_connection(address, edge.port)
        writer.close()
        await writer.wait_closed()


# -- no more files -----------------------------------------------------------------------------------------------

STARVED = """
import asyncio, resource, sys, time, uvloop
from gateway.config.schema import Limits, Listen
from gateway.http.server import HttpServer
async def page(key): return 200, "text/plain", b"ok"
async def main():
    server = HttpServer(None, None, {}, {"/healthz": page}, Limits(max_connections=10_000))
    port = await server.start(Listen(port=0, proxy_protocol=sys.argv[1] == "proxied"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(time.process_time(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(time.process_time(), flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""


@pytest.mark.parametrize("kind", ["plain", "proxied"])
async def test_without_a_file_left_it_neither_stops_nor_spins(kind: str) -> None:
    """200 connections where 40 files are allowed; afterwards the next one is served."""
    header = v1("UNKNOWN") if kind == "proxied" else b""
    async with program(STARVED, kind, "") as (process, line):
        port = int(line)
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        before = await said_by(process)
        await asyncio.sleep(1)
        assert await said_by(process) - before < 0.5, "seconds of CPU in a second in which nothing happened"
        for _, writer in crowd:
            writer.close()
        async with asyncio.timeout(30):  # for a moment there may still be no file
            while not await is_served(port, header):
                pass


async def said_by(process: asyncio.subprocess.Process) -> float:
    """The number it prints for a line that it reads."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    return float(await process.stdout.readline())


async def is_served(port: int, header: bytes) -> bool:
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    wire.send(header + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return (await wire.rest())[0] == [200]
