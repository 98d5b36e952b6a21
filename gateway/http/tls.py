"""The server's certificate."""

from __future__ import annotations

import os
import ssl
from typing import final

from gateway.config.schema import Tls
from gateway.errors import ConfigError


@final
class Certificate:
    """A context for handshakes, whose certificate can be renewed while it is in use. Raises ConfigError."""

    def __init__(self, files: Tls) -> None:
        self._files = files
        self._stamp = self._look()
        self.context = _context(files)

    def renew(self) -> None:
        """Read the files again, for connections from now on. Raises ConfigError; the certificate stays as it was."""
        self._stamp = self._look()
        _context(self._files)  # a pair that does not fit must not get halfway into the one that is in use
        self.context.load_cert_chain(self._files.certificate, self._files.key)

    def changed(self) -> bool:
        """The files are others than when they were last read, or tried to be."""
        return self._look() != self._stamp

    def _look(self) -> list[tuple[int, int, int]]:
        stamps = []
        for path in (self._files.certificate, self._files.key):
            try:
                found = os.stat(path)
            except OSError:
                continue
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return stamps


def _context(files: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for key, path in (("certificate", files.certificate), ("key", files.key)):
        _check(key, path)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        where = f"listen.tls: {files.certificate} and {files.key}: {error.reason or error}"
        expected = "expected a certificate and its private key, in PEM and without a password"
        raise ConfigError(f"{where}; {expected}") from None
    return context


def _check(key: str, path: str) -> None:
    marker = b"-----BEGIN"
    try:
        with open(path, "rb") as file:
            found = file.read()
    except OSError as error:
        raise ConfigError(f"listen.tls.{key}: {path}: {error.strerror}; expected a readable PEM file") from None
    if marker not in found:
        raise ConfigError(f"listen.tls.{key}: {path}: not PEM; expected a file with a line that starts with -----BEGIN")


def _no_password() -> bytes:
    """Instead of a question on the terminal."""
    return b""
