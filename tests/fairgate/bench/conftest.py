"""Engine and client of `fairgate bench gateway`, in each language that they are written in."""

import pytest

from fairgate.bench.gateway_engine import write_answers
from fairgate.bench.gateway_native import CLIENT, ENGINE, Talker, compiled, find_compiler


@pytest.fixture(scope="session")
def compiler():
    if (found := find_compiler()) is None:
        pytest.skip("there is no C compiler on PATH")
    return found


@pytest.fixture(scope="session", params=["C", "Python"])
def commands(request, tmp_path_factory):
    """Of engine and client."""
    folder = tmp_path_factory.mktemp("bench-gateway")
    return compiled(folder, request.getfixturevalue("compiler") if request.param == "C" else None)


@pytest.fixture(scope="session")
def start_engine(tmp_path_factory):
    """Starts the engine of these commands, for answers of so many tokens at most; says where it listens."""
    folder, started = tmp_path_factory.mktemp("engines"), []

    def start(commands, most):
        answers = write_answers(folder / f"answers-{most}", most)
        started.append(Talker([*commands[ENGINE], str(answers)], folder / f"{len(started)}.log"))
        return started[-1].hear()[0]

    yield start
    for engine in started:
        engine.stop()


@pytest.fixture(scope="session")
def client_command(commands):
    return commands[CLIENT]
