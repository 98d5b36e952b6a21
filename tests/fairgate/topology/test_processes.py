"""Programs as processes, and the ports that they are given."""

import sys
from pathlib import Path

import pytest

from fairgate.errors import ProcessError
from fairgate.topology.processes import Program, free_port, free_ports, lasting_port


def test_a_program_that_ends_is_reported_with_its_last_words(tmp_path):
    with Program("gateway", "gateway", "--config", "absent.yaml", log=tmp_path / "log") as program:
        program.process.wait(60)
        with pytest.raises(ProcessError, match=r"gateway ended with exit status 2(.|\n)*absent\.yaml"):
            program.wait_ready("http://127.0.0.1:9/readyz", 30)


def test_a_wanted_port_is_given_once_and_only_where_it_is_free():
    port = free_port()
    assert free_ports({"a": port, "b": port, "c": 0}) == {"a": port}
    assert free_port(port) == port, "looking took it"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ports_that_last_are_not_those_of_outgoing_connections():
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest <= 20_000:
        pytest.skip(f"this machine gives outgoing connections all ports from {lowest} on")
    assert all(lasting_port() < lowest for _ in range(20))
