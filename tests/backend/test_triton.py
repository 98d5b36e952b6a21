"""The worker with the Triton kernels in place of the CPU's, without a GPU: Triton interprets them.

Triton decides when it is imported whether to interpret, so the checks under interpreted/ have a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LIMIT_S = 280


def test_a_worker_on_triton_says_what_the_reference_says() -> None:
    check = str(HERE / "interpreted" / "check_engine.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", check],
        cwd=HERE.parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, ran.stdout[-8000:]
    assert " passed" in ran.stdout
