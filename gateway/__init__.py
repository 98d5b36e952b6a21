"""The gateway program: HTTP in, a fair queue, HTTP out."""
