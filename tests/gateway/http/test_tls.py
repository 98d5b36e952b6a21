"""Encrypted connections, as three clients that are not ours see them, and a certificate that changes meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from gateway.config.schema import Tls
from gateway.errors import ConfigError
from gateway.http.tls import Certificate
from gateway.ports import Call

from .conftest import Edge, MakeEdge, Wire, request, sends_far_ahead, until

OPENSSL = shutil.which("openssl")
CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="the openssl program makes the certificates")
NEW_CA = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


async def openssl(*arguments: str | Path, given: bytes = b"") -> str:
    """What it says, of both kinds."""
    assert OPENSSL is not None
    command = [OPENSSL, *map(str, arguments)]
    done = await asyncio.to_thread(  # uvloop's own takes it ill when a program ends before it has read what it is given
        subprocess.run, command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    return done.stdout.decode(errors="replace")


class Pair:
    """A certificate for localhost that is its own authority, with its key."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.name = name

    async def make(self) -> Pair:
        names = ["-subj", f"/CN={self.name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        said = await openssl(*NEW_CA, *names, "-keyout", self.key, "-out", self.certificate)
        assert self.certificate.exists(), said
        return self

    def listen(self) -> dict[str, object]:
        return {"tls": {"certificate": str(self.certificate), "key": str(self.key)}}

    def becomes(self, other: Pair) -> None:
        os.replace(other.certificate, self.certificate)
        os.replace(other.key, self.key)


@pytest.fixture
async def pair(tmp_path: Path) -> Pair:
    return await Pair(tmp_path, "one").make()


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.certificate))


async def shown(edge: Edge) -> str:
    """The name in the certificate that a new connection is shown."""
    said = await openssl("s_client", "-connect", f"127.0.0.1:{edge.port}", given=b"")
    return next(line for line in said.splitlines() if line.startswith("subject=")).rpartition("=")[2].strip()


async def test_requests_and_streams(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    wire = await edge.connect(trusting(pair))
    for body in (b"1", b"x" * 1_000_000):  # more than one TLS record
        wire.send(request(body))
        assert (await wire.answer())[::2] == (200, body)
    edge.desk.how = edge.desk.stream
    edge.desk.go.set()
    wire.send(request())
    assert (await wire.reader.readuntil(b"\r\n0\r\n\r\n")).endswith(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await wire.close()


async def test_a_client_that_leaves_is_noticed(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    edge.desk.how = edge.desk.wait
    wire = await edge.connect(trusting(pair))
    wire.send(request())
    await until(lambda: edge.desk.entered == 1)
    await wire.close()
    await until(lambda: edge.desk.cancelled == 1)


async def test_a_client_that_does_not_read_is_cut_off(make_edge: MakeEdge, pair: Pair) -> None:
    """What waits to be encrypted counts as unsent, and so does what was encrypted."""

    async def floods(call: Call) -> None:
        call.begin({})
        while True:
            call.send(b"x" * 100_000)
            sent.append(1)
            await asyncio.sleep(0)

    sent: list[int] = []
    edge = await make_edge(pair.listen(), max_unsent_bytes=200_000)
    edge.desk.how = floods
    wire = await edge.connect(trusting(pair))
    wire.send(request())
    await until(lambda: edge.desk.cancelled == 1)
    assert len(sent) < 200, "20 MB; the system's own buffers take a few"
    await until(lambda: len(edge.server.census) == 0)
    await wire.close()


async def test_what_is_sent_ahead_is_bounded(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    await sends_far_ahead(edge, await edge.connect(trusting(pair)))


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("unix", [False, True])
async def test_with_a_proxy_header_and_over_a_unix_socket(
    make_edge: MakeEdge, pair: Pair, tmp_path: Path, proxied: bool, unix: bool
) -> None:
    """The header comes first and in the open, as load balancers send it that pass TLS through."""
    path = {"unix": str(tmp_path / "s")} if unix else {}
    edge = await make_edge({**pair.listen(), **path, "proxy_protocol": proxied}, max_connections_per_address=1)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as link:
        link.connect(path["unix"] if unix else ("127.0.0.1", edge.port))
        link.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n" if proxied else b"")
        wire = Wire(*await asyncio.open_connection(sock=link, ssl=trusting(pair), server_hostname="localhost"))
        wire.send(request(b"1"))
        assert (await wire.answer())[::2] == (200, b"1")
        await wire.close()


async def test_s_client(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    where = ("-connect", f"127.0.0.1:{edge.port}", "-CAfile", pair.certificate, "-verify_return_error", "-quiet")
    said = await openssl("s_client", *where, given=request(b"hello", "Connection: close"))
    assert "HTTP/1.1 200 OK" in said
    assert said.endswith("hello")


async def test_versions_before_1_2_are_refused(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    where = ("s_client", "-connect", f"127.0.0.1:{edge.port}", "-cipher", "DEFAULT@SECLEVEL=0")
    for version, accepted in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        said = await openssl(*where, version)
        assert ("Cipher is (NONE)" not in said) is accepted, said


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
async def test_curl(make_edge: MakeEdge, pair: Pair) -> None:
    assert CURL is not None
    edge = await make_edge(pair.listen())
    url = f"https://localhost:{edge.port}/v1/chat/completions"
    trust = ("--cacert", str(pair.certificate), "-4", "--noproxy", "*", "-sS", "-H", "x-api-key: k")
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    curl = await asyncio.create_subprocess_exec(CURL, *trust, "-d", "hello", url, **pipes)
    assert await curl.communicate() == (b"hello", b"")


async def test_the_openai_sdk(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    edge.desk.how = edge.desk.completion
    http = openai.DefaultAsyncHttpxClient(verify=trusting(pair), trust_env=False)
    url = f"https://127.0.0.1:{edge.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", http_client=http, max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
    assert answer.choices[0].message.content == "hello"


# -- handshakes that come to nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\x16\x03", request(), b"\x00" * 500])
async def test_what_is_no_handshake_is_closed_on(make_edge: MakeEdge, pair: Pair, sent: bytes) -> None:
    """Silence and half a handshake too, and long before a handshake of its own would give up; others are served."""
    edge = await make_edge(pair.listen(), head_s=1)
    wire = await edge.connect()
    wire.send(sent)
    assert b"HTTP" not in (await wire.rest())[1]
    await until(lambda: len(edge.server.census) == 0)
    other = await edge.connect(trusting(pair))
    other.send(request(b"1"))
    assert (await other.answer())[2] == b"1"
    await other.close()


async def test_one_that_leaves_in_its_handshake(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    with socket.create_connection(("127.0.0.1", edge.port)) as client:
        client.sendall(b"\x16\x03\x01")
        await until(lambda: len(edge.server.census) == 1)
    await until(lambda: len(edge.server.census) == 0)


async def test_closing_does_not_wait_for_handshakes(make_edge: MakeEdge, pair: Pair) -> None:
    edge = await make_edge(pair.listen())
    wire = await edge.connect()
    await until(lambda: len(edge.server.census) == 1)
    await edge.server.close()
    assert len(edge.server.census) == 0
    assert await wire.closed()


# -- the files ---------------------------------------------------------------------------------------------------


async def test_a_certificate_is_renewed_when_its_files_change(make_edge: MakeEdge, pair: Pair, tmp_path: Path) -> None:
    """New connections see it; an old one goes on."""
    edge = await make_edge(pair.listen(), idle_s=600)
    old = await edge.connect(trusting(pair))
    old.send(request(b"1"))
    await old.answer()
    assert await shown(edge) == "one"
    pair.becomes(await Pair(tmp_path, "two").make())
    async with asyncio.timeout(30):
        while await shown(edge) != "two":
            pass
    old.send(request(b"2"))
    assert (await old.answer())[2] == b"2"
    await old.close()


async def test_a_pair_that_does_not_fit_changes_nothing(make_edge: MakeEdge, pair: Pair, tmp_path: Path) -> None:
    edge = await make_edge(pair.listen(), head_s=600, body_s=600, idle_s=600)
    os.replace((await Pair(tmp_path, "two").make()).certificate, pair.certificate)
    with pytest.raises(ConfigError, match="expected a certificate and its private key"):
        edge.server.renew_certificate()
    assert await shown(edge) == "one"


def _missing(pair: Pair) -> None:
    pair.key.unlink()


def _not_pem(pair: Pair) -> None:
    pair.certificate.write_bytes(b"\x30\x82")


def _no_certificate(pair: Pair) -> None:
    shutil.copy(pair.key, pair.certificate)


def _folder(pair: Pair) -> None:
    pair.key.unlink()
    pair.key.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_missing, r"listen\.tls\.key: .*one\.key: No such file or directory; expected a readable PEM file"),
        (_not_pem, r"listen\.tls\.certificate: .*one\.pem: not PEM; expected a file with a line"),
        (_no_certificate, r"listen\.tls: .*one\.pem and .*one\.key: .*; expected a certificate and its private key"),
        (_folder, r"listen\.tls\.key: .*one\.key: Is a directory; expected a readable PEM file"),
    ],
)
async def test_errors_name_the_file(pair: Pair, spoil: Callable[[Pair], None], said: str) -> None:
    spoil(pair)
    with pytest.raises(ConfigError, match=said):
        Certificate(Tls(certificate=str(pair.certificate), key=str(pair.key)))


async def test_a_key_with_a_password_asks_nobody(pair: Pair) -> None:
    """At a terminal the library would ask, and the gateway wait for ever."""
    await openssl("ec", "-in", pair.key, "-aes128", "-passout", "pass:secret", "-out", pair.key.with_suffix(".locked"))
    with pytest.raises(ConfigError, match="without a password"):
        Certificate(Tls(certificate=str(pair.certificate), key=str(pair.key.with_suffix(".locked"))))


# -- the whole program -------------------------------------------------------------------------------------------

PROGRAM = ("-m", "fairgate", "gateway", "--config")
CONFIG = """
listen: {port: 0, tls: {certificate: CERTIFICATE, key: KEY}}
pools: {main: {models: [m], workers: [{url: "http://127.0.0.1:9"}]}}
tenants: [{id: a, keys_sha256: [2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683]}]
"""


async def test_sighup_and_a_bad_start(pair: Pair, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.replace("CERTIFICATE", str(pair.certificate)).replace("KEY", str(pair.key)))
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}

    async def start() -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        process = await asyncio.create_subprocess_exec(sys.executable, *PROGRAM, str(config), **pipes)
        assert process.stdout is not None
        return process, process.stdout

    gateway, says = await start()
    async with asyncio.timeout(60):
        await says.readuntil(b"listens on https://127.0.0.1:")
        gateway.send_signal(signal.SIGHUP)
        await says.readuntil(b"the certificate was read again")
        pair.key.write_text("nonsense")
        gateway.send_signal(signal.SIGHUP)
        await says.readuntil(b"the certificate stays as it was: listen.tls.key")
        gateway.terminate()
        assert await gateway.wait() == 0
        again, says = await start()
        said = (await says.read()).decode()
        assert await again.wait() == 2
    assert "listen.tls.key" in said
    assert "Traceback" not in said
