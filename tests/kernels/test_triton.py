"""The Triton kernels without a GPU: interpreted against the reference, and compiled for two generations of GPUs.

Triton decides when it is imported whether to interpret, so each way has a process of its own. The interpreted
checks are ordinary pytest files under interpreted/, run from here; what fails there is shown here by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT_S = 280


def run(*arguments: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("file", ["check_lora.py", "check_attention.py"])
def test_interpreted_kernels_equal_the_reference(file: str) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted" / file), interpret=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_every_kernel_compiles_without_a_spill() -> None:
    done = run("-m", "kernels.compile_check", interpret=False)
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 0, "\n".join(failures) or done.stderr[-2000:]
    assert "every kernel compiles, none spills" in done.stdout


CONTROL = """
import torch
from kernels.cases import lora_case
from kernels.lora_cuda import Launch, expand_call
case = lora_case([0], widths=(256,), in_width=64, ranks=(64,), dtype=torch.bfloat16)
launch = Launch(tile={tile}, rank=64, columns=256, splits=4)
call = expand_call(launch, case.out, torch.empty((4, 1, 64)), case.weights, case.plan)
print("spills:", call.compile(90).spills)
"""


def test_control_a_tile_too_large_is_seen_to_spill() -> None:
    done = run("-c", CONTROL.format(tile=128), interpret=False)
    assert "spills: True" in done.stdout, done.stderr


def test_control_a_kernel_that_cannot_be_compiled_is_an_error_in_words() -> None:
    done = run("-c", CONTROL.format(tile=24), interpret=False)
    assert "expand_tiles_kernel does not compile for sm_90" in done.stderr
