"""What the kernels cost: all of it (`report`), the CPU alone (`cpu`), the lora ops beside their `peers` (`lora`)."""
