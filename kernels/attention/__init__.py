"""Paged attention (`ops`): on a CPU (`cpu`), and in Triton with its launching (`triton`, `cuda`)."""
