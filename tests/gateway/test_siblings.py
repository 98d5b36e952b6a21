"""Metrics of several processes on one page: whichever is asked tells of all, and who does not answer is left out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import siblings
from gateway.siblings import Place, Siblings, labelled

PAGE = b"""# HELP requests_total Requests by "how" they ended
# TYPE requests_total counter
requests_total{tenant="a b}",pool="main"} %d
requests_total{tenant="c",pool="x \\"y\\" {z"} 2e+06
# HELP up Without a label
# TYPE up gauge
up 1.0
"""
MakeSiblings = Callable[[int, bytes], Siblings]


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[MakeSiblings]:
    """One of two, with a page."""
    made: list[Siblings] = []

    def make(number: int, page: bytes) -> Siblings:
        made.append(Siblings(Place(number, 2, tmp_path), lambda: page))
        return made[-1]

    yield make
    for one in made:
        one.close()


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_each_family_stands_once_with_the_samples_of_all() -> None:
    page = labelled({1: PAGE % 3, 2: PAGE % 4})
    assert page.count(b"# TYPE requests_total counter\n") == page.count(b"# HELP requests_total ") == 1
    alone = {number: samples(PAGE % value) for number, value in ((1, 3), (2, 4))}
    expected = {
        (name, labels | {("process", str(number))}): value
        for number, own in alone.items()
        for (name, labels), value in own.items()
    }
    assert samples(page) == expected
    kinds = [line.split()[2] for line in page.decode().splitlines() if line.startswith("# TYPE")]
    assert kinds == ["requests_total", "up"], "samples of a family must stand together"


def test_a_family_that_only_one_has_is_shown() -> None:
    assert samples(labelled({1: b"", 2: PAGE % 1})).keys() == samples(labelled({2: PAGE % 1})).keys()


async def test_whoever_is_asked_tells_of_both(process: MakeSiblings) -> None:
    first, second = process(1, PAGE % 3), process(2, PAGE % 4)
    await first.start()
    await second.start()
    assert await first.metrics() == await second.metrics()
    found = samples(await first.metrics())
    assert [found["fairgate_process_up", frozenset({("process", n)})] for n in "12"] == [1, 1]
    assert {value for (name, _), value in found.items() if name == "requests_total"} == {3, 4, 2e6}
    assert first.up() == second.up() == 2


async def test_one_that_is_away_is_left_out_and_told(process: MakeSiblings) -> None:
    first, second = process(1, PAGE % 3), process(2, PAGE % 4)
    await first.start()
    await second.start()
    second.close()
    found = samples(await first.metrics())
    assert [found["fairgate_process_up", frozenset({("process", n)})] for n in "12"] == [1, 0]
    assert {dict(labels)["process"] for (name, labels) in found if name == "requests_total"} == {"1"}
    assert first.up() == 1


async def test_one_that_is_stuck_is_left_out(
    process: MakeSiblings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "PATIENCE_S", 0.01)
    first = process(1, PAGE % 3)
    await first.start()
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(Place(2, 2, tmp_path).socket_of(2))
        stuck.listen()
        assert b'fairgate_process_up{process="2"} 0\n' in await first.metrics()


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", (100).to_bytes(8) + b"cut sho"])
async def test_a_page_that_was_cut_short_is_left_out(process: MakeSiblings, tmp_path: Path, sent: bytes) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    first = process(1, PAGE % 3)
    await first.start()
    async with await asyncio.start_unix_server(die, Place(2, 2, tmp_path).socket_of(2)):
        assert b'fairgate_process_up{process="2"} 0\n' in await first.metrics()


async def test_the_place_of_one_that_was_killed_is_taken_over(process: MakeSiblings, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(Place(2, 2, tmp_path).socket_of(2))  # the file stays
    second = process(2, PAGE % 4)
    await second.start()
    assert process(1, b"").up() == 1
    assert b'fairgate_process_up{process="2"} 1\n' in await process(1, b"").metrics()
