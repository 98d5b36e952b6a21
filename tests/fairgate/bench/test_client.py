"""The benchmarks' client: only whole streams count, and each as often as it was asked for."""

import socket
from contextlib import closing, contextmanager
from threading import Thread

import pytest

from fairgate.bench.client import LoadClient, post
from fairgate.errors import ProcessError

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = HEAD + b"14\r\ndata: {}\n\ndata: {}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@contextmanager
def server(answer):
    """Gives every request the same answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            while connection.recv(65536):
                connection.sendall(answer)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            Thread(target=serve, args=(connection,), daemon=True).start()

    thread = Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


REQUEST = post("/v1/completions", "key", {"prompt": "hello"})


@pytest.mark.parametrize(("connections", "requests", "answers"), [(2, 7, 7), (3, 3, 3), (4, 1, 4)])
def test_so_many_requests_are_sent_and_one_on_each_connection_at_the_least(connections, requests, answers):
    with server(STREAM) as port, closing(LoadClient([port], [REQUEST], connections)) as client:
        found = client.closed_loop(requests=requests)
    assert len(found) == answers
    assert {answer.events for answer in found} == {2}
    assert all(answer.due <= answer.sent <= answer.first <= answer.end for answer in found)


@pytest.mark.parametrize("answer", [b"+PONG\r\n", HEAD + b"0\r\n\r\n", b"HTTP/1.1 503 Unavailable\r\n\r\n"])
def test_what_is_not_a_whole_stream_is_an_error(answer):
    with (
        server(answer) as port,
        closing(LoadClient([port], [REQUEST], 1)) as client,
        pytest.raises(ProcessError, match="expected a stream that ends in"),
    ):
        client.closed_loop(0.1)


def test_too_many_connections_are_refused():
    with pytest.raises(ProcessError, match="1001 connections; expected at most 1000"):
        LoadClient([1], [REQUEST], 1001)
