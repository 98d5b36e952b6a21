"""One launch of a Triton kernel as a value: it can be run on its tensors, or compiled for a GPU that is not there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.errors import KernelError

_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
ALIGNED = 16  # pointers and integers that are multiples of it are compiled as such, as Triton does at a launch


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas gave a kernel: registers per thread, bytes of stack and local memory (not 0: spills), shared bytes."""

    registers: int
    stack: int
    local: int
    shared: int
    scalar_half_loads: int

    @property
    def spills(self) -> bool:
        return self.stack > 0 or self.local > 0


@dataclass(frozen=True)
class KernelCall:
    """`arguments` by name, tensors, numbers and the kernel's constants alike; `options` of the compiler."""

    kernel: triton.JITFunction
    grid: tuple[int, int, int]
    arguments: dict[str, object]
    constants: dict[str, object]
    options: dict[str, object] = field(default_factory=dict)

    def run(self) -> None:
        if 0 not in self.grid:
            self.kernel[self.grid](**self.arguments, **self.constants, **self.options, enable_fp_fusion=True)

    def compile(self, capability: int) -> Resources:
        """For compute capability 80, 90, ...; needs no device, and no TRITON_INTERPRET when triton was imported.

        Raises KernelError with the compiler's words.
        """
        target = GPUTarget("cuda", capability, 32)
        try:
            compiled = triton.compile(self._source(), target=target, options={**self.options, "enable_fp_fusion": True})
        except Exception as error:  # the compiler's passes raise errors of many kinds, RuntimeError among them
            raise KernelError(f"{self.kernel.__name__} does not compile for sm_{capability}: {error}") from error
        return _resources(compiled.asm["cubin"], compiled.asm["ptx"], compiled.metadata.shared)

    def _source(self) -> ASTSource:
        names = self.kernel.arg_names
        signature = {name: _type_of(self.arguments[name]) if name in self.arguments else "constexpr" for name in names}
        constants = {(names.index(name),): value for name, value in self.constants.items()}
        attributes = {
            (i,): [["tt.divisibility", ALIGNED]] for i, name in enumerate(names) if _divisible(self.arguments.get(name))
        }
        return ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes)


def precision(dtype: torch.dtype) -> str:
    """Full float32 products for float32 weights; the half types have only one way."""
    return "ieee" if dtype == torch.float32 else "tf32"


def _type_of(value: object) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _divisible(value: object) -> bool:
    number = value.data_ptr() if isinstance(value, Tensor) else value
    return isinstance(number, int) and number % ALIGNED == 0


def _resources(cubin: bytes, ptx: str, shared: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        words = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", words)}
    scalar = len(re.findall(r"ld\.global\S*\.[bu]16", ptx))
    return Resources(found["REG"], found["STACK"], found["LOCAL"], shared, scalar)


def multiprocessor_count(tensor: Tensor) -> int:
    """How many programs its device runs side by side; 1 where they are interpreted one after another."""
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 1
