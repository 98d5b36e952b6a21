"""A machine behind a proxy: what is asked of our own programs does not go by way of it."""

import sys

from fairgate.topology.processes import Program, free_port


def test_a_program_of_this_machine_is_asked_directly(tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    port = free_port()
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port))
    program = Program("server", command=command, log=tmp_path / "log")
    try:
        program.wait_ready(f"http://127.0.0.1:{port}/", 60)
    finally:
        program.stop()
