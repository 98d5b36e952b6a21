"""The Triton kernels without a GPU: interpreted against the reference, and compiled for two generations of GPUs.

Triton decides when it is imported whether to interpret, so each way has a process of its own. The interpreted
checks are ordinary pytest files under interpreted/, run from here; what fails there is shown here by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT_S = 280


@dataclass(frozen=True)
class Done:
    status: int
    output: str


class Started:
    """A Python process whose output is read when it has ended."""

    def __init__(self, *arguments: str, interpret: bool = False) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {"OMP_NUM_THREADS": "1"} | ({"TRITON_INTERPRET": "1"} if interpret else {})
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> Done:
        output, _ = self._process.communicate(timeout=LIMIT_S)
        return Done(self._process.returncode, output)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Started]]:
    """The long ones, side by side, so that two cores are busy."""

    def interpreted(file: str) -> Started:
        return Started("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted" / file), interpret=True)

    processes = {file: interpreted(file) for file in ("check_lora.py", "check_attention.py")}
    processes["compile"] = Started("-m", "kernels.compile_check")
    yield processes
    for process in processes.values():
        process.stop()


@pytest.mark.parametrize("file", ["check_lora.py", "check_attention.py"])
def test_interpreted_kernels_equal_the_reference(file: str, started: dict[str, Started]) -> None:
    done = started[file].wait()
    assert done.status == 0, done.output[-8000:]
    assert " passed" in done.output


def test_every_kernel_compiles_without_a_spill(started: dict[str, Started]) -> None:
    done = started["compile"].wait()
    failures = [line for line in done.output.splitlines() if not line.startswith("ok")]
    assert done.status == 0, "\n".join(failures)
    assert "every kernel compiles, none spills" in done.output


CONTROL = """
import torch
from kernels.cases import lora_case
from kernels.lora.cuda import Launch, expand_call
case = lora_case([0], widths=(256,), in_width=64, ranks=(64,), dtype=torch.bfloat16)
launch = Launch(tile={tile}, rank=64, columns=256, splits=4)
call = expand_call(launch, case.out, torch.empty((4, 1, 64)), case.weights, case.plan)
print("spills:", call.compile(90).spills)
"""


def test_control_a_tile_too_large_is_seen_to_spill() -> None:
    done = Started("-c", CONTROL.format(tile=128)).wait()
    assert "spills: True" in done.output


def test_control_a_kernel_that_cannot_be_compiled_is_an_error_in_words() -> None:
    done = Started("-c", CONTROL.format(tile=24)).wait()
    assert "KernelError: expand_tiles_kernel does not compile for sm_90" in done.output
