"""The client of `bench gateway`, in C and in Python: it counts what came, and an answer that is wrong ends it."""

import socket
from contextlib import closing, contextmanager
from threading import Event, Thread

import pytest

from fairgate.bench.client import post
from fairgate.bench.gateway_native import Client
from fairgate.errors import ProcessError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = (b"data: {}\n\n", b"data: [DONE]\n\n")
STREAM = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
REQUEST = post("/v1/chat/completions", "key", {"max_tokens": 1})


class Server:
    """Answers the requests on one connection, in turn: each answer is pieces, sent one by one. Then it closes, or says
    that all are answered and keeps silent. `asked`: what it got."""

    def __init__(self, answers, then_close):
        self.answers, self.then_close = answers, then_close
        self.asked, self.all_answered = [], Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with self._listener, self._listener.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for answer in self.answers:
                self.asked.append(connection.recv(65536))
                for piece in answer:
                    connection.sendall(piece)
            while not self.then_close and connection.recv(65536):
                self.all_answered.set()  # by asking again the client says that it has read the last answer


@contextmanager
def loaded(command, folder, events, *answers, then_close=False):
    server = Server(answers, then_close)
    with closing(Client(command, server.port, 1, events, [REQUEST], folder)) as client:
        yield server, client


def test_answers_and_events_are_counted_since_it_was_asked_before(client_command, tmp_path):
    with loaded(client_command, tmp_path, 2, *[[STREAM]] * 3) as (server, client):
        assert server.all_answered.wait(60)
        found = client.told()
        assert (found.answers, found.events) == (3, 6)
        assert 0 <= found.middle_us < 60e6
        assert client.told() == (0, 0, 0)
    assert server.asked == [REQUEST] * 3


def test_answers_that_are_not_streams_are_counted(client_command, tmp_path):
    with loaded(client_command, tmp_path, 0, *[[WHOLE]] * 2, [STREAM]) as (server, client):
        assert server.all_answered.wait(60)
        assert client.told()[:2] == (3, 0)


def test_events_are_counted_wherever_an_answer_is_cut(client_command, tmp_path):
    answers = [[STREAM[:cut], STREAM[cut:]] for cut in range(1, len(STREAM))]
    with loaded(client_command, tmp_path, 2, *answers) as (server, client):
        assert server.all_answered.wait(60)
        assert client.told()[:2] == (len(answers), 2 * len(answers))


@pytest.mark.parametrize(
    ("events", "answer", "reason"),
    [
        (2, b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", "expected an answer with status 200.*busy"),
        (0, b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\noh", "expected an answer with status 200.*oh"),
        (3, STREAM, "an answer lacks events"),
        (1, WHOLE, "an answer lacks events.*body"),
        (2, b"+PONG\r\n\r\n", "expected an answer.*PONG"),
        (2, STREAM[:-5], "closed a connection before its answer was over"),
    ],
)
def test_a_wrong_answer_ends_it_with_what_was_found(client_command, tmp_path, events, answer, reason):
    with (
        loaded(client_command, tmp_path, events, [answer], then_close=True) as (_, client),
        pytest.raises(ProcessError, match=f"(?s){reason}") as error,
    ):
        client.count(0.01, least=10)
    assert "Traceback" not in str(error.value)


def test_it_waits_for_as_many_events_as_there_must_be(client_command, tmp_path):
    with loaded(client_command, tmp_path, 2, *[[STREAM]] * 50) as (_, client):
        found = client.count(0.01, least=20)
    assert found.events >= 20
