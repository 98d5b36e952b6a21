"""Which kernels run: Triton's on CUDA devices and where they are interpreted, the CPU's elsewhere, without Triton."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import triton

DISPATCH = Path(__file__).parents[2] / "kernels" / "dispatch.py"

ON_A_CPU = """
import sys
import torch
from kernels import lora_add
from kernels.cases import lora_case
case = lora_case([0, 1], widths=(8,), in_width=8, ranks=(2,), dtype=torch.float32)
lora_add(case.out, case.x, case.weights, case.plan)
print("kernels.lora.triton" in sys.modules)
"""


@pytest.mark.parametrize("value", [None, "", "0", "false", "1", "on", "TRUE"])
def test_the_switch_is_read_as_triton_reads_it(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    assert runpy.run_path(str(DISPATCH))["INTERPRETED"] == triton.knobs.runtime.interpret


@pytest.mark.parametrize(("switch", "imported"), [("0", "False\n"), ("1", "True\n")])
def test_triton_is_imported_only_where_it_runs(switch: str, imported: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": switch}
    ran = subprocess.run(
        [sys.executable, "-c", ON_A_CPU], cwd=DISPATCH.parents[1], env=environment, capture_output=True, text=True
    )
    assert ran.stdout == imported, ran.stderr


def test_what_the_interpreter_computes_wrongly_is_refused() -> None:
    code = ON_A_CPU.replace("torch.float32", "torch.bfloat16")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=DISPATCH.parents[1], env=environment, capture_output=True, text=True
    )
    assert "KernelError: TRITON_INTERPRET is set and the tensors are bfloat16; expected float32" in ran.stderr
