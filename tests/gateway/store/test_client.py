"""A bare connection is had wherever redis-py finds the server: by TCP, TLS and socket, as any user, in any database."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fairgate.topology.stores import StoreServer, find_servers
from gateway.config.schema import StoreConfig
from gateway.store.client import StoreClient
from gateway.store.errors import StoreError
from gateway.store.wire import command

SERVERS = find_servers()
SOON = 30.0


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    folder = tmp_path_factory.mktemp("store")
    with StoreServer(SERVERS[request.param], folder, "--unixsocket", str(folder / "socket")) as server:
        server.command("ACL SETUSER", "gate", "on", ">p@ss", "~*", "&*", "+@all")
        yield server


@asynccontextmanager
async def client_of(url: str, *, cluster: bool = False) -> AsyncIterator[StoreClient]:
    client = StoreClient(StoreConfig(url=url, timeout_s=4.0, cluster=cluster))
    try:
        yield client
    finally:
        await client.close()


async def who_and_where(url: str) -> tuple[str, str]:
    """User and database of a bare connection, which is in the same place as the client's own ones."""
    async with client_of(url) as client:
        wire = await client.open("key")
        try:
            assert await wire.ask(command("SET", "key", url), SOON) == "OK"
            assert await client.get("key", within=SOON) == url
            me = await wire.ask(command("CLIENT", "INFO"), SOON)
            found = dict(field.partition("=")[::2] for field in me.split())
            return found["user"], found["db"]
        finally:
            wire.close()


async def test_by_tcp_as_anyone_in_any_database(server: StoreServer) -> None:
    address = f"127.0.0.1:{server.port}"
    assert await who_and_where(f"redis://{address}") == ("default", "0")
    assert await who_and_where(f"redis://{address}/3") == ("default", "3")
    assert await who_and_where(f"redis://gate:p%40ss@{address}/2") == ("gate", "2")
    assert await who_and_where(f"redis://{address}?db=5&protocol=3") == ("default", "5")


async def test_by_socket(server: StoreServer) -> None:
    socket = server.folder / "socket"
    assert await who_and_where(f"unix://{socket}") == ("default", "0")
    assert await who_and_where(f"unix://gate:p%40ss@{socket}?db=4") == ("gate", "4")


async def test_with_a_password_alone(server: StoreServer) -> None:
    server.command("CONFIG SET", "requirepass", "open")
    try:
        assert await who_and_where(f"redis://:open@127.0.0.1:{server.port}") == ("default", "0")
    finally:
        async with client_of(f"redis://:open@127.0.0.1:{server.port}") as client:
            wire = await client.open("key")
            await wire.ask(command("CONFIG", "SET", "requirepass", ""), SOON)
            wire.close()


@pytest.mark.parametrize("url", ["redis://gate:wrong@127.0.0.1:{}", "redis://127.0.0.1:{}/99", "redis://127.0.0.1:1"])
async def test_who_is_not_let_in_hears_why_and_leaves_nothing_open(server: StoreServer, url: str) -> None:
    before = clients(server)
    async with client_of(url.format(server.port)) as client:
        with pytest.raises(StoreError) as error:
            await client.open("key")
        assert "wrong" not in str(error.value)
        while clients(server) != before:  # noqa: ASYNC110 - the server tells of it in its own time
            await asyncio.sleep(0.002)


def clients(server: StoreServer) -> int:
    return int(server.command("INFO", "clients")["connected_clients"])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with openssl, which is not on PATH")
    pem = tmp_path / "server.pem"
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", tmp_path / "only.pem"]
    subprocess.run([*request, *names], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "only.pem").read_text())
    return pem


@asynccontextmanager
async def tls_in_front(server: StoreServer, certificate: Path) -> AsyncIterator[int]:
    """The port of a proxy that speaks TLS for the server."""

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, to_server), copy(upstream, writer), return_exceptions=True)
        to_server.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with proxy:
        yield proxy.sockets[0].getsockname()[1]


async def test_by_tls(server: StoreServer, certificate: Path) -> None:
    async with tls_in_front(server, certificate) as port:
        trusted = f"rediss://gate:p%40ss@127.0.0.1:{port}/1?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        assert await who_and_where(trusted) == ("gate", "1")
        async with client_of(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=required") as client:
            with pytest.raises(StoreError, match="certificate"):
                await client.open("key")
