"""The LoRA ops (`ops`): strategies for a CPU (`cpu`), Triton kernels and their launching (`triton`, `cuda`)."""
