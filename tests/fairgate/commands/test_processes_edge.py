"""`fairgate gateway --processes 2` behind a load balancer that passes TLS through and says whom it speaks for."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import suppress

import pytest

from fairgate.topology.processes import wait_until

from .many import PATIENCE_S, Gateway, settings_of

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shares a port, and dies with its parent, as on Linux"),
    pytest.mark.skipif(OPENSSL is None, reason="the openssl program makes the certificates"),
]
PROXY = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n"
READYZ = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def make_pair(folder):
    """A certificate for localhost and its key; new ones whenever it is called, each put in place whole."""
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost"]
    where = {"certificate": folder / "tls.pem", "key": folder / "tls.key"}
    made = ["-out", f"{where['certificate']}.new", "-keyout", f"{where['key']}.new"]
    subprocess.run([OPENSSL, *new, *names, *made], check=True, capture_output=True)
    for path in where.values():
        os.replace(f"{path}.new", path)
    return {key: str(path) for key, path in where.items()}


def readyz(gateway, tls):
    """What it answers, and by which certificate."""
    context = ssl.create_default_context(cafile=tls["certificate"])
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as link:
        link.sendall(PROXY)
        with context.wrap_socket(link, server_hostname="localhost") as wire:
            wire.sendall(READYZ)
            return wire.recv(65536)


def test_both_take_the_header_and_the_handshake_and_read_their_certificate_again(tmp_path, engine):
    tls = make_pair(tmp_path)
    settings = settings_of(engine, listen={"port": 0, "tls": tls, "proxy_protocol": True})
    gateway = Gateway(tmp_path, settings, "--processes", "2")
    try:
        gateway.wait_for("gateway ready on https://127.0.0.1:")
        assert readyz(gateway, tls).startswith(b"HTTP/1.1 200 ")
        make_pair(tmp_path)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for("the certificate was read again", times=2)
        for _ in range(20):  # the system chooses which of the two answers; each must show the new one
            assert readyz(gateway, tls).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as link, suppress(ConnectionError):
            link.sendall(READYZ)
            assert not link.recv(100), "served without a header"
        assert gateway.end() == 0
        assert "Traceback" not in gateway.said
    finally:
        if gateway.process.poll() is None:
            gateway.end(signal.SIGTERM, signal.SIGINT)


def test_a_certificate_that_is_not_there_is_told_once(tmp_path, engine):
    tls = {**make_pair(tmp_path), "key": str(tmp_path / "no.key")}
    gateway = Gateway(tmp_path, settings_of(engine, listen={"port": 0, "tls": tls}), "--processes", "2")
    wait_until(lambda: gateway.process.poll() is not None, "it to end", PATIENCE_S)
    assert gateway.process.returncode == 2
    assert gateway.said.count("listen.tls.key") == 1
    assert "Traceback" not in gateway.said
