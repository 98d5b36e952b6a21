"""The processes of a gateway that share its port, as each sees the others: whichever a scrape happens to reach answers
for all of them.

Each has a Unix socket in a folder that their parent made; whoever connects and asks reads its metrics there. Pages are
put together with a label, `process`, and not added up: a sum falls when a process ends, its counters with it, which
Prometheus takes for a reset and counts everything that the others ever counted once more.

    process 1 says 900 requests, process 2 says 800 and is killed: the sum goes 1700, 900, and `increase` says +900.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

PATIENCE_S = 1.0
"""For the page of a sibling. One that is stopped or stuck is left out of what is shown."""
_ASK = b"metrics\n"
_LENGTH = 8  # bytes before a page, big-endian: one that was cut short is noticed
_SAMPLE = re.compile(rb"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (.+)")


class Place(NamedTuple):
    """Of one process: its `number` from 1 on, `of` how many, and the `folder` in which they find each other."""

    number: int
    of: int
    folder: Path

    def socket_of(self, number: int) -> str:
        return str(self.folder / f"{number}.sock")


class Siblings:
    """`page` is this process's own metrics, in Prometheus' text format."""

    def __init__(self, place: Place, page: Callable[[], bytes]) -> None:
        self._place = place
        self._page = page
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer the others. Raises OSError."""
        own = self._place.socket_of(
            self._place.number
        )  # where a predecessor that was killed left its file is no matter
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Answering(self._page), own)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def up(self) -> int:
        """How many processes serve now, this one among them."""
        return sum(map(self._is_up, self._numbers()))

    async def metrics(self) -> bytes:
        """Of all processes that answer, each sample with the label `process`; `fairgate_process_up` tells which do."""
        pages = await asyncio.gather(*map(self._page_of, self._numbers()))
        found = dict(zip(self._numbers(), pages, strict=True))
        up = "".join(f'fairgate_process_up{{process="{n}"}} {int(page is not None)}\n' for n, page in found.items())
        return _HEAD + up.encode() + labelled({n: page for n, page in found.items() if page is not None})

    def _numbers(self) -> range:
        return range(1, self._place.of + 1)

    def _is_up(self, number: int) -> bool:
        """Connecting to a Unix socket never waits: somebody listens there or not."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(self._place.socket_of(number)) == 0

    async def _page_of(self, number: int) -> bytes | None:
        if number == self._place.number:
            return self._page()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                return await _ask(self._place.socket_of(number))
        return None


_HEAD = b"""# HELP fairgate_process_up 1 when the process answers its siblings; one that does not is left out below
# TYPE fairgate_process_up gauge
"""


async def _ask(path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_ASK)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(_LENGTH)))
    finally:
        writer.close()


class _Answering(asyncio.Protocol):
    """Only who asks is answered: `up` connects and goes, and is to cost no page."""

    def __init__(self, page: Callable[[], bytes]) -> None:
        self._page = page

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        page = self._page()
        self._transport.write(len(page).to_bytes(_LENGTH) + page)
        self._transport.close()


def labelled(pages: Mapping[int, bytes]) -> bytes:
    """One page of many: every family once, with the samples of all processes, as the format wants it."""
    families: dict[bytes, list[bytes]] = {}
    for number, page in pages.items():
        lines: list[bytes] = []
        for line in page.split(b"\n"):
            if line.startswith(b"# HELP "):
                lines = families.setdefault(line.split(b" ", 3)[2], [])
                if not lines:
                    lines.append(line)
            elif line.startswith(b"# TYPE "):
                if len(lines) == 1:
                    lines.append(line)
            elif line:
                lines.append(_with_process(number, line))
    return b"".join(line + b"\n" for lines in families.values() for line in lines)


def _with_process(number: int, sample: bytes) -> bytes:
    match = _SAMPLE.fullmatch(sample)
    assert match is not None, sample
    name, labels, value = match.groups()
    return b'%b{process="%d"%b} %b' % (name, number, b"," + labels if labels else b"", value)
