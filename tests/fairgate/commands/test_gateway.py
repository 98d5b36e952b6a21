"""`fairgate gateway`, as one process and as two: what does not end it, and what it does not start with."""

import os
import signal
import sys
import tempfile
from contextlib import contextmanager

import pytest

from fairgate.topology.processes import lasting_port, wait_until

from .many import PATIENCE_S, Gateway, Stream, ask, running, settings_of, streams_of_both

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="shares a port, and dies with its parent, as on Linux")
TWO = pytest.param(("--processes", "2"), marks=ON_LINUX, id="two")
ALONE_OR_TWO = pytest.mark.parametrize("options", [pytest.param((), id="alone"), TWO])


# what nobody hears


class Unheard(Gateway):
    """Nobody reads its standard output, so where it listens must be known before."""

    def __init__(self, folder, engine, stdout, *options):
        self._port = lasting_port()
        super().__init__(folder, settings_of(engine, listen={"port": self._port}), *options, stdout=stdout)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def ready(self):
        assert self.process.poll() is None, self.said
        try:
            return self.get("/readyz")
        except OSError:
            return False

    def end_well(self):
        assert self.process.wait(PATIENCE_S) == 0, self.said
        assert "Traceback" not in self.said
        assert "Exception ignored" not in self.said, "at its very end it tried once more to say what it could not"


def nobody():
    """A pipe whose other end is closed: `fairgate gateway | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


def full_disk():
    return open("/dev/full", "wb")


NOWHERE = pytest.mark.parametrize(
    "nowhere",
    [
        nobody,
        pytest.param(
            full_disk, marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
        ),
    ],
)


@contextmanager
def unheard(folder, engine, nowhere, *options):
    with nowhere() as stdout:
        gateway = Unheard(folder, engine, stdout, *options)
    try:
        wait_until(gateway.ready, "it to be ready", PATIENCE_S)
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.end(signal.SIGTERM, signal.SIGINT)


@NOWHERE
@ALONE_OR_TWO
def test_what_it_cannot_say_ends_no_request(tmp_path, engine, options, nowhere):
    with unheard(tmp_path, engine, nowhere, *options) as gateway:
        stream = Stream(gateway, 300)
        gateway.process.terminate()
        assert stream.rest()
        gateway.end_well()


@ON_LINUX
def test_a_process_that_comes_back_unheard_ends_nobody(tmp_path, engine):
    """That it is ready again is a line too."""
    with unheard(tmp_path, engine, nobody, "--processes", "2") as gateway:
        wait_until(gateway.shares, "both processes to share the queue", PATIENCE_S)
        killed, kept = streams_of_both(gateway, 600).values()
        killed.process.kill()
        assert not killed.rest()
        gateway.wait_for("was ended by SIGKILL")
        wait_until(lambda: len(gateway.processes) == 2 and gateway.shares(), "both to share the queue", PATIENCE_S)
        assert kept.rest()
        assert ask(gateway) == 200
        gateway.process.terminate()
        gateway.end_well()


def test_sighup_does_not_end_it(tmp_path, engine):
    """Nothing of what it has read can be read again; and a terminal that is closed sends the same."""
    gateway = Gateway(tmp_path, settings_of(engine))
    try:
        gateway.wait_for("gateway ready on")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for("SIGHUP")
        assert ask(gateway) == 200
    finally:
        status = gateway.end()
    assert status == 0


# what it is started with


PATH, ADDRESS = "expected the path of a file", "expected a free address of this machine"


@ALONE_OR_TWO
@pytest.mark.parametrize(
    ("listen", "where", "expected"),
    [
        ({"tls": {"certificate": "a\0b", "key": "c"}}, "listen.tls.certificate: ", PATH),
        ({"tls": {"certificate": "a", "key": ""}}, "listen.tls.key: ", PATH),
        ({"unix": "a\0b"}, "listen.unix: ", PATH),
        ({"host": ".example", "port": 8080}, "cannot listen on .example:8080: ", ADDRESS),
    ],
    ids=["certificate", "key", "unix", "host"],
)
def test_a_path_and_a_host_that_are_none_are_told_in_one_line(tmp_path, engine, options, listen, where, expected):
    gateway = Gateway(tmp_path, settings_of(engine, listen=listen), *options)
    assert gateway.process.wait(PATIENCE_S) == 2
    assert "Traceback" not in gateway.said
    *_, line = gateway.said.splitlines()  # before it a worker may have answered
    assert gateway.said.count("fairgate: ") == 1
    assert line.startswith("fairgate: ")
    assert where in line
    assert line.endswith(expected)


@ON_LINUX
def test_a_folder_whose_name_means_something_in_an_address(tmp_path, engine, monkeypatch):
    """The store's address has its socket's path in it: `%41` is not an A there, nor does a fragment begin."""
    with tempfile.TemporaryDirectory(prefix="50%41#") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        with running(tmp_path, settings_of(engine)) as gateway:
            assert gateway.store.cwd().startswith(os.path.realpath(folder))
            assert ask(gateway) == 200
            assert gateway.end() == 0
