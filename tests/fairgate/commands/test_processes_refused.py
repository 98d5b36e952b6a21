"""What keeps `fairgate gateway --processes` from starting: told once, in words, with exit status 2."""

import socket
import subprocess
import sys

import pytest
import yaml

from .many import PATIENCE_S, Gateway, settings_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares a port, and dies with its parent, as on Linux")


def refused(folder, settings, *options):
    gateway = Gateway(folder, settings, *options)
    assert gateway.process.wait(PATIENCE_S) == 2
    assert "Traceback" not in gateway.said
    return gateway.said


@pytest.mark.parametrize("count", ["0", "-1", "two", "1000", "1.5", ""])
def test_a_count_that_is_none(tmp_path, count):
    assert f"--processes {count!r}: expected auto, or a number from 1 to 999" in refused(
        tmp_path, {}, f"--processes={count}"
    )


def test_a_mistake_in_the_configuration_is_told_once(tmp_path, engine):
    said = refused(tmp_path, settings_of(engine, listen={"port": "x"}), "--processes", "3")
    assert said.count("listen.port") == 1


def test_what_shared_state_has_not_is_told_in_terms_of_the_option(tmp_path, engine):
    said = refused(tmp_path, settings_of(engine, pool={"ttft_objective_s": 1.0}), "--processes", "2")
    assert "pools.main.ttft_objective_s: cannot be used with --processes 2" in said


def test_a_unix_socket_is_not_shared(tmp_path, engine):
    said = refused(tmp_path, settings_of(engine, listen={"unix": str(tmp_path / "s")}), "--processes", "2")
    assert "listen.unix: cannot be used with --processes 2" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("share", [False, True], ids=["alone", "shared"])
def test_a_port_that_is_taken_is_told_once(tmp_path, engine, share):
    with socket.socket() as other:
        if share:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = {"port": other.getsockname()[1]}
        said = refused(tmp_path, settings_of(engine, listen=listen), "--processes", "2")
    assert said.count("cannot listen on") == 1


def refused_after(code, folder, settings):
    """What it says when something is different on this machine."""
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    options = ["gateway", "--config", str(folder / "gateway.yaml"), "--processes", "2"]
    command = [sys.executable, "-c", f"{code}; from fairgate.cli import main; main()", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


def test_without_a_store_server_it_says_what_to_install(tmp_path, engine):
    said = refused_after("import fairgate.topology.stores as s; s.find_servers = dict", tmp_path, settings_of(engine))
    assert "pip install 'fairgate[store]'" in said


def test_what_keeps_every_process_from_serving_is_told_once(tmp_path, engine):
    """Here the port, which the parent did not look at."""
    code = "import fairgate.topology.supervisor as s; s._hold_port = lambda stack, config: config.listen.port"
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = refused_after(code, tmp_path, settings_of(engine, listen={"port": other.getsockname()[1]}))
    assert said.count("cannot listen on") == 1


def test_what_no_process_expected_of_this_machine_is_told_without_a_trace(tmp_path, engine):
    code = "import fairgate.topology.replica as r; r.serve = lambda *_: open('/no/such/folder')"
    said = refused_after(code, tmp_path, settings_of(engine))
    assert said.count("No such file or directory: '/no/such/folder'") == 1


def test_a_folder_for_sockets_that_is_too_deep_is_told(tmp_path, engine, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    assert "expected TMPDIR to name a shorter one" in refused(tmp_path, settings_of(engine), "--processes", "2")
