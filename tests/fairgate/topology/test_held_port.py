"""A port that processes share: theirs alone, for as long as it is held."""

import socket

import pytest

from fairgate.topology.held_port import held_port


def listener(port, *, share):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def test_those_who_share_listen_and_the_holder_takes_no_connection_from_them():
    with held_port("127.0.0.1", 0) as port, listener(port, share=True) as one, listener(port, share=True) as two:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        for server in (one, two):
            server.setblocking(False)
        taken = []
        for server in (one, two):
            try:
                while True:
                    taken.append(server.accept()[0])
            except BlockingIOError:
                pass
        assert len(taken) == 64
        for connection in (*clients, *taken):
            connection.close()


def test_nobody_else_gets_it_while_all_who_listen_are_down():
    with held_port("127.0.0.1", 0) as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with listener(port, share=False):
        pass


@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
def test_a_port_at_which_somebody_listens_is_refused_also_when_they_would_share(share):
    with listener(0, share=share) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="in use"), held_port("127.0.0.1", port):
            pass


def test_every_address_of_a_host_has_the_same_port():
    with held_port("localhost", 0) as port, listener(port, share=True):
        assert port > 0


def test_a_host_that_is_none_is_refused():
    with pytest.raises(OSError, match=r"\w"), held_port("no host at all", 0):
        pass
