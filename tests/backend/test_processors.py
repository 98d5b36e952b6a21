"""The tests whose verdict rounding could decide, on another processor: a lucky one must not hide what others show."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
TESTS = (
    "tests/backend/models/test_model.py",
    "tests/backend/worker/test_smollm2.py",
    "tests/kernels/attention/test_attention_cpu.py",
)
PROGRAM = """
import sys
import backend
import pytest
import torch
assert torch.backends.cpu.get_cpu_capability() == "AVX2"
assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86-64 knows a smaller vector unit")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the processor has no AVX-512 to hide")
def test_without_avx512_the_verdicts_are_the_same() -> None:
    command = [sys.executable, "-c", PROGRAM, *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | AVX2, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert " passed" in done.stdout
