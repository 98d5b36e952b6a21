"""What requests cost on a live engine: measured (`calibrate`), and fitted (`cost_fit`)."""
