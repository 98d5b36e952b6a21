"""Clients that do not read: they are given up, hold neither places nor memory, and lose nothing if they do at last."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from math import inf

import pytest

from gateway.config.schema import Limits
from gateway.http.census import Census
from gateway.http.client import ClientConnection
from gateway.http.site import Site
from gateway.tenants.held_bytes import HeldBytes

from .conftest import CHAT, MUCH, PAGES, Desk, MakeEdge, authenticate, page, request, until

REFUSED = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde"


async def test_without_a_key_nobody_holds_a_place(make_edge: MakeEdge) -> None:
    """All places are taken by clients that read no page, have a refused request behind it, and have ended."""
    edge = await make_edge(max_connections=2, max_unsent_bytes=10 * MUCH)  # so that none is cut off for its page
    with ExitStack() as stack:
        for _ in range(2):
            deaf = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
            deaf.sendall(page("much") + REFUSED)
            deaf.shutdown(socket.SHUT_WR)
            await asyncio.get_running_loop().run_in_executor(None, deaf.recv, 1)
        for number in range(2):
            newcomer = await edge.connect()
            newcomer.send(request(b"%d" % number))
            assert (await newcomer.answer())[::2] == (200, b"%d" % number)
            await newcomer.close()
        assert all(guest.deadline < inf for guest in edge.server.census.guests())


class Full(asyncio.Transport):
    """To a client that reads nothing: what is written stays, and who closes waits for it to go."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.closing = self.aborted = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.unread += len(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True


async def test_what_is_behind_the_last_answer_does_not_keep_the_place() -> None:
    """The same with so little unread, behind full buffers of the system, that the refused request was still looked at.
    A transport of our own, since how much a system takes is its own business."""
    site = Site(Desk().serve, authenticate, {CHAT}, PAGES, Limits(), Census(1, None), HeldBytes(10, 10))
    client, transport = ClientConnection(site), Full()
    client.connection_made(transport)
    client.data_received(page("healthz") + REFUSED)
    assert client.eof_received()
    await until(transport.is_closing)
    assert transport.unread > 0
    assert client.deadline < inf
    assert site.census.enter(ClientConnection(site), "") is None
    assert transport.aborted, "it made no room"
    client.connection_lost(None)


@pytest.mark.parametrize("at_first", [1, 2])
async def test_no_more_is_answered_than_is_read(make_edge: MakeEdge, at_first: int) -> None:
    """Of one whose answer is not read no other request is looked at, whether it came before or after that was written;
    all are answered, in order, when it reads. Else a few bytes sent would hold gigabytes here."""
    edge = await make_edge()
    edge.desk.how = edge.desk.swell
    wire, other = await edge.connect(), await edge.connect()
    requests = [request(b"1"), request(b"2"), request(b"3")]
    wire.send(b"".join(requests[:at_first]))
    await until(lambda: edge.desk.seen == [b"1"])
    wire.send(b"".join(requests[at_first:]))
    for _ in range(5):  # the loop has time for others; without a bound it would have had it for the second
        other.send(page("healthz"))
        await other.answer()
    assert edge.desk.seen == [b"1"]
    assert [(await wire.answer())[2].rstrip() for _ in range(3)] == [b"1", b"2", b"3"]
    assert edge.desk.seen == [b"1", b"2", b"3"]
    for one in (wire, other):
        await one.close()


async def test_the_last_answer_has_time_to_be_read(make_edge: MakeEdge) -> None:
    """Also where its client had sent an empty line more, and is waited for only shortly, to be done with that."""
    edge = await make_edge()
    edge.desk.how = edge.desk.swell
    wire = await edge.connect()
    wire.send(request(b"1", "Connection: close") + b"\r\n")
    await until(lambda: edge.desk.seen == [b"1"])
    (guest,) = edge.server.census.guests()
    guest.expire()  # that time is over, and hardly any of the answer is read
    status, _, body = await wire.answer()
    assert (status, len(body)) == (200, MUCH)
    assert await wire.closed()
