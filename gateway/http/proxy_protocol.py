"""The PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2: whom a load balancer speaks for."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_LONGEST_TEXT: Final = 107
_FIXED: Final = 16  # of version 2: signature, version and command, family, length of the rest
_LONGEST_REST: Final = 4096
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}  # TCP over IPv4 and IPv6


class BadProxyHeader(ValueError):
    """Not a header of the PROXY protocol."""


def missing(header: bytes | bytearray) -> int:
    """Bytes that are sure to belong to a header that begins like this; 0 when it is whole. Raises BadProxyHeader.

    So nothing of what comes behind it is ever read: one byte at a time in version 1, whose length nobody knows.
    """
    have = len(header)
    if have < _SHORTEST:
        return _SHORTEST - have
    if header.startswith(_SIGNATURE):
        return _FIXED - have if have < _FIXED else _FIXED + _rest(header) - have
    if not header.startswith(b"PROXY ") or have > _LONGEST_TEXT:
        raise BadProxyHeader("expected a header of the PROXY protocol")
    return 0 if header.endswith(b"\r\n") else 1


def source(header: bytes | bytearray, peer: str) -> str:
    """The client's address, as a whole header says; `peer` where the load balancer speaks for itself.
    Raises BadProxyHeader."""
    if not header.startswith(_SIGNATURE):
        return _text_source(bytes(header), peer)
    if header[12] & 0x0F == 0:  # LOCAL: a health check of its own
        return peer
    size = _ADDRESS_BYTES.get(header[13])
    if size is None:
        return peer
    if _rest(header) < 2 * size + 4:
        raise BadProxyHeader("a header of the PROXY protocol without the addresses that it names")
    return str(ip_address(bytes(header[_FIXED : _FIXED + size])))


def _rest(header: bytes | bytearray) -> int:
    rest = int.from_bytes(header[14:16], "big")
    if header[12] >> 4 != 2 or header[12] & 0x0F > 1 or rest > _LONGEST_REST:
        raise BadProxyHeader("a header of the PROXY protocol that is not of version 2, or too long")
    return rest


def _text_source(line: bytes, peer: str) -> str:
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return peer
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("expected PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT")
    try:
        return str(ip_address(words[2].decode("ascii")))
    except ValueError:
        raise BadProxyHeader("a header of the PROXY protocol with a source that is no address") from None
