"""vLLM, and what speaks its names: our own worker and the mock engine do."""

from __future__ import annotations

import re

from gateway.engines.dialect import Dialect, Size

_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Vllm(Dialect):
    def size(self, metrics: str) -> Size:
        """From the labels of `vllm:cache_config_info`: `max_num_seqs` where the engine names it, and `num_gpu_blocks`
        (or `num_cpu_blocks`, on a CPU engine) * `block_size`."""
        line = next((line for line in metrics.splitlines() if line.startswith("vllm:cache_config_info{")), "")
        labels = {name: int(value) for name, value in _LABEL.findall(line) if value.isdecimal()}
        blocks = labels.get("num_gpu_blocks") or labels.get("num_cpu_blocks") or 0
        return Size(labels.get("max_num_seqs") or None, blocks * labels.get("block_size", 0) or None)


VLLM = Vllm("vllm", prefix="vllm:", waiting="vllm:num_requests_waiting")
