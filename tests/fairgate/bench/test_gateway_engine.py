"""The engine of `bench gateway`: in C and in Python it sends the same bytes, and these are what vLLM would send."""

import json
import socket
import time

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.bench.client import post
from fairgate.bench.gateway_engine import PROMPT_TOKENS, WORD, events_of, read_pieces, write_answers, write_pieces
from fairgate.bench.gateway_native import ENGINE, Talker, compiled
from fairgate.errors import ProcessError

MOST = 40  # tokens of an answer
OPTIONS = (None, {}, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True})


class Answer:
    """One answer, as it comes over the wire: `raw`, and its body."""

    def __init__(self):
        self.raw = self.body = b""
        self.over = False

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        self.over = True


def asked(connection, request, cuts=()):
    """Sent in pieces that end at `cuts`."""
    answer = Answer()
    parser = httptools.HttpResponseParser(answer)
    ends = [*sorted(cut % len(request) for cut in cuts), len(request)]
    for start, end in zip([0, *ends], ends, strict=False):
        connection.sendall(request[start:end])
    while not answer.over:
        data = connection.recv(65536)
        assert data, f"closed after {answer.raw!r}"
        answer.raw += data
        parser.feed_data(data)
    assert parser.get_status_code() == 200
    return answer


@pytest.fixture(scope="module")
def engine(commands, start_engine):
    with socket.create_connection(("127.0.0.1", start_engine(commands, MOST)), timeout=60) as connection:
        yield connection


@pytest.fixture(scope="module")
def both(compiler, start_engine, tmp_path_factory):
    ports = [start_engine(compiled(tmp_path_factory.mktemp("both"), which), MOST) for which in (compiler, None)]
    with (
        socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as one,
        socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as other,
    ):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield one, other


BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.integers(1, MOST)},
    optional={"stream": st.booleans(), "stream_options": st.sampled_from(OPTIONS[1:]), "seed": st.sampled_from([0, 1])},
)


@given(BODIES, st.lists(st.integers(0, 10_000), max_size=3))
def test_in_c_and_in_python_it_sends_the_same_bytes(both, body, cuts):
    one, other = (asked(connection, post("/v1/chat/completions", "key", body), cuts) for connection in both)
    assert one.raw == other.raw


def test_whoever_looks_whether_it_is_there_gets_nothing_and_200(both):
    one, other = (asked(connection, b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n") for connection in both)
    assert one.raw == other.raw
    assert one.body == b""


@pytest.mark.parametrize("tokens", [1, 2, MOST])
def test_a_whole_answer_is_a_chat_completion_with_its_usage(engine, tokens):
    told = json.loads(asked(engine, post("/", "key", {"max_tokens": tokens})).body)
    assert told["object"] == "chat.completion"
    assert told["choices"][0]["message"]["content"] == WORD * tokens
    assert told["usage"]["completion_tokens"] == tokens
    assert told["usage"]["total_tokens"] == tokens + PROMPT_TOKENS


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tokens", [1, 2, MOST])
def test_a_stream_is_the_role_the_tokens_and_the_usage_that_was_asked_for(engine, tokens, options):
    body = {"max_tokens": tokens, "stream": True, "stream_options": options}
    *events, done, rest = asked(engine, post("/", "key", body)).body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    usages = [chunk.get("usage") for chunk in chunks]
    if options:
        assert usages.pop()["completion_tokens"] == tokens
        assert chunks.pop()["choices"] == []
    assert len(chunks) == events_of(tokens) - 1
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == WORD * tokens
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * tokens + ["length"]
    if options and "continuous_usage_stats" in options:
        assert [usage["completion_tokens"] for usage in usages] == list(range(tokens + 1))
    else:
        assert usages == [None] * (tokens + 1)


def test_paced_tokens_do_not_come_before_they_are_due(engine):
    """Of 10 tokens at 20 ms one comes at once, the next with the step that is due, and eight a step later each."""
    began = time.monotonic()
    asked(engine, post("/", "key", {"max_tokens": 10, "stream": True, "seed": 20}))
    assert time.monotonic() - began >= 8 * 0.02 - 0.005


@pytest.mark.parametrize("tokens", [0, MOST + 1])
def test_more_tokens_than_it_has_end_it_with_a_reason(commands, tmp_path, tokens):
    answers = write_answers(tmp_path / "answers", MOST)
    engine = Talker([*commands[ENGINE], str(answers)], tmp_path / "log")
    try:
        with socket.create_connection(("127.0.0.1", engine.hear()[0]), timeout=60) as connection:
            connection.sendall(post("/", "key", {"max_tokens": tokens}))
            with pytest.raises(ProcessError, match=f"max_tokens {tokens}; expected 1 to {MOST}") as error:
                engine.hear()
    finally:
        engine.stop()
    assert "Traceback" not in str(error.value)


@given(st.lists(st.binary(max_size=300)))
def test_pieces_are_read_as_they_were_written(tmp_path_factory, pieces):
    path = write_pieces(tmp_path_factory.mktemp("pieces") / "file", pieces)
    assert read_pieces(path) == pieces
