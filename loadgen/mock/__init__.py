"""An engine without a model, to measure gateways with: a batch on a clock (`engine`) behind HTTP (`server`)."""
